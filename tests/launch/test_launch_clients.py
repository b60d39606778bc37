# SPDX-License-Identifier: Apache-2.0
"""Jobs through docker, sky and kubectl, played by a program that notes how it is called and answers as they do."""

import json
import os
from pathlib import Path

import pytest

from cosmos1.launch.executors import base
from cosmos1.launch.executors.kubeflow import Kubeflow
from cosmos1.launch.jobs import Record
from tests.launch.launching import RECIPE, SECRETS, call, launch_module

PROFILES = str(Path(__file__).parent / "profiles.yaml")
CLIENT = """#!/bin/sh
printf '%s\\n' "$(basename $0) $*" >>"$HOME/calls"
case "$*" in
    create*) cat >"$HOME/manifest" ;;
    version*) ;;
    *inspect* | *queue* | *get*) cat "$HOME/answer" ;;
    *logs*) echo "the log" ;;
esac
"""


@pytest.fixture
def client(tmp_path):
    (tmp_path / "bin").mkdir()
    for program in ("docker", "sky", "kubectl"):
        path = tmp_path / "bin" / program
        path.write_text(CLIENT)
        path.chmod(0o755)

    def act(*arguments: str, answer: str = ""):
        (tmp_path / "answer").write_text(answer)
        (tmp_path / "calls").unlink(missing_ok=True)
        ended = call(tmp_path, *arguments, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
        return ended, calls

    yield act
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(value in text for value in SECRETS.values() for text in written)


def launch(client, name: str, *options: str, answer: str = ""):
    return client("--profile", name, "--profile-file", PROFILES, *options, *RECIPE, answer=answer)


def trainjob(*conditions: str) -> str:
    return json.dumps({"status": {"conditions": [{"type": name, "status": "True"} for name in conditions]}})


def queue(name: str, status: str) -> str:
    return "Fetching\n" + json.dumps({name: [{"job_id": 1, "status": status}]})


@pytest.mark.parametrize(
    ("profile", "answer", "status", "words"),
    [
        ("docker", "exited 0", 0, "exited  exit status 0"),
        ("docker", "exited 137", 137, "exited  exit status 137"),
        ("skypilot", queue("general", "SUCCEEDED"), 0, "SUCCEEDED  exit status 0"),
        ("skypilot", queue("general", "FAILED_SETUP"), 1, "FAILED_SETUP  exit status 1"),
        ("skypilot", "{}", 1, "the cluster is gone  exit status 1"),
        ("kubeflow", trainjob("Complete"), 0, "Complete  exit status 0"),
        ("kubeflow", trainjob("Failed"), 1, "Failed  exit status 1"),
    ],
)
def test_an_attached_job_ends_with_its_exit_status(client, profile, answer, status, words):
    ended, _ = launch(client, profile, answer=answer)
    assert ended.returncode == status, ended.stderr
    assert "the log\n" in ended.stdout and words in ended.stdout


@pytest.mark.parametrize(
    ("profile", "answer", "submitted", "cancelled"),
    [
        ("docker", "running 0", "docker run --detach", "docker stop -t 180 cosmos1-general_"),
        ("skypilot", queue("general", "RUNNING"), "sky launch --yes --detach-run --down", "sky down --yes general"),
        ("kubeflow", trainjob(), "kubectl create --filename=-", "kubectl delete trainjob general-"),
    ],
)
def test_a_detached_job_is_looked_after(client, profile, answer, submitted, cancelled, tmp_path):
    ended, calls = launch(client, profile, "--detach")
    assert ended.returncode == 0 and submitted in calls
    ended, _ = client("status", "general", answer=answer)
    assert ended.returncode == 0 and "running" in ended.stdout.lower() and "exit status" not in ended.stdout
    ended, calls = client("cancel", "general")
    assert ended.returncode == 0 and cancelled in calls
    if profile == "kubeflow":
        assert "kind: TrainJob" in (tmp_path / "manifest").read_text()


@pytest.mark.parametrize(
    ("profile", "answer"),
    [
        ("docker", "error: no such object: cosmos1-general_1"),
        ("kubeflow", 'Error from server (NotFound): trainjobs.trainer.kubeflow.org "general-1" not found'),
    ],
)
def test_a_job_that_was_removed_is_no_mistake_of_the_command(client, profile, answer, tmp_path):
    assert launch(client, profile, "--detach")[0].returncode == 0
    failing = CLIENT.replace('cat "$HOME/answer"', f"echo '{answer}' >&2; exit 1")
    failing = failing.replace('echo "the log"', "exit 1").replace("*inspect* | *queue* | *get*", "*inspect* | *get*")
    for program in ("docker", "kubectl"):
        (tmp_path / "bin" / program).write_text(failing)
    ended, _ = client("status", "general")
    assert ended.returncode == 1 and "UNKNOWN" in ended.stdout and "exit status" not in ended.stdout
    ended, _ = client("logs", "general")
    assert ended.returncode == 1 and "has no log of" in ended.stderr


def test_a_trainjob_is_waited_for_until_its_pods_have_come_and_gone(tmp_path, monkeypatch, capfd):
    """Call after call: no pod, one line, all lines; the job is over at the third question."""
    (tmp_path / "kubectl").write_text(
        r"""#!/bin/sh
cd "$(dirname "$0")"; echo >>"$1"; n=$(wc -l <"$1")
case "$1$n" in
    logs1) echo "No resources found" >&2 ;;
    logs2) printf '[pod/a] 1\n[pod/a] 1\n[pod/a] \351\n' ;;
    logs*) printf '[pod/a] 1\n[pod/a] 1\n[pod/a] \351\n[pod/b] 2\n' ;;
    get[12]) echo '{}' ;;
    get*) echo '{"status": {"conditions": [{"type": "Complete", "status": "True"}]}}' ;;
esac
"""
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(base, "PAUSE_S", 0.01)
    record = Record("a_1", "a", "kubeflow", ["a-1"], [], {"namespace": "n", "nodes": 2})
    assert launch_module().attend(Kubeflow(), record) == 0
    lines = ["No resources found", "[pod/a] 1", "[pod/a] 1", "[pod/a] \N{REPLACEMENT CHARACTER}", "[pod/b] 2"]
    assert capfd.readouterr().out.splitlines() == [*lines, "a-1  Complete  exit status 0"]


def test_a_client_that_fails_is_quoted(client, tmp_path):
    (tmp_path / "bin" / "kubectl").write_text('#!/bin/sh\necho "connection refused" >&2; exit 1\n')
    ended, _ = launch(client, "kubeflow")
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: asking the Kubernetes cluster of KUBECONFIG: kubectl ended with status 1: connection refused\n"
    )
