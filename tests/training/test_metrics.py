# SPDX-License-Identifier: Apache-2.0
"""The record of a run, read back through the readers of each format."""

import json
import math
import resource
import struct
import time

import numpy
import pytest
import torch

from cosmos1.training.metrics import MetricsLogger, read_metrics
from cosmos1.training.plots import draw_loss, sigma_bands, smoothed
from cosmos1.training.progress import ProgressDisplay


@pytest.fixture(scope="module", autouse=True)
def wandb_ends_here():
    """Its service would otherwise be waited for when all tests are over."""
    yield
    import wandb

    wandb.teardown()


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_PROJECT_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_line_is_json_and_non_finite_is_null(tmp_path):
    with MetricsLogger(tmp_path / "run", max_steps=3) as metrics:
        metrics.log(1, {"loss": torch.tensor(0.5), "lr": 1e-5})
        metrics.log(2, {"loss": float("nan"), "grad_norm": numpy.float32("inf")})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"step": 1, "loss": 0.5, "lr": 1e-5},
        {"step": 2, "loss": None, "grad_norm": None},
    ]


def test_lines_are_on_disk_before_close(tmp_path):
    metrics = MetricsLogger(tmp_path, max_steps=3)
    metrics.log(1, {"loss": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    metrics.close()
    metrics.close()


def test_resume_cuts_what_came_after(tmp_path):
    with MetricsLogger(tmp_path, max_steps=9) as metrics:
        for step in range(1, 6):
            metrics.log(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with MetricsLogger(tmp_path, max_steps=9) as metrics:
        metrics.truncate_after(3)
        metrics.log(4, {"loss": 40.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
    ]
    assert scalars(tmp_path / "tensorboard", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_line_cut_by_a_crash_costs_only_itself(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    with MetricsLogger(tmp_path, max_steps=9) as metrics:
        metrics.log(3, {"loss": 3.0})
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 3]


def test_other_ranks_leave_no_trace(tmp_path, capsys):
    with MetricsLogger(tmp_path / "run", max_steps=3, is_main=False) as metrics:
        metrics.log(1, {"loss": 0.5})
        metrics.message("hello")
        assert metrics.log_video(1, "sample", numpy.zeros((2, 8, 8, 3), "uint8"), fps=4) is None
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def wandb_records(path):
    """Records of an offline file: a header of 7 bytes, then blocks of 32 KiB with chunks (crc32, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, body = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        body += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(body)
            body = b""
            yield record


def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT_NAME", "driving")
    monkeypatch.setenv("WANDB_PROJECT", "not this one")
    for first in (1, 3):
        with MetricsLogger(tmp_path, max_steps=4, config={"trainer": {"max_steps": 4}}) as metrics:
            metrics.log(first, {"loss": 0.5})
            metrics.log(first + 1, {"loss": 0.25})
        time.sleep(1.1)  # wandb names what it writes by the second
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    records = [record for file in files for record in wandb_records(file)]
    runs = [record.run for record in records if record.HasField("run")]
    assert {run.project for run in runs} == {"driving"}
    assert {run.run_id for run in runs} == {(tmp_path / "wandb_id").read_text().strip()}
    settings = {item.key: item.value_json for run in runs for item in run.config.update}
    assert json.loads(settings["trainer"]) == {"max_steps": 4}
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert sorted((row["step"], row["loss"]) for row in rows) == [(1, 0.5), (2, 0.25), (3, 0.5), (4, 0.25)]


def test_a_refused_wandb_key_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with MetricsLogger(tmp_path, max_steps=1) as metrics:
        metrics.log(1, {"loss": 0.5})
    assert "wandb is off: " in capsys.readouterr().out
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_video_is_playable(tmp_path):
    import av

    frames = numpy.zeros((5, 32, 48, 3), "uint8")
    frames[:, :, :, 0] = 200
    with MetricsLogger(tmp_path, max_steps=1) as metrics:
        path = metrics.log_video(7, "sample", frames, fps=12)
    assert path == tmp_path / "videos" / "sample-step=7.mp4"
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 12
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 5 and decoded[0].shape == (32, 48, 3)
    assert numpy.abs(decoded[2].astype(int) - frames[2]).max() < 12


def test_loss_png_follows_validations_and_the_end(tmp_path):
    from matplotlib.image import imread

    plot = tmp_path / "loss.png"
    metrics = MetricsLogger(tmp_path, max_steps=40)
    for step in range(1, 31):
        metrics.log(step, {"loss": 1 / step, "loss_sigma_0.002_0.5": 0.1, "loss_sigma_0.5_80": 2.0})
    assert not plot.exists()
    metrics.log(30, {"val_loss": 0.2, "val_loss_sigma_0.5_80": 1.5})
    first = imread(plot)
    metrics.log(31, {"loss": 5.0})
    metrics.close()
    second = imread(plot)
    assert first.shape == second.shape and first.shape[1] < 1200
    assert not numpy.array_equal(first, second)
    assert (first[:, :, :3].min(axis=2) < 0.9).mean() > 0.01


def test_plot_survives_odd_records(tmp_path):
    for rows in ([], [{"step": 1, "loss": None}], [{"step": 1, "val_loss": 0.0}], [{"step": 1, "loss": -1.0}]):
        draw_loss(rows, tmp_path / "odd.png")
        assert (tmp_path / "odd.png").stat().st_size > 1000


def test_bands_and_smoothing():
    rows = [{"step": 1, "loss_sigma_1_80": 1.0, "loss_sigma_0.002_1": 1.0}, {"step": 2, "val_loss_sigma_1e-3_1": 0}]
    assert sigma_bands(rows) == [(0.001, 1.0, "1e-3_1"), (0.002, 1.0, "0.002_1"), (1.0, 80.0, "1_80")]
    assert smoothed([3.0] * 50) == pytest.approx([3.0] * 50)
    noisy = [math.sin(step * 2.4) for step in range(300)]
    assert numpy.std(smoothed(noisy)[100:]) < 0.2 * numpy.std(noisy)


def test_plain_lines_without_a_terminal(tmp_path, capsys):
    with MetricsLogger(tmp_path, max_steps=100) as metrics:
        metrics.log(10, {"loss": 0.51234, "lr": 1e-5, "step_time_s": 40.0, "samples_per_s": 2.0, "mfu": 0.412})
        metrics.log(10, {"val_loss": 0.6, "val_loss_sigma_0.5_80": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        "step 10/100 | loss 0.5123 | lr 1.00e-05 | 40.00 s/step | 2.00 samples/s | MFU 41.2% | 1:00:00 left",
        "step 10/100 | val_loss 0.6000",
    ]


def test_bar_on_a_terminal(capsys):
    display = ProgressDisplay(max_steps=100, interactive=True)
    display.update(50, {"loss": 0.25, "step_time_s": 2.0})
    display.message("checkpoint saved")
    display.close()
    output = capsys.readouterr().out
    assert "step 50/100" in output and "loss 0.2500" in output and "0:01:40 left" in output
    assert "checkpoint saved" in output


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
def test_a_full_disk_costs_no_row(tmp_path, capsys):
    """No file of this process may grow beyond a third of the fifth row for a while."""
    limits, path = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "metrics.jsonl"
    with MetricsLogger(tmp_path, max_steps=30) as metrics:
        try:
            for step in range(1, 31):
                if step == 5:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 8, limits[1]))
                if step == 20:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                metrics.log(step, {"loss": 1 / step})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [row["step"] for row in read_metrics(path)] == list(range(1, 31))
    output = capsys.readouterr().out
    # TensorBoard's thread finds the disk full in its own time; what decides here is the row, in every step anew.
    assert output.count("WARNING") == output.count("can be written again") == 1
