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
    annotation = next((tmp_path / "arm" / "annotation" / "train").glob("*.json"))
    start = tmp_path / "arm" / "videos" / "train" / annotation.stem / "rgb.mp4"
    options = ("--input_image_or_video_path", start, "--action_annotation_path", annotation)
    video = generate(folder, tmp_path / "out.mp4", *options)
    assert video.shape == (6, 32, 48, 3)
    # The first frame is that of the episode, as far as its tokens show it.
    assert np.abs(video[0].astype(float) - read_video(start)[0]).mean() < 30
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
    scene = tmp_path / "scenes" / "000.zip"
    start = tmp_path / "start.png"
    _write_picture(start, np.full((32, 48, 3), 90, np.uint8))
    options = ("--input_image_or_video_path", start, "--prompt", "A room.")
    by_name = generate(folder, tmp_path / "named.mp4", *options, "--camera_path", "pan")
    by_file = generate(folder, tmp_path / "file.mp4", *options, "--camera_extrinsics_path", scene)
    assert by_name.shape == by_file.shape == (9, 32, 48, 3)
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
    views = [tmp_path / "drives" / "videos" / camera / "000.mp4" for camera in ("front", "left")]
    options = ("--conditioned_images", *views, "--num_input_frames", "1", "--prompt", "A drive.")
    video = generate(folder, tmp_path / "out.mp4", *options, "--trajectory", "left")
    assert video.shape == (9, 32, 96, 3)
