# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on real machines: killed processes, damaged files, full disks, gradients that are not numbers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from cosmos1.checkpoint.folders import complete_checkpoints
from tests.distributed.launching import checkpoint_folder, job, kill, launch, log_tail, series, start, stored
from tests.processes import ROOT

pytestmark = pytest.mark.distributed

STEPS = 24
SAVE = "log.ckpt.every_n_train_steps"
DAMAGE = {
    "flipped": (".distcp", "is damaged"),
    "cut_short": (".distcp", "is damaged"),
    "removed": (".distcp", "is missing"),
    "common_flipped": ("common.pt", "is damaged"),
    "metadata_removed": (".metadata", "is missing"),
    "checksums_removed": ("checksums.json", "checksums.json"),
}


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


def wait_for_step(processes, folder, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while "\nstep " not in log_tail(folder, 0):
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes), log_tail(folder, 0)
        time.sleep(0.02)


def test_five_times_killed_at_any_moment(latents, log_dir, tmp_path):
    """Saves follow each other without a pause, so that most kills hit one; the losses must not show it."""
    settings = {"trainer.max_steps": STEPS, SAVE: 1, "log.ckpt.keep_last_k": 2, "optim.ema_widths": [0.1]}
    moments = random.Random(0)
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        processes = start([job("killed", latents, log_dir, settings)], 2, folder)
        try:
            wait_for_step(processes, folder)
            time.sleep(moments.uniform(0.0, 0.5))
        finally:
            kill(processes)
        assert [process.returncode for process in processes] == [-9, -9], log_tail(folder, 0)
    launch(
        [job("killed", latents, log_dir, settings), job("never_killed", latents, log_dir, settings | {SAVE: 1000})], 2
    )
    for key in ("loss", "grad_norm"):
        assert series(log_dir, "killed", key) == series(log_dir, "never_killed", key)
        assert list(series(log_dir, "killed", key)) == list(range(1, STEPS + 1))
    names = sorted(path.name for path in (log_dir / "killed/run/checkpoints").iterdir())
    assert [name.split("step=")[1] for name in names] == [str(STEPS - 1), str(STEPS)]


@pytest.fixture(scope="module")
def source(latents, log_dir):
    """A complete checkpoint of step 2, written by two ranks."""
    launch([job("source", latents, log_dir, {"trainer.max_steps": 2})], 2)
    return checkpoint_folder(log_dir, "source", 2)


def damage(checkpoint, name: str) -> None:
    path = {
        "checksums_removed": checkpoint / "context/checksums.json",
        "common_flipped": checkpoint / "weights/common.pt",
        "metadata_removed": checkpoint / "weights/.metadata",
    }.get(name, max((checkpoint / "weights").glob("__*.distcp"), key=lambda file: file.stat().st_size))
    content = bytearray(path.read_bytes())
    if "removed" in name:
        path.unlink()
    elif name == "cut_short":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.fixture(scope="module")
def tried(latents, log_dir, source):
    """Starts that must be refused, in one process group; and what an interrupted save leaves behind."""
    jobs = []
    for name in DAMAGE:
        folder = log_dir / name / "run/checkpoints" / source.name
        shutil.copytree(source, folder)
        damage(folder, name)
        jobs.append(job(name, latents, log_dir, {"trainer.max_steps": 3}, may_fail=True))
    leftover = log_dir / "interrupted/run/checkpoints/epoch=0-step=9.unfinished/weights"
    leftover.mkdir(parents=True)
    (leftover / "__0_0.distcp").write_bytes(b"half")
    (log_dir / "a_file").write_text("")
    full = {"trainer.max_steps": 8, SAVE: 2, "log.ckpt.max_failed_saves": 1}
    jobs += [
        job("interrupted", latents, log_dir, {"trainer.max_steps": 1}),
        job("below_a_file", latents, log_dir / "a_file", {"trainer.max_steps": 1}, may_fail=True),
        job("disk_full", latents, log_dir, full | {"log.ckpt.async_save": False}, may_fail=True, disk_full_at=3),
        job("disk_full_later", latents, log_dir, full, may_fail=True, disk_full_at=3),
        job("signalled", latents, log_dir, {"trainer.max_steps": 6}, stop_while_agreeing_at=2),
        job("nan_once", latents, log_dir, {"trainer.max_steps": 4, "model.nan_steps": [1]}),
        job(
            "nan_often",
            latents,
            log_dir,
            {"trainer.max_steps": 8, "model.nan_steps": [1, 3, 4, 5], "trainer.max_bad_steps": 3},
            may_fail=True,
        ),
    ]
    return launch(jobs, 2)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_refused(name, tried):
    file_name, words = DAMAGE[name]
    for result in tried[name]:
        assert result.get("error") == "CheckpointError", result
        assert file_name in result["message"] and words in result["message"]


