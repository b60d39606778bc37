# SPDX-License-Identifier: Apache-2.0
"""Data module of the base networks: one video, one document of a Megatron indexed dataset, one sample.

The batch is a dict of CPU tensors (B micro batch, S = t*h*w video tokens, in the order t, h, w):
    tokens [B, S] int64; labels [B, S] int64, the next token; loss_mask [B, S] float32, 0 at the last position, whose
    next token would be of another video; sample_position [B] int64, the global sample position (for validation: the
    place in the held-out list).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from cosmos1.data.formats.indexed_file import find_prefixes, read_lengths
from cosmos1.data.formats.token_facts import (
    VOCABULARY_SIZE,
    describe_grid,
    read_token_facts,
    unigram_entropy,
)
from cosmos1.data.modules.clip_tokens import ClipTokensDataModule
from cosmos1.errors import ConfigError, DataError

_CLIPS_OF_ENTROPY = 200


@dataclass
class IndexedTokensDataModule(ClipTokensDataModule):
    """Feeds Megatron indexed datasets written by data_prep/autoregressive_dataset.py, shuffled per epoch, resumable.

    `path` is a folder with `.bin` and `.idx`, a folder of such folders, or a Megatron prefix. `split_string` gives the
    shares of training, validation and test; as in Megatron-core they are consecutive documents of each folder.
    """

    split_string: str = "98,1,1"

    def setup(self) -> None:
        """Check the files and split the documents. Raises DataError or ConfigError; reads no tokens."""
        prefixes = find_prefixes(self.path)
        lengths = [read_lengths(prefix) for prefix in prefixes]
        num_tokens, first = _common_length(prefixes, lengths), f"{prefixes[0]}.idx: document 0"
        self._note_facts(read_token_facts(Path(self.path)), num_tokens, first)
        self._num_documents = sum(len(of_folder) for of_folder in lengths)
        shares = _parse_split(self.split_string)
        splits = [build_clip_datasets(prefix, self._num_tokens, shares) for prefix in prefixes]
        self._training, self._held_out, self._test = (_samples(parts) for parts in zip(*splits))
        for name, share, samples in zip(("training", "validation"), shares, (self._training, self._held_out)):
            if share and not samples:
                raise ConfigError(self._empty_split(name))
        identity = [[len(of_folder), _first_bytes(prefix)] for prefix, of_folder in zip(prefixes, lengths)]
        self._begin(len(self._training), len(self._held_out), [identity, self._num_tokens, self.split_string])

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        lines = [
            f"data: {self.path}: {self.num_train_samples} training samples (clips)",
            f"data: {self.num_validation_samples} validation and {len(self._test)} test samples, "
            f"data.split_string={self.split_string}",
            f"data: {describe_grid(self._facts, self._num_tokens)}",
            f"data: tokenizer {self._facts.tokenizer_name()}",
            self._describe_entropy(),
        ]
        planned = self._facts.num_samples
        if planned and planned != self._num_documents:
            lines.append(f"data: WARNING: {self._num_documents} of {planned} planned clips are in the folder")
        return lines

    def _describe_entropy(self) -> str:
        """What a network would lose that knows no more than how frequent each token is."""
        num_clips = min(self.num_train_samples, _CLIPS_OF_ENTROPY)
        places = np.linspace(0, self.num_train_samples - 1, num_clips).astype(int)
        tokens = np.concatenate([self._load_sample(True, place, 0)["tokens"].numpy() for place in places])
        return f"data: unigram entropy of {num_clips} training samples {unigram_entropy(tokens):.3f} nats"

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        import torch

        from cosmos1.models.tokenizers.token_grid import check_ids

        dataset, place = (self._training if training else self._held_out)[index]
        sample = dataset[place]
        where = f"{dataset.dataset_path}.bin: document {dataset.indices[place]}"
        check_ids(sample["tokens"], VOCABULARY_SIZE, where)
        return {
            "tokens": sample["tokens"],
            "labels": sample["labels"],
            "loss_mask": sample["loss_mask"],
            "sample_position": torch.tensor(position, dtype=torch.int64),
        }

    def _empty_split(self, name: str) -> str:
        return (
            f"data.split_string={self.split_string} leaves no {name} sample of the {self._num_documents} clips in "
            f"{self.path}. Use larger shares, for example 4,1,1, or 0 for a part that is not wanted (1,0,0), or "
            f"prepare more clips."
        )


def build_clip_datasets(prefix: str, num_tokens: int, shares: List[float]) -> List[Any]:
    """Return Megatron-core's datasets of the training, validation and test documents; None for a share of 0.

    Each sample is one document of `num_tokens` tokens, in the order of the file.
    """
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    class ClipDataset(GPTDataset):
        """Every document is one sample, so the index is known: nothing is cached that could be of other files."""

        def _build_document_sample_shuffle_indices(self):
            # Row k is where sample k begins: at the end of the document before it.
            count = len(self.indices)
            starts = np.stack([np.arange(-1, count), np.full(count + 1, num_tokens)], axis=1)
            starts[0] = 0
            return self.indices, starts, np.arange(count)

    config = GPTDatasetConfig(
        random_seed=0,
        sequence_length=num_tokens,
        blend=([prefix], None),
        split=",".join(str(share) for share in shares),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        # The last position has no label: the token after it is of another video.
        add_extra_token_to_sequence=False,
        tokenizer=_IdsWithoutText(),
    )
    return BlendedMegatronDatasetBuilder(ClipDataset, [None] * 3, lambda: True, config).build()


class _IdsWithoutText:
    """What GPTDataset asks of a tokenizer: ids are read from the file, and no special id may equal one of them."""

    vocab_size = VOCABULARY_SIZE
    # Below every int32, so that a damaged id is never taken for padding; two values, or Megatron-core replaces `pad`.
    pad, eod = -(2**31) - 1, -(2**31) - 2
    unique_identifiers = {"class": "video tokens"}


def _common_length(prefixes: List[str], lengths: List[np.ndarray]) -> int:
    """Return the length that all documents have. Raises DataError naming the first that differs."""
    first = next((int(of_folder[0]) for of_folder in lengths if len(of_folder)), None)
    if first is None:
        raise DataError(f"{prefixes[0]}.idx: lists no document. Prepare the folder again from videos that can be read.")
    for prefix, of_folder in zip(prefixes, lengths):
        different = np.flatnonzero(of_folder != first)
        if len(different):
            document = int(different[0])
            raise DataError(
                f"{prefix}.idx: document {document} has {of_folder[document]} tokens, the first of the dataset has "
                f"{first}. Every clip of a run has one grid: prepare all with one size, length and compression factor."
            )
    return first


def _parse_split(text: str) -> List[float]:
    """Read `98,1,1`. Raises ConfigError unless it is three shares of which the first is above 0."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or not 0 < shares[0] < float("inf"):
        raise ConfigError(
            f"data.split_string={text} is not three numbers, the shares of training (above 0), validation and test. "
            f"Use for example 98,1,1."
        )
    return shares


def _samples(datasets: "tuple[Any, ...]") -> "List[tuple[Any, int]]":
    return [(dataset, place) for dataset in datasets if dataset is not None for place in range(len(dataset))]


def _first_bytes(prefix: str) -> str:
    """Tell files of equal size apart without reading them whole."""
    with open(f"{prefix}.bin", "rb") as file:
        return hashlib.sha256(file.read(1 << 16)).hexdigest()
