# SPDX-License-Identifier: Apache-2.0
"""Videos with instructions: the plan, the samples, and the answer to each broken input."""

import json

import numpy as np
import pytest
import torch

from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.data.video import resize_frames, write_video
from cosmos1.errors import DataError
from cosmos1.models.tokenizers.text import build_text_encoder
from data_prep import prepare_instruction_dataset
from tests.data.arm_tree import arm_tree

SMALL = ["--height", "32", "--width", "48", "--num_frames", "9"]


def make_video(path, num_frames):
    noise = np.random.RandomState(num_frames).randint(0, 255, (num_frames, 4, 6, 3)).astype(np.uint8)
    write_video(path, resize_frames(noise, 32, 48), 24)


@pytest.fixture
def robot(tmp_path):
    """Three videos of 20, 11 and 5 frames with instructions."""
    root = tmp_path / "robot"
    (root / "instructions").mkdir(parents=True)
    for name, num_frames in (("a", 20), ("b", 11), ("c", 5)):
        make_video(root / "videos" / f"{name}.mp4", num_frames)
        text = {"language_instruction_0": f"lift {name} ", "language_instruction_1": f"raise {name}", "note": 3}
        (root / "instructions" / f"{name}.json").write_text(json.dumps(text))
    return root


def prepare(source, output, *options):
    arguments = ["--dataset_path", str(source), "--output_path", str(output), *SMALL, *options]
    prepare_instruction_dataset.main(prepare_instruction_dataset.build_parser().parse_args(arguments))
    return output


def infos(folder):
    count = len(list(folder.glob("*.info.json")))
    return [json.loads((folder / f"{index}.info.json").read_text()) for index in range(count)]


def test_short_videos_give_each_clip_once(robot, tmp_path, capsys):
    output = prepare(robot, tmp_path / "out", "--num_chunks", "4")
    found = [(info["video_path"], info["prompt"], info["start_frame"]) for info in infos(output)]
    assert [item[:2] for item in found] == [("a.mp4", "lift a")] * 4 + [("b.mp4", "lift b")] * 3
    assert [start for name, _, start in found if name == "b.mp4"] == [0, 1, 2]
    assert all(0 <= start <= 11 for name, _, start in found if name == "a.mp4")
    assert "c.mp4: 5 frames, a chunk needs 9; skipped" in capsys.readouterr().out
    expected = build_text_encoder("hashed").encode(["lift b"])[0][0].bfloat16()
    assert torch.equal(torch.load(output / "5.t5_text_embeddings.pth"), expected)
    facts = json.loads((output / "dataset.json").read_text())
    assert (facts["num_samples"], facts["num_videos"], facts["text_encoder"]) == (7, 2, "hashed")
    module = LatentFolderDataModule(str(output), num_workers=0, validation_fraction=0.5)
    module.setup()
    assert module.sample_shape == [16, 2, 4, 6] and sorted(map(len, module.split_names())) == [3, 4]


def test_sampling_of_several_instructions(robot, tmp_path):
    every = infos(prepare(robot, tmp_path / "all", "--num_chunks", "3", "--instruction_sampling", "all"))
    assert [info["prompt"] for info in every] == [t for v in "ab" for t in [f"lift {v}"] * 3 + [f"raise {v}"] * 3]
    assert [info["start_frame"] for info in every[:3]] == [info["start_frame"] for info in every[3:6]]
    options = ("--num_chunks", "12", "--instruction_sampling", "random")
    drawn, again = (infos(prepare(robot, tmp_path / name, *options)) for name in ("r1", "r2"))
    assert drawn == again and len(drawn) == 12 + 3
    assert {info["prompt"] for info in drawn if info["video_path"] == "a.mp4"} == {"lift a", "raise a"}
    other_key = infos(prepare(robot, tmp_path / "key", "--instruction_key", "language_instruction_1"))
    assert other_key[0]["prompt"] == "raise a"


def test_straight_from_bridge_annotations(tmp_path, tmp_path_factory):
    tree = arm_tree(tmp_path / "tree", tmp_path_factory, num_frames=9, motion="instructed")
    output = prepare(tree, tmp_path / "out", "--bridge_split", "train", "--num_chunks", "2")
    found = infos(output)
    assert [info["video_path"] for info in found] == [f"{k}/rgb.mp4" for k in range(4)]
    assert [info["prompt"] for info in found] == [
        f"Move the arm to the {c} block." for c in ("red", "green", "blue", "yellow")
    ]
    assert {info["fps"] for info in found} == {5.0}
    assert infos(prepare(tree, tmp_path / "fps", "--bridge_split", "val", "--fps", "3"))[0]["fps"] == 3.0
    # Episodes have one file name; they are still different sources for the held-out split.
    module = LatentFolderDataModule(str(output), num_workers=0, validation_fraction=0.25)
    module.setup()
    assert sorted(map(len, module.split_names())) == [1, 3]


def write(name, text):
    return lambda root: (root / "instructions" / f"{name}.json").write_text(text)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda root: (root / "instructions/b.json").unlink(), "b.json: there is no such file; its video has no instr"),
        (write("b", '{\n "language_instruction_0" "x"}'), "b.json: line 2, column 27: Expecting ':' delimiter"),
        (write("b", '{"instruction": "x"}'), 'b.json has no key "language_instruction_0" .keys: "instruction".'),
        (write("b", '["x"]'), "b.json has no key .*keys: list"),
        (
            write("b", '{"language_instruction_0": "  "}'),
            "b.json: \"language_instruction_0\" is '  '; a text that is not",
        ),
        (write("b", '{"language_instruction_0": 7}'), '"language_instruction_0" is 7; a text'),
        (write("z", '{"language_instruction_0": "x"}'), r"1 instruction files have no video \(z.json\); not used"),
    ],
)
def test_broken_instructions_are_in_the_plan_and_stop_a_strict_run(robot, tmp_path, capsys, damage, words):
    damage(robot)
    with pytest.raises(DataError, match=words):
        prepare(robot, tmp_path / "strict", "--strict")
    assert not (tmp_path / "strict").exists()
    found = {info["video_path"] for info in infos(prepare(robot, tmp_path / "out"))}
    assert found == ({"a.mp4", "b.mp4"} if "z.json" in words else {"a.mp4"})
    assert "problems" in capsys.readouterr().out


def test_missing_folders_and_nothing_left(robot, tmp_path):
    (robot / "instructions").rename(robot / "texts")
    with pytest.raises(
        DataError, match=r"missing .*robot/instructions. An instruction dataset has .*videos/<id>.mp4 and"
    ):
        prepare(robot, tmp_path / "out")
    (robot / "instructions").mkdir()
    with pytest.raises(DataError, match="no video has an instruction, nothing to do"):
        prepare(robot, tmp_path / "out")
    with pytest.raises(DataError, match="annotation/val does not exist"):
        prepare(robot, tmp_path / "out", "--bridge_split", "val")


def test_too_long_a_chunk_says_what_would_fit(robot, tmp_path):
    with pytest.raises(DataError, match="3 of 3 videos cannot be used.*a.mp4 with 20 frames: use --num_frames 17"):
        prepare(robot, tmp_path / "out", "--num_frames", "25")


def test_long_texts_are_cut_and_said_so(robot, tmp_path, capsys):
    (robot / "instructions/a.json").write_text(json.dumps({"language_instruction_0": "move " * 600}))
    prepare(robot, tmp_path / "out", "--num_chunks", "1")
    assert "text of 601 tokens, cut to 512: move move" in capsys.readouterr().out
