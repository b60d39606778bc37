# SPDX-License-Identifier: Apache-2.0
"""Shards give the folder's samples, resume is exact in the middle of an epoch, and other writers' shards are read."""

import io
import json
import pickle
import re
import shutil
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch

from cosmos1.data.formats.energon_samples import decode_sample, read_shard_sample
from cosmos1.data.modules.energon import EnergonDataModule
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import ConfigError, DataError
from data_prep import shard
from tests.data.conftest import make_latent_folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    paths = ["--input_path", str(make_latent_folder(folder / "cached")), "--output_path", str(folder / "shards")]
    shard.main(shard.build_parser().parse_args([*paths, "--val_fraction", "0.34", "--shard_megabytes", "0.03"]))
    return folder / "shards"


@pytest.fixture
def shards(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "shards")


OPENED = []


@pytest.fixture(autouse=True)
def stop_workers():
    yield
    while OPENED:
        OPENED.pop().close()


def build(folder, **fields):
    defaults = {"micro_batch_size": 1, "global_batch_size": 2, "num_workers": 0}
    module = EnergonDataModule(str(folder), **{**defaults, **fields})
    module.setup()
    OPENED.append(module)
    return module


def values(batches, count):
    return [batch["video"][:, 0, 0, 0, 0].int().tolist() for batch in islice(batches, count)]


def test_batch_equals_that_of_the_folder(shards, latent_folder):
    from_shards = next(build(shards).train_batches(0, 1, 0))
    folder = LatentFolderDataModule(str(latent_folder), num_workers=0, shuffle=False, validation_fraction=0.0)
    folder.setup()
    same = next(islice(folder.train_batches(0, 1, 0), int(from_shards["video"].max()), None))
    assert set(from_shards) == set(same)
    for key in set(same) - {"sample_position"}:
        torch.testing.assert_close(from_shards[key], same[key], rtol=0, atol=0)


def test_an_epoch_visits_each_training_sample_once_over_all_ranks(shards, latent_folder):
    counts = json.loads((shards / ".nv-meta" / ".info.json").read_text())["shard_counts"]
    assert sum(counts.values()) == 12 and len(counts) >= 4
    # Without a buffer: one that is larger than the data mixes epochs.
    modules = [build(shards, shuffle_buffer_size=1) for _ in range(2)]
    seen = sum(sum((values(module.train_batches(rank, 2, 0), 4) for rank, module in enumerate(modules)), []), [])
    assert len(set(seen)) == 8
    held_out = [int(batch["video"].max()) for batch in build(shards).validation_batches(0, 1)]
    assert sorted(seen + held_out) == list(range(12))


def test_ranks_of_one_data_parallel_group_read_the_same(shards):
    assert values(build(shards).train_batches(1, 2, 0), 6) == values(build(shards).train_batches(1, 2, 0), 6)


def test_positions_are_those_of_the_folder_module(shards):
    batches = build(shards, micro_batch_size=2, global_batch_size=4).train_batches(1, 2, 0)
    assert [batch["sample_position"].tolist() for batch in islice(batches, 2)] == [[2, 3], [6, 7]]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_resume_is_exact_in_the_middle_of_an_epoch(shards, num_workers, stop_after):
    first = build(shards, num_workers=num_workers)
    batches = first.train_batches(0, 1, 0)
    values(batches, stop_after)
    shared, own = first.state_dict(stop_after), first.rank_state_dict()
    expected = values(batches, 20)
    second = build(shards, num_workers=num_workers)
    second.load_state_dict(shared)
    second.load_rank_state_dict(own)
    assert values(second.train_batches(0, 1, stop_after), 20) == expected


def test_micro_batch_size_may_change_at_resume(shards):
    first = build(shards, micro_batch_size=2)
    batches = first.train_batches(0, 1, 0)
    values(batches, 2)
    state = first.rank_state_dict()
    expected = sum(values(batches, 4), [])
    second = build(shards, micro_batch_size=1)
    second.load_rank_state_dict(state)
    assert sum(values(second.train_batches(0, 1, 4), 8), []) == expected


def test_changed_layout_is_refused_naming_both(shards):
    module = build(shards)
    next(module.train_batches(0, 1, 0))
    state = module.rank_state_dict()
    for fields, dp_size, words in (
        ({}, 2, "dp_size was 1 in the checkpoint and is 2"),
        ({"num_workers": 1}, 1, "num_workers was 0 in the checkpoint and is 1"),
    ):
        other = build(shards, **fields)
        other.load_rank_state_dict(state)
        with pytest.raises(ConfigError, match=words):
            other.train_batches(0, dp_size, 1)
    with pytest.raises(ConfigError, match="no loader state of data-parallel rank 0"):
        build(shards).train_batches(0, 1, 8)
    with pytest.raises(ConfigError, match="shuffle_buffer_size was 100 in the checkpoint and is 7"):
        build(shards, shuffle_buffer_size=7).load_state_dict(module.state_dict(0))


def test_validation_is_the_same_with_workers_and_for_every_rank(shards):
    whole = values(build(shards).validation_batches(0, 1), 99)
    assert len(whole) == 4
    per_rank = [values(build(shards, num_workers=1).validation_batches(rank, 2), 99) for rank in range(2)]
    assert [per_rank[0][0], per_rank[1][0], per_rank[0][1], per_rank[1][1]] == whole


