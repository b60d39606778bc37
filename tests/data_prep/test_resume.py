# SPDX-License-Identifier: Apache-2.0
"""--resume continues only what was begun with the same weights, cameras and options, and tidies up after a kill."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cosmos1.data.files import remove_leftovers
from cosmos1.data.preparing.weight_identity import BYTES_PER_SAMPLE, NUM_SAMPLES, weight_identity
from cosmos1.data.sources.clip_plan import PlannedVideo
from cosmos1.data.video import probe_video, write_video
from cosmos1.errors import ConfigError
from data_prep import (
    autoregressive_dataset,
    autoregressive_video2world_dataset,
    camera_control,
    prepare_action_dataset,
    prepare_dataset,
    prepare_instruction_dataset,
)
from tests.data.arm_tree import arm_tree
from tests.data.posed import scene_files


def start(program, output, *options, output_option="--output_path"):
    words = [str(word) for word in (output_option, output, *options)]
    program.main(program.build_parser().parse_args(words))
    return output


def make_videos(folder, count):
    for number in range(count):
        frames = np.full((9, 16, 16, 3), 20 * number, np.uint8)
        write_video(folder / f"{number}.mp4", frames, 10)
    return folder


def test_frames_per_shard_say_which_episodes_a_file_holds(tmp_path, tmp_path_factory):
    tree = arm_tree(tmp_path / "tree", tmp_path_factory)
    options = ("--dataset_path", tree, "--frames_per_shard")
    output = start(prepare_action_dataset, tmp_path / "out", *options, 6)
    (output / "tokenized-frames-00001-of-00004.pt").unlink()
    with pytest.raises(ConfigError, match="frames_per_shard: 6 before, 7 now"):
        start(prepare_action_dataset, output, *options, 7, "--resume")
    start(prepare_action_dataset, output, *options, 6, "--resume")
    assert (output / "tokenized-frames-00001-of-00004.pt").exists()


@pytest.fixture
def weights(tmp_path):
    """Weights of a tokenizer and a text encoder, as far as their identity is concerned."""
    for folder, names in (("cv", ("encoder.jit", "decoder.jit", "mean_std.pt")), ("t5", ("config.json", "model.bin"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"weights of " + name.encode())
    return tmp_path


def facts_of(program, video, *options):
    """dataset.json of a plan of one text and no sample."""
    arguments = program.build_parser().parse_args([str(word) for word in options])
    planned = [] if program is camera_control else [PlannedVideo(probe_video(video), "text", (), 0)]
    return program.dataset_facts(arguments, planned)


PROGRAMS = {
    prepare_dataset: (),
    prepare_instruction_dataset: ("--dataset_path", "x"),
    camera_control: ("--dataset_path", "x"),
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_weights_and_precision_are_part_of_a_folder_s_identity(weights, program):
    def facts(*changes):
        encoders = ("--tokenizer", "cosmos_cv8x8x8", "--tokenizer_dir", weights / "cv")
        text = ("--text_encoder", "t5", "--text_encoder_dir", weights / "t5", "--text_dtype")
        return facts_of(
            program, make_videos(weights, 1) / "0.mp4", *PROGRAMS[program], *encoders, *text, *(changes or ("float32",))
        )

    first = facts()
    assert [line.split(":")[0] for line in first["tokenizer_weights"]] == ["encoder.jit", "mean_std.pt"]
    assert [line.split(":")[0] for line in first["text_encoder_weights"]] == ["config.json", "model.bin"]
    assert str(weights) not in json.dumps(first)
    seen = [first, facts("bfloat16")]
    for file, key in (("cv/encoder.jit", "tokenizer_weights"), ("t5/model.bin", "text_encoder_weights")):
        # Of the same length: sizes alone would not tell.
        (weights / file).write_bytes(b"WEIGHTS" + (weights / file).read_bytes()[7:])
        seen.append(facts())
        assert seen[-1][key] != first[key]
    assert len({found["plan_sha256"] for found in seen}) == 4
    (weights / "cv/decoder.jit").write_bytes(b"nothing that is prepared depends on it")
    assert facts() == seen[-1]


def test_resume_with_other_weights_is_refused_before_they_are_loaded(weights, tmp_path):
    (tmp_path / "videos").mkdir()
    videos = make_videos(tmp_path / "videos", 1)
    sizes = ("--num_frames", 9, "--height", 16, "--width", 16, "--num_chunks", 2, "--text_encoder", "hashed")
    output = start(prepare_dataset, tmp_path / "out", "--dataset_path", videos, *sizes)
    (output / "1.info.json").unlink()
    options = ("--dataset_path", videos, *sizes, "--resume")
    with pytest.raises(ConfigError, match=r"tokenizer_weights: None before, \['encoder.jit: 22 bytes"):
        start(prepare_dataset, output, *options, "--tokenizer_dir", weights / "cv")
    with pytest.raises(ConfigError, match="text_dtype: float32 before, bfloat16 now"):
        start(prepare_dataset, output, *options, "--text_dtype", "bfloat16")
    start(prepare_dataset, output, *options)
    assert (output / "1.info.json").exists()


def test_tokens_name_the_encoder_by_its_file_its_folder_or_the_hub(weights):
    shape = autoregressive_dataset.ClipShape(9, 16, 16, (8, 16, 16), [2, 1, 1])

    def found(program, *options):
        required = {"--input_videos_dir": "x", "--output_prefix": "y"}
        if program is autoregressive_video2world_dataset:
            required = {"--input_jsonl": "x", "--output_dir": "y", "--text_encoder": "t5", "--text_dtype": "bfloat16"}
        words = [word for pair in required.items() for word in pair]
        arguments = program.build_parser().parse_args([*words, *map(str, options)])
        return program.dataset_facts(arguments, shape, [])

    for program in (autoregressive_dataset, autoregressive_video2world_dataset):
        (weights / "cv/mean_std.pt").unlink(missing_ok=True)
        of_file = found(program, "--encoder_path", weights / "cv/encoder.jit")
        assert found(program, "--encoder_path", weights / "cv") == of_file
        published = found(program)
        assert published["tokenizer_weights"] == "nvidia/Cosmos-1.0-Tokenizer-DV8x16x16"
        assert published["plan_sha256"] != of_file["plan_sha256"]
    assert (published["text_encoder_weights"], published["text_dtype"]) == ("google-t5/t5-11b", "bfloat16")


def test_large_weights_are_told_apart_by_samples(tmp_path):
    path = tmp_path / "model.safetensors"
    content = np.zeros(BYTES_PER_SAMPLE * NUM_SAMPLES * 2, np.uint8)
    seen = set()
    for place in (None, 0, len(content) // 2, len(content) - 1):
        changed = content.copy()
        if place is not None:
            changed[max(place - 2 * BYTES_PER_SAMPLE, 0) : place + 2 * BYTES_PER_SAMPLE] = 1
        path.write_bytes(changed.tobytes())
        seen.add(weight_identity(path)[0])
    assert len(seen) == 4


@pytest.mark.parametrize("change", [{"fl_x": 50.0, "fl_y": 50.0}, {"cx": 15.0}])
def test_corrected_intrinsics_are_another_plan(tmp_path, change):
    def write(**changes):
        for name, content in scene_files(9, **changes).items():
            path = tmp_path / "scenes/a" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)

    write()
    options = ("--dataset_path", tmp_path / "scenes", "--num_frames", 9, "--height", 16, "--width", 32)
    output = start(camera_control, tmp_path / "out", *options)
    start(camera_control, output, *options, "--resume")
    write(**change)
    with pytest.raises(ConfigError, match="was prepared from other videos or with other options"):
        start(camera_control, output, *options, "--resume")


def test_shards_that_were_packed_with_other_options_are_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    videos = make_videos(tmp_path / "videos", 3)
    sizes = ("--num_context_frames", 9, "--height", 16, "--width", 16, "--tokenizer", "dct_fsq")
    options = ("--input_videos_dir", videos, *sizes, "--format", "energon")

    def run(*more):
        start(autoregressive_dataset, tmp_path / "out", *options, *more, output_option="--output_prefix")

    run()
    run("--resume")
    for option, value in (("shard_megabytes", 5), ("seed", 9), ("val_fraction", 0.7)):
        with pytest.raises(ConfigError, match=rf"shards was packed with other options \({option}: .* before, {value}"):
            run("--resume", f"--{option}", value)
    # Tokens do not depend on them, so they stay when the shards are packed anew.
    shutil.rmtree(tmp_path / "out/shards")
    run("--resume", "--val_fraction", 0.7)
    assert json.loads((tmp_path / "out/shards/dataset.json").read_text())["val_fraction"] == 0.7


def test_what_a_killed_process_left_is_removed_when_its_file_is_written_again(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, process in (("rgb.mp4", ended.pid), ("rgb.mp4", os.getpid()), ("other.mp4", ended.pid)):
        (tmp_path / f".{name}.{process}.tmp").write_bytes(b"half")
    (tmp_path / f".shards.{ended.pid}.tmp").mkdir()
    (tmp_path / f".shards.{ended.pid}.tmp" / "train-000000.tar").write_bytes(b"half")
    remove_leftovers(tmp_path / "rgb.mp4")
    remove_leftovers(tmp_path / "shards")
    left = {f".rgb.mp4.{os.getpid()}.tmp", f".other.mp4.{ended.pid}.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == left
