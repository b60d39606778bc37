# SPDX-License-Identifier: Apache-2.0
"""Frames tokenised one by one: files, rows, ranks, and the modules that read them."""

import json
import shutil
from itertools import islice

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from cosmos1.data.demo_worlds.arm_drawing import find_gripper
from cosmos1.data.geometry.actions import relative_motions
from cosmos1.data.modules.action_pairs import ActionPairsDataModule, ActionTokensDataModule
from cosmos1.data.sources.bridge import read_episodes
from cosmos1.data.video import frames_to_tensor, read_video, tensor_to_frames, write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.video import build_video_tokenizer
from data_prep import prepare_action_dataset
from tests.data.arm_tree import arm_tree, change, read


@pytest.fixture
def tree(tmp_path, tmp_path_factory):
    return arm_tree(tmp_path / "tree", tmp_path_factory)


def prepare(tree, output, *options):
    arguments = ["--dataset_path", str(tree), "--output_path", str(output), *options]
    prepare_action_dataset.main(prepare_action_dataset.build_parser().parse_args(arguments))
    return output


def build(folder, cls=ActionPairsDataModule, **fields):
    module = cls(str(folder), **{"num_workers": 0, "validation_fraction": 0.0, **fields})
    module.setup()
    return module


def rename_episodes(tree, names):
    """Give the training episodes 0, 1, 2, 3 other numbers."""
    for old, new in enumerate(names):
        (tree / f"annotation/train/{old}.json").rename(tree / f"annotation/train/{new}.json")
        (tree / f"videos/train/{old}").rename(tree / f"videos/train/{new}")
        change(tree, new, videos=[{"video_path": f"videos/train/{new}/rgb.mp4"}])


def test_files_rows_and_order(tree, tmp_path):
    rename_episodes(tree, ["1432", "83", "13109", "346"])
    output = prepare(tree, tmp_path / "out")
    names = {"actions.pt", "state.pt", "gripper.pt", "tokenized-frames.pt", "episodes.json", "dataset.json"}
    assert {path.name for path in output.iterdir()} == names
    tensors = {name: torch.load(output / name, weights_only=True) for name in names if name.endswith(".pt")}
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    assert shapes == {
        "actions.pt": ((24, 7), torch.float32),
        "state.pt": ((24, 8), torch.float32),
        "gripper.pt": ((24,), torch.float32),
        "tokenized-frames.pt": ((24, 16, 1, 6, 8), torch.bfloat16),
    }
    entries = json.loads((output / "episodes.json").read_text())
    assert [(entry["id"], entry["first_row"], entry["length"]) for entry in entries] == [
        ("83", 0, 6), ("346", 6, 6), ("1432", 12, 6), ("13109", 18, 6)
    ]  # fmt: skip
    missing = tensors["actions.pt"].isnan()
    assert missing.all(dim=1).nonzero().flatten().tolist() == [5, 11, 17, 23] and missing.sum() == 28
    facts = json.loads((output / "dataset.json").read_text())
    assert (facts["action_convention"], facts["action_scale"], facts["tokenizer"]) == ("json", [1.0] * 7, "dct")


def test_pairs_are_frame_action_next_frame(tree, tmp_path):
    module = build(prepare(tree, tmp_path / "out"), shuffle=False)
    assert module.num_train_samples == 4 * 5 and module.sample_shape == [16, 2, 6, 8] and module.tokenizer == "dct"
    tokenizer = build_video_tokenizer("dct", dtype=torch.bfloat16)
    for number, episode in enumerate(read_episodes(tree, "train")[0]):
        pictures = frames_to_tensor(read_video(episode.video(0))).permute(2, 1, 0, 3, 4)
        latents = tokenizer.encode(pictures)[:, :, 0]
        for step in (0, 4):
            (batch,) = islice(module.train_batches(0, 1, 0), 5 * number + step, 5 * number + step + 1)
            assert torch.equal(batch["video"][0].transpose(0, 1), latents[step : step + 2])
            assert batch["action"][0, 0].numpy() == pytest.approx(episode.action[step], abs=1e-6)
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "video": (1, 16, 2, 6, 8), "action": (1, 1, 7), "t5_text_embeddings": (1, 512, 1024), "t5_text_mask": (1, 512),
        "image_size": (1, 4), "fps": (1,), "num_frames": (1,), "padding_mask": (1, 1, 6, 8), "sample_position": (1,),
    }  # fmt: skip
    assert batch["t5_text_embeddings"].abs().max() == 0 and batch["fps"].item() == 5.0


