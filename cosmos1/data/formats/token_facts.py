# SPDX-License-Identifier: Apache-2.0
"""What a folder of video tokens says about itself, and the sequence of ids that Video2World trains on."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from cosmos1.data.files import read_facts
from cosmos1.errors import DataError
from cosmos1.models.autoregressive.config import GPTConfig

VOCABULARY_SIZE = GPTConfig.vocab_size


@dataclass(frozen=True)
class TokenFacts:
    """The content of dataset.json as far as it is there; folders of other programs have none."""

    tokenizer: Optional[str] = None
    compression: Optional[List[int]] = None
    latent_shape: Optional[List[int]] = None
    text_encoder: Optional[str] = None
    num_samples: Optional[int] = None
    """Samples that were planned."""
    plan_sha256: Optional[str] = None
    """Changes when the sources or the options of the preparation change."""

    def tokenizer_name(self) -> str:
        """Name the tokenizer for a log, with its compression factor."""
        factors = "x".join(str(factor) for factor in self.compression or [])
        return f"{self.tokenizer or 'not recorded'}{' ' + factors if factors else ''}"


def read_token_facts(folder: Path) -> TokenFacts:
    """Read dataset.json of a folder, if there is one. Raises DataError when it is not what this suite writes."""
    found = read_facts(folder, "Prepare the folder again.")
    facts = TokenFacts(**{name: found.get(name) for name in TokenFacts.__dataclass_fields__})
    for name in ("latent_shape", "compression"):
        value = getattr(facts, name)
        if value is not None and not _are_three_sizes(value):
            raise DataError(
                f"{folder / 'dataset.json'}: {name} is {value}, three whole numbers are needed. Prepare the folder again."
            )
    return facts


def describe_grid(facts: TokenFacts, num_tokens: int) -> str:
    """Say which token grid the samples have, for the log of a run."""
    if facts.latent_shape is None:
        return f"{num_tokens} video tokens per sample, grid not recorded"
    return f"{' x '.join(str(size) for size in facts.latent_shape)} = {num_tokens} video tokens per sample"


def check_num_tokens(facts: TokenFacts, num_tokens: int, where: str) -> None:
    """Raise DataError unless a sample of `num_tokens` tokens fits the grid that dataset.json states."""
    if facts.latent_shape is not None and math.prod(facts.latent_shape) != num_tokens:
        raise DataError(
            f"{where} has {num_tokens} video tokens, but dataset.json states the grid {facts.latent_shape}, that is "
            f"{math.prod(facts.latent_shape)} tokens. The folder mixes preparations: prepare it again."
        )


def unigram_entropy(tokens: np.ndarray) -> float:
    """Return the entropy in nats of the frequencies of ids: the loss of a network that sees no other token."""
    counts = np.bincount(tokens.ravel())
    shares = counts[counts > 0] / tokens.size
    return float(-(shares * np.log(shares)).sum())


def video2world_layout(num_tokens: int, pad_to_multiple_of: int = 64) -> GPTConfig:
    """Return the Video2World settings for clips of so many tokens: special ids and sequence length."""
    return GPTConfig(video2world=True, latent_shape=[1, 1, num_tokens], pad_to_multiple_of=pad_to_multiple_of)


def video2world_ids(codes, pad_to_multiple_of: int = 64):
    """Return ids [L + 1] int64 of one clip: begin of video, its codes [n], and padding; inputs are ids[:-1].

    L is n + 1, rounded up to a multiple of `pad_to_multiple_of`; labels are ids[1:].
    """
    import torch

    layout = video2world_layout(len(codes), pad_to_multiple_of)
    ids = torch.full((layout.sequence_length + 1,), layout.padding_token, dtype=torch.int64)
    ids[0] = layout.begin_of_video
    ids[1 : len(codes) + 1] = codes
    return ids


def video2world_sample(codes, pad_to_multiple_of: int, position: int) -> Dict[str, Any]:
    """Return a sample of Video2World without its text: tokens and labels [S] int64, loss_mask [S], sample_position.

    Every code [n] counts; labels of padding are 0.
    """
    import torch

    ids = video2world_ids(codes, pad_to_multiple_of)
    is_video = torch.arange(len(ids) - 1) < len(codes)
    return {
        "tokens": ids[:-1],
        "labels": torch.where(is_video, ids[1:], 0),
        "loss_mask": is_video.float(),
        "sample_position": torch.tensor(position, dtype=torch.int64),
    }


def _are_three_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(n, int) and n > 0 for n in value)


def sequence_lengths(latent_shape: List[int]) -> Dict[str, int]:
    """Return the sequence length per family of networks for a token grid."""
    num_tokens = math.prod(latent_shape)
    return {"base": num_tokens, "Video2World": video2world_layout(num_tokens).sequence_length}