def test_bad_sample_stops_or_is_counted(shards):
    # Other latents than the recipe needs, from the second sample on.
    module = build(shards, num_workers=1)
    module.sample_shape = [16, 9, 4, 6]
    with pytest.raises(DataError, match=r"is \(16, 2, 4, 6\) but the first sample is \(16, 9, 4, 6\)") as caught:
        next(module.train_batches(0, 1, 0))
    assert "Traceback" not in str(caught.value)
    module.close()
    module.num_bad_samples, module.max_bad_samples = 0, 3
    with pytest.raises(DataError):
        next(module.train_batches(0, 1, 0))
    assert module.num_bad_samples == 4


def test_unprepared_folder_and_missing_shard(tmp_path, shards):
    with pytest.raises(DataError, match="energon prepare --non-interactive"):
        build(tmp_path)
    (shards / "train-000000.tar").unlink()
    with pytest.raises(DataError, match="lists train-000000.tar, which does not exist"):
        build(shards)


def test_empty_train_part_is_explained(shards):
    (shards / ".nv-meta" / "split.yaml").write_text("split_parts:\n  train: []\n  val: []\nexclude: []\n")
    with pytest.raises(DataError, match="part train has no samples"):
        build(shards)


def exclude(folder, *names):
    path = folder / ".nv-meta" / "split.yaml"
    path.write_text(re.sub(r"exclude: .*", f"exclude: {json.dumps(names)}", path.read_text()))


def test_what_split_yaml_excludes_is_neither_counted_nor_held_out(shards):
    held_out = [int(batch["video"].max()) for batch in build(shards).validation_batches(0, 1)]
    counts = json.loads((shards / ".nv-meta" / ".info.json").read_text())["shard_counts"]
    key = read_shard_sample(shards / "val-000000.tar", 0)["__key__"]
    first = read_shard_sample(shards / "train-000001.tar", 0)["__key__"]
    exclude(shards, f"val-000000.tar/{key}", "train-000000.tar", f"train-00000{{1,1}}.tar/{first}")
    module = build(shards, shuffle_buffer_size=1)
    assert [int(batch["video"].max()) for batch in module.validation_batches(0, 1)] == held_out[1:]
    expected = 8 - counts["train-000000.tar"] - 1
    assert module.num_train_samples == expected
    assert len(set(sum(values(module.train_batches(0, 1, 0), expected), []))) == expected
    assert f"data: {counts['train-000000.tar'] + 2} samples are excluded by split.yaml" in module.describe()
    exclude(shards)
    other = build(shards)
    with pytest.raises(ConfigError, match="fingerprint was"):
        other.load_state_dict(module.state_dict(0))
    for name, words in (("val-000000.tar/0", "no such sample: its keys are"), ("trian-000000.tar", "no such shard")):
        exclude(shards, name)
        with pytest.raises(DataError, match=f"split.yaml excludes {name}.*{words}"):
            build(shards)


@pytest.mark.parametrize("num_workers, dp_size", [(0, 10), (2, 5), (9, 1)])
def test_fewer_samples_than_workers_are_refused_on_every_rank(shards, num_workers, dp_size):
    """Without this, energon stops with an assertion on the ranks that get none, and the others wait for them."""
    module = build(shards, num_workers=num_workers, global_batch_size=dp_size, repeat=True)
    for rank in range(dp_size):
        with pytest.raises(
            ConfigError, match=f"8 training samples, .* of {dp_size * max(num_workers, 1)} loaders. Lower"
        ):
            module.train_batches(rank, dp_size, 0)


def test_as_many_samples_as_workers_are_enough(shards):
    for rank in range(4):
        module = build(shards, num_workers=2, global_batch_size=4)
        assert len(values(module.train_batches(rank, 4, 0), 3)) == 3
        module.close()


def to_bytes(tensor):
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "latent_part, text_part", [("pth", "pickle"), (".pth", ".pickle"), ("jpg..pth", "jpg..pickle")]
)
def test_parts_of_older_writers_are_read(latent_part, text_part):
    text = [np.ones((7, 1024), np.float16)]
    parts = {
        latent_part: to_bytes(torch.ones(1, 16, 2, 4, 6)),
        text_part: pickle.dumps(text),
        "json": json.dumps({"framerate": 23.976, "num_frames": 9, "height": 32, "width": 48}).encode(),
    }
    sample = decode_sample(parts, "k", 0, with_conditioning=False)
    assert sample["video"].shape == (16, 2, 4, 6) and sample["fps"].item() == pytest.approx(23.976)
    assert sample["t5_text_embeddings"][:7].sum() == 7 * 1024 and sample["t5_text_embeddings"][7:].abs().sum() == 0


def test_pickle_that_would_run_code_is_refused():
    class Harmful:
        def __reduce__(self):
            return (print, ("executed",))

    parts = {"pth": to_bytes(torch.ones(16, 2, 4, 6)), "pickle": pickle.dumps(Harmful())}
    with pytest.raises(DataError, match="sample k: part pickle: holds a builtins.print"):
        decode_sample(parts, "k", 0, with_conditioning=False)


def test_missing_parts_are_named():
    with pytest.raises(DataError, match="sample k has no part pth .parts: json"):
        decode_sample({"__key__": "k", "json": b"{}"}, "k", 0, with_conditioning=False)
    with pytest.raises(DataError, match="sample k has no text"):
        decode_sample({"pth": to_bytes(torch.ones(16, 2, 4, 6))}, "k", 0, with_conditioning=False)


def test_samples_are_found_by_their_offsets(shards):
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            keys = list(dict.fromkeys(name.partition(".")[0] for name in archive.getnames()))
        assert [read_shard_sample(path, index)["__key__"] for index in range(len(keys))] == keys
