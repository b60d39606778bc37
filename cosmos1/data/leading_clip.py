# SPDX-License-Identifier: Apache-2.0
"""The clips of the autoregressive networks: the first frames of each video, scaled to cover the target, cropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosmos1.data.clip_plan import usable_videos
from cosmos1.data.video import iterate_frames
from cosmos1.errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PlannedClip:
    """One source video. A video that is too short has its last frame repeated."""

    path: Path
    place: int
    """In the list of the paths that were given."""
    num_source_frames: int
    num_repeated: int


def plan_leading_clips(paths: list[Path], num_frames: int, strict: bool) -> tuple[list[PlannedClip], list[str]]:
    """Probe every video; return the clips and one line per video that is left out because it cannot be read.

    Raises DataError when none is left; with `strict`, at the first that is left out or shorter than `num_frames`.
    """
    usable, left_out = usable_videos(paths, num_frames if strict else 1, strict)
    clips = [
        PlannedClip(info.path, place, length, num_repeated=max(num_frames - length, 0))
        for place, info, length in usable
    ]
    return clips, left_out


def read_leading_frames(path: Path, num_frames: int) -> np.ndarray:
    """Return the first frames (num_frames, H, W, 3) uint8; a shorter video repeats its last. Raises DataError."""
    frames = list(islice(iterate_frames(path), num_frames))
    if not frames:
        raise DataError(f"{path}: no frame can be decoded; the file is probably damaged. Get it again.")
    return np.stack(frames + frames[-1:] * (num_frames - len(frames)))


def cover_and_crop(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Turn frames (T, H, W, 3) uint8 into a float32 clip (1, 3, T, height, width) in [-1, 1].

    The picture is scaled by the larger of the two ratios, sides rounded up (bilinear with antialiasing, without
    rounding the values), and cut at the centre; its proportions are kept.
    """
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    source_height, source_width = pixels.shape[2:]
    # As fractions: in floating point 640 / 480 * 480 may end above 640, and rounding up would add a row.
    if height * source_width >= width * source_height:
        size = (height, math.ceil(source_width * height / source_height))
    else:
        size = (math.ceil(source_height * width / source_width), width)
    if size != (source_height, source_width):
        pixels = interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    cropped = pixels[:, :, top : top + height, left : left + width]
    return cropped.permute(1, 0, 2, 3)[None].contiguous() / 127.5 - 1.0
