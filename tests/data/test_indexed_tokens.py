# SPDX-License-Identifier: Apache-2.0
"""Indexed datasets: bytes on disk, samples that are whole clips, order and resume, and the answer to each bad input."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos1.data.formats.indexed_file import write_indexed_file
from cosmos1.data.modules.indexed_tokens import IndexedTokensDataModule
from cosmos1.errors import ConfigError, DataError
from tests.data.token_files import GRID, NUM_TOKENS, document, write_documents


@pytest.fixture
def tokens(tmp_path):
    return write_documents(tmp_path / "tokens", range(12))


def build(path, **fields):
    module = IndexedTokensDataModule(str(path), **{"num_workers": 0, "split_string": "8,2,2", **fields})
    module.setup()
    return module


def numbers(batches, count):
    return [batch["tokens"][:, 0].div(100).int().tolist() for batch in islice(batches, count)]


def test_bytes_are_those_of_the_format_and_megatron_reads_them(tmp_path):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    documents = [np.random.RandomState(number).randint(0, 64000, 12800) for number in range(10)]
    write_indexed_file(tmp_path, documents)
    assert (tmp_path / ".bin").stat().st_size == 256_000 and (tmp_path / ".idx").stat().st_size == 242
    dataset = IndexedDataset(f"{tmp_path}/")
    assert dataset.index.dtype == np.uint16 and dataset.document_indices.tolist() == list(range(11))
    assert all(np.array_equal(dataset[number], documents[number]) for number in range(10))


def test_a_sample_is_a_whole_clip_without_the_next_clips_label(tokens):
    batch = next(build(tokens, shuffle=False, micro_batch_size=2, global_batch_size=2).train_batches(0, 1, 0))
    for row in range(2):
        assert batch["tokens"][row].tolist() == document(row).tolist()
        assert batch["labels"][row].tolist() == [*document(row)[1:].tolist(), 0]
        assert batch["loss_mask"][row].tolist() == [1.0] * (NUM_TOKENS - 1) + [0.0]
    assert {name: value.dtype for name, value in batch.items()} == {
        "tokens": torch.int64,
        "labels": torch.int64,
        "loss_mask": torch.float32,
        "sample_position": torch.int64,
    }


def test_the_log_states_the_entropy_of_the_tokens(tmp_path):
    # Half of the ids are 7, a quarter 3, a quarter 5: 1.5 bits.
    write_indexed_file(tmp_path, [np.array([7, 7, 3, 5] * 6)] * 12)
    assert f"unigram entropy of 8 training samples {1.5 * np.log(2):.3f} nats" in " ".join(build(tmp_path).describe())


def test_samples_are_those_of_megatrons_own_dataset(tokens, tmp_path):
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset

    module = build(tokens)
    ours = module._training[0][0]
    config = ours.config
    config.path_to_cache = str(tmp_path / "cache")
    theirs = BlendedMegatronDatasetBuilder(GPTDataset, [None] * 3, lambda: True, config).build()[0]

    def rows(dataset):
        names = ("tokens", "labels", "loss_mask")
        return sorted([dataset[place][name].tolist() for name in names] for place in range(len(dataset)))

    assert len(theirs) == 8 and rows(ours) == rows(theirs)


def test_an_epoch_visits_each_clip_once_over_all_ranks(tokens):
    modules = [build(tokens, global_batch_size=2) for _ in range(2)]
    seen = sum(sum((numbers(module.train_batches(rank, 2, 0), 4) for rank, module in enumerate(modules)), []), [])
    assert sorted(seen) == list(range(8)) and seen != sorted(seen)
    assert numbers(build(tokens).validation_batches(0, 1), 9) == [[8], [9]]


def test_resume_continues_with_the_next_clip(tokens):
    first = build(tokens, num_workers=1)
    batches = first.train_batches(0, 1, 0)
    numbers(batches, 5)
    state, expected = first.state_dict(5), numbers(batches, 8)
    first.close()
    second = build(tokens, micro_batch_size=2, global_batch_size=2)
    second.load_state_dict(state)
    assert sum(numbers(second.train_batches(0, 1, 5), 4), []) == sum(expected, [])


def test_regenerated_tokens_are_refused_at_resume(tokens):
    state = build(tokens).state_dict(4)
    write_documents(tokens, range(1, 13))
    with pytest.raises(ConfigError, match="fingerprint was"):
        build(tokens).load_state_dict(state)


def test_folders_of_chunks_are_read_in_numeric_order(tmp_path):
    for folder, first in ((2, 4), (10, 8), (0, 0)):
        write_documents(tmp_path / str(folder), range(first, first + 4))
    (tmp_path / "shards").mkdir()
    module = build(tmp_path, split_string="2,1,1", shuffle=False)
    assert sum(numbers(module.train_batches(0, 1, 0), 6), []) == [0, 1, 4, 5, 8, 9]
    assert sum(numbers(module.validation_batches(0, 1), 3), []) == [2, 6, 10]


def test_a_small_last_chunk_may_have_no_held_out_clip(tmp_path):
    write_documents(tmp_path / "0", range(8))
    write_documents(tmp_path / "1", range(8, 9))
    module = build(tmp_path, split_string="6,1,1")
    assert (module.num_train_samples, module.num_validation_samples) == (7, 1)


def test_facts_of_the_tokens_are_known(tokens):
    module = build(tokens)
    assert (module.sample_shape, module.tokenizer, module.compression) == (GRID, "dct_fsq", [4, 8, 8])
    text = "\n".join(module.describe())
    assert "2 x 3 x 4 = 24 video tokens" in text and "dct_fsq 4x8x8" in text and "WARNING" not in text
    write_documents(tokens, range(12), num_samples=13)
    assert "WARNING: 12 of 13 planned clips" in "\n".join(build(tokens).describe())


def test_files_without_dataset_json_and_plain_prefixes_are_accepted(tokens, tmp_path):
    (tokens / "dataset.json").unlink()
    module = build(tokens)
    assert module.sample_shape == [NUM_TOKENS] and module.tokenizer is None
    for suffix in (".bin", ".idx"):
        (tokens / suffix).rename(tmp_path / f"clips{suffix}")
    assert build(tmp_path / "clips").num_train_samples == 8


def test_a_split_that_is_not_wanted_may_be_empty(tokens):
    module = build(tokens, split_string="1,0,0")
    assert module.num_train_samples == 12 and not list(module.validation_batches(0, 1))


@pytest.mark.parametrize(
    "split, words",
    [
        ("98,1,1", "98,1,1 leaves no validation sample of the 12 clips"),
        ("0,1,1", "is not three numbers"),
        ("4,1", "is not three numbers"),
        ("a,b,c", "Use for example 98,1,1"),
    ],
)
def test_splits_that_cannot_be(tokens, split, words):
    with pytest.raises(ConfigError, match=words):
        build(tokens, split_string=split)


def cut(path, num_bytes):
    path.write_bytes(path.read_bytes()[:num_bytes])


def test_truncated_and_foreign_files_are_named(tokens):
    saved = {name: (tokens / name).read_bytes() for name in (".bin", ".idx")}

    def refused(words):
        with pytest.raises(DataError, match=words):
            build(tokens)
        for name, content in saved.items():
            (tokens / name).write_bytes(content)

    cut(tokens / ".bin", 500)
    refused(r"\.bin: 500 bytes, but .*\.idx lists 288 tokens of 2 bytes, that is 576")
    cut(tokens / ".idx", 200)
    refused(r"\.idx: 200 bytes, but its header declares 12 sequences, that is 282 bytes")
    cut(tokens / ".idx", 20)
    refused(r"\.idx: starts with b'MMIDIDX.* has 20 bytes")
    (tokens / ".idx").write_bytes(b"something else" * 30)
    refused("no Megatron index")
    (tokens / ".idx").write_bytes(saved[".idx"][:17] + b"\x07" + saved[".idx"][18:])
    refused("number type 7")
    (tokens / ".bin").unlink()
    refused(r"\.bin: missing beside")


def test_missing_folder_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        build(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither it nor a folder inside"):
        build(tmp_path)


def test_other_lengths_and_grids_are_refused(tokens):
    write_indexed_file(tokens, [document(0), document(1), document(2, 23)])
    with pytest.raises(DataError, match="document 2 has 23 tokens, the first of the dataset has 24"):
        build(tokens)
    write_documents(tokens, range(12), latent_shape=[2, 3, 5])
    with pytest.raises(DataError, match=r"has 24 video tokens, but dataset.json states the grid \[2, 3, 5\]"):
        build(tokens)
    write_documents(tokens, range(12), latent_shape="24")
    with pytest.raises(DataError, match="latent_shape is 24"):
        build(tokens)


def test_ids_out_of_range_name_file_and_document(tokens):
    write_indexed_file(Path(tokens), [document(number) for number in range(11)] + [document(11) + 1000])
    facts = json.loads((tokens / "dataset.json").read_text())
    assert facts["num_samples"] == 12
    module = build(tokens, split_string="10,2,0")
    with pytest.raises(DataError, match=r"\.bin: document 11: 1 of 24 token ids are outside 0..63999 .*largest 64988"):
        list(module.validation_batches(0, 1))
