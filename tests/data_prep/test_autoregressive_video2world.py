# SPDX-License-Identifier: Apache-2.0
"""Token and text files of captioned videos: the split, the files, resume, and the answer to each bad input."""

import hashlib
import json

import numpy as np
import pytest
import torch

from cosmos1.data.modules.token_clips import TokenClipsDataModule
from cosmos1.data.preparing.leading_clip import read_leading_frames
from cosmos1.data.sources.captioned_videos import read_captioned_videos
from cosmos1.data.video import cover_and_crop
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer
from cosmos1.models.tokenizers.text import build_text_encoder
from data_prep import autoregressive_video2world_dataset as program
from tests.data_prep.test_autoregressive_dataset import make_video

SMALL = ["--height", "16", "--width", "32", "--num_context_frames", "9", "--tokenizer", "dct_fsq"]


@pytest.fixture
def listed(tmp_path):
    """Ten videos beside a list of them."""
    (tmp_path / "clips").mkdir()
    lines = []
    for number in range(10):
        make_video(tmp_path / "clips" / f"{number}.mp4", 9 + number, 16, 32)
        lines.append(json.dumps({"prompt": f"clip {number}", "visual_input": f"clips/{number}.mp4"}))
    (tmp_path / "list.jsonl").write_text("\n".join(lines) + "\n\n")
    return tmp_path / "list.jsonl"


def prepare(listed, output, *options):
    arguments = ["--input_jsonl", str(listed), "--output_dir", str(output), *SMALL, *options]
    program.main(program.build_parser().parse_args(arguments))
    return output


def test_instructions_of_a_folder(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "instructions").mkdir()
    for number in range(4):
        make_video(tmp_path / "videos" / f"{number}.mp4", 9, 16, 32)
        text = json.dumps({"language_instruction_0": f"lift cup {number}"})
        (tmp_path / "instructions" / f"{number}.json").write_text(text)
    (tmp_path / "instructions" / "3.json").unlink()
    options = ["--output_dir", str(tmp_path / "out"), *SMALL, "--split_string", "1,1,1"]

    def main(*source):
        program.main(program.build_parser().parse_args([*source, *options]))

    with pytest.raises(ConfigError, match="either --input_jsonl or --instruction_path"):
        main()
    with pytest.raises(DataError, match="3.json: there is no such file"):
        main("--instruction_path", str(tmp_path), "--strict")
    main("--instruction_path", str(tmp_path))
    prompts = [torch.load(tmp_path / "out" / f"{split}_prompt_0.pt") for split in ("train", "test", "val")]
    texts = build_text_encoder("hashed").encode([f"lift cup {number}" for number in range(3)])[0]
    assert all(any(torch.equal(prompt, text) for prompt in prompts) for text in texts)


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_ten_lines_become_six_one_and_three(listed, tmp_path):
    output = prepare(listed, tmp_path / "out")
    counts = {"train": 6, "test": 1, "val": 3}
    assert json.loads((output / "metadata.json").read_text()) == {f"{split}_samples": n for split, n in counts.items()}
    names = {f"{split}_{part}_{k}.pt" for split, n in counts.items() for k in range(n) for part in ("video", "prompt")}
    assert {path.name for path in output.iterdir()} == names | {"metadata.json", "dataset.json"}
    facts = json.loads((output / "dataset.json").read_text())
    assert (facts["tokenizer"], facts["text_encoder"], facts["latent_shape"]) == ("dct_fsq", "hashed", [2, 1, 2])


def test_every_line_is_in_one_split_with_its_own_text_and_ids(listed, tmp_path):
    output = prepare(listed, tmp_path / "out")
    tokenizer, encode = build_discrete_tokenizer("dct_fsq"), build_text_encoder("hashed").encode
    frames = [read_leading_frames(tmp_path / "clips" / f"{number}.mp4", 9) for number in range(10)]
    ids = [tokenizer.encode(cover_and_crop(clip, 16, 32)).flatten().tolist() for clip in frames]
    texts = encode([f"clip {number}" for number in range(10)])[0]
    seen = []
    for path in output.glob("*_video_*.pt"):
        stored = torch.load(path, weights_only=True)
        assert stored.dtype == torch.int32 and stored[0] == 64000 and stored[5:].tolist() == [64002] * 60
        number = ids.index(stored[1:5].tolist())
        text = torch.load(output / path.name.replace("video", "prompt"), weights_only=True)
        assert text.dtype == torch.float32 and torch.equal(text, texts[number])
        seen.append(number)
    assert sorted(seen) == list(range(10))