def test_the_recipe_command_refuses_a_damaged_checkpoint(latents, log_dir, tried, tmp_path):
    path = log_dir / "flipped/run/checkpoints"
    command = [sys.executable, "recipes/diffusion/general.py", "--yes"]
    command += ["--factory", "cosmos_diffusion_tiny_text2world_finetune", f"data.path={latents}", "trainer.max_steps=1"]
    command += [f"log.log_dir={tmp_path}", "data.num_workers=0", f"resume.restore_config.path={path}"]
    command += ["model.config.hidden_size=64", "model.config.adaln_lora_dim=16", "model.config.max_frames=8"]
    command += ["model.config.max_height=16", "model.config.max_width=16", "trainer.callbacks=[]"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "error:" in ended.stderr and ".distcp is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("epoch=*"))


def test_what_an_interrupted_save_left_is_removed(tried, log_dir):
    names = [path.name for path in (log_dir / "interrupted/run/checkpoints").iterdir()]
    assert names == ["epoch=0-step=1"]


def test_a_log_dir_that_cannot_be_written(tried, log_dir):
    for result in tried["below_a_file"]:
        assert result.get("error") == "ConfigError", result
        assert "log.log_dir" in result["message"] and str(log_dir / "a_file") in result["message"]


def test_a_full_disk_leaves_the_earlier_checkpoint(tried, log_dir):
    for result in tried["disk_full"]:
        assert result.get("error") == "CheckpointError", result
        assert "step=4" in result["message"] and "File too large" in result["message"]
    assert [path.name for path in (log_dir / "disk_full/run/checkpoints").iterdir()] == ["epoch=0-step=2"]
    assert stored(checkpoint_folder(log_dir, "disk_full", 2))["x_embedder.weight"].isfinite().all()


def test_a_disk_that_is_full_when_the_background_save_ends(tried, log_dir):
    """The weights of step 2 are on disk already, the list of contents does not fit any more."""
    for result in tried["disk_full_later"]:
        assert result.get("error") == "CheckpointError", result
        assert "step=2 was not saved" in result["message"] and "File too large" in result["message"]
    assert not list((log_dir / "disk_full_later/run/checkpoints").iterdir())


def test_a_step_with_nan_is_skipped_and_counted(tried, log_dir):
    assert series(log_dir, "nan_once", "skipped_steps") == {1: 0, 2: 1, 3: 1, 4: 1}
    assert series(log_dir, "nan_once", "grad_norm")[2] is None
    assert {tuple(result["optimizer_steps"]) for result in tried["nan_once"]} == {(3,)}
    tensors = stored(checkpoint_folder(log_dir, "nan_once", 4))
    assert [name for name, tensor in tensors.items() if not tensor.isfinite().all()] == []


def test_consecutive_steps_with_nan_end_the_run(tried, log_dir):
    for result in tried["nan_often"]:
        assert result.get("error") == "ConfigError", result
        assert "3 consecutive steps" in result["message"] and "trainer.max_bad_steps=3" in result["message"]
    # One bad step between good ones does not count towards the limit.
    assert series(log_dir, "nan_often", "skipped_steps") == {1: 0, 2: 1, 3: 1, 4: 2, 5: 3}


def test_a_signal_that_comes_while_the_ranks_agree_is_not_lost(tried, log_dir):
    [saved] = complete_checkpoints(log_dir / "signalled/run/checkpoints")
    assert saved.step in (2, 3)  # they agree on it after the next step; on a very busy machine it comes before


def test_sigterm_to_every_process_of_a_job_saves_and_ends_with_status_0(latents, tmp_path):
    """Slurm signals all processes, the workers that load data included."""
    command = [sys.executable, "recipes/diffusion/general.py", "--yes"]
    command += ["--factory", "cosmos_diffusion_tiny_text2world_finetune", f"data.path={latents}", "data.num_workers=2"]
    command += [f"log.log_dir={tmp_path}", "log.version=v", "trainer.max_steps=10000", "trainer.log_every_n_steps=1"]
    command += ["model.config.num_layers=1", "model.config.hidden_size=64", "trainer.val_check_interval=0"]
    command += ["data.micro_batch_size=2", "data.global_batch_size=2", "trainer.callbacks=[]"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "default" / "v" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGTERM)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output[-2000:]
    step = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert f"stopped by a signal at step {step}" in output
    assert [checkpoint.step for checkpoint in complete_checkpoints(metrics.parent / "checkpoints")] == [step]


def test_a_new_run_never_writes_into_the_folder_of_an_old_one(latents, tmp_path):
    settings = {"log.version": "run", "trainer.max_steps": 2}
    first = job("old", latents, tmp_path, settings)
    again = job("old", latents, tmp_path, settings | {"resume.resume_if_exists": False}, may_fail=True)
    results = launch([first, again | {"name": "again"}], 1)
    assert results["again"][0]["error"] == "ConfigError"
    assert "already holds a checkpoint of step 2" in results["again"][0]["message"]
