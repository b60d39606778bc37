# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/multiview.md, as a user types them, with two cameras and at a size that takes seconds."""

import json

import pytest

from cosmos1.data.geometry.rigs import Rig, rig_json, six_camera_rig
from cosmos1.data.video import read_video
from tests.processes import run

SIZE = ("--num_frames", 9, "--height", 32, "--width", 48, "--fps", 12)
CAMERAS = six_camera_rig().cameras[:2]
NAMES = [camera.name for camera in CAMERAS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Recordings of two cameras, and their latents."""
    folder = tmp_path_factory.mktemp("rig")
    (folder / "rig.json").write_text(json.dumps(rig_json(Rig(CAMERAS, [NAMES]))))
    recordings = ("--output_path", folder / "recordings", "--rig", folder / "rig.json", "--num_videos", 2)
    run("data_prep/demo_world.py", "--world", "rig", *recordings, *SIZE)
    paths = ("--dataset_path", folder / "recordings", "--output_path", folder / "cached", "--require_trajectory")
    run("data_prep/multiview.py", *paths, *SIZE)
    return folder


def train(world, task: str, max_steps: int):
    settings = [f"data.path={world}/cached", "data.num_workers=0", f"log.log_dir={world}", f"log.version={task}"]
    settings += [
        "data.micro_batch_size=2",
        "data.global_batch_size=2",
        "trainer.callbacks=[]",
        "data.validation_fraction=0",
    ]
    settings += ["model.config.num_layers=1", "model.config.hidden_size=64", "model.config.views.num_views=2"]
    factory = f"cosmos_multicamera_diffusion_tiny_{task}"
    recipe = ("recipes/diffusion/multiview.py", "--yes", "--factory", factory)
    return run(*recipe, *settings, f"trainer.max_steps={max_steps}", "optim.lr_scheduler.policy=constant").stdout


def generate(world, task: str, *options, check: bool = True):
    network = ("--checkpoint", world / "default" / task, "--rig", world / "rig.json")
    what = ("--num_video_frames", 9, "--height", 32, "--width", 48, "--fps", 12, "--num_steps", 3, "--guidance", 1)
    return run("recipes/generate/multiview.py", *network, *what, *options, check=check)


@pytest.mark.e2e
def test_image2world_with_a_trajectory_from_recordings_to_scores(world):
    task = "image2world_finetune_w_traj"
    train(world, task, max_steps=1)
    assert "resumed" in train(world, task, max_steps=2)
    recordings, generated = world / "recordings", world / "generated"
    lines = [
        {
            "prompt": "The car turns left.",
            "name": name,
            "trajectory_path": f"recordings/trajectory/{name}.json",
            "conditioned_images": f"{recordings}/videos/{{camera}}/{name}.mp4",
        }
        for name in ("000", "001")
    ]
    (world / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)))
    generate(world, task, "--batch_input_path", world / "batch.jsonl", "--video_save_path", generated)
    assert all(read_video(generated / name / "001.mp4").shape == (9, 32, 48, 3) for name in NAMES)
    assert read_video(generated / "001.mp4").shape == (9, 32, 96, 3)
    record = json.loads((generated / "001.json").read_text())
    assert record["views"] == NAMES and record["captions"] == ["The car turns left."] * 2
    front = generated / NAMES[0]
    measure = ("--trajectories", recordings / "trajectory", "--rig", world / "rig.json", "--demo_world", recordings)
    output = world / "trajectory.json"
    run("-m", "cosmos1.evaluation", "trajectory_following", "--generated", front, *measure, "--output", output)
    assert json.loads(output.read_text())["metrics"]["mean_error"]["gap"] is not None


@pytest.mark.e2e
def test_text2world_with_a_text_for_each_view(world):
    task = "text2world_finetune"
    train(world, task, max_steps=1)
    (world / "texts.json").write_text(json.dumps(dict(zip(NAMES, ("A road.", "A wall.")))))
    generate(world, task, "--prompt_path", world / "texts.json", "--video_save_path", world / "out" / "town.mp4")
    assert read_video(world / "out" / NAMES[1] / "town.mp4").shape == (9, 32, 48, 3)
    refused = generate(world, task, "--prompt", "A road.", "--trajectory", "left", check=False)
    assert refused.returncode == 2 and "takes no trajectory" in refused.stderr
