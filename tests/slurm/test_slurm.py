# SPDX-License-Identifier: Apache-2.0
"""``recipes/launch.py --executor slurm`` on a real cluster: slurmctld, two slurmd, accounting."""

import subprocess

import pytest

from tests.slurm.conftest import wait_until

pytestmark = pytest.mark.slurm

SECRET = "hf_sentinel0123456789"
FOREVER = "trainer.max_steps=1000000"
LIMIT_S = 240  # of one wait; only a very busy machine comes near it


def test_two_nodes_succeed_and_the_secret_is_nowhere_on_disk(launcher):
    options = ["--set", "nodes=2", "--set", "setup=['echo secret of ${#HF_TOKEN} characters']"]
    ended = launcher.launch("success", options, ["trainer.max_steps=3"], HF_TOKEN=SECRET)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "COMPLETED  exit status 0" in ended.stdout and "finished at step 3" in ended.stdout
    assert (
        "\nstep 3/3 | loss " in ended.stdout and "\x1b" not in ended.stdout
    )  # lines, although Slurm's output is a terminal
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


def test_a_signal_saves_requeues_and_continues_bit_identically(launcher):
    """The signal is the one that Slurm sends before the time limit; here it waits for steps, however busy the machine.

    The unbroken run goes beside it, on the other processors, and is then cancelled.
    """
    [job] = launcher.native_ids(launcher.launch("stopped", ["--detach", "--retries", "1"], [FOREVER]))
    launcher.native_ids(launcher.launch("unbroken", ["--detach"], [FOREVER]))
    wait_for_steps(launcher, "stopped", 3)
    subprocess.run(["scancel", "--signal=TERM", job], check=True)
    stopped_at = wait_for_resumption(launcher, "stopped")
    assert stopped_at >= 3
    for name in ("stopped", "unbroken"):
        wait_for_steps(launcher, name, stopped_at + 2)
    found, expected = launcher.losses("stopped"), launcher.losses("unbroken")
    steps = range(1, stopped_at + 3)
    assert [found[step] for step in steps] == [expected[step] for step in steps]
    for name in ("stopped", "unbroken"):
        assert launcher.call("cancel", name).returncode == 0
    wait_until(lambda: "CANCELLED" in launcher.call("status", "unbroken").stdout, LIMIT_S, lambda: "not cancelled")
    assert "stopped by a signal" in launcher.log("unbroken")


def test_a_chain_goes_on_after_the_time_limit(launcher):
    """Once steps are done, the limit becomes shorter than save_seconds: Slurm sends its signal within 30 s."""
    options = ["--detach", "--chain", "2", "--set", "save_seconds=7200"]
    first, second = launcher.native_ids(launcher.launch("chained", options, [FOREVER]))
    wait_for_steps(launcher, "chained", 3)
    assert f"{second}  PENDING" in launcher.call("status", "chained").stdout
    subprocess.run(["scontrol", "update", f"JobId={first}", "TimeLimit=60"], check=True)
    assert wait_for_resumption(launcher, "chained") >= 3
    launcher.call("cancel", "chained")


def wait_for_steps(launcher, name: str, steps: int) -> None:
    wait_until(lambda: len(launcher.losses(name)) >= steps, LIMIT_S, lambda: launcher.log(name))


def wait_for_resumption(launcher, name: str) -> int:
    """The step at which a signal stopped the run, and another start of it went on."""
    wait_until(lambda: "resumed" in launcher.log(name), LIMIT_S, lambda: launcher.log(name))
    stopped, resumed = launcher.log(name).split("resumed", 1)
    stopped_at = int(stopped.split("stopped by a signal at step ")[1].split(";")[0])
    assert f"at step {stopped_at}\n" in resumed
    return stopped_at
