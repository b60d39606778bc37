# SPDX-License-Identifier: Apache-2.0
"""The profiles and commands of docs/launching.md, taken as a reader copies them."""

import re
import shlex
import shutil
import subprocess
from collections import defaultdict

import pytest

from cosmos1.launch.jobs import make_job, refuse_secrets
from cosmos1.launch.profile_file import choose_profile
from tests.launch.launching import ROOT, launch_module

PAGE = (ROOT / "docs" / "launching.md").read_text()
ONE_MACHINE = ("local", "docker")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Executor, profile and job of each command that launches a recipe."""
    monkeypatch.chdir(ROOT)
    tables = re.findall(r"^    \[\w+\]\n(?:    .+\n)+", PAGE, re.MULTILINE)
    (tmp_path / "profiles.toml").write_text("\n".join(tables).replace("\n    ", "\n"))
    launch, found = launch_module(), []
    for text in re.findall(r"^ {4,6}python recipes/launch\.py (.+ -- .+)$", PAGE.replace("\\\n", ""), re.MULTILINE):
        words = shlex.split(text)
        split = words.index("--")
        options = launch.launch_parser().parse_args(words[:split])
        file = str(tmp_path / "profiles.toml") if options.profile else None
        executor, profile = choose_profile(options.executor, options.profile, file, options.set)
        job = make_job(words[split + 1 :], profile, options.name, chain=options.chain, retries=options.retries)
        launch.load_executor(executor).check(job)
        refuse_secrets(job)
        found.append((executor, profile, job))
    return launch.EXECUTORS, found


def test_every_executor_is_shown_with_1_gpu_8_gpus_and_8_nodes(commands):
    executors, found = commands
    sizes = defaultdict(set)
    for executor, profile, _ in found:
        sizes[executor].add((profile.nodes, profile.gpus_per_node))
    for executor in executors:
        wanted = {(1, 1), (1, 8)} if executor in ONE_MACHINE else {(1, 1), (1, 8), (8, 8)}
        assert wanted <= sizes[executor], executor


def test_the_recipe_is_told_as_many_processes_as_are_started(commands):
    """And every process gets a sample of the global batch."""
    for _, profile, job in commands[1]:
        settings = dict(argument.split("=", 1) for argument in job.command if "=" in argument)
        devices = int(settings.get("trainer.devices", 2 if "tiny" in " ".join(job.command) else 8))
        processes = profile.nodes * profile.num_processes
        assert int(settings.get("trainer.num_nodes", 1)) * devices == processes, job.command
        assert int(settings.get("data.global_batch_size", 8)) % processes == 0, job.command


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_takes_folders_with_spaces():
    command = ["make", "--dry-run", "demo", "bench", "RAW_DATA=my videos", "OUTPUT=my output"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    [demo] = [shlex.split(line) for line in lines if "recipes/demo.py" in line]
    assert demo[-4:] == ["--output_path", "my output", "--raw_data", "my videos"]
    assert sum("my output/bench_latents" in shlex.split(line) for line in lines if "benchmarks/" in line) == 2
