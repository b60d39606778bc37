# SPDX-License-Identifier: Apache-2.0
"""Discrete video tokenizers by name, and what each of them offers.

Legend of the shapes: B batch, T pixel frames, H W pixels, t h w token grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cosmos1.errors import ConfigError
from cosmos1.models.tokenizers.video import unknown_name_message

if TYPE_CHECKING:
    import torch

DISCRETE_TOKENIZER_NAMES = ("dct_fsq", "cosmos_dv")


class DiscreteVideoTokenizer(Protocol):
    """Turns video into integer ids and back, both strictly causal in time.

    The first pixel frame becomes the first token frame; every further `compression[0]` frames become one more. The
    first k token frames depend on the pixel frames that they cover and on earlier ones only, and decode to these.
    """

    name: str
    compression: tuple[int, int, int]
    """Pixel frames, rows and columns per token."""
    vocab_size: int

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode RGB video (B, 3, T, H, W) in [-1, 1] to ids (B, t, h, w) int64. Raises ConfigError on bad sizes."""

    def decode(self, ids_BTHW: torch.Tensor) -> torch.Tensor:
        """Decode ids (B, t, h, w) to RGB video (B, 3, T, H, W) float32, about [-1, 1] and not clamped.

        Raises DataError for ids outside 0..vocab_size-1.
        """


def build_discrete_tokenizer(
    name: str,
    compression: tuple[int, int, int] = (8, 16, 16),
    encoder_path: str | None = None,
    decoder_path: str | None = None,
    device: str | torch.device = "cpu",
) -> DiscreteVideoTokenizer:
    """Make the discrete tokenizer called `name`.

    The paths are for "cosmos_dv": a .jit file, a folder that holds encoder.jit and decoder.jit, or a Hugging Face id;
    without one of them the tokenizer can only do the other half. Raises ConfigError for an unknown name and DataError
    when weights are missing.
    """
    if name == "dct_fsq":
        from cosmos1.models.tokenizers.discrete_dct import DiscreteDctTokenizer

        return DiscreteDctTokenizer(compression, device)
    if name == "cosmos_dv":
        from cosmos1.models.tokenizers.cosmos_dv import CosmosDvTokenizer

        return CosmosDvTokenizer(compression, encoder_path, decoder_path, device)
    raise ConfigError(unknown_name_message("discrete video tokenizer", name, DISCRETE_TOKENIZER_NAMES))