def test_training_reads_what_was_written(listed, tmp_path):
    module = TokenClipsDataModule(str(prepare(listed, tmp_path / "out")), num_workers=0)
    module.setup()
    batch = next(module.train_batches(0, 1, 0))
    assert batch["tokens"].shape == (1, 64) and batch["loss_mask"].sum() == 4 and module.sample_shape == [2, 1, 2]
    assert (module.num_train_samples, module.num_validation_samples) == (6, 3)


def test_seed_decides_the_split(listed, tmp_path):
    folders = [prepare(listed, tmp_path / f"out{k}", "--seed", seed) for k, seed in enumerate("001")]
    first, again, other = (digest(folder) for folder in folders)
    assert first == again and first != other


def test_resume_fills_gaps_and_nothing_is_ever_deleted(listed, tmp_path):
    output = prepare(listed, tmp_path / "out")
    expected = digest(output)
    (output / "train_prompt_2.pt").unlink()
    (output / "my_notes.txt").write_text("keep")
    untouched = (output / "train_video_1.pt").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="--output_dir .* is not empty. Add --resume"):
        prepare(listed, output)
    prepare(listed, output, "--resume")
    assert (output / "my_notes.txt").read_text() == "keep"
    (output / "my_notes.txt").unlink()
    assert digest(output) == expected and (output / "train_video_1.pt").stat().st_mtime_ns == untouched
    with pytest.raises(ConfigError, match="seed: 0 before, 1 now"):
        prepare(listed, output, "--resume", "--seed", "1")


