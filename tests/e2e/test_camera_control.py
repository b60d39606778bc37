# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/camera_control.md, as a user types them, at a size that takes seconds."""

import json
import shutil

import pytest

from cosmos1.data.video import read_video
from tests.processes import run

FACTORY = "cosmos_diffusion_tiny_cameractrl_finetune"
SIZE = ("--num_frames", 9, "--height", 32, "--width", 48)


@pytest.mark.e2e
def test_prepare_train_resume_generate_and_measure(tmp_path):
    scenes, cached = tmp_path / "scenes", tmp_path / "cached"
    run("data_prep/demo_world.py", "--world", "camera", "--output_path", scenes, "--num_videos", 3, "--fps", 7, *SIZE)
    paths = ("--dataset_path", scenes, "--output_path", cached, "--path_to_caption_dict", scenes / "captions.json")
    run("data_prep/camera_control.py", *paths, *SIZE)
    settings = [f"data.path={cached}", "data.metres_per_unit=1.0", "data.num_workers=0", f"log.log_dir={tmp_path}"]
    settings += ["data.micro_batch_size=2", "data.global_batch_size=2", "log.version=v", "trainer.callbacks=[]"]
    settings += ["model.config.num_layers=1", "model.config.hidden_size=64", "optim.lr_scheduler.policy=constant"]
    for max_steps in (2, 3):
        trained = run(
            "recipes/diffusion/camera_control.py",
            "--yes",
            "--factory",
            FACTORY,
            *settings,
            f"trainer.max_steps={max_steps}",
        )
    assert "control signal: CameraConditioning" in trained.stdout and "step=2" in trained.stdout

    lines = [{"prompt": "", "name": name, "camera_extrinsics_path": f"scenes/{name}.zip"} for name in ("000", "001")]
    (tmp_path / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--num_video_frames", 9, "--height", 32, "--width", 48, "--num_steps", 3, "--guidance", 0]
    generate = ("recipes/generate/camera_control.py", "--checkpoint", tmp_path / "default" / "v", *options)
    generated = tmp_path / "generated"
    run(*generate, "--batch_input_path", tmp_path / "batch.jsonl", "--video_save_path", generated)
    assert read_video(generated / "001.mp4").shape == (9, 32, 48, 3)
    # The scale of the cameras is that of the training run.
    assert json.loads((generated / "001.json").read_text())["metres_per_unit"] == 1.0

    # A video's own record of its cameras repeats it.
    again = tmp_path / "again.mp4"
    first = shutil.copy(generated / "cameras" / "001.json", tmp_path / "path.json")
    _first_picture(scenes / "001.zip", tmp_path / "start.png")
    given = ("--camera_extrinsics_path", first, "--conditioned_image_or_video_path", tmp_path / "start.png")
    run(*generate, "--prompt", "", *given, "--video_save_path", again)
    assert (read_video(again) == read_video(generated / "001.mp4")).all()
    refused = run("recipes/generate/video2world.py", *generate[1:], "--prompt", "", *given[2:], check=False)
    assert refused.returncode == 2 and "recipes/generate/camera_control.py" in refused.stderr

    output = tmp_path / "pose.json"
    measure = ("--generated", generated, "--cameras", scenes, "--demo_world", "--output", output)
    run("-m", "cosmos1.evaluation", "camera_pose", *measure)
    metrics = json.loads(output.read_text())["metrics"]
    assert metrics["world_psnr"]["true"] > 3 and metrics["rotation_error"]["gap"] is not None


def _first_picture(scene, path):
    import zipfile

    with zipfile.ZipFile(scene) as files:
        path.write_bytes(files.read("images/frame_00001.png"))