def test_the_action_of_a_pair_is_the_motion_between_its_pictures(tmp_path, tmp_path_factory):
    """From the renderer to the batch and back through the tokenizer."""
    tree = arm_tree(tmp_path / "large", tmp_path_factory, num_validation=0, height=192, width=256)
    module = build(prepare(tree, tmp_path / "out", "--action_convention", "scaled"))
    tokenizer, seen, commanded = build_video_tokenizer("dct"), [], []
    for batch in islice(module.train_batches(0, 1, 0), 10):
        frames = [tensor_to_frames(tokenizer.decode(batch["video"][:, :, k : k + 1]))[0] for k in range(2)]
        poses = np.zeros((2, 6))
        poses[:, [0, 1, 5]] = [find_gripper(frame) for frame in frames]
        seen.append(relative_motions(poses)[0, [0, 1, 5]] * 20)
        commanded.append(batch["action"][0, 0, [0, 1, 5]].numpy())
    errors = np.abs(np.array(seen) - commanded).mean(axis=0)
    # In units of the scaled action: 1 mm is 0.02, one degree 0.35; a step is about 0.7 long, a turn 6.
    assert errors[:2].max() < 0.1 and errors[2] < 1.5
    others = np.abs(np.array(seen) - np.roll(commanded, 1, axis=0)).mean(axis=0)
    assert (others > 3 * errors).all()


def test_windows_and_held_out_episodes(tree, tmp_path):
    train, val = prepare(tree, tmp_path / "train"), prepare(tree, tmp_path / "val", "--dataset_split", "val")
    module = build(train, num_frames=4, validation_path=str(val), micro_batch_size=2, global_batch_size=2)
    assert (module.num_train_samples, module.num_validation_samples) == (4 * 3, 2 * 3)
    assert next(module.train_batches(0, 1, 0))["action"].shape == (2, 3, 7)
    assert next(module.validation_batches(0, 1))["video"].shape == (2, 16, 4, 6, 8)
    split = build(train, validation_fraction=0.25)
    assert (split.num_train_samples, split.num_validation_samples) == (15, 5)
    with pytest.raises(DataError, match="a window needs 9 frames, the longest episode is 0 with 6"):
        build(train, num_frames=9)


def test_shards_hold_whole_episodes_whatever_the_number_of_ranks(tree, tmp_path, monkeypatch):
    whole = build(prepare(tree, tmp_path / "one", "--action_convention", "scaled"), shuffle=False)
    options = ("--action_convention", "scaled", "--frames_per_shard", "13")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        prepare(tree, tmp_path / "two", *options)
        if rank == "0":
            with pytest.raises(DataError, match="1 of 2 files tokenized-frames.*prepar"):
                build(tmp_path / "two")
    parts = build(tmp_path / "two", shuffle=False, num_frames=2)
    assert [len(shard) for shard in parts._table.shards] == [12, 12]
    for a, b in zip(whole.train_batches(0, 1, 0), islice(parts.train_batches(0, 1, 0), 20)):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert any('convention "scaled"' in line and "20.0" in line for line in parts.describe())


def test_codes_for_the_autoregressive_networks(tree, tmp_path):
    output = prepare(tree, tmp_path / "out", "--tokenizer", "dct_fsq")
    frames = torch.load(output / "tokenized-frames.pt")
    assert frames.shape == (24, 1, 3, 4) and frames.dtype == torch.int32
    module = build(output, ActionTokensDataModule, shuffle=False)
    batch = next(module.train_batches(0, 1, 0))
    ids = [64000, *frames[:2].flatten().tolist()]
    assert module.sample_shape == [2, 3, 4] and batch["tokens"].shape == (1, 128)
    assert batch["tokens"][0, :25].tolist() == ids and batch["labels"][0, :24].tolist() == ids[1:]
    assert set(batch["tokens"][0, 25:].tolist() + batch["labels"][0, 24:].tolist()) == {64002}
    # The last code of the first frame predicts the first code of the next.
    assert batch["loss_mask"][0].nonzero().flatten().tolist() == list(range(12, 24))
    assert batch["action"].shape == (1, 1, 7)
    with pytest.raises(DataError, match="latents .16, 1, h, w. are needed"):
        build(output)
    with pytest.raises(DataError, match="codes .1, h, w. are needed"):
        build(prepare(tree, tmp_path / "latents"), ActionTokensDataModule)


def test_a_folder_of_other_programs_is_read_by_its_nan_rows(tree, tmp_path):
    output = prepare(tree, tmp_path / "out")
    for name in ("episodes.json", "dataset.json"):
        (output / name).unlink()
    module = build(output)
    assert module.num_train_samples == 20 and module.tokenizer is None
    with pytest.raises(DataError, match="follow the convention not recorded, data.action_convention=scaled"):
        build(output, action_convention="scaled")


def edit(folder, name, change_tensor):
    tensor = torch.load(folder / name)
    torch.save(change_tensor(tensor), folder / name)


def partly_nan(actions):
    actions[3, 2] = float("nan")
    return actions


