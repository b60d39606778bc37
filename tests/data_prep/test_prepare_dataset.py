# SPDX-License-Identifier: Apache-2.0
"""The cached folder: its files, its numbers, its repeatability, and the answer to each bad input."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.data.preparing import clip_writer
from cosmos1.data.preparing.encoders import LatentEncoder
from cosmos1.data.preparing.latent_writer import write_samples
from cosmos1.data.sources.clip_plan import PlannedVideo, list_mp4_files
from cosmos1.data.video import count_frames, frames_to_tensor, probe_video, read_video, resize_frames, write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.progress import Progress
from data_prep import prepare_dataset
from tests.processes import Process

PROGRAM = Path(prepare_dataset.__file__)
SMALL = ["--height", "32", "--width", "48", "--num_frames", "17", "--num_chunks", "3"]


def make_video(path, num_frames, height=40, width=64):
    noise = np.random.RandomState(num_frames).randint(0, 255, (num_frames, 5, 8, 3)).astype(np.uint8)
    write_video(path, resize_frames(noise, height, width), 24)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, num_frames in (("b", 30), ("a", 26), ("c", 18)):
        make_video(folder / f"{name}.mp4", num_frames)
    (folder / "b.txt").write_text("A caption of b.\n")
    return folder


def prepare(videos, output, *options):
    arguments = ["--dataset_path", str(videos), "--output_path", str(output), *SMALL, *options]
    prepare_dataset.main(prepare_dataset.build_parser().parse_args(arguments))
    return output


def run_ranks(program, folder, *options):
    """Exit statuses and outputs of two ranks that run at the same time."""
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    files = [(folder / f"stdout{rank}", folder / f"stderr{rank}") for rank in (0, 1)]
    words = [str(option) for option in options]
    ranks = [Process(str(program), words, {**environment, "RANK": str(k)}, *files[k]) for k in (1, 0)]
    for rank in ranks:
        rank.wait(60)
        if rank.poll() is None:
            rank.kill()
            rank.wait()
    return [rank.poll() for rank in reversed(ranks)], [out.read_text() + err.read_text() for out, err in files]


def damage(path):
    """Overwrite pictures in the middle of a video; its header stays whole."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) * 3 // 4] = bytes(len(content) * 3 // 4 - len(content) // 2)
    path.write_bytes(content)


def hide_first_frames(source, path, count):
    """Copy a video with an edit list that hides the first frames."""
    options = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.pts -= count * packet.duration
                packet.dts -= count * packet.duration
                packet.stream = stream
                written.mux(packet)


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_files_names_shapes_and_types(videos, tmp_path):
    output = prepare(videos, tmp_path / "out", "--prompt", "a video of sks.")
    names = {
        f"{index}.{part}"
        for index in range(9)
        for part in (
            "video_latent.pth",
            "conditioning_latent.pth",
            "t5_text_embeddings.pth",
            "t5_text_mask.pth",
            "info.json",
        )
    }
    assert {path.name for path in output.iterdir()} == names | {"dataset.json"}
    shapes = {
        "video_latent": (16, 3, 4, 6),
        "conditioning_latent": (16, 3, 4, 6),
        "t5_text_embeddings": (512, 1024),
        "t5_text_mask": (512,),
    }
    for part, shape in shapes.items():
        tensor = torch.load(output / f"4.{part}.pth", weights_only=True)
        assert tuple(tensor.shape) == shape and tensor.dtype == torch.bfloat16
    assert torch.load(output / "4.t5_text_mask.pth").min() == 1


def test_info_and_prompts(videos, tmp_path):
    output = prepare(videos, tmp_path / "out", "--prompt", "the default")
    infos = [json.loads((output / f"{index}.info.json").read_text()) for index in range(9)]
    assert [info["video_path"] for info in infos] == ["a.mp4"] * 3 + ["b.mp4"] * 3 + ["c.mp4"] * 3
    assert [info["prompt"] for info in infos[::3]] == ["the default", "A caption of b.", "the default"]
    assert all(0 <= info["start_frame"] <= {"a": 9, "b": 13, "c": 1}[info["video_path"][0]] for info in infos)
    first = {key: value for key, value in infos[0].items() if key != "start_frame"}
    assert first == {
        "height": 40, "width": 64, "fps": 24.0, "num_frames": 17, "video_path": "a.mp4", "target_height": 32,
        "target_width": 48, "prompt": "the default", "tokenizer": "dct", "seed": 0,
    }  # fmt: skip
    facts = json.loads((output / "dataset.json").read_text())
    assert (facts["num_samples"], facts["tokenizer"], facts["text_encoder"]) == (9, "dct", "hashed")


