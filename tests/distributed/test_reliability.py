# SPDX-License-Identifier: Apache-2.0
"""Runs that go on by themselves: hangs that end, restarts by torchrun, saves that fail for a while, spikes, stragglers."""

import json
import os
import signal
import time

import pytest

from benchmarks.faults import Job, losses, recipe_arguments
from cosmos1.checkpoint.folders import complete_checkpoints
from cosmos1.training import watchdog
from cosmos1.training.metrics import read_metrics
from tests.distributed.launching import checkpoint_folder, job, kill, log_tail, series, start_ranks, wait

pytestmark = pytest.mark.distributed

SAVE, SPIKE, WINDOW = "log.ckpt.every_n_train_steps", "trainer.spike.factor", "trainer.spike.window"
HANG = {"trainer.hang.floor_s": 1.0, "trainer.hang.patience_s": 60.0}
LOUD = {"trainer.max_steps": 10, SPIKE: 20.0, WINDOW: 10, "model.loud_steps": [6, 8]}
# Four held-out samples: two replicas with micro batches of three see two of them twice.
HELD_OUT = {"trainer.max_steps": 1, "trainer.val_check_interval": 1, "data.global_batch_size": 6}
JOBS = {
    "spikes": (LOUD, {}),
    "spikes_stopped": (LOUD, {"stop_at": 7}),
    "spikes_off": (LOUD | {SPIKE: None}, {}),
    "spikes_often": (LOUD | {"model.loud_steps": [5, 6], "trainer.max_bad_steps": 2}, {"may_fail": True}),
    "away": ({"trainer.max_steps": 12, SAVE: 4}, {"away": [3, 6]}),
    "away_too_long": (
        {"trainer.max_steps": 12, SAVE: 4, "log.ckpt.max_failed_saves": 2},
        {"away": [3, 9], "may_fail": True},
    ),
    "damaged": ({"trainer.max_steps": 4, SAVE: 2}, {}),
    "straggler": ({"trainer.max_steps": 6}, {"slow_data": dict.fromkeys(range(2, 7), 0.3)}),
    "patient": ({"trainer.max_steps": 8} | HANG, {"slow_callback": {"6": 3.0}}),
    "last_but_one": ({"trainer.max_steps": 6, SAVE: 5}, {"first_write": {"seconds": 1.5, "fails": True}}),
    "save_last_off": (
        {"trainer.max_steps": 6, SAVE: 4, "log.ckpt.save_last": False},
        {"first_write": {"fails": True}, "retry_after_s": 60.0},
    ),
    "ended_while_saving": (
        LOUD | {"model.loud_steps": [6, 7], "trainer.max_bad_steps": 2, SAVE: 5} | HANG,
        {"first_write": {"seconds": 5.0}, "may_fail": True},
    ),
    "lost_record": ({"trainer.max_steps": 4, SAVE: 2}, {}),
    "other_data": (
        {"trainer.max_steps": 1},
        {"set_on_rank_1": {"data.validation_fraction": 0.5}, "may_fail": True},
    ),
    "held_out_by_ones": (HELD_OUT | {"data.micro_batch_size": 1}, {}),
    "held_out_by_threes": (HELD_OUT | {"data.micro_batch_size": 3}, {}),
}
AGAIN = {
    "spikes_stopped": (LOUD, {}),
    "damaged": ({"trainer.max_steps": 6, SAVE: 6}, {}),
    "lost_record": ({"trainer.max_steps": 6, SAVE: 6}, {}),
    # The last one, since it ends the processes.
    "stuck": (
        {"trainer.max_steps": 9, "trainer.hang.floor_s": 5.0, "trainer.hang.patience_s": 60.0},
        {"slow_data": {6: 1000.0}},
    ),
}


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("reliability")


