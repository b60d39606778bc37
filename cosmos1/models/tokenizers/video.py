# SPDX-License-Identifier: Apache-2.0
"""What every continuous video tokenizer offers, and how one is chosen by name.

Legend of the shapes: B batch, C channels, T pixel frames, H W pixels, t latent frames, h w latent grid.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol

from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import torch

VIDEO_TOKENIZER_NAMES = ("dct", "cosmos_cv8x8x8")


class VideoTokenizer(Protocol):
    """Turns video into normalised latents (about zero mean and unit variance per channel) and back.

    The first pixel frame becomes the first latent frame; every further `temporal_factor` frames become one more. The
    latents are not multiplied by sigma_data: the training step multiplies, the sampler divides.
    """

    name: str
    latent_channels: int
    temporal_factor: int
    spatial_factor: int

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode RGB video (B, 3, T, H, W) in [-1, 1] to latents (B, C, t, h, w). Raises ConfigError on bad sizes."""

    def decode(self, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """Decode latents (B, C, t, h, w) to RGB video (B, 3, T, H, W), about [-1, 1] and not clamped."""


def build_video_tokenizer(
    name: str,
    path: str | None = None,
    num_frames: int = 121,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VideoTokenizer:
    """Make the tokenizer called `name`.

    `path` is the weight folder, for tokenizers that have weights. `num_frames` is the chunk length in pixel frames.
    `dtype` is that of the latents (and of the weights); None means float32 for "dct" and bfloat16 for the others.
    Raises ConfigError for an unknown name and DataError when weights are missing.
    """
    if name == "dct":
        from cosmos1.models.tokenizers.dct import DctTokenizer

        return DctTokenizer(device=device, dtype=dtype)
    if name == "cosmos_cv8x8x8":
        from cosmos1.models.tokenizers.cosmos_cv import load_cosmos_cv

        return load_cosmos_cv(path, num_frames=num_frames, device=device, dtype=dtype)
    raise ConfigError(unknown_name_message("video tokenizer", name, VIDEO_TOKENIZER_NAMES))


def unknown_name_message(kind: str, name: str, valid_names: tuple[str, ...]) -> str:
    """Say that `name` is not a `kind`, and which valid name is closest."""
    closest = difflib.get_close_matches(name, valid_names, n=1, cutoff=0.3)
    hint = f'; did you mean "{closest[0]}"?' if closest else "."
    return f'there is no {kind} "{name}"{hint} Valid names: {", ".join(valid_names)}.'
