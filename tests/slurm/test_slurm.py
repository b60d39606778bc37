# SPDX-License-Identifier: Apache-2.0
"""``recipes/launch.py --executor slurm`` on a real cluster: slurmctld, two slurmd, accounting."""

import subprocess

import pytest

from tests.slurm.conftest import wait_until

pytestmark = pytest.mark.slurm

SECRET = "hf_sentinel0123456789"
FOREVER = "trainer.max_steps=1000000"


def test_two_nodes_succeed_and_the_secret_is_nowhere_on_disk(launcher):
    options = ["--set", "nodes=2", "--set", "setup=['echo secret of ${#HF_TOKEN} characters']"]
    ended = launcher.launch("success", options, ["trainer.max_steps=3"], HF_TOKEN=SECRET)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "COMPLETED  exit status 0" in ended.stdout and "finished at step 3" in ended.stdout
    assert "cpu x 2" in ended.stdout.lower()
    assert f"secret of {len(SECRET)} characters" in ended.stdout
    written = [path for path in launcher.home.rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(SECRET.encode() in path.read_bytes() for path in written)
    assert sorted(launcher.losses("success")) == [1, 2, 3]


def test_failures_keep_their_exit_status(launcher):
    ended = launcher.launch("refused", [], ["trainer.max_steps=-1"])
    assert ended.returncode == 1 and "FAILED  exit status 1" in ended.stdout
    assert "error: trainer.max_steps=-1; it must be 1 or more" in ended.stdout
    ended = launcher.launch("setup-fails", ["--set", "setup=['exit 7']"], [])
    assert ended.returncode == 7 and "FAILED  exit status 7" in ended.stdout
    assert launcher.call("status", "setup-fails").returncode == 7
    ended = launcher.launch("unknown-partition", ["--set", "partition=nowhere"], [])
    assert ended.returncode == 2 and "Slurm refused the job" in ended.stderr and "partition" in ended.stderr


def test_time_limit_saves_requeues_and_continues_bit_identically(launcher):
    """The unbroken run goes beside it, on the other processors, and is then cancelled.

    Several retries, because on a machine that is busy the limit may pass before the first step.
    """
    limited = ["--detach", "--retries", "3", "--set", "time=00:01:00", "--set", "save_seconds=15"]
    launcher.native_ids(launcher.launch("limited", limited, [FOREVER]))
    launcher.native_ids(launcher.launch("unbroken", ["--detach"], [FOREVER]))
    wait_until(lambda: "resumed" in launcher.log("limited"), 240, lambda: launcher.log("limited"))
    log = launcher.log("limited")
    stopped_at = int(log.split("stopped by a signal at step ")[1].split(";")[0])
    assert stopped_at > 0 and f"at step {stopped_at}" in log.split("resumed")[1]
    wait_until(lambda: len(launcher.losses("limited")) > stopped_at + 2, 120, lambda: launcher.log("limited"))
    wait_until(lambda: len(launcher.losses("unbroken")) > stopped_at + 2, 120, lambda: launcher.log("unbroken"))
    found, expected = launcher.losses("limited"), launcher.losses("unbroken")
    steps = range(1, stopped_at + 3)
    assert [found[step] for step in steps] == [expected[step] for step in steps]
    for name in ("limited", "unbroken"):
        assert launcher.call("cancel", name).returncode == 0
    wait_until(lambda: "CANCELLED" in launcher.call("status", "unbroken").stdout, 20, lambda: "not cancelled")
    assert "stopped by a signal" in launcher.log("unbroken")


def test_a_chain_resumes_the_job_before(launcher):
    first, second = launcher.native_ids(launcher.launch("chained", ["--detach", "--chain", "2"], [FOREVER]))
    wait_until(lambda: len(launcher.losses("chained")) > 2, 150, lambda: launcher.log("chained"))
    assert f"{second}  PENDING" in launcher.call("status", "chained").stdout
    subprocess.run(["scancel", "--signal=TERM", first], check=True)
    wait_until(lambda: "resumed" in launcher.log("chained"), 150, lambda: launcher.log("chained"))
    log = launcher.log("chained")
    stopped_at = log.split("stopped by a signal at step ")[1].split(";")[0]
    assert f"at step {stopped_at}\n" in log.split("resumed")[1]
    launcher.call("cancel", "chained")
