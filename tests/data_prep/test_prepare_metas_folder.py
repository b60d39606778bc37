# SPDX-License-Identifier: Apache-2.0
"""Folders of videos/, metas/ and t5_xxl/: texts that are given are not encoded again, and the answer to each bad file."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosmos1.data.text_rows import read_text_rows
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.text import build_text_encoder
from data_prep import prepare_dataset
from tests.data_prep.test_prepare_dataset import make_video

SMALL = ["--height", "32", "--width", "48", "--num_frames", "17", "--num_chunks", "2"]


def rows(seed, count=5, width=1024):
    return np.random.RandomState(seed).randn(count, width).astype(np.float16)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Videos a, of exactly one chunk, and b, with captions and rows."""
    root = tmp_path_factory.mktemp("written")
    for folder in ("videos", "metas", "t5_xxl"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate("ab"):
        make_video(root / f"videos/{name}.mp4", 17 + number)
        (root / f"metas/{name}.txt").write_text(f" A caption of {name}.\n")
        (root / f"t5_xxl/{name}.pickle").write_bytes(pickle.dumps([rows(number)]))
    (root / "metas/a.json").write_text("{}")
    return root


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "root")


def prepare(root, output, *options):
    arguments = ["--dataset_path", str(root), "--output_path", str(output), *SMALL, *options]
    prepare_dataset.main(prepare_dataset.build_parser().parse_args(arguments))
    return output


def stored_text(output, index):
    embeddings, mask = (torch.load(output / f"{index}.t5_text_{part}.pth") for part in ("embeddings", "mask"))
    assert embeddings.shape == (512, 1024) and embeddings.dtype == torch.bfloat16 and mask.tolist() == [1] * 512
    return embeddings


