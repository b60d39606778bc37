# SPDX-License-Identifier: Apache-2.0
"""Token and text files of Video2World: sequences, splits, integer ids, and the answer to each bad input."""

import json

import pytest
import torch

from cosmos1.data.formats.token_facts import sequence_lengths, video2world_ids
from cosmos1.data.modules.token_clips import TokenClipsDataModule
from cosmos1.errors import DataError
from tests.data.token_files import NUM_TOKENS, document, write_clip, write_clips


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path / "clips", train=6, test=1, val=3)


def build(folder, **fields):
    module = TokenClipsDataModule(str(folder), **{"num_workers": 0, "shuffle": False, **fields})
    module.setup()
    return module


@pytest.mark.parametrize(
    "grid, base, video2world",
    [([5, 40, 64], 12800, 12864), ([5, 24, 40], 4800, 4864), ([3, 7, 9], 189, 192), ([1, 8, 8], 64, 128)],
)
def test_sequence_lengths(grid, base, video2world):
    assert sequence_lengths(grid) == {"base": base, "Video2World": video2world}
    assert len(video2world_ids(torch.zeros(base))) == video2world + 1


def test_a_sample_begins_with_its_mark_and_predicts_every_video_token(clips):
    batch = next(build(clips).train_batches(0, 1, 0))
    codes = document(0).tolist()
    assert batch["tokens"][0].tolist() == [64000, *codes, *[64002] * 39]
    assert batch["labels"][0].tolist() == [*codes, *[0] * 40]
    assert batch["loss_mask"][0].tolist() == [1.0] * NUM_TOKENS + [0.0] * 40
    assert batch["tokens"].dtype == batch["labels"].dtype == torch.int64
    assert batch["t5_text_embeddings"].shape == (1, 512, 1024) and batch["t5_text_embeddings"][0, 2, 5] == codes[0]


def test_ids_survive_loading_unchanged(tmp_path):
    folder = write_clips(tmp_path / "clips", train=1, test=1, val=1)
    codes = [12345, 63999, 0, 257, 63998] + [7] * 19
    write_clip(folder, "train", 0, codes)
    batch = next(build(folder).train_batches(0, 1, 0))
    assert batch["tokens"][0, 1 : NUM_TOKENS + 1].tolist() == codes


def test_training_reads_train_and_validation_reads_val(clips):
    module = build(clips, global_batch_size=6, micro_batch_size=6)
    assert next(module.train_batches(0, 1, 0))["tokens"][:, 1].tolist() == [0, 10, 20, 30, 40, 50]
    held_out = [batch["tokens"][:, 1].tolist() for batch in build(clips).validation_batches(0, 1)]
    assert held_out == [[2000], [2010], [2020]]


def test_padding_follows_the_network_not_the_file(clips):
    batch = next(build(clips, pad_to_multiple_of=128).train_batches(0, 1, 0))
    assert batch["tokens"].shape == (1, 128) and int((batch["tokens"] == 64002).sum()) == 128 - 1 - NUM_TOKENS


def test_facts_are_those_of_dataset_json(clips):
    assert build(clips).sample_shape == [NUM_TOKENS] and build(clips).tokenizer is None
    facts = {"tokenizer": "cosmos_dv", "compression": [8, 16, 16], "latent_shape": [2, 3, 4], "text_encoder": "t5"}
    (clips / "dataset.json").write_text(json.dumps(facts))
    module = build(clips)
    assert (module.sample_shape, module.tokenizer, module.compression) == ([2, 3, 4], "cosmos_dv", [8, 16, 16])
    text = "\n".join(module.describe())
    assert "6 training samples" in text and "sequence length 64" in text and "text encoder t5" in text
    (clips / "dataset.json").write_text(json.dumps({"latent_shape": [2, 3, 5]}))
    with pytest.raises(DataError, match=r"train_video_0.pt has 24 video tokens, but dataset.json states"):
        build(clips)


def test_unfinished_samples_are_counted(clips):
    (clips / "train_prompt_3.pt").unlink()
    module = build(clips)
    assert module.num_train_samples == 5 and "WARNING: 9 of 10 samples are finished" in "\n".join(module.describe())
    for index in range(3):
        (clips / f"val_video_{index}.pt").unlink()
    with pytest.raises(DataError, match="no finished val sample .* metadata.json plans 3"):
        build(clips)


def test_bad_files_are_named(clips):
    good = torch.load(clips / "train_video_0.pt", weights_only=True)
    module = build(clips)
    cases = {
        "holds torch.bfloat16": good.bfloat16(),
        "starts with id 0, 64000": good[1:],
        "23 video tokens, 24 are needed": torch.cat([good[:1], good[2:]]),
        "1 of 24 token ids are outside 0..63999": torch.where(good == 63999, 64001, good),
        "cannot be loaded as a tensor": b"cut",
    }
    for words, content in cases.items():
        path = clips / "train_video_1.pt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(DataError, match=f"train_video_1.pt.*{words}"):
            list(zip(range(2), module.train_batches(0, 1, 0)))
    write_clip(clips, "train", 1, document(1))
    torch.save(torch.zeros(512, 4096), clips / "train_prompt_1.pt")
    with pytest.raises(DataError, match="train_prompt_1.pt.*T5-XXL"):
        list(zip(range(2), module.train_batches(0, 1, 0)))


def test_metadata_that_is_missing_or_of_another_form(clips):
    (clips / "metadata.json").write_text('{"train_samples": 6}')
    with pytest.raises(DataError, match="needs the whole numbers train_samples, test_samples, val_samples"):
        build(clips)
    (clips / "metadata.json").unlink()
    with pytest.raises(DataError, match="there is no file .*metadata.json"):
        build(clips)