def test_latents_are_those_of_the_chunk(videos, tmp_path):
    output = prepare(videos, tmp_path / "out")
    tokenizer = build_video_tokenizer("dct", dtype=torch.bfloat16)
    frames = resize_frames(read_video(videos / "b.mp4"), 32, 48)
    for index in (3, 5):
        start = json.loads((output / f"{index}.info.json").read_text())["start_frame"]
        pixels = frames_to_tensor(frames[start : start + 17])
        assert torch.equal(torch.load(output / f"{index}.video_latent.pth"), tokenizer.encode(pixels)[0])
        pixels[:, :, 9:] = 0
        conditioning = torch.load(output / f"{index}.conditioning_latent.pth")
        assert torch.equal(conditioning, tokenizer.encode(pixels)[0])
        # Nine frames are two latent frames, equal to those of the whole chunk; the rest is mid-grey.
        assert torch.equal(conditioning[:, :2], torch.load(output / f"{index}.video_latent.pth")[:, :2])
        assert conditioning[:, 2].abs().max() == 0


def test_text_is_that_of_the_encoder_in_bfloat16(videos, tmp_path):
    from cosmos1.models.tokenizers.text import build_text_encoder

    output = prepare(videos, tmp_path / "out")
    expected = build_text_encoder("hashed").encode(["A caption of b."])[0][0].bfloat16()
    assert torch.equal(torch.load(output / "3.t5_text_embeddings.pth"), expected)


def test_captions_with_a_byte_order_mark_and_none_at_all(videos, tmp_path, capsys):
    (videos / "b.txt").write_text("A caption of b.", encoding="utf-8-sig")
    (videos / "c.txt").write_text("\n")
    output = prepare(videos, tmp_path / "out", "--prompt", "the default")
    infos = [json.loads((output / f"{index}.info.json").read_text()) for index in (0, 3)]
    assert [info["prompt"] for info in infos] == ["the default", "A caption of b."]
    assert len(list(output.glob("*.info.json"))) == 6
    assert "c.txt: is empty; its video has no text" in capsys.readouterr().out
    with pytest.raises(DataError, match="c.txt: is empty"):
        prepare(videos, tmp_path / "strict", "--strict")


def test_suffixes_in_capitals_and_names_that_are_no_utf8(videos):
    (videos / "b.mp4").rename(videos / "b.MP4")
    assert [path.name for path in list_mp4_files(videos)] == ["a.mp4", "b.MP4", "c.mp4"]
    (videos / "c.mp4").rename(os.fsdecode(os.fsencode(videos) + b"/caf\xe9.mp4"))
    with pytest.raises(DataError, match=r"caf\\xe9.mp4': its name is not UTF-8. Rename it"):
        list_mp4_files(videos)


def test_seed_moves_the_starts(videos, tmp_path):
    starts = []
    for seed in ("0", "0", "1"):
        output = prepare(videos, tmp_path / f"out{len(starts)}", "--seed", seed)
        starts.append([json.loads((output / f"{k}.info.json").read_text())["start_frame"] for k in range(9)])
    assert starts[0] == starts[1] != starts[2]


def test_two_ranks_write_the_same_bytes_as_one(videos, tmp_path):
    prepare(videos, tmp_path / "one")
    where = ("--dataset_path", videos, "--output_path", tmp_path / "two")
    assert run_ranks(PROGRAM, tmp_path, *where, *SMALL)[0] == [0, 0]
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_resume_fills_gaps_only(videos, tmp_path):
    output = prepare(videos, tmp_path / "out")
    expected = digest(output)
    (output / "4.info.json").unlink()
    (output / "7.video_latent.pth").unlink()
    untouched = (output / "0.video_latent.pth").stat().st_mtime_ns
    prepare(videos, output, "--resume")
    assert digest(output) == expected and (output / "0.video_latent.pth").stat().st_mtime_ns == untouched


