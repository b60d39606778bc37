# SPDX-License-Identifier: Apache-2.0
"""The control tasks of the autoregressive networks, from sources to a generated video, by the documented commands."""

import json
from pathlib import Path

import numpy as np
import pytest

from cosmos1.data.video import read_video
from cosmos1.training.metrics import read_metrics
from tests.processes import run

pytestmark = pytest.mark.e2e

SIZE = ("--height", "32", "--width", "48")
SMALL_NETWORK = (
    "model.config.hidden_size=48",
    "model.config.num_layers=2",
    "model.config.head_dim=12",
    "model.config.ffn_hidden_size=64",
)
GEOMETRY = {"width": 96, "height": 64, "fx": 60.0, "fy": 60.0, "cx": 48.0, "cy": 32.0, "position": [1.5, 0, 1.5]}
RIG = {
    "cameras": [
        {"name": name, "description": f"Camera {name}.", "roll_pitch_yaw_degrees": [0, 0, yaw], **GEOMETRY}
        for name, yaw in (("front", 0), ("left", 60))
    ]
}


def train(recipe: str, factory: str, data: Path, log_dir: Path, *settings: str) -> Path:
    """Two steps of one process; the run folder."""
    common = ("trainer.max_steps=2", "trainer.devices=1", "trainer.val_check_interval=2", "log.version=run")
    batch = ("data.micro_batch_size=1", "data.global_batch_size=2", "data.num_workers=0", "data.repeat=true")
    places = (f"data.path={data}", f"log.log_dir={log_dir}")
    run(
        f"recipes/autoregressive/{recipe}.py",
        "--yes",
        "--factory",
        factory,
        *common,
        *batch,
        *places,
        *SMALL_NETWORK,
        *settings,
    )
    folder = next(log_dir.glob("*/run"))
    assert {"loss", "val_loss"} <= {key for row in read_metrics(folder / "metrics.jsonl") for key in row}
    return folder


def generate(checkpoint: Path, output: Path, *options) -> np.ndarray:
    """The frames that the command generates, always the most probable token."""
    places = ("--checkpoint", checkpoint, "--video_save_path", output, "--temperature", "0", "--top_k", "1")
    run("recipes/generate/autoregressive.py", *places, *options)
    assert json.loads(output.with_suffix(".json").read_text())["tokens_per_s"] > 0
    return read_video(output)


def test_action_control(tmp_path):
    run(
        "data_prep/demo_world.py",
        "--world",
        "arm",
        "--output_path",
        tmp_path / "arm",
        "--num_videos",
        "4",
        "--num_frames",
        "6",
        *SIZE,
    )
    source = ("--dataset_path", tmp_path / "arm", "--output_path", tmp_path / "tokens")
    run("data_prep/prepare_action_dataset.py", *source, "--tokenizer", "dct_fsq")
    factory = "cosmos_autoregressive_tiny_video2world_action_ctrl_finetune"
    folder = train(
        "action_control", factory, tmp_path / "tokens", tmp_path / "runs", "model.config.latent_shape=[2,2,3]"
    )
    true, shuffled = tmp_path / "generated", tmp_path / "generated_shuffled"
    greedy = ("--checkpoint", folder, "--dataset_path", tmp_path / "arm", "--temperature", "0", "--video_save_path")
    run("recipes/generate/autoregressive.py", *greedy, true)
    run("recipes/generate/autoregressive.py", *greedy, shuffled, "--shuffle_actions")
    video, facts = read_video(true / "4.mp4"), json.loads((shuffled / "4.json").read_text())
    assert video.shape == (6, 32, 48, 3) and facts["fps"] == 5 and facts["action_annotation"].endswith("val/5.json")
    # The first frame is that of the episode, as far as its tokens show it.
    start = tmp_path / "arm" / "videos" / "val" / "4" / "rgb.mp4"
    assert np.abs(video[0].astype(float) - read_video(start)[0]).mean() < 30
    folders = ("--generated", true, "--shuffled", shuffled, "--dataset_path", tmp_path / "arm")
    run("-m", "cosmos1.evaluation", "action_following", *folders, "--output", tmp_path / "rolled_out.json")
    assert json.loads((tmp_path / "rolled_out.json").read_text())["metrics"]["psnr"]["true"] > 5
    measure = ("--control", "action", "--checkpoint", folder, "--num_samples", "2", "--num_generated", "1")
    output = ("--output", tmp_path / "following.json", "--contact_sheet", tmp_path / "following.png")
    run("-m", "cosmos1.evaluation", "control_following", *measure, *output)
    scores = json.loads((tmp_path / "following.json").read_text())["metrics"]
    # Another action is another context from the first step on, so the losses differ; both are near ln(64000).
    assert scores["loss"]["gap"] != 0 and 8 < scores["loss"]["true"] < 14
    assert scores["psnr"]["true"] > 5 and (tmp_path / "following.png").exists()


def test_instructions(tmp_path):
    world = ("--world", "arm", "--motion", "instructed", "--output_path", tmp_path / "arm", "--num_videos", "8")
    run("data_prep/demo_world.py", *world, "--num_frames", "6", *SIZE)
    source = ("--instruction_path", tmp_path / "arm", "--bridge_split", "train", "--split_string", "1,1,1")
    tokens = ("--output_dir", tmp_path / "tokens", "--tokenizer", "dct_fsq", "--num_context_frames", "9", *SIZE)
    said = run("data_prep/autoregressive_video2world_dataset.py", *source, *tokens).stdout
    assert "9 frames of 32 x 48" in said
    factory = "cosmos_autoregressive_tiny_video2world_instruction_finetune"
    train("instruction", factory, tmp_path / "tokens", tmp_path / "runs", "model.config.latent_shape=[2,2,3]")


