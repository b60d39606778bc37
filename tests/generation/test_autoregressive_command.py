# SPDX-License-Identifier: Apache-2.0
"""The command that generates with an autoregressive network: from options to a video and its record."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cosmos1.conditioning.token_settings import ActionRows
from cosmos1.data.video import read_video, write_video
from cosmos1.errors import ConfigError
from cosmos1.generation import autoregressive, autoregressive_command, autoregressive_options, command, generator
from cosmos1.models.autoregressive.config import gpt_config
from tests.checkpoint.conversion import converted, save_official
from tests.data.arm_tree import arm_tree

HEIGHT, WIDTH = 64, 96


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command with the tiny untrained network on clips of 17 frames; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    row = (128 + 90 * np.sin(np.arange(WIDTH) * 2 * np.pi / WIDTH)).astype(np.uint8)
    frames = np.stack([np.broadcast_to(np.roll(row, t)[None, :, None], (HEIGHT, WIDTH, 3)) for t in range(12)])
    write_video(tmp_path / "start.mp4", frames, 25)

    def run(*options, status: int = 0) -> str:
        size = ["--num_context_frames", "17", "--height", str(HEIGHT), "--width", str(WIDTH)]
        monkeypatch.setattr("sys.argv", ["autoregressive.py", *size, *options])
        program = (
            autoregressive_options.parser(""),
            autoregressive_command.generate,
            autoregressive_options.take_official_options,
        )
        if status:
            with pytest.raises(SystemExit) as stopped:
                command.run_program(*program)
            assert stopped.value.code == status
            return capsys.readouterr().err
        command.run_program(*program)
        return capsys.readouterr().out

    return run


BASE, V2W = ("--model", "tiny"), ("--model", "tiny_video2world")
START = ("--input_image_or_video_path", "start.mp4")


def test_a_video_is_continued(run, tmp_path):
    said = run(*BASE, *START, "--video_save_path", "out/video.mp4", "--seed", "3")
    assert "3 x 4 x 6 = 72 video tokens" in said and "tokens per second" in said
    video = read_video(tmp_path / "out/video.mp4")
    assert video.shape == (17, HEIGHT, WIDTH, 3)
    record = json.loads((tmp_path / "out/video.json").read_text())
    assert record["seed"] == 3 and record["top_p_used"] == 0.8 and record["tokens_per_s"] > 0
    run(*BASE, *START, "--video_save_path", "again.mp4", "--seed", "3")
    assert np.array_equal(read_video(tmp_path / "again.mp4"), video)
    # The given frames come back as the tokenizer shows them.
    given = read_video(tmp_path / "start.mp4")[-9:].astype(float)
    assert np.abs(video[:9] - given).mean() < 15
    assert np.abs(video[9:] - given[-8:]).mean() > 30


@pytest.fixture
def built(monkeypatch) -> dict[str, int]:
    """How often the text encoder and a half of the tokenizer were built."""
    counts = {"text": 0, "tokenizer": 0}

    def counted(key, build):
        def counting(*arguments, **options):
            counts[key] += 1
            return build(*arguments, **options)

        return counting

    monkeypatch.setattr(generator, "build_text_encoder", counted("text", generator.build_text_encoder))
    build = counted("tokenizer", autoregressive.build_discrete_tokenizer)
    monkeypatch.setattr(autoregressive, "build_discrete_tokenizer", build)
    return counts


def test_video2world_follows_a_batch_of_prompts(run, built, tmp_path):
    lines = [{"prompt": "A bar.", "visual_input": "start.mp4", "seed": seed} for seed in (3, 4)]
    (tmp_path / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run(
        *V2W,
        "--batch_input_path",
        "batch.jsonl",
        "--video_save_path",
        "videos",
        "--num_input_frames",
        "1",
        "--top_k",
        "9",
    )
    assert len(read_video(tmp_path / "videos/1.mp4")) == 17
    assert json.loads((tmp_path / "videos/1.json").read_text())["seed"] == 4
    assert not np.array_equal(*(read_video(tmp_path / f"videos/{number}.mp4") for number in (0, 1)))
    assert built == {"text": 1, "tokenizer": 2}


@pytest.mark.parametrize(
    "options, message",
    [
        ((*BASE,), "give one start for each video"),
        ((*START,), "give --checkpoint FOLDER, or --model"),
        ((*V2W, *START), "needs --prompt"),
        ((*BASE, *START, "--prompt", "A bar."), "reads no text"),
        ((*BASE, *START, "--num_input_frames", "5"), "use 1 or 1 + a multiple of 8"),
        ((*BASE, *START, "--top_p", "0.9", "--top_k", "3"), "exclude each other"),
        ((*BASE, *START, "--height", "70"), "height 70"),
        ((*BASE, *START, "--temperature", "1e-9"), "--temperature"),
        ((*BASE, *START, "--field_of_view", "50"), "--field_of_view"),
        ((*BASE, *START, "--conditioned_images", "start.mp4"), "give one start for each video"),
        ((*V2W, *START, "--prompt", "a", "--view_prompts", "a"), "--view_prompts"),
        ((*BASE, "--dataset_path", "bridge"), "--dataset_path: the network takes no actions"),
        ((*BASE, *START, "--shuffle_actions"), "--shuffle_actions goes with --dataset_path"),
        ((*BASE, *START, "--camera", "1"), "--camera goes with --dataset_path"),
        ((*BASE, *START, "--dataset_path", "bridge"), "--input_image_or_video_path: --dataset_path says it"),
        ((*V2W, "--camera_extrinsics_path", "scene", "--prompt", "a"), "takes no control signal of this kind (camera)"),
        ((*BASE, *START, "--rig", "six_cameras"), "--rig: the network takes no control signal of this kind (views)"),
        (("--checkpoint_dir", "/all", "--ar_model_dir", "4B", *START), "/all/4B does not exist"),
        ((*BASE, *START, "--tp_size", "2"), "--nproc_per_node=2"),
        ((*BASE, "--input_image_or_video_path", "none.mp4"), "none.mp4"),
        ((*BASE, *START, "--tokenizer", "cosmos_dv", "--encoder_path", "nothing"), "nothing"),
    ],
)
def test_mistakes_are_told_in_one_line(run, options, message):
    error = run(*options, status=2)
    assert error.startswith("error: ") and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    "line, message",
    [
        ({}, "line 1 of batch.jsonl: give one start for each video"),
        ({"visual_input": "start.mp4", "conditioned_images": "start.mp4"}, "give one start for each video"),
        ({"visual_input": "start.mp4", "prompt": "a", "view_prompts": ["b"]}, "give one text, or one for each view"),
        ({"conditioned_images": ["start.mp4", 1]}, 'line 1 of batch.jsonl: "conditioned_images" is ["start.mp4", 1]'),
        ({"visual_input": "start.mp4", "trajectory": "left", "trajectory_speed": -1}, '"trajectory_speed" is -1'),
        (
            {"visual_input": "start.mp4", "camera_path": "pan"},
            "line 1 of batch.jsonl: --camera_path: the network takes no control signal of this kind (camera)",
        ),
        ({"visual_input": "start.mp4", "rig": "six_cameras"}, 'has "rig"; known are'),
    ],
)
def test_mistakes_in_a_line_of_a_batch(run, tmp_path, line, message):
    (tmp_path / "batch.jsonl").write_text(json.dumps(line))
    error = run(*BASE, "--batch_input_path", "batch.jsonl", status=2)
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_an_image_is_one_frame(run, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((50, 60, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    run(*BASE, "--input_image_or_video_path", "grey.png", "--temperature", "0", "--video_save_path", "grey.mp4")
    assert abs(read_video(tmp_path / "grey.mp4")[0].mean() - 128) < 12


def test_a_diffusion_checkpoint_is_refused(run, tmp_path):
    from cosmos1.checkpoint.folders import folder_name

    context = tmp_path / "run/checkpoints" / folder_name(0, 1) / "context"
    for folder in (context, context.parent / "weights"):
        folder.mkdir(parents=True)
    (context / "recipe.yaml").write_text("model: {config: {hidden_size: 8}, tokenizer: dct}")
    torch.save({}, context.parent / "weights" / "common.pt")
    (context / "checksums.json").write_text("{}")
    assert "text2world.py" in run("--checkpoint", "run", *START, status=2)


def parsed(*options):
    options = autoregressive_options.parser("").parse_args(options)
    autoregressive_options.take_official_options(options)
    return options


def test_names_of_the_official_programs(capsys):
    options = parsed("--checkpoint_dir", "all", "--ar_model_dir", "4B", "--video_save_folder", "out", "--num_gpus", "2")
    assert (options.checkpoint, options.video_save_path, options.tp_size) == ("all/4B", "out/generated.mp4", 2)
    assert capsys.readouterr().out == ""
    options = parsed(
        "--checkpoint_dir", "4B", "--video_save_folder", "out", "--batch_input_path", "b", "--offload_tokenizer"
    )
    assert (options.checkpoint, options.video_save_path) == ("4B", "out")
    assert capsys.readouterr().out == "without effect: --offload_tokenizer\n"


def test_action_control_by_weights_that_record_no_pictures(tmp_path, tmp_path_factory, monkeypatch):
    """An official file, and a checkpoint converted from it, are run as the recipe trains: pairs of single pictures."""
    monkeypatch.chdir(tmp_path)
    tree = arm_tree(tmp_path / "arm", tmp_path_factory)
    config = replace(gpt_config("tiny_video2world"), action=ActionRows(7, 1, 16), num_layers=1)
    save_official(tmp_path / "model.pt", config)
    converted(tmp_path / "model.pt", tmp_path / "dist", "dist", config)
    annotation = min((tree / "annotation/val").glob("*.json"))
    start = str(tree / "videos/val" / annotation.stem / "rgb.mp4")
    given = (
        "--input_image_or_video_path",
        start,
        "--action_annotation_path",
        str(annotation),
        "--tokenizer",
        "dct_fsq",
    )
    options = (*given, "--action_convention", "json", "--temperature", "0", "--top_k", "1")
    videos = []
    for checkpoint in ("model.pt", "dist"):
        with pytest.raises(ConfigError, match="give the --height and --width"):
            autoregressive_command.generate(parsed("--checkpoint", checkpoint, *options, "--height", "48"))
        size = ("--height", "48", "--width", "64", "--video_save_path", f"{checkpoint}.mp4")
        autoregressive_command.generate(parsed("--checkpoint", checkpoint, *options, *size))
        videos.append(read_video(tmp_path / f"{checkpoint}.mp4"))
        task = autoregressive.task_of_checkpoint(tmp_path / checkpoint, 48, 64)
        assert task.single_frames and task.config.latent_shape == [2, 3, 4] and task.config.sequence_length == 128
    assert videos[0].shape == (6, 48, 64, 3) and np.array_equal(*videos)
    assert np.abs(videos[0][0].astype(float) - read_video(start)[0]).mean() < 30