def start(jobs: dict, latents, log_dir, folder) -> list:
    folder.mkdir()
    listed = [job(name, latents, log_dir, settings, **faults) for name, (settings, faults) in jobs.items()]
    plan = {"store": str(folder / "store"), "results": str(folder), "jobs": listed}
    (folder / "plan.json").write_text(json.dumps(plan))
    return start_ranks("tests.distributed.reliability_worker", [str(folder / "plan.json")], 2, folder)


def wait_until(condition, ranks) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline and all(rank.poll() is None for rank in ranks)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def first(latents, log_dir, tmp_path_factory):
    """All jobs, and what rank 0 printed."""
    folder = tmp_path_factory.mktemp("first") / "ranks"
    assert wait(start(JOBS, latents, log_dir, folder)) == [0, 0], log_tail(folder, 0) + log_tail(folder, 1)
    results = {name: json.loads((folder / f"{name}.0.json").read_text()) for name in JOBS}
    return results, (folder / "rank0.log").read_text()


@pytest.fixture(scope="module")
def again(first, latents, log_dir, tmp_path_factory):
    """Second starts; the last job hangs. What both ranks printed, and their statuses."""
    newest = checkpoint_folder(log_dir, "damaged", 4)
    shard = max((newest / "weights").glob("__*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    record = checkpoint_folder(log_dir, "lost_record", 4) / "context" / "recipe.yaml"
    record.write_bytes(bytes(len(record.read_bytes())))  # as a power failure leaves it
    folder = tmp_path_factory.mktemp("again") / "ranks"
    ranks = start(AGAIN, latents, log_dir, folder)
    try:
        wait_until(lambda: "step 5/9" in log_tail(folder, 0), ranks)
        for rank in ranks:
            os.kill(rank.pid, signal.SIGTERM)  # shortens the limit; torchrun sends it when it has lost a rank
        for rank in ranks:
            rank.join(90)
    finally:
        kill(ranks)
    return [rank.returncode for rank in ranks], [(folder / f"rank{rank}.log").read_text() for rank in (0, 1)]


def test_spikes_are_skipped_and_counted(first, log_dir):
    assert list(series(log_dir, "spikes", "skipped_steps").values()) == [0] * 5 + [1, 1, 2, 2, 2]
    assert first[0]["spikes"]["optimizer_steps"] == [8]
    assert first[0]["spikes_off"]["optimizer_steps"] == [10]
    assert "trainer.spike.factor" in first[1] and "the step is skipped" in first[1]
    assert first[0]["spikes_often"]["error"] == "ConfigError"


def test_spikes_are_judged_alike_after_a_resume(again, log_dir):
    for key in ("loss", "grad_norm", "skipped_steps"):
        assert series(log_dir, "spikes_stopped", key) == series(log_dir, "spikes", key)


def test_a_save_that_fails_is_tried_again(first, log_dir):
    assert first[1].count("training goes on, the next save is tried") >= 2
    assert "saved again, after 2 failed saves" in first[1]
    found = complete_checkpoints(log_dir / "away" / "run" / "checkpoints")
    assert [checkpoint.step for checkpoint in found] == [6, 8, 12]
    assert not list((log_dir / "away" / "run" / "checkpoints").glob("*.unfinished"))
    assert list(series(log_dir, "away", "loss")) == list(range(1, 13))


def test_a_run_that_cannot_save_for_long_ends(first):
    assert first[0]["away_too_long"]["error"] == "CheckpointError"
    assert "cannot create checkpoint" in first[0]["away_too_long"]["message"]
    assert "step=5" in first[0]["away_too_long"]["message"]


def test_a_last_save_is_tried_although_the_one_before_it_fails(first, log_dir):
    assert "Stale file handle" in first[1]
    for name in ("last_but_one", "save_last_off"):
        assert [saved.step for saved in complete_checkpoints(log_dir / name / "run" / "checkpoints")] == [6], name


def test_a_run_of_bad_steps_waits_for_its_checkpoint(first, log_dir):
    assert "2 consecutive steps" in first[0]["ended_while_saving"]["message"]
    assert checkpoint_folder(log_dir, "ended_while_saving", 5)


def test_ranks_that_see_different_data_are_refused(first):
    assert first[0]["other_data"]["error"] == "ConfigError"
    for words in ("rank 0 has 16 for training and 4 held out", "rank 1 has 12 for training and 8 held out"):
        assert words in first[0]["other_data"]["message"]


def test_the_held_out_loss_counts_every_sample_once(first, log_dir):
    values = [read_metrics(log_dir / f"held_out_by_{n}" / "run" / "metrics.jsonl")[-1] for n in ("ones", "threes")]
    losses = [{key: value for key, value in row.items() if key.startswith("val_loss")} for row in values]
    assert len(losses[0]) > 2 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_rank_that_waits_for_its_data_is_named(first):
    named = [line for line in first[1].splitlines() if line.startswith("straggler: rank 1") and "data" in line]
    assert named and "per step for its data, the median rank 0.0" in named[0]
    assert not any("rank 0" in line.split("waits")[0] for line in first[1].splitlines() if "waits" in line)


def test_a_slow_callback_of_one_rank_is_no_hang(first, log_dir):
    assert len(series(log_dir, "patient", "loss")) == 8
    assert not (log_dir / "patient" / "run" / "stacks").exists()


def test_a_damaged_checkpoint_is_set_aside(again, log_dir):
    _, texts = again
    assert "WARNING: checkpoint" in texts[0] and "is damaged" in texts[0] and ".damaged" in texts[0]
    assert "step=2 at step 2" in texts[0]
    assert "recipe.yaml is damaged" in texts[0]
    undisturbed = series(log_dir, "away", "loss")
    for run in ("damaged", "lost_record"):
        names = sorted(path.name for path in (log_dir / run / "run" / "checkpoints").iterdir())
        assert [name.split("step=")[1] for name in names] == ["2", "4.damaged", "6"]
        assert series(log_dir, run, "loss") == {step: undisturbed[step] for step in range(1, 7)}


def test_a_hang_ends_and_names_the_rank(again, log_dir):
    statuses, texts = again
    assert statuses == [watchdog.EXIT_STATUS] * 2, texts
    assert "behind: rank 1" in texts[0] and "step 6, waiting for data" in texts[0]
    assert "limit 0.5 s" in texts[0] and "after SIGTERM" in texts[0]
    stacks = [(log_dir / "stuck" / "run" / "stacks" / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert "stall" in stacks[1] and "stall" not in stacks[0]
    assert "run_micro_batches" in stacks[0] or "_apply_gradients" in stacks[0]


def test_torchrun_starts_again_after_a_killed_and_a_stopped_rank(latents, tmp_path):
    """Both in one job; its losses are those of a job in which nothing happened."""
    settings = {"trainer.hang.floor_s": 4, "trainer.max_steps": 30}
    _, *arguments = recipe_arguments(tmp_path / "unbroken", latents, **settings)
    assert wait(start_ranks("recipes.diffusion.general", arguments, 2, tmp_path)) == [0, 0], log_tail(tmp_path, 0)
    broken = Job(recipe_arguments(tmp_path / "broken", latents, **settings))
    try:
        broken.wait_for_step(12)
        os.kill(broken.ranks()[1], signal.SIGKILL)
        broken.wait_for("a resumed run", lambda: "resumed" in broken.text())
        broken.wait_for_step(22)
        os.kill(broken.ranks()[1], signal.SIGSTOP)
        assert broken.finish() == 0, broken.text()[-3000:]
    finally:
        broken.end()
    assert broken.text().count("resumed") == 2
    assert "behind: rank 1" in broken.text() and "does not answer" in broken.text()
    folders = [tmp_path / name / "default" / "run" for name in ("broken", "unbroken")]
    assert losses(folders[0]) == losses(folders[1]) and len(losses(folders[0])) == 30
    assert "Thread" in (folders[0] / "stacks" / "rank0.txt").read_text()
