# SPDX-License-Identifier: Apache-2.0
"""Video tokens of a folder of videos: ids, chunks, ranks, resume, shards, and the answer to each bad input."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos1.data.modules.energon import EnergonDataModule
from cosmos1.data.modules.indexed_tokens import IndexedTokensDataModule
from cosmos1.data.video import cover_and_crop, frames_to_tensor, read_video, resize_frames, write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer
from data_prep import autoregressive_dataset
from tests.data_prep.test_prepare_dataset import damage, run_ranks

PROGRAM = Path(autoregressive_dataset.__file__)
SMALL = ["--height", "32", "--width", "48", "--num_context_frames", "17", "--tokenizer", "dct_fsq"]
GRID = (3, 2, 3)


def make_video(path, num_frames, height=48, width=96):
    noise = np.random.RandomState(num_frames).randint(0, 255, (num_frames, 4, 8, 3)).astype(np.uint8)
    write_video(path, resize_frames(noise, height, width), 24)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, num_frames in (("b", 30), ("a", 17), ("c", 12), ("d", 25), ("e", 21)):
        make_video(folder / f"{name}.mp4", num_frames)
    return folder


def prepare(videos, output, *options):
    arguments = ["--input_videos_dir", str(videos), "--output_prefix", str(output), *SMALL, *options]
    autoregressive_dataset.main(autoregressive_dataset.build_parser().parse_args(arguments))
    return output


def documents(folder):
    return np.fromfile(folder / ".bin", np.uint16).reshape(-1, *GRID)


def digest(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_documents_are_the_first_frames_in_name_order(videos, tmp_path, capsys):
    output = prepare(videos, tmp_path / "out")
    tokenizer = build_discrete_tokenizer("dct_fsq")
    found = documents(output)
    assert len(found) == 5
    for place, name in ((1, "b"), (2, "c")):
        frames = read_video(videos / f"{name}.mp4")[:17]
        # A short video repeats its last frame.
        frames = np.concatenate([frames, np.repeat(frames[-1:], 17 - len(frames), axis=0)])
        expected = tokenizer.encode(cover_and_crop(frames, 32, 48))[0]
        assert np.array_equal(found[place], expected.numpy())
    records = json.loads((output / "videos.json").read_text())
    assert records[2] == {"video_path": "c.mp4", "num_frames": 12, "num_repeated": 5}
    printed = capsys.readouterr().out
    assert "c.mp4: 12 frames, a clip needs 17; the last frame is repeated 5 times" in printed
    assert "token grid 3 x 2 x 3 = 18 tokens" in printed and "base 18, Video2World 64" in printed
    assert "weight-free stand-in" in printed
    psnr = float(re.search(r"check: a.mp4 is decoded from its tokens at (\S+) dB", printed).group(1))
    video = cover_and_crop(read_video(videos / "a.mp4")[:17], 32, 48)
    error = (tokenizer.decode(tokenizer.encode(video)).clamp(-1, 1) - video).square().mean()
    assert psnr == pytest.approx(10 * np.log10(4 / float(error)), abs=0.05)


def test_training_reads_what_was_written(videos, tmp_path):
    module = IndexedTokensDataModule(str(prepare(videos, tmp_path / "out")), num_workers=0, split_string="4,1,0")
    module.setup()
    assert module.sample_shape == list(GRID) and module.tokenizer == "dct_fsq" and module.compression == [8, 16, 16]
    held_out = next(module.validation_batches(0, 1))["tokens"][0]
    assert held_out.tolist() == documents(tmp_path / "out")[4].flatten().tolist()


@pytest.mark.parametrize("size", [(48, 96), (64, 48), (33, 47), (32, 48)])
def test_pictures_keep_their_proportions_and_are_cut_at_the_centre(size):
    height, width = size
    ramp = np.zeros((1, height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(40, 200, width)[None, None]
    ramp[..., 1] = np.linspace(40, 200, height)[None, :, None]
    clip = cover_and_crop(ramp, 32, 48)
    assert clip.shape == (1, 3, 1, 32, 48)
    rows, columns = clip[0, 1, 0].mean(dim=1), clip[0, 0, 0].mean(dim=0)
    centre = 120 / 127.5 - 1
    assert abs(rows.mean() - centre) < 0.04 and abs(columns.mean() - centre) < 0.04
    # One scale for both sides: the slope per pixel is that of the source, stretched by the same factor.
    scale = max(32 / height, 48 / width)
    for values, length in ((rows, height), (columns, width)):
        slope = float(values[-5] - values[4]) / (len(values) - 9)
        assert slope == pytest.approx(160 / 127.5 / (length - 1) / scale, rel=0.05)
    if size == (32, 48):
        assert torch.equal(clip, frames_to_tensor(ramp))


def test_two_ranks_write_the_same_files_as_one(videos, tmp_path, monkeypatch):
    prepare(videos, tmp_path / "one", "--videos_per_chunk", "2")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"0", "1", "2", "dataset.json"}
    assert [len(documents(tmp_path / "one" / name)) for name in "012"] == [2, 2, 1]
    command = [
        sys.executable,
        str(PROGRAM),
        "--input_videos_dir",
        str(videos),
        "--output_prefix",
        str(tmp_path / "two"),
    ]
    command += [*SMALL, "--videos_per_chunk", "2"]
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment) as second:
        monkeypatch.setenv("WORLD_SIZE", "2")
        prepare(videos, tmp_path / "two", "--videos_per_chunk", "2")
        assert second.wait(200) == 0
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_resume_writes_missing_chunks_only(videos, tmp_path):
    output = prepare(videos, tmp_path / "out", "--videos_per_chunk", "2")
    expected = digest(output)
    (output / "1" / ".idx").unlink()
    untouched = (output / "0" / ".bin").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="--output_prefix .* is not empty. Add --resume"):
        prepare(videos, output, "--videos_per_chunk", "2")
    prepare(videos, output, "--videos_per_chunk", "2", "--resume")
    assert digest(output) == expected and (output / "0" / ".bin").stat().st_mtime_ns == untouched
    with pytest.raises(ConfigError, match=r"compression: \[8, 16, 16\] before, \[4, 8, 8\] now"):
        prepare(videos, output, "--videos_per_chunk", "2", "--resume", "--tokenizer_compression_factor", "4,8,8")


def test_energon_shards_hold_the_same_clips(videos, tmp_path):
    output = prepare(
        videos, tmp_path / "out", "--format", "energon", "--val_fraction", "0.4", "--videos_per_chunk", "3"
    )
    prepare(videos, output, "--format", "energon", "--val_fraction", "0.4", "--videos_per_chunk", "3", "--resume")
    module = EnergonDataModule(str(output / "shards"), num_workers=0, shuffle=False)
    module.setup()
    assert (module.num_train_samples, module.sample_shape, module.tokenizer) == (3, list(GRID), "dct_fsq")
    training = module.train_batches(0, 1, 0)
    batches = [next(training) for _ in range(3)]
    module.close()
    batches += module.validation_batches(0, 1)
    written = np.concatenate([documents(output / "0"), documents(output / "1")]).reshape(5, -1)
    assert sorted(batch["tokens"][0].tolist() for batch in batches) == sorted(written.tolist())
    for batch in batches:
        assert batch["labels"][0].tolist() == [*batch["tokens"][0, 1:].tolist(), 0]
        assert batch["loss_mask"][0].tolist() == [1.0] * 17 + [0.0]


def test_broken_videos_are_left_out_and_named(videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes((videos / "a.mp4").read_bytes()[:500])
    content = bytearray((videos / "b.mp4").read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    (videos / "b.mp4").write_bytes(content)
    output = prepare(videos, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "broken.mp4: cannot be opened" in printed and "plan: 5 videos used" in printed
    assert "FAILED: " in printed and "b.mp4" in printed and "4 clips of 18 tokens" in printed and "1 failed" in printed
    names = [record["video_path"] for record in json.loads((output / "videos.json").read_text())]
    assert names == ["a.mp4", "c.mp4", "d.mp4", "e.mp4"]


def test_strict_refuses_short_videos_before_anything_is_written(videos, tmp_path):
    with pytest.raises(DataError, match="c.mp4: 12 frames"):
        prepare(videos, tmp_path / "out", "--strict")
    assert not (tmp_path / "out").exists()


def test_folder_without_mp4_and_missing_weights(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"--input_videos_dir .*no \*.mp4 directly inside"):
        prepare(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="use the weight-free tokenizer: dct_fsq"):
        prepare(videos, tmp_path / "out", "--tokenizer", "cosmos_dv", "--encoder_path", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="Give --encoder_path of yours"):
        prepare(videos, tmp_path / "out", "--tokenizer", "cosmos_dv", "--tokenizer_compression_factor", "2,16,16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--height", "40"], "--height 40 .*: height 40 is not a multiple of 16. Use 32 or 48"),
        (["--num_context_frames", "16"], "--num_context_frames 16 .*Use 9 or 17"),
        (["--tokenizer_compression_factor", "8,16"], '"8,16" is not three whole numbers'),
        (["--videos_per_chunk", "0"], "--videos_per_chunk 0"),
    ],
)
def test_options_that_no_clip_can_have(videos, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        prepare(videos, tmp_path / "out", *options)


def test_the_guides_defaults():
    arguments = autoregressive_dataset.build_parser().parse_args(["--input_videos_dir", "v", "--output_prefix", "o"])
    assert (arguments.width, arguments.height, arguments.num_context_frames) == (1024, 640, 33)
    assert arguments.tokenizer_compression_factor == "8,16,16" and arguments.tokenizer == "cosmos_dv"


def test_a_chunk_of_broken_videos_leaves_the_others_alone(videos, tmp_path):
    damage(videos / "b.mp4")
    options = (*SMALL, "--videos_per_chunk", "1", "--format", "energon")
    where = ("--input_videos_dir", videos, "--output_prefix", tmp_path / "out")
    statuses, outputs = run_ranks(PROGRAM, tmp_path, *where, *options)
    assert statuses == [0, 0] and "FAILED: " in outputs[1] and "b.mp4" in outputs[1]
    assert "4 clips of 18 tokens" in outputs[0] and "1 failed" in outputs[0]
    module = IndexedTokensDataModule(str(tmp_path / "out"), num_workers=0, split_string="1,0,0")
    module.setup()
    assert module.num_train_samples == 4 and {path.name for path in (tmp_path / "out/1").iterdir()} == {"videos.json"}


def test_nothing_but_broken_videos_is_an_error(videos, tmp_path):
    for path in videos.iterdir():
        damage(path)
    with pytest.raises(DataError, match="none of the 5 videos could be used"):
        prepare(videos, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]