def moved_end(actions):
    actions[5], actions[4] = actions[4].clone(), float("nan")
    return actions


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: shutil.rmtree(f), "there is no such folder"),
        (lambda f: (f / "tokenized-frames.pt").unlink(), "there is no tokenized-frames.pt"),
        (lambda f: (f / "actions.pt").write_bytes(b"cut"), "actions.pt: cannot be loaded as a tensor"),
        (lambda f: edit(f, "actions.pt", partly_nan), "row 3 is .*either finite or.*all NaN"),
        (lambda f: edit(f, "actions.pt", lambda a: a[:-1]), "hold 24 frames .*actions.pt 23 rows"),
        (lambda f: edit(f, "actions.pt", lambda a: a.nan_to_num()), "row 23 is not all NaN"),
        (
            lambda f: (f / "episodes.json").write_text("3"),
            "episodes.json: a list of objects with id, first_row, length",
        ),
        (lambda f: (f / "episodes.json").write_text('[{"id": "0"}]'), "episodes.json: a list of objects with id,"),
        (lambda f: edit(f, "actions.pt", moved_end), "episodes.json: lists 4 episodes, the NaN rows.*two preparations"),
    ],
)
def test_damaged_folders(tree, tmp_path, damage, words):
    output = prepare(tree, tmp_path / "out")
    damage(output)
    with pytest.raises(DataError, match=words):
        build(output)


def test_bad_values_are_named_by_row(tree, tmp_path):
    output = prepare(tree, tmp_path / "out")
    frames = torch.load(output / "tokenized-frames.pt")
    frames[1, 0, 0, 0, 0] = float("inf")
    torch.save(frames, output / "tokenized-frames.pt")
    with pytest.raises(DataError, match="frames from row 0: 1 values are not usable"):
        next(build(output, shuffle=False).train_batches(0, 1, 0))


def test_episodes_that_cannot_be_used_are_left_out_with_reasons(tree, tmp_path, capsys):
    path = tree / "videos/train/1/rgb.mp4"
    write_video(path, read_video(path)[:4], 5)
    damaged = (tree / "videos/train/2/rgb.mp4").read_bytes()
    (tree / "videos/train/2/rgb.mp4").write_bytes(damaged[: len(damaged) // 2])
    content = read(tree, "3")
    change(tree, "3", state=content["state"][:1], action=[], continuous_gripper_state=[0.0])
    assert build(prepare(tree, tmp_path / "out")).num_train_samples == 5
    printed = capsys.readouterr().out
    assert (
        "1 episodes of train used, 3 left out" in printed and "has 4 frames but" in printed and "1 frames, a" in printed
    )
    with pytest.raises(DataError, match="has 4 frames but"):
        prepare(tree, tmp_path / "strict", "--strict")
    assert not (tmp_path / "strict").exists()
    rename_episodes(tree, ["first"])
    with pytest.raises(DataError, match="first.json: the episode's name is not a number(.|\n)*no episode is left"):
        prepare(tree, tmp_path / "none")


def test_refused_options(tree, tmp_path):
    with pytest.raises(ConfigError, match="belong together"):
        prepare(tree, tmp_path / "a", "--height", "32")
    with pytest.raises(ConfigError, match="32 x 40: both must be multiples of 16. Use --height 32 --width 32"):
        prepare(tree, tmp_path / "a", "--height", "32", "--width", "40")
    prepare(tree, tmp_path / "a", "--height", "32", "--width", "48")
    with pytest.raises(ConfigError, match="is not empty"):
        prepare(tree, tmp_path / "a")
    with pytest.raises(ConfigError, match="action_convention: json before, scaled now"):
        prepare(tree, tmp_path / "a", "--height", "32", "--width", "48", "--action_convention", "scaled", "--resume")
    write_video(tree / "videos/train/1/rgb.mp4", read_video(tree / "videos/train/1/rgb.mp4")[:, :32], 5)
    with pytest.raises(DataError, match="the videos have 2 sizes: 48 x 64 .*32 x 64"):
        prepare(tree, tmp_path / "b")


def test_resume_completes_what_is_missing(tree, tmp_path):
    output = prepare(tree, tmp_path / "out", "--frames_per_shard", "6")
    shards = sorted(output.glob("tokenized-frames-*.pt"))
    content = [path.read_bytes() for path in shards]
    shards[2].unlink()
    prepare(tree, output, "--frames_per_shard", "6", "--resume")
    assert [path.read_bytes() for path in shards] == content


def test_the_published_tokenizer_of_codes_and_weights_that_are_missing(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    codes = ("--tokenizer", "cosmos_dv", "--tokenizer_compression_factor")
    with pytest.raises(DataError, match="nvidia/Cosmos-0.1-Tokenizer-DV4x8x8 is neither in the cache nor"):
        prepare(tree, tmp_path / "out", *codes, "4,8,8")
    with pytest.raises(
        ConfigError, match="--tokenizer_compression_factor 2,16,16: tokenizers are published for 8,16,16"
    ):
        prepare(tree, tmp_path / "out", *codes, "2,16,16")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="tokenizer cosmos_cv8x8x8"):
        prepare(tree, tmp_path / "out", "--tokenizer_dir", str(tmp_path / "empty"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (("--action_convention", "scaled"), "action_convention: scaled here, json in .*; action_scale"),
        (("--height", "32", "--width", "48"), r"frames: \[16, 1, 4, 6\] here, \[16, 1, 6, 8\] in"),
    ],
)
def test_held_out_episodes_of_other_facts(tree, tmp_path, options, words):
    train = prepare(tree, tmp_path / "train")
    val = prepare(tree, tmp_path / "val", "--dataset_split", "val", *options)
    with pytest.raises(DataError, match=f"data.validation_path={val}: {words}"):
        build(train, validation_path=str(val))
