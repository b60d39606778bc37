# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/instruction.md: prepare, train, go on, generate, and compare right and wrong text."""

import json
from pathlib import Path

import pytest

from cosmos1.data.video import read_video
from tests.data.arm_tree import arm_tree
from tests.processes import run

RECIPE, FACTORY = "recipes/diffusion/instruction.py", "cosmos_diffusion_tiny_video2world_instruction_finetune"
SMALL = ["model.config.num_layers=1", "model.config.hidden_size=64", "model.config.num_attention_heads=2"]
SMALL += ["data.micro_batch_size=2", "data.global_batch_size=2", "data.num_workers=0", "log.version=v"]
FIRST_TEXT, NUM_SAMPLES = "Move the arm to the red block.", 4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A tree of four episodes with four texts, and the latents of their first 9 frames."""
    folder = tmp_path_factory.mktemp("world")
    tree = arm_tree(folder / "arm", tmp_path_factory, num_frames=10, height=32, width=48, motion="instructed")
    run("data_prep/prepare_instruction_dataset.py", "--dataset_path", tree, "--bridge_split", "train", "--output_path",
        folder / "latents", "--num_chunks", 1, "--num_frames", 9, "--height", 32, "--width", 48)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def trained(prepared) -> Path:
    """A run of three steps, interrupted after two."""
    settings = [f"data.path={prepared / 'latents'}", "data.validation_fraction=0", f"log.log_dir={prepared}"]
    for stop in (2, 3):
        said = run(RECIPE, "--yes", "--factory", FACTORY, *SMALL, *settings, f"trainer.max_steps={stop}").stdout
    assert "resumed" in said and "given latent frames: 1 to 1 per sample" in said
    return prepared / "default" / "v"


@pytest.mark.e2e
def test_a_text_and_a_picture_make_a_video(prepared, trained):
    options = ["--prompt", FIRST_TEXT, "--conditioned_image_or_video_path", prepared / "arm/videos/train/0/rgb.mp4"]
    options += ["--num_video_frames", 9, "--height", 32, "--width", 48, "--fps", 5, "--num_steps", 2]
    run("recipes/generate/video2world.py", "--checkpoint", trained, *options, "--video_save_path", prepared / "out.mp4")
    assert read_video(prepared / "out.mp4").shape == (9, 32, 48, 3)


@pytest.mark.e2e
def test_right_text_is_compared_with_wrong_text(prepared, trained):
    output, sheet = prepared / "following.json", prepared / "sheet.png"
    done = run("-m", "cosmos1.evaluation", "control_following", "--control", "text", "--checkpoint", trained,
               "--data_path", prepared / "latents", "--num_noises", 2, "--num_generated", 1, "--num_steps", 2,
               "--output", output, "--contact_sheet", sheet)  # fmt: skip
    results = json.loads(output.read_text())
    assert set(results["metrics"]) == {"loss", "psnr", "psnr_repeat", "latent_l2"} and sheet.exists()
    assert len(results["videos"]) == NUM_SAMPLES and "50% is chance" in done.stdout
    assert [("psnr" in video["true"]) for video in results["videos"]] == [True, False, False, False]
    # Text reaches the network: another one changes the loss, if not yet for the better.
    assert all(video["true"]["loss"] != video["shuffled"][0]["loss"] for video in results["videos"])


@pytest.mark.e2e
def test_a_frame_must_be_left_to_generate(prepared, trained):
    done = run("-m", "cosmos1.evaluation", "control_following", "--control", "text", "--checkpoint", trained,
               "--data_path", prepared / "latents", "--num_given_latent_frames", 2, check=False)  # fmt: skip
    assert done.returncode == 2 and "--num_given_latent_frames 2: each view of a sample has 2 latent" in done.stderr
