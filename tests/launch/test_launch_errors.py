# SPDX-License-Identifier: Apache-2.0
"""What is said, and how soon, when a setting is wrong or a program, service or account is missing."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from cosmos1.errors import ConfigError
from cosmos1.launch.executors import slurm
from cosmos1.launch.jobs import Job, JobState, Record, find_record, make_job, refuse_secrets
from cosmos1.launch.profile_file import choose_profile
from cosmos1.launch.profiles import PROFILES as PROFILE_CLASSES
from tests.launch.launching import RECIPE, ROOT, call, launch_module

PROFILES = str(Path(__file__).parent / "profiles.yaml")
TOKEN = "hf_" + "a1B2" * 8


@pytest.mark.parametrize(
    ("name", "variables", "words"),
    [
        ("local", {}, "torchrun is not installed"),
        ("slurm_venv", {}, "sbatch is not installed"),
        ("docker", {}, "docker is not installed"),
        ("skypilot", {}, "uv tool install"),
        ("kubeflow", {}, "kubectl is not installed"),
        ("lepton", {}, "lep login"),
        ("lepton", {"LEPTON_WORKSPACE_ID": "x", "LEPTON_WORKSPACE_TOKEN": "y",
                    "LEPTON_WORKSPACE_URL": "https://127.0.0.1:1"}, "cannot be reached"),
        ("dgxcloud", {}, "DGXCLOUD_CLIENT_ID and DGXCLOUD_CLIENT_SECRET"),
        ("dgxcloud", {"DGXCLOUD_CLIENT_ID": "x", "DGXCLOUD_CLIENT_SECRET": "y"}, "cannot be reached"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_within_five_seconds(name, variables, words, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    started = time.monotonic()
    ended = call(
        tmp_path, "--profile", name, "--profile-file", PROFILES, *RECIPE, PATH=str(tmp_path / "bin"), **variables
    )
    assert time.monotonic() - started < 5
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and words in ended.stderr and "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("launches/*")), "nothing half-launched stays"


@pytest.mark.parametrize("answer", ["echo 'scontrol: fatal: no configuration' >&2; exit 1", "exec sleep 20"])
@pytest.mark.skipif(any(map(os.path.exists, slurm.CONFIGURATIONS)), reason="there is a cluster behind this machine")
def test_slurm_without_a_cluster_is_said_within_five_seconds(answer, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    for name, line in (("sbatch", "exit 1"), ("scontrol", answer)):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    started = time.monotonic()
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    ended = call(tmp_path, "--profile", "slurm_venv", "--profile-file", PROFILES, *RECIPE, PATH=path)
    assert time.monotonic() - started < 5
    assert ended.returncode != 0 and "there is no cluster behind it" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--executor", "slrm"], "invalid choice: 'slrm'"),
        (RECIPE, "no executor; give --executor"),
        (["--executor", "local"], "no recipe; write it after --"),
        (["--executor", "local", "--", "recipes/nothing.py"], "no recipe recipes/nothing.py below"),
        (["--executor", "local", "--name", "My Job", *RECIPE], '--name "My Job" needs lower-case letters'),
        (["--executor", "local", "--chain", "2", *RECIPE], "--executor local has none, slurm has"),
        (["--executor", "slurm", "--chain", "0", *RECIPE], "0 is no count; use 1 or more"),
        (["--executor", "slurm", "--retries", "-3", *RECIPE], "-3 is no count; use 0 or more"),
        (["--profile", "a100", *RECIPE], "no profile file"),
        (["--profile", "slurm_venw", "--profile-file", PROFILES, *RECIPE], 'did you mean "slurm_venv"'),
        (["--executor", "local", "--profile", "docker", "--profile-file", PROFILES, *RECIPE], "which is for docker"),
        (["status", "general"], 'no launch "general" in'),
    ],
)
def test_mistakes_in_the_command(arguments, words, tmp_path):
    ended = call(tmp_path, *arguments)
    assert ended.returncode == 2 and words in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("executor", "changes", "words"),
    [
        ("slurm", ["gpus_per_nod=8"], 'unknown key "gpus_per_nod" in --set; did you mean "gpus_per_node"'),
        ("local", ["account=x"], 'unknown key "account" in --set'),
        ("local", ["needed=x"], 'unknown key "needed" in --set'),
        ("slurm", ["nodes=eight"], "nodes in --set needs an integer, got 'eight'"),
        ("slurm", ["exclusive=1"], "exclusive in --set needs true or false, got 1"),
        ("slurm", ["setup=[1]"], "setup in --set needs a list of texts"),
        ("slurm", ["nodes=0"], "nodes=0 in the profile; it must be 1 or more"),
        ("local", ["processes_per_node=-3"], "processes_per_node=-3 in the profile; it must be 1 or more"),
        ("local", ["gpus_per_node=-4"], "gpus_per_node=-4 in the profile; it must be 0 or more"),
        ("slurm", ["env={A=1}"], "env.A=1 in --set needs a text, got nothing"),
        ("slurm", ["env={A: [1]}"], "env.A in --set needs a text, got ['1']"),
        ("slurm", ["env={A-B: 1}"], 'env "A-B" in the profile is no name of a variable'),
        ("slurm", ["host=h", "user=u", "job_dir=jobs", "workdir=/w"], "job_dir=jobs in the profile; with host it must"),
        ("slurm", ["nodes"], '--set "nodes" is no setting'),
        ("slurm", ["env={WANDB_API_KEY: x}"], 'name it in secrets: secrets = ["WANDB_API_KEY"]'),
        ("slurm", ["host=login"], "needs user, job_dir and workdir"),
        ("local", ["nodes=2"], "which is this machine alone"),
        ("docker", [], "--executor docker needs container_image"),
        ("lepton", [], "needs container_image, nemo_run_dir, node_group, resource_shape"),
    ],
)
def test_mistakes_in_a_profile(executor, changes, words):
    with pytest.raises(ConfigError) as caught:
        choose_profile(executor, None, None, changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "home", "words"),
    [
        ([], "/home/my runs", 'NEMORUN_HOME is "/home/my runs"'),
        (["host=h", "user=u", "job_dir=/my jobs", "workdir=/w"], "/runs", 'job_dir is "/my jobs"'),
        (["container_image=i", "workdir=/my code"], "/runs", 'workdir is "/my code"'),
        (["workdir=/my code"], "/runs", None),
    ],
)
def test_slurm_refuses_a_space_where_its_scripts_would_break(changes, home, words, monkeypatch):
    monkeypatch.setenv("NEMORUN_HOME", home)
    _, profile = choose_profile("slurm", None, None, changes)
    job = Job("a", "a_1", ["recipe.py"], profile)
    if words is None:
        return slurm.Slurm().check(job)
    with pytest.raises(ConfigError, match=words):
        slurm.Slurm().check(job)


def test_relative_folders_become_absolute(tmp_path):
    """A job of Slurm starts in a folder of its own."""
    options = ["--profile", "slurm_venv", "--profile-file", PROFILES, "--set", "workdir=code", "--dryrun"]
    ended = call(tmp_path, *options, *RECIPE, NEMORUN_HOME="runs")
    assert ended.returncode == 0, ended.stderr
    assert f"cd {ROOT}/code\n" in ended.stdout and f"#SBATCH --output={ROOT}/runs/experiments/" in ended.stdout


def test_a_version_that_was_given_stays(monkeypatch):
    monkeypatch.chdir(ROOT)
    _, profile = choose_profile("local", None, None, [])
    command = ["recipes/diffusion/general.py", "log.version = mine"]
    assert make_job(command, profile, None).command == command


def check_for_secrets(monkeypatch, executor: str, changes: list[str], arguments: list[str]) -> None:
    monkeypatch.chdir(ROOT)
    _, profile = choose_profile(executor, None, None, changes)
    refuse_secrets(make_job(["recipes/diffusion/general.py", *arguments], profile, None))


@pytest.mark.parametrize(
    ("executor", "changes", "arguments", "words"),
    [
        ("slurm", [f"setup=['export HF_TOKEN={TOKEN}']"], [], "a value for HF_TOKEN is in"),
        ("slurm", [f"setup=['hf auth login --token {TOKEN}']"], [], "a token of Hugging Face is in"),
        ("slurm", ["setup=['export GITHUB_TOKEN = \"0123\"']"], [], "a value for GITHUB_TOKEN is in"),
        (
            "slurm",
            ["options={export: 'ALL,AWS_SECRET_ACCESS_KEY=0123'}"],
            [],
            "a value for AWS_SECRET_ACCESS_KEY is in",
        ),
        (
            "docker",
            ["container_image=i", "options=['--env=WANDB_API_KEY=0123']"],
            [],
            "a value for WANDB_API_KEY is in",
        ),
        ("skypilot", ["resources={labels: [{password: '0123'}]}"], [], "a value for password is in"),
        ("local", [], ["log.wandb_api_key=0123"], "a value for wandb_api_key is in"),
        ("local", [], [f"data.path=https://me:{TOKEN}@host"], "a token of Hugging Face is in"),
        ("local", ["setup=['echo \"it''s\\\\\"']"], [], "the value of WANDB_API_KEY is in"),
    ],
)
def test_secrets_that_no_variable_of_the_shell_holds(executor, changes, arguments, words, monkeypatch):
    """The last is the value of one, with characters that Python writes otherwise in a list."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "it's\\\\")
    with pytest.raises(ConfigError) as caught:
        check_for_secrets(monkeypatch, executor, changes, arguments)
    assert words in str(caught.value) and TOKEN not in str(caught.value) and "0123" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "setup=['export HF_TOKEN=$MY_TOKEN', 'export HF_TOKEN=\"$(cat token)\" num_tokens=5', 'test \"$HF_TOKEN\" = \"\"']",
        "env={TOKENIZERS_PARALLELISM: 'false', TOKENIZER: 'hf_and_more_words_in_small_letters'}",
    ],
)
def test_names_of_secrets_without_their_values_are_welcome(change, monkeypatch):
    check_for_secrets(monkeypatch, "local", [change], ["model.tokenizer=t", "data.tokens_per_sample=7"])