def test_camera_control(tmp_path):
    run(
        "data_prep/demo_world.py",
        "--world",
        "camera",
        "--output_path",
        tmp_path / "scenes",
        "--num_videos",
        "3",
        "--num_frames",
        "9",
        *SIZE,
    )
    source = ("--dataset_path", tmp_path / "scenes", "--output_path", tmp_path / "tokens", "--num_frames", "9", *SIZE)
    run("data_prep/camera_control.py", *source, "--tokenizer", "dct_fsq")
    factory = "cosmos_autoregressive_tiny_video2world_cameractrl_finetune"
    grid = "model.config.latent_shape=[2,2,3]"
    folder = train(
        "camera_control", factory, tmp_path / "tokens", tmp_path / "runs", grid, "data.validation_fraction=0.4"
    )
    start = tmp_path / "start.png"
    _write_picture(start, np.full((32, 48, 3), 90, np.uint8))
    options = ("--input_image_or_video_path", start, "--prompt", "A room.")
    assert generate(folder, tmp_path / "named.mp4", *options, "--camera_path", "pan").shape == (9, 32, 48, 3)
    assert (tmp_path / "cameras" / "named.json").exists()
    # Scenes bring their own first pictures.
    scenes = [{"prompt": "A room.", "name": n, "camera_extrinsics_path": f"scenes/{n}.zip"} for n in ("000", "001")]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scenes))
    batch = ("--batch_input_path", tmp_path / "batch.jsonl", "--video_save_path", tmp_path / "generated")
    run("recipes/generate/autoregressive.py", "--checkpoint", folder, *batch, "--num_input_frames", "1")
    cameras = ("--cameras", tmp_path / "scenes", "--demo_world", "--output", tmp_path / "pose.json")
    run("-m", "cosmos1.evaluation", "camera_pose", "--generated", tmp_path / "generated", *cameras)
    assert "rotation_error" in json.loads((tmp_path / "pose.json").read_text())["metrics"]
    refused = run("recipes/generate/autoregressive.py", "--checkpoint", folder, *options, check=False)
    assert refused.returncode == 2
    assert "takes the control signal camera; give --camera_extrinsics_path or --camera_path" in refused.stderr


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def test_views_and_trajectory(tmp_path):
    (tmp_path / "rig.json").write_text(json.dumps(RIG))
    world = ("--world", "rig", "--output_path", tmp_path / "drives", "--rig", tmp_path / "rig.json")
    run("data_prep/demo_world.py", *world, "--num_videos", "3", "--num_frames", "10", "--fps", "10", *SIZE)
    source = ("--dataset_path", tmp_path / "drives", "--output_path", tmp_path / "tokens", "--num_frames", "9", *SIZE)
    run("data_prep/multiview.py", *source, "--tokenizer", "dct_fsq", "--require_trajectory", "--fps", "10")
    factory = "cosmos_autoregressive_tiny_multicamera_finetune_w_traj"
    network = (
        "model.config.latent_shape=[2,2,3]",
        "model.config.views.num_views=2",
        "model.config.views.shared_text=false",
    )
    folder = train(
        "multiview", factory, tmp_path / "tokens", tmp_path / "runs", *network, "data.validation_fraction=0.4"
    )
    line = {"prompt": "A drive.", "conditioned_images": str(tmp_path / "drives/videos/{camera}/000.mp4")}
    lines = [line | {"name": "000", "trajectory": "left"}, line | {"name": "001", "trajectory_path": "001.json"}]
    (tmp_path / "drives/trajectory/batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = ("--batch_input_path", tmp_path / "drives/trajectory/batch.jsonl", "--rig", tmp_path / "rig.json")
    places = ("--checkpoint", folder, "--video_save_path", tmp_path / "generated", "--fps", "10")
    run("recipes/generate/autoregressive.py", *places, *batch, "--num_input_frames", "1", "--temperature", "0")
    assert read_video(tmp_path / "generated/000.mp4").shape == (9, 32, 96, 3)
    front, left = (read_video(tmp_path / "generated" / camera / "001.mp4") for camera in ("front", "left"))
    # Each view begins with its own picture.
    starts = [
        read_video(tmp_path / "drives/videos" / camera / "000.mp4")[0].astype(float) for camera in ("front", "left")
    ]
    assert np.abs(front[0] - starts[0]).mean() < np.abs(front[0] - starts[1]).mean()
    assert np.abs(left[0] - starts[1]).mean() < np.abs(left[0] - starts[0]).mean()
    truth = (
        "--trajectories",
        tmp_path / "drives/trajectory",
        "--demo_world",
        tmp_path / "drives",
        "--rig",
        tmp_path / "rig.json",
    )
    followed = ("--generated", tmp_path / "generated/front", *truth, "--output", tmp_path / "following.json")
    run("-m", "cosmos1.evaluation", "trajectory_following", *followed)
    assert "mean_error" in json.loads((tmp_path / "following.json").read_text())["metrics"]
