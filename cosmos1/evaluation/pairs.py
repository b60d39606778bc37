# SPDX-License-Identifier: Apache-2.0
"""Which generated video is compared with which reference video, and their frames brought to one shape."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

from cosmos1.data.command_line import first_names
from cosmos1.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Alignment:
    """What may be done to videos that differ; by default nothing, and videos that differ are refused."""

    trim: bool = False
    """Compare the first frames of the longer video with the shorter one."""
    resize: bool = False
    """Stretch the generated pictures to the size of the reference."""
    num_frames: Optional[int] = None
    """Compare only this many frames from the start of both; None: all."""


@dataclass(frozen=True)
class VideoPair:
    """Two videos of one name, and the shape in which they are compared: that of the reference, and both lengths."""

    name: str
    generated: Path
    reference: Path
    num_frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True)
class FoundPairs:
    """Pairs in name order, and the names that only one folder has."""

    pairs: List[VideoPair]
    missing: List[str]
    """In the reference folder only."""
    extra: List[str]
    """In the generated folder only."""
    notes: List[str]
    """What a reader of the numbers must know, one sentence each."""


def find_pairs(generated_dir: Path, reference_dir: Path, alignment: Alignment) -> FoundPairs:
    """Match the *.mp4 of two folders by file name and check every pair before any metric is computed.

    Raises ConfigError when the folders are one and the same or `num_frames` is below 1; DataError when a folder is
    missing or holds no mp4, when no name is in both, when a file cannot be read, or when videos of one name differ in
    a way that `alignment` does not allow (all such pairs are named).
    """
    if generated_dir.resolve() == reference_dir.resolve():
        raise ConfigError(f"--generated and --reference are the same folder, {generated_dir}; give two folders")
    if alignment.num_frames is not None and alignment.num_frames < 1:
        raise ConfigError(f"--num_frames {alignment.num_frames}: at least 1 frame is needed")
    generated, reference = (
        _names(folder, option) for folder, option in ((generated_dir, "--generated"), (reference_dir, "--reference"))
    )
    common = sorted(generated & reference)
    if not common:
        raise DataError(
            f"no file name is both in --generated {generated_dir} ({first_names(sorted(generated))}) and in --reference "
            f"{reference_dir} ({first_names(sorted(reference))}). Give each generated video the file name of its reference."
        )
    pairs, problems, notes = [], [], []
    for name in common:
        pair, found_problems, note = _check_pair(generated_dir / name, reference_dir / name, alignment)
        pairs.append(pair)
        problems += found_problems
        notes += note
    if problems:
        raise DataError("\n".join(["these videos cannot be compared:", *problems]))
    return FoundPairs(pairs, sorted(reference - generated), sorted(generated - reference), notes)


def read_pair(pair: VideoPair) -> Tuple["np.ndarray", "np.ndarray"]:
    """Frames (T, H, W, 3) uint8 of the generated and of the reference video, of the pair's shape.

    Raises DataError when a file is damaged or gives fewer frames than it declares.
    """
    from cosmos1.data.video import resize_frames

    generated, reference = (_read_frames(path, pair.num_frames) for path in (pair.generated, pair.reference))
    return resize_frames(generated, pair.height, pair.width), reference


def _names(folder: Path, option: str) -> "set[str]":
    if not folder.is_dir():
        raise DataError(f"{option} {folder}: there is no such folder. Give the folder that holds the mp4 files.")
    names = {path.name for path in folder.iterdir() if path.suffix == ".mp4" and not path.name.startswith(".")}
    if not names:
        raise DataError(f"{option} {folder}: no *.mp4 directly inside. Give the folder that holds the mp4 files.")
    return names


def _check_pair(generated: Path, reference: Path, alignment: Alignment) -> Tuple[VideoPair, List[str], List[str]]:
    """The pair as it will be compared, what forbids to compare it, and what is worth a note."""
    from cosmos1.data.video import count_frames, probe_video

    first, second = probe_video(generated), probe_video(reference)
    lengths = [info.num_frames or count_frames(info.path) for info in (first, second)]
    problems, notes = [], []
    if (first.height, first.width) != (second.height, second.width) and not alignment.resize:
        problems.append(
            f"  {generated.name}: generated {first.height} x {first.width}, reference {second.height} x "
            f"{second.width}. Add --resize to stretch the generated one to the reference's size."
        )
    num_frames = alignment.num_frames or min(lengths)
    if num_frames > min(lengths):
        problems.append(
            f"  {generated.name}: --num_frames {num_frames}, but there are only {min(lengths)} in one of both"
        )
    elif lengths[0] != lengths[1] and not (alignment.trim or alignment.num_frames):
        problems.append(
            f"  {generated.name}: generated {lengths[0]} frames, reference {lengths[1]}. Add --trim to compare the "
            f"first {min(lengths)}."
        )
    if abs(first.fps - second.fps) > 0.01 * second.fps:
        notes.append(
            f"{generated.name}: generated at {first.fps:g} frames per second, reference at {second.fps:g}; frame n is "
            f"compared with frame n, so the same motion is compared at different moments"
        )
    return (
        VideoPair(generated.name, generated, reference, num_frames, second.height, second.width, second.fps),
        problems,
        notes,
    )


def _read_frames(path: Path, num_frames: int) -> "np.ndarray":
    import numpy as np

    from cosmos1.data.video import iterate_frames

    frames = list(islice(iterate_frames(path, allow_grey=True), num_frames))
    if len(frames) < num_frames:
        raise DataError(f"{path}: {len(frames)} frames can be decoded, {num_frames} are needed. Get the file again.")
    return np.stack(frames)