def test_the_folder_of_the_repository_in_images_is_that_of_the_dockerfile():
    workdirs = re.findall(r"^WORKDIR (.+)$", (ROOT / "containers" / "Dockerfile").read_text(), re.MULTILINE)
    assert len(workdirs) == 1
    for executor in ("kubeflow", "lepton", "dgxcloud"):
        assert PROFILE_CLASSES[executor]().workdir == workdirs[0]


def test_a_job_that_slurm_has_forgotten_ends_what_waits_for_it(tmp_path, monkeypatch, capsys):
    """Its programs are there and answer as for a controller that is down: nothing, with status 1."""
    for program in ("sbatch", "squeue", "sacct", "scontrol"):
        (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    monkeypatch.setattr(slurm, "POLL_S", 0.01)
    monkeypatch.setattr(slurm, "POLLS_UNTIL_LOST", 3)
    (tmp_path / "launches").mkdir()
    facts = {"id": "a_1", "name": "a", "executor": "slurm", "jobs": ["17"], "command": [], "profile": {"host": None}}
    (tmp_path / "launches" / "a_1.json").write_text(json.dumps(facts))
    main = launch_module().main
    assert main(["logs", "a", "--follow"]) == 1
    assert "error: Slurm has known nothing of job 17 of a_1 for" in capsys.readouterr().err
    assert main(["status", "a"]) == 1 and "17  UNKNOWN" in capsys.readouterr().out


def test_a_preempted_job_has_ended_once_it_has_left_the_queue():
    assert slurm._ended("17", "PREEMPTED", "0:15") == JobState("17", "PREEMPTED", True, 1)
    assert not slurm._ended("17", "SUSPENDED", "0:0").finished


def test_logs_of_slurm_are_bytes_and_end_with_its_own_words(tmp_path, monkeypatch, capsys):
    """The first poll cuts a character; another is none of UTF-8. The job fails between the polls."""
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    monkeypatch.setattr(slurm, "POLL_S", 0.01)
    folder = tmp_path / "experiments" / "a" / "a_1" / "a"
    folder.mkdir(parents=True)
    log = folder / "log-cosmos1.a_17_0.out"
    (folder / "sbatch_cosmos1.a_17.out").write_text(
        "hello\nsrun: error: n1: task 0: Out Of Memory\nslurmstepd: killed\n"
    )
    (folder / "sbatch_cosmos1.a_18.out").write_text("srun: of another job\n")
    written = "loss \N{GREEK SMALL LETTER DELTA}".encode()
    log.write_bytes(written[:-1])

    def states(self, record):
        yield [JobState("17", "RUNNING", False)]
        log.write_bytes(written + b" \xe9 end\n")
        yield [JobState("17", "OUT_OF_MEMORY", True, 1)]

    answers = states(None, None)
    monkeypatch.setattr(slurm.Slurm, "states", lambda self, record: next(answers))
    slurm.Slurm().logs(Record("a_1", "a", "slurm", ["17"], [], {"host": None}), follow=True)
    assert capsys.readouterr().out.splitlines() == [
        "loss \N{GREEK SMALL LETTER DELTA} \N{REPLACEMENT CHARACTER} end",
        "srun: error: n1: task 0: Out Of Memory",
        "slurmstepd: killed",
    ]


def test_a_local_job_is_looked_after_without_torchrun(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    Record("a_1", "a", "local", ["999999999"], [], {}).save()
    main = launch_module().main
    assert main(["status", "a"]) == 1 and "killed  exit status 1" in capsys.readouterr().out
    assert main(["logs", "a"]) == 1 and "a_1.log is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.toml", "[a\n", "cannot be read"),
        ("p.yaml", "a: [", "cannot be read"),
        ("p.yaml", "nodes: 8", "must hold one table per profile"),
        ("p.toml", '[b]\nexecutor = "slurm"\n', 'no profile "a"'),
        ("p.toml", '[a]\nexecutor = "slrum"\n', 'did you mean "slurm"'),
    ],
)
def test_mistakes_in_a_profile_file(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        choose_profile(None, "a", str(tmp_path / name), [])
    assert words in str(caught.value)


def test_a_profile_and_what_replaces_it(tmp_path):
    (tmp_path / "p.toml").write_text(
        '[a]\nexecutor = "slurm"\nnodes = 8\ngpus_per_node = 4\ntime = "01:00:00"\nenv = {A = "1", B = true}\n'
    )
    executor, profile = choose_profile("slurm", "a", str(tmp_path / "p.toml"), ["nodes=2", "time=00:10:00", "mem=0"])
    assert executor == "slurm" and (profile.nodes, profile.num_processes, profile.time) == (2, 4, "00:10:00")
    assert profile.env == {"A": "1", "B": "true"} and profile.mem == "0"


def test_an_environment_stays_as_it_was_typed(tmp_path):
    (tmp_path / "p.yaml").write_text("a:\n  executor: local\n  env: {A: 007, B: on, C: 1.10}\n")
    _, profile = choose_profile(None, "a", str(tmp_path / "p.yaml"), [])
    assert profile.env == {"A": "007", "B": "on", "C": "1.10"}
    _, profile = choose_profile("local", None, None, ["env={Z: 0123, X: 10:30:00, E: ''}"])
    assert profile.env == {"Z": "0123", "X": "10:30:00", "E": ""}


def test_the_newest_launch_of_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    (tmp_path / "launches").mkdir()
    for stamp in ("20260101-000000-001", "20260102-000000-001"):
        facts = f'{{"id": "a_{stamp}", "name": "a", "executor": "local", "jobs": [], "command": [], "profile": {{}}}}'
        (tmp_path / "launches" / f"a_{stamp}.json").write_text(facts)
    assert find_record("a").id == "a_20260102-000000-001"
    assert find_record("a_20260101-000000-001").id == "a_20260101-000000-001"
    with pytest.raises(ConfigError, match='did you mean "a_20260102-000000-001"'):
        find_record("a_2026012-000000-001")
