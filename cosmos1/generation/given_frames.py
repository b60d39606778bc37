# SPDX-License-Identifier: Apache-2.0
"""The pictures that a generated video begins with."""

from pathlib import Path

import numpy as np

from cosmos1.data.pictures import decode_picture
from cosmos1.data.video import iterate_frames, read_video
from cosmos1.errors import ConfigError


def is_picture(path: str) -> bool:
    return Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def read_picture(path: str) -> np.ndarray:
    """A picture ``[H, W, 3]`` uint8, upright, and over white where it is transparent, as videos are read."""
    return decode_picture(Path(path), path, "Give another picture.", upright=True)


def read_given_frames(path: str, count: int, from_start: bool = False) -> np.ndarray:
    """The last (or first) ``count`` frames of a video ``[count, H, W, 3]`` uint8, or a picture as one frame.

    Raises ConfigError where the video has fewer.
    """
    if count < 1:
        raise ConfigError(f"--num_input_frames {count}: use 1 or more")
    if is_picture(path):
        return read_picture(path)[None]
    frames = read_video(path)
    if len(frames) < count:
        raise ConfigError(f"{path} has {len(frames)} frames, --num_input_frames asks for {count}")
    # A copy, so that the rest of the video is freed.
    return (frames[:count] if from_start else frames[-count:]).copy()


def read_views(paths: list[str], count: int) -> list[np.ndarray]:
    """The first ``count`` frames of each view, or its picture. Raises ConfigError where they are not equally many."""
    views = [read_given_frames(path, count, from_start=True) for path in paths]
    lengths = [len(frames) for frames in views]
    if len(set(lengths)) > 1:
        raise ConfigError(f"--conditioned_images: {lengths} frames; give videos alone, or pictures alone")
    return views


def first_picture(path: str) -> np.ndarray:
    """The picture ``[H, W, 3]`` uint8 of an image file, or the first frame of a video."""
    return read_picture(path) if is_picture(path) else next(iterate_frames(path))
