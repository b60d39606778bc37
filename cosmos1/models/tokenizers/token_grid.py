# SPDX-License-Identifier: Apache-2.0
"""From the shape of a clip and the compression of a tokenizer to the grid of tokens; checks of clips and of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

PUBLISHED_COMPRESSIONS = ("8,16,16", "4,8,8")


def parse_compression(text: str) -> tuple[int, int, int]:
    """Read `8,16,16`: pixel frames, rows and columns per token. Raises ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(
            f'the compression factor "{text}" is not three whole numbers (frames, rows, columns per token). Use '
            f"{' or '.join(PUBLISHED_COMPRESSIONS)}, the factors of the published tokenizers, or others of that form."
        )
    frames, rows, columns = (int(part) for part in parts)
    return frames, rows, columns


def latent_grid(num_frames: int, height: int, width: int, compression: tuple[int, int, int]) -> list[int]:
    """Return the token grid [T', H', W'] of a clip: the first frame alone, then groups of `compression[0]` frames.

    Raises ConfigError with the nearest shapes that fit.
    """
    per_frame, per_row, per_column = compression
    if num_frames < 1 or (num_frames - 1) % per_frame:
        lower = max((num_frames - 1) // per_frame, 0) * per_frame + 1
        raise ConfigError(
            f"{num_frames} frames: a tokenizer that joins {per_frame} frames needs 1 + a multiple of {per_frame}. Use "
            f"{lower} or {lower + per_frame}."
        )
    for side, value, factor in (("height", height, per_row), ("width", width, per_column)):
        if value < factor or value % factor:
            lower = max(value // factor * factor, factor)
            raise ConfigError(f"{side} {value} is not a multiple of {factor}. Use {lower} or {lower + factor}.")
    return [1 + (num_frames - 1) // per_frame, height // per_row, width // per_column]


def clip_shape(grid: list[int], compression: tuple[int, int, int]) -> list[int]:
    """Return frames, height and width of the clip that a token grid decodes to."""
    return [1 + (grid[0] - 1) * compression[0], grid[1] * compression[1], grid[2] * compression[2]]


def check_clip(tokenizer_name: str, compression: tuple[int, int, int], video_BCTHW: torch.Tensor) -> list[int]:
    """Return the token grid [t, h, w] of a video. Raises ConfigError unless it is (B, 3, T, H, W) of fitting sizes."""
    shape = tuple(video_BCTHW.shape)
    if len(shape) != 5 or shape[1] != 3:
        raise ConfigError(f"tokenizer {tokenizer_name}: video has shape {shape}, (batch, 3, T, H, W) is needed.")
    try:
        return latent_grid(*shape[2:], compression)
    except ConfigError as error:
        raise ConfigError(f"tokenizer {tokenizer_name}: {error}") from error


def check_ids(ids: torch.Tensor, vocab_size: int, where: str) -> None:
    """Raise DataError naming `where` unless every id is in 0..vocab_size-1."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        num_outside = int(((ids < 0) | (ids >= vocab_size)).sum())
        raise DataError(
            f"{where}: {num_outside} of {ids.numel()} token ids are outside 0..{vocab_size - 1} (smallest {low}, largest "
            f"{high}). The tokens are of another tokenizer or damaged: prepare them again."
        )
