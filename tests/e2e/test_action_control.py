# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/action_control.md: prepare, train, go on, generate under true and shuffled actions, measure."""

import json
from pathlib import Path

import pytest

from cosmos1.data.video import read_video
from tests.data.arm_tree import arm_tree
from tests.processes import run

RECIPE, GENERATE = "recipes/diffusion/action_control.py", "recipes/generate/action_control.py"
SMALL = ["model.config.num_layers=1", "model.config.hidden_size=64", "model.config.num_attention_heads=2"]
SMALL += ["data.micro_batch_size=4", "data.global_batch_size=4", "data.num_workers=0", "log.version=v"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return arm_tree(tmp_path_factory.mktemp("world") / "arm", tmp_path_factory)


def train(factory: str, runs: Path, max_steps: int, *settings) -> str:
    command = (RECIPE, "--yes", "--factory", factory, *SMALL, f"log.log_dir={runs}", *settings)
    return run(*command, f"trainer.max_steps={max_steps}").stdout


@pytest.mark.e2e
def test_cached_frames_from_data_to_metric(tree, tmp_path):
    for split in ("train", "val"):
        run("data_prep/prepare_action_dataset.py", "--dataset_path", tree, "--dataset_split", split, "--output_path",
            tmp_path / split, "--action_convention", "scaled", "--num_workers", 1)  # fmt: skip
    data = (f"data.path={tmp_path / 'train'}", f"data.validation_path={tmp_path / 'val'}")
    for stop in (2, 3):
        said = train("cosmos_diffusion_tiny_video2world_action_ctrl_finetune", tmp_path, stop, *data)
    assert "resumed" in said and "step 3/3" in said

    trained = tmp_path / "default" / "v"
    whole_split = ("--checkpoint", trained, "--dataset_path", tree, "--split", "val", "--num_steps", 2)
    true, shuffled = tmp_path / "generated", tmp_path / "generated_shuffled"
    said = run(GENERATE, *whole_split, "--video_save_path", true).stdout
    assert 'actions: convention "scaled"' in said and "frames: 48 x 64, 5 per second" in said
    run(GENERATE, *whole_split, "--video_save_path", shuffled, "--shuffle_actions")
    assert read_video(true / "4.mp4").shape == (6, 48, 64, 3)
    facts = json.loads((shuffled / "4.json").read_text())
    assert facts["convention"] == "scaled" and (facts["height"], facts["action_dim"]) == (48, 7)
    assert facts["action_annotation"].endswith("val/5.json") and facts["visual_input"].endswith("4/rgb.mp4")

    results = tmp_path / "following.json"
    run("-m", "cosmos1.evaluation", "action_following", "--generated", true, "--shuffled", shuffled,
        "--dataset_path", tree, "--output", results, "--contact_sheet", tmp_path / "sheet.png")  # fmt: skip
    assert "psnr" in json.loads(results.read_text())["metrics"] and (tmp_path / "sheet.png").exists()

    refused = run(GENERATE, *whole_split, "--height", 96, "--video_save_path", true, check=False)
    assert refused.returncode == 2 and "--height 96: the network was trained with 48" in refused.stderr


@pytest.mark.e2e
def test_raw_pixels_from_training_to_a_video(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path / "out"))
    factory = "video2world_action_bridge_2frames_tiny"
    settings = [f"data.path={tree}", "data.video_size=[32,48]", "data.fps=5", "model.config.adaln_lora_dim=16"]
    for stop in (2, 3):
        said = train(factory, tmp_path, stop, *settings)
    assert "resumed" in said and "step 3/3" in said
    exports = tmp_path / "out/posttraining/diffusion_video2world_action" / factory / "checkpoints"
    kinds = ("reg", "ema", "RANK1_ema", "RANK2_ema")
    expected = {f"iter_00000000{step}_{kind}_model.pt" for step in (2, 3) for kind in kinds}
    assert {path.name for path in exports.iterdir()} == expected

    trained = tmp_path / "default" / "v"
    measured = run("benchmarks/next_frames.py", "--checkpoint", trained, "--dataset_path", tree, "--num_episodes", 1)
    assert "5 next frames of 1 episodes of train" in measured.stdout

    episode = ("--input_image_or_video_path", tree / "videos/val/4/rgb.mp4")
    episode += ("--action_annotation_path", tree / "annotation/val/4.json")
    size = ("--height", 32, "--width", 48, "--fps", 5, "--num_steps", 2)
    run(GENERATE, "--checkpoint", trained, *episode, *size, "--video_save_path", tmp_path / "4.mp4")
    assert read_video(tmp_path / "4.mp4").shape == (6, 32, 48, 3)
    facts = json.loads((tmp_path / "4.json").read_text())
    assert (facts["convention"], facts["hidden_width"], facts["use_d_branch"]) == ("scaled", "4D", False)
