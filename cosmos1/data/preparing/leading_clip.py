# SPDX-License-Identifier: Apache-2.0
"""The clips of the autoregressive networks: the first frames of each video."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from cosmos1.data.sources.clip_plan import usable_videos
from cosmos1.data.video import iterate_frames
from cosmos1.errors import DataError


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