def test_given_rows_are_stored_and_no_text_encoder_is_built(root, tmp_path, capsys):
    # No weights of T5 are at this place: they would be missed if they were looked for.
    output = prepare(root, tmp_path / "out", "--text_encoder_dir", str(tmp_path / "nowhere"))
    for index in range(4):
        text, expected = stored_text(output, index), torch.from_numpy(rows(index // 2)).bfloat16()
        assert torch.equal(text[:5], expected) and text[5:].abs().max() == 0
    infos = [json.loads((output / f"{index}.info.json").read_text()) for index in (0, 2)]
    assert [(info["video_path"], info["prompt"], info["start_frame"] <= 1) for info in infos] == [
        ("a.mp4", "A caption of a.", True),
        ("b.mp4", "A caption of b.", True),
    ]
    assert json.loads((output / "dataset.json").read_text())["text_encoder"] == "t5"
    printed = capsys.readouterr().out
    assert "0 captions from text files, 0 videos with --prompt, 2 texts encoded already" in printed
    (root / "t5_xxl/a.pickle").write_bytes(pickle.dumps([rows(7)]))
    with pytest.raises(ConfigError, match="was prepared from other videos or with other options .other videos or text"):
        prepare(root, output, "--resume")


def test_captions_alone_are_encoded(root, tmp_path, capsys):
    (root / "t5_xxl").rename(tmp_path / "away")
    output = prepare(root, tmp_path / "out")
    expected = build_text_encoder("hashed").encode(["A caption of b."])[0][0].bfloat16()
    assert torch.equal(stored_text(output, 2), expected)
    assert "2 captions from text files, 0 videos with --prompt\n" in capsys.readouterr().out
    (root / "metas/a.txt").unlink()
    infos = prepare(root, tmp_path / "prompted", "--prompt", "For all others.")
    assert json.loads((infos / "0.info.json").read_text())["prompt"] == "For all others."


def test_rows_of_one_encoder_are_not_mixed_with_those_of_another(root, tmp_path):
    (root / "t5_xxl/a.pickle").unlink()
    with pytest.raises(
        ConfigError, match="--text_encoder hashed: 1 of 2 texts are given as T5 rows in .*t5_xxl, and a folder has"
    ):
        prepare(root, tmp_path / "out", "--text_encoder", "hashed")
    # T5, then, which is not there: the weight-free encoder would not have asked for weights.
    with pytest.raises(DataError, match="away"):
        prepare(root, tmp_path / "out", "--text_encoder_dir", str(tmp_path / "away"))
    assert not (tmp_path / "out").exists()


def test_files_of_rows(tmp_path):
    array, bare, boxed, tensors = (tmp_path / name for name in ("a.npy", "a.pkl", "b.pickle", "a.safetensors"))
    np.save(array, rows(0))
    bare.write_bytes(pickle.dumps(rows(0)))
    boxed.write_bytes(pickle.dumps([rows(0)[None]]))
    save_file({"text": rows(0)}, tensors)
    for path in (array, bare, boxed, tensors):
        assert np.array_equal(read_text_rows(path), rows(0))


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("b.pickle", pickle.dumps([Harmful()]), "holds a builtins.print, which is not loaded"),
        ("b.pickle", pickle.dumps([rows(0)])[:-500], "cannot be unpickled"),
        ("b.pickle", pickle.dumps([rows(0)], 2).replace(b"latin1", b"l3tin1"), "cannot be unpickled .LookupError"),
        ("b.pickle", pickle.dumps([rows(0), rows(1)]), "holds 2 arrays, one is needed"),
        ("b.pickle", pickle.dumps({"text": 1}), "holds a dict, an array of floating-point numbers"),
        ("b.pickle", pickle.dumps([rows(0, width=4096)]), r"shape \(5, 4096\), \(512, 1024\) or fewer .*T5-XXL"),
        ("b.pickle", pickle.dumps([rows(0, count=513)]), "text of 513 tokens, at most 512"),
        ("b.pickle", pickle.dumps([rows(0, count=0)]), "0 rows with 0 values"),
        ("b.pickle", pickle.dumps([rows(0) * np.float16("inf")]), "5 rows with 5120 values that are NaN or infinite"),
        ("b.npy", npy(rows(0).astype(np.int16)), "holds an array of int16"),
        ("b.npy", npy(rows(0))[:200], "cannot be read as text embeddings"),
        ("b.npy", pickle.dumps([rows(0)]), "cannot be read as text embeddings"),
        ("b.safetensors", b"cut", "cannot be read as text embeddings"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{len(value)} bytes",
)
def test_damaged_rows_leave_their_video_out(root, tmp_path, capsys, name, content, words):
    (root / "t5_xxl/b.pickle").unlink()
    (root / "t5_xxl" / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{words}"):
        read_text_rows(root / "t5_xxl" / name)
    arguments = prepare_dataset.build_parser().parse_args(["--dataset_path", str(root)])
    videos, problems = prepare_dataset.read_videos(arguments)
    assert [video.path.name for video in videos] == ["a.mp4"] and name in problems[0] and len(problems) == 1


def remove_text_of_b(root):
    for name in ("metas/b.txt", "t5_xxl/b.pickle"):
        (root / name).unlink()


def empty_caption_of_b(root):
    remove_text_of_b(root)
    (root / "metas/b.txt").write_text(" \n")


@pytest.mark.parametrize(
    "damage, words",
    [
        (remove_text_of_b, "metas/b.txt: there is no such file, and no .*b.pickle; its video has no text.*--prompt"),
        (empty_caption_of_b, "metas/b.txt: is empty"),
        (lambda root: (root / "metas/b.txt").write_bytes(b"\xff"), "metas/b.txt: cannot be read as a caption in UTF-8"),
        (lambda root: np.save(root / "t5_xxl/b.npy", rows(0)), "b.mp4: has 2 texts, .*b.pickle and .*b.npy. Keep one"),
        (lambda root: (root / "metas/z.txt").write_text("x"), r"metas: 1 files have no video \(z.txt\); not used"),
        (lambda root: (root / "t5_xxl/z.pkl").write_bytes(b""), r"t5_xxl: 1 files have no video \(z.pkl\); not used"),
        (lambda root: (root / "c.mp4").write_bytes(b""), r"root: 1 videos are not in videos/ \(c.mp4\); not used"),
    ],
)
def test_problems_are_in_the_plan_and_stop_a_strict_run(root, tmp_path, capsys, damage, words):
    damage(root)
    with pytest.raises(DataError, match=words):
        prepare(root, tmp_path / "strict", "--strict")
    assert not (tmp_path / "strict").exists()
    arguments = prepare_dataset.build_parser().parse_args(["--dataset_path", str(root)])
    videos, problems = prepare_dataset.read_videos(arguments)
    assert len(problems) == 1 and len(videos) == (2 if "not used" in words else 1)


def test_missing_folders_and_nothing_left(root, tmp_path):
    for name in "ab":
        (root / f"t5_xxl/{name}.pickle").write_bytes(b"x")
    with pytest.raises(DataError, match=r"(?s)a.pickle.*b.pickle.*no video has a text, nothing to do"):
        prepare(root, tmp_path / "out")
    (root / "videos").rename(root / "clips")
    with pytest.raises(
        DataError, match="missing .*root/videos. A folder with metas/ or t5_xxl/ has .*videos/<name>.mp4"
    ):
        prepare(root, tmp_path / "out")


def test_a_damaged_caption_beside_a_video_is_a_problem_too(root, tmp_path, capsys):
    (root / "videos/a.txt").write_bytes(b"\xff")
    output = prepare(root / "videos", tmp_path / "out")
    assert len(list(output.glob("*.info.json"))) == 2
    printed = capsys.readouterr().out
    assert "videos/a.txt: cannot be read as a caption in UTF-8" in printed
    assert "1 videos used, 0 left out; 2 samples per video; 1 problems with the texts or files" in printed