def test_occupied_folder_is_refused(videos, tmp_path):
    output = prepare(videos, tmp_path / "out")
    with pytest.raises(ConfigError, match="is not empty. Add --resume"):
        prepare(videos, output)
    with pytest.raises(ConfigError, match="seed: 0 before, 3 now"):
        prepare(videos, output, "--resume", "--seed", "3")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="it has no dataset.json"):
        prepare(videos, tmp_path / "foreign", "--resume")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def test_short_and_broken_videos_are_left_out_and_named(videos, tmp_path, capsys):
    make_video(videos / "short.mp4", 9)
    (videos / "broken.mp4").write_bytes((videos / "a.mp4").read_bytes()[:500])
    output = prepare(videos, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "short.mp4: 9 frames, a chunk needs 17; skipped." in printed
    assert "broken.mp4: cannot be opened" in printed and "3 videos used, 2 left out" in printed
    module = LatentFolderDataModule(str(output), num_workers=0)
    module.setup()
    assert len(sum(module.split_names(), [])) == 9


def test_strict_stops_before_anything_is_written(videos, tmp_path):
    make_video(videos / "short.mp4", 9)
    with pytest.raises(DataError, match="short.mp4: 9 frames"):
        prepare(videos, tmp_path / "out", "--strict")
    assert not (tmp_path / "out").exists()


def test_video_that_breaks_half_way_leaves_no_samples(videos, tmp_path, capsys):
    damage(videos / "a.mp4")
    output = prepare(videos, tmp_path / "out")
    assert "FAILED" in capsys.readouterr().out
    assert not list(output.glob("[012].*")) and len(list(output.glob("*.info.json"))) == 6
    assert not list(output.glob(".*"))


def test_all_too_short_says_which_length_would_fit(videos, tmp_path):
    with pytest.raises(DataError, match=r"3 of 3 videos cannot be used.*b.mp4 with 30 frames: use --num_frames 25"):
        prepare(videos, tmp_path / "out", "--num_frames", "121")
    assert not (tmp_path / "out").exists()


def test_folder_without_mp4(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "a.mp4").write_text("x")
    (tmp_path / "b.mov").write_text("x")
    with pytest.raises(DataError, match=r"no \*.mp4 directly inside.*; 2 other video files"):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--height", "700"], "--height 700 is not a multiple of 16. Use 688 or 704"),
        (["--num_frames", "120"], "--num_frames 120 is not 8k.1. The nearest are 113 and 121"),
        (["--num_chunks", "0"], "--num_chunks 0"),
    ],
)
def test_options_that_no_sample_can_have(videos, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        prepare(videos, tmp_path / "out", *options)


def test_more_chunks_than_starts_is_a_warning(videos, tmp_path, capsys):
    prepare(videos, tmp_path / "out")
    assert "c.mp4: 18 frames give 2 different chunks, --num_chunks asks for 3" in capsys.readouterr().out


def test_command_line_errors_have_no_traceback(tmp_path):
    command = [sys.executable, str(PROGRAM), "--dataset_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_a_rank_whose_videos_all_fail_leaves_the_others_alone(videos, tmp_path):
    (videos / "b.mp4").unlink()
    damage(videos / "c.mp4")
    where = ("--dataset_path", videos, "--output_path", tmp_path / "out")
    statuses, outputs = run_ranks(PROGRAM, tmp_path, *where, *SMALL)
    assert statuses == [0, 0] and "FAILED" not in outputs[0]
    assert "FAILED: " in outputs[1] and "c.mp4: decoding stopped after" in outputs[1]
    assert sorted(path.name[0] for path in (tmp_path / "out").glob("*.info.json")) == ["0", "1", "2"]
    assert not list((tmp_path / "out").glob(".*"))


def test_when_all_ranks_fail_the_last_one_says_so(videos, tmp_path):
    (videos / "b.mp4").unlink()
    damage(videos / "a.mp4")
    damage(videos / "c.mp4")
    where = ("--dataset_path", videos, "--output_path", tmp_path / "out")
    statuses, outputs = run_ranks(PROGRAM, tmp_path, *where, *SMALL)
    assert 2 in statuses and "no sample was written, by this rank or any other" in outputs[statuses.index(2)]
    assert all(("a.mp4" if rank == 0 else "c.mp4") in outputs[rank] for rank in (0, 1))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]


def test_frames_that_an_edit_list_hides_give_no_samples(videos, tmp_path, capsys):
    for name in "ac":
        (videos / f"{name}.mp4").unlink()
    hide_first_frames(videos / "b.mp4", videos / "edited.mp4", 12)
    assert count_frames(videos / "edited.mp4") == 18 and probe_video(videos / "edited.mp4").num_frames == 0
    output = prepare(videos, tmp_path / "out", "--num_chunks", "4")
    assert len(list(output.glob("*.info.json"))) == 8 and "edited.mp4: 18 frames give 2 dif" in capsys.readouterr().out
    prepare(videos, tmp_path / "long", "--num_frames", "25")
    assert "edited.mp4: 18 frames, a chunk needs 25; skipped." in capsys.readouterr().out


def test_samples_beyond_the_end_of_a_video_are_an_error(videos, tmp_path):
    arguments = prepare_dataset.build_parser().parse_args(["--output_path", str(tmp_path), *SMALL])
    prepare_dataset.settle_encoders(arguments)
    video = PlannedVideo(probe_video(videos / "c.mp4"), "text", starts=(0, 2), first_index=5)
    with pytest.raises(DataError, match="c.mp4: 18 frames can be decoded, the samples planned of it need 19"):
        clip_writer.write_video_samples(
            arguments, LatentEncoder(arguments), video, [5, 6], Progress(2, "samples", False)
        )
    assert not list(tmp_path.glob("*.info.json"))


def test_missing_weights_leave_no_folder(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    options = ["--tokenizer", "cosmos_cv8x8x8", "--tokenizer_dir", str(tmp_path / "empty"), "--text_encoder", "hashed"]
    with pytest.raises(DataError, match="tokenizer cosmos_cv8x8x8"):
        prepare(videos, tmp_path / "out", *options)
    arguments = prepare_dataset.build_parser().parse_args(["--output_path", str(tmp_path / "out"), *SMALL, *options])
    with pytest.raises(DataError, match="tokenizer cosmos_cv8x8x8"):
        write_samples(arguments, {"num_samples": 1, "plan_sha256": ""}, ("info.json",), lambda encoder, index: None)
    assert not (tmp_path / "out").exists()
