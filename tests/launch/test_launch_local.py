# SPDX-License-Identifier: Apache-2.0
"""Real jobs on this machine: two processes, a restart, the log, the status, cancelling."""

import time

import pytest

from tests.launch.launching import SECRETS, call

RECIPE = """
import os, signal, sys, time
from pathlib import Path

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
said = f"rank {rank} of {os.environ['WORLD_SIZE']}, argument {sys.argv[2]}, secret of {len(os.environ['HF_TOKEN'])}"
os.write(1, f"{said}\\n".encode())  # at once: unbuffered prints of two ranks mix within a line
if sys.argv[2] == "wait":
    signal.signal(signal.SIGTERM, lambda *arguments: (print("saved"), sys.exit(0)))
    (folder / f"ready{rank}").touch()
    time.sleep(100)
attempt = folder / f"attempt{rank}"
attempt.write_text(attempt.read_text() + "x" if attempt.exists() else "x")
time.sleep(1)
sys.exit(3 if rank == "1" and len(attempt.read_text()) < 2 else 0)
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "recipe.py").write_text(RECIPE)
    return [str(tmp_path / "recipe.py"), str(tmp_path / "work")]


@pytest.mark.distributed
def test_two_processes_fail_and_are_started_again(tmp_path, recipe):
    options = ["--executor", "local", "--set", "processes_per_node=2", "--retries", "1"]
    ended = call(tmp_path, *options, "--", *recipe, "it's $HOME")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for rank in (0, 1):
        line = f"rank {rank} of 2, argument it's $HOME, secret of {len(SECRETS['HF_TOKEN'])}\n"
        assert ended.stdout.count(line) == 2
    assert "succeeded  exit status 0" in ended.stdout
    written = [path.read_text() for path in (tmp_path / "launches").iterdir()]
    assert len(written) == 4 and not any(SECRETS["HF_TOKEN"] in text for text in written)


@pytest.mark.distributed
def test_detached_job_is_seen_and_cancelled(tmp_path, recipe):
    started = call(tmp_path, "--executor", "local", "--detach", "--name", "waits", "--", *recipe, "wait")
    assert started.returncode == 0 and started.stdout.startswith("launched waits_")
    deadline = time.monotonic() + 60
    while not (tmp_path / "work" / "ready0").exists():
        assert time.monotonic() < deadline, call(tmp_path, "logs", "waits").stdout
        time.sleep(0.1)
    status = call(tmp_path, "status", "waits")
    assert status.returncode == 0 and "running" in status.stdout
    assert call(tmp_path, "cancel", "waits").returncode == 0
    assert "saved" in call(tmp_path, "logs", "waits", "--follow").stdout
    status = call(tmp_path, "status", "waits")
    assert status.returncode == 1 and "failed  exit status 1" in status.stdout
    assert "does not run" in call(tmp_path, "cancel", "waits").stderr
