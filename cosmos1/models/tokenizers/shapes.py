# SPDX-License-Identifier: Apache-2.0
"""Sizes of video that a tokenizer accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from cosmos1.models.tokenizers.video import VideoTokenizer


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
