# SPDX-License-Identifier: Apache-2.0
"""Which clips of which videos a preparation program will encode, settled before anything is written."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cosmos1.data.command_line import use_each
from cosmos1.data.files import check_names
from cosmos1.data.video import VideoInfo, count_frames, probe_video
from cosmos1.errors import DataError

OTHER_VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".webm", ".m4v", ".mp4")


@dataclass(frozen=True)
class DescribedVideo:
    """One source video and its text."""

    path: Path
    prompt: str
    has_caption: bool
    """Whether the prompt is the video's own; otherwise it is the one for all videos without, or empty."""
    text_rows: Path | None = None
    """The prompt as T5 rows (data/text_rows.py); None: it is still to be encoded."""


@dataclass(frozen=True)
class PlannedVideo:
    """One source video and the samples that it gives: sample `first_index + k` starts at frame `starts[k]`."""

    info: VideoInfo
    prompt: str
    starts: tuple[int, ...]
    """In rising order."""
    first_index: int
    source_name: str = ""
    """What to record as the source; empty: the file's name."""
    text_rows: Path | None = None
    """The prompt as T5 rows; None: it is still to be encoded."""


def list_mp4_files(folder: Path, option: str = "--dataset_path") -> list[Path]:
    """Return the *.mp4 (or *.MP4) directly inside a folder, in name order.

    Raises DataError naming `option` when there is none, and for a name that is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{option} {folder}: there is no such folder. Give the folder that holds the videos.")
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(path for path in files if path.suffix.lower() == ".mp4")
    if not paths:
        others = sum(path.suffix.lower() in OTHER_VIDEO_SUFFIXES for path in folder.rglob("*"))
        raise DataError(
            f"{option} {folder}: no *.mp4 directly inside (folders inside are not searched); {others} other "
            f"video files were seen. Move or convert them to .mp4 in this folder."
        )
    check_names(paths)
    return paths


def plan_videos(
    videos: list[DescribedVideo], num_frames: int, num_chunks: int, seed: int, strict: bool
) -> tuple[list[PlannedVideo], list[str]]:
    """Probe every video and draw `num_chunks` start frames for each, uniformly and with replacement.

    The starts depend on the seed and the file's name. Returns the plan and one line per video that is left out
    (unreadable, or shorter than `num_frames`). Raises DataError when no video is left; with `strict`, at the first
    that is left out.
    """
    usable, left_out = usable_videos([video.path for video in videos], num_frames, strict)
    planned = []
    for number, (index, info, length) in enumerate(usable):
        starts = draw_starts(info.path.name, length - num_frames, num_chunks, seed)
        text, rows = videos[index].prompt, videos[index].text_rows
        planned.append(PlannedVideo(info, text, starts, first_index=number * num_chunks, text_rows=rows))
    return planned, left_out


def usable_videos(
    paths: list[Path], num_frames: int, strict: bool
) -> tuple[list[tuple[int, VideoInfo, int]], list[str]]:
    """Probe every video. Return place in `paths`, facts and number of frames of each that has at least `num_frames`.

    Frames that an edit list hides do not count. Also returns one line per video that is left out. Raises DataError
    when no video is left; with `strict`, at the first that is left out.
    """
    lengths: list[tuple[int, str]] = []

    def probe(place: int) -> tuple[int, VideoInfo, int]:
        path = paths[place]
        info = probe_video(path)
        length = info.num_frames or count_frames(path)
        lengths.append((length, path.name))
        if length < num_frames:
            raise DataError(f"{path}: {length} frames, a chunk needs {num_frames}; skipped.")
        return place, replace(info, num_frames=length), length

    usable, left_out = use_each(range(len(paths)), probe, strict)
    if not usable:
        longest = max(lengths, default=(0, ""))
        raise DataError("\n".join([*left_out, _nothing_left(len(paths), longest)]))
    return usable, left_out


def repeated_chunk_warnings(planned: list[PlannedVideo], num_frames: int) -> list[str]:
    """Return a line for each video that is too short to give that many different chunks."""
    warnings = []
    for video in planned:
        distinct = video.info.num_frames - num_frames + 1
        if 0 < distinct < len(video.starts):
            warnings.append(
                f"{video.info.path}: {video.info.num_frames} frames give {distinct} different chunks, --num_chunks "
                f"asks for {len(video.starts)}; some will be equal."
            )
    return warnings


def draw_starts(name: str, last_start: int, count: int, seed: int) -> tuple[int, ...]:
    """Draw `count` start frames in 0..last_start, in rising order; they depend on the seed and the source's name."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    starts = np.random.RandomState([seed % 2**32, digest]).randint(0, last_start + 1, count)
    return tuple(sorted(int(start) for start in starts))


def _nothing_left(num_videos: int, longest: tuple[int, str]) -> str:
    if longest[0] == 0:
        return f"{num_videos} of {num_videos} videos cannot be used. Replace them."
    fitting = max((longest[0] - 1) // 8 * 8 + 1, 1)
    return (
        f"{num_videos} of {num_videos} videos cannot be used, nothing to do. The longest is {longest[1]} with "
        f"{longest[0]} frames: use --num_frames {fitting} (or lower, 8k+1) or longer videos."
    )
