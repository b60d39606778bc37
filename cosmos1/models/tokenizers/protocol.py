# SPDX-License-Identifier: Apache-2.0
"""What every continuous video tokenizer offers.

Legend of the shapes: B batch, C channels, T pixel frames, H W pixels, t latent frames, h w latent grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import torch


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


def check_video_shape(tokenizer: VideoTokenizer, video_BCTHW: torch.Tensor) -> None:
    """Raise ConfigError unless the video is (B, 3, 1 + n * temporal_factor, multiples of spatial_factor)."""
    shape = tuple(video_BCTHW.shape)
    if len(shape) != 5 or shape[1] != 3:
        raise ConfigError(f"tokenizer {tokenizer.name}: video has shape {shape}, (batch, 3, T, H, W) is needed.")
    num_frames, height, width = shape[2:]
    if (num_frames - 1) % tokenizer.temporal_factor:
        lower = (num_frames - 1) // tokenizer.temporal_factor * tokenizer.temporal_factor + 1
        raise ConfigError(
            f"tokenizer {tokenizer.name}: {num_frames} frames, but 1 + a multiple of {tokenizer.temporal_factor} is "
            f"needed. Use {lower} or {lower + tokenizer.temporal_factor}."
        )
    if height % tokenizer.spatial_factor or width % tokenizer.spatial_factor:
        raise ConfigError(
            f"tokenizer {tokenizer.name}: pictures of {height} x {width}, but height and width must be multiples of "
            f"{tokenizer.spatial_factor}."
        )