def test_ranks_share_the_work(listed, tmp_path, monkeypatch):
    whole = digest(prepare(listed, tmp_path / "one"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        prepare(listed, tmp_path / "two")
        assert len(list((tmp_path / "two").glob("*.pt"))) == (10 if rank == "0" else 20)
    assert digest(tmp_path / "two") == whole


@pytest.mark.parametrize(
    "split, words",
    [
        ("4,1", "is not three whole numbers"),
        ("4,1,x", "Use for example 4,1,1"),
        ("20,1,1", "splits 10 samples into 9 training, 0 test and 1 validation samples; each needs one.*22 lines"),
        ("4,0,1", "give every part a share above 0"),
    ],
)
def test_splits_that_cannot_be(listed, tmp_path, split, words):
    with pytest.raises(ConfigError, match=words):
        prepare(listed, tmp_path / "out", "--split_string", split)
    assert not (tmp_path / "out").exists()


def test_split_sizes_that_are_said_to_be_enough_are_enough():
    for split in ("20,1,1", "4,1,1", "1,1,20", "98,1,1"):
        total = sum(int(part) for part in split.split(","))
        assert min(program.split_sizes(split, total).values()) > 0


def relist(listed, captions_of):
    """List each video, by its number, with so many captions; every second line names it by a link."""
    lines = []
    for number, count in captions_of.items():
        link = listed.parent / "clips" / f"link{number}.mp4"
        link.unlink(missing_ok=True)
        link.symlink_to(f"{number}.mp4")
        for k in range(count):
            path = f"clips/{'link' if k % 2 else ''}{number}.mp4"
            lines.append(json.dumps({"prompt": f"caption {k} of {number}", "visual_input": path}))
    listed.write_text("\n".join(lines) + "\n")


def ids_of(output, split):
    return {tuple(torch.load(path).tolist()) for path in output.glob(f"{split}_video_*.pt")}


@pytest.mark.parametrize(
    "captions_of, counts",
    [
        ({0: 4, 1: 4, 2: 4}, "12 lines used (4 train, 4 test, 4 val)"),
        (dict.fromkeys(range(8), 3), "24 lines used (15 train, 6 test, 3 val)"),
    ],
)
def test_captions_of_one_video_stay_in_one_split(listed, tmp_path, capsys, captions_of, counts):
    relist(listed, captions_of)
    output = prepare(listed, tmp_path / "out")
    train, test, val = (ids_of(output, split) for split in ("train", "test", "val"))
    assert not train & test and not train & val and not test & val
    assert len(train | test | val) == len(captions_of)
    printed = capsys.readouterr().out
    videos = f"{len(train)} train, {len(test)} test, {len(val)} val"
    assert f"plan: {counts}" in printed
    assert f"plan: {len(captions_of)} different videos ({videos}); all lines of a video are in one split" in printed


def test_too_few_videos_for_three_splits(listed, tmp_path):
    relist(listed, {0: 6, 1: 6})
    with pytest.raises(ConfigError, match="the 12 usable lines are of 2 different videos; .* need one each"):
        prepare(listed, tmp_path / "out")


def test_missing_videos_are_left_out_or_stop_the_run(listed, tmp_path, capsys):
    (tmp_path / "clips" / "3.mp4").unlink()
    prepare(listed, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "line 4 of" in printed and '"visual_input" points to clips/3.mp4, which does not exist' in printed
    assert "plan: 9 lines used (6 train, 1 test, 2 val), 1 left out" in printed
    with pytest.raises(DataError, match="line 4 of .* does not exist"):
        prepare(listed, tmp_path / "strict", "--strict")


def test_line_separators_of_unicode_stay_in_their_prompt(listed):
    lines = listed.read_text().replace("clip 0", "clip\u20280\u0085")
    listed.write_text(lines, encoding="utf-8-sig")
    videos, missing = read_captioned_videos(listed, strict=True)
    assert len(videos) == 10 and videos[0].prompt == "clip\u20280\u0085" and missing == []


def test_a_list_that_is_no_utf8(listed, tmp_path):
    listed.write_bytes(listed.read_text().replace("clip 0", "clip \xe9").encode("latin-1"))
    with pytest.raises(DataError, match="list.jsonl: cannot be read as UTF-8 text"):
        prepare(listed, tmp_path / "out")


def test_a_rank_whose_lines_all_fail_leaves_the_others_alone(listed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "10")
    for rank in range(10):
        monkeypatch.setenv("RANK", str(rank))
        arguments = ["--input_jsonl", str(listed), "--output_dir", str(tmp_path / "out"), *SMALL]
        if rank == 0:
            prepare(listed, tmp_path / "whole")  # which video is rank 0's
            first = torch.load(tmp_path / "whole" / "train_prompt_0.pt")
            texts = build_text_encoder("hashed").encode([f"clip {number}" for number in range(10)])[0]
            place = next(number for number, text in enumerate(texts) if torch.equal(text, first))
            path = tmp_path / "clips" / f"{place}.mp4"
            content = path.read_bytes()
            path.write_bytes(content[: content.index(b"mdat") + 1500])
        program.main(program.build_parser().parse_args(arguments))
    assert len(list((tmp_path / "out").glob("*_video_*.pt"))) == 9 and not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    "line, words",
    [
        ("{not json", "line 11 of .* cannot be read as JSON"),
        ('{"caption": "x", "visual_input": "clips/0.mp4"}', r"has no text prompt \(keys: caption, visual_input\)"),
        ("[1]", "line 11 of .* holds a list, a JSON object is needed"),
    ],
)
def test_lines_of_another_form_are_named(listed, tmp_path, line, words):
    listed.write_text(listed.read_text().strip() + "\n" + line + "\n")
    with pytest.raises(DataError, match=words):
        prepare(listed, tmp_path / "out")


def test_video_that_breaks_half_way_leaves_a_gap_that_training_counts(listed, tmp_path, capsys):
    path = tmp_path / "clips" / "5.mp4"
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 1500 :] = bytes(max(len(content) - start - 1500, 0))
    path.write_bytes(content)
    output = prepare(listed, tmp_path / "out")
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1 and "5.mp4" in failed[0]
    assert len(list(output.glob("*_video_*.pt"))) == len(list(output.glob("*_prompt_*.pt"))) == 9
    module = TokenClipsDataModule(str(output), num_workers=0)
    module.setup()
    assert "WARNING: 9 of 10 samples are finished" in "\n".join(module.describe())
    assert np.isfinite(module.num_train_samples)
