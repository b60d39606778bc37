# SPDX-License-Identifier: Apache-2.0
"""Recordings of several cameras: reading them, and choosing frames that belong together.

The folder layout is
    videos/<camera>/<clip>.mp4
    captions/<camera>/<clip>.txt      optional; captions/<clip>.txt is a caption for all cameras
    timestamps/<camera>/<clip>.json   optional; microseconds, one number per frame. Without it, the times of the mp4
    trajectory/<clip>.json            optional; see cosmos1/data/geometry/trajectories.py
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Literal, Optional, Tuple, Union

import numpy as np

from cosmos1.data.geometry.trajectories import EgoTrack, read_track
from cosmos1.data.sources.captions import read_caption_file
from cosmos1.data.video import count_frames, iterate_frames, probe_video, resize_frames
from cosmos1.data.video_frames import open_video
from cosmos1.errors import DataError

# A text, or the rows (n, 1024) that a text encoder made of it.
Caption = Union[str, np.ndarray]
FrameSelection = Literal["nearest", "consecutive"]
STRIDE_TOLERANCE = 0.02
# How far the nearest frame may be, in frames of the recording: one, and a tenth for stamps that are rounded or jitter.
REACH = 1.1
# Between the stated and the container's time from frame to frame. Another unit is a factor of 1000 off.
LARGEST_RATE_ERROR = 2.0


@dataclass(frozen=True)
class MultiviewClip:
    """One recording, by camera name."""

    name: str
    timestamps: Dict[str, np.ndarray]
    """(N,) int64 per camera, microseconds."""
    captions: Dict[str, Optional[Caption]]
    open_videos: "Callable[[], AbstractContextManager[Dict[str, Path]]]"
    """Gives the video file of each camera for the time of a `with` block."""
    track: Optional[EgoTrack] = None
    track_problem: str = ""
    """Why the recorded ego motion cannot be used; empty where it can, or where none was recorded."""
    window: Optional[Tuple[int, int]] = None
    """First and last frame of the first camera that the captions describe; None: all."""


@dataclass(frozen=True)
class FramePicks:
    """Which frames of each camera make up one sample."""

    indices: np.ndarray
    """(V, F) frame numbers."""
    frame_repeat: np.ndarray
    """(V,) float32: how many of the F frames of a view repeat the one before."""
    start_us: int
    """Time of the first frame of the first camera."""


def list_clips(folder: Path, cameras: List[str]) -> List[str]:
    """Names of the clips of which any of these cameras has a video, sorted. Raises DataError when there is none."""
    names = {path.stem for camera in cameras for path in (folder / "videos" / camera).glob("*.mp4")}
    if not names:
        found = sorted(path.name for path in (folder / "videos").glob("*") if path.is_dir())
        raise DataError(
            f"--dataset_path {folder}: no videos/<camera>/<clip>.mp4 of the rig's cameras ({', '.join(cameras)}); cameras "
            f"found: {', '.join(found) or 'none'}. Give the folder that holds videos/, or another --rig."
        )
    return sorted(names)


def read_folder_clip(folder: Path, name: str, cameras: List[str]) -> MultiviewClip:
    """Read what the folder layout holds of a clip, without its frames.

    Raises DataError for a camera without video and for what `view_timestamps` finds. Ego motion that cannot be used is
    no error here: `track_problem` says why.
    """
    videos = {camera: folder / "videos" / camera / f"{name}.mp4" for camera in cameras}
    present = [camera for camera in cameras if videos[camera].exists()]
    if len(present) < len(cameras):
        absent = ", ".join(camera for camera in cameras if camera not in present)
        raise DataError(f"clip {name}: no video of {absent}; cameras present: {', '.join(present)}.")
    stated = {}
    for camera in cameras:
        path = folder / "timestamps" / camera / f"{name}.json"
        stated[camera] = read_timestamps(path.read_bytes(), str(path)) if path.exists() else None
    trajectory = folder / "trajectory" / f"{name}.json"
    track, problem = usable_track(lambda: read_track(trajectory)) if trajectory.exists() else (None, "")
    return MultiviewClip(
        name,
        view_timestamps(name, videos, stated),
        {camera: _caption(folder, camera, name) for camera in cameras},
        lambda: nullcontext(videos),
        track,
        problem,
    )


def view_timestamps(
    clip: str, videos: Dict[str, Path], stated: Dict[str, Optional[np.ndarray]]
) -> Dict[str, np.ndarray]:
    """Time stamps (N,) of each camera's video, from what is stated where there is something.

    Raises DataError: videos of different size or rate, and what `check_timestamps` and `check_unit` find.
    """
    infos = {camera: probe_video(path) for camera, path in videos.items()}
    reference, first = next(iter(infos.items()))
    timestamps = {}
    for camera, info in infos.items():
        if (info.height, info.width) != (first.height, first.width) or abs(info.fps - first.fps) > 0.01 * first.fps:
            raise DataError(
                f"clip {clip}: {camera} is {info.height} x {info.width} at {info.fps:g} fps, {reference} is "
                f"{first.height} x {first.width} at {first.fps:g} fps. All views of a clip need one size and rate."
            )
        num_frames = info.num_frames or count_frames(info.path)
        times = presentation_times(info.path) if stated[camera] is None else stated[camera]
        timestamps[camera] = check_timestamps(clip, camera, times, num_frames)
        if stated[camera] is not None:
            check_unit(clip, camera, times, info.fps)
    return timestamps


def presentation_times(path: Path) -> np.ndarray:
    """Microseconds (N,) int64 at which the container shows its frames, from its first on; nothing is decoded.

    A camera that dropped frames has a video of uneven times, so k / fps would not do. Raises DataError where the
    container states none.
    """
    import av

    try:
        container, stream = open_video(path)
        with container:
            microseconds_per_tick = float(1_000_000 * stream.time_base)
            # Packets come in the order of decoding; those that an edit list hides never become frames.
            shown = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot be read to its end ({error.strerror}). Get the clip again.") from error
    if None in shown:
        raise DataError(f"{path}: states no time for {shown.count(None)} frames. Write timestamps, one per frame.")
    ticks = np.sort(np.array(shown, np.int64))
    return np.rint((ticks - ticks[:1]) * microseconds_per_tick).astype(np.int64)


def usable_track(read: "Callable[[], EgoTrack]") -> "Tuple[Optional[EgoTrack], str]":
    """The ego motion, or None and why it cannot be used: a clip is worth training on without it."""
    try:
        return read(), ""
    except DataError as error:
        return None, str(error)


def _caption(folder: Path, camera: str, name: str) -> Optional[str]:
    for path in (folder / "captions" / camera / f"{name}.txt", folder / "captions" / f"{name}.txt"):
        text = read_caption_file(path) if path.exists() else ""
        if text:
            return text
    return None


def read_timestamps(content: bytes, where: str) -> np.ndarray:
    """Microseconds (N,) int64 of a list of numbers, or of objects that hold a "timestamp". Raises DataError."""
    try:
        entries = json.loads(content)
        times = [entry["timestamp"] if isinstance(entry, dict) else entry for entry in entries]
        return np.array([int(time) for time in times], np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: a list of time stamps in microseconds is needed ({error!r}).") from error


def check_timestamps(clip: str, camera: str, timestamps: np.ndarray, num_frames: int) -> np.ndarray:
    """The time stamps (N,). Raises DataError unless they increase, one per frame."""
    if len(timestamps) != num_frames:
        raise DataError(
            f"clip {clip}: {camera} has {len(timestamps)} time stamps but {num_frames} frames. They must belong to the "
            f"same recording: get the clip again."
        )
    falling = np.flatnonzero(np.diff(timestamps) <= 0)
    if len(falling):
        raise DataError(
            f"clip {clip}: time stamps of {camera} do not increase at frame {int(falling[0]) + 1}. Whole microseconds are "
            f"needed."
        )
    return timestamps


def check_unit(clip: str, camera: str, timestamps: np.ndarray, fps: float) -> None:
    """Raise DataError unless time stamps (N,), read as microseconds, are about 1 / `fps` apart."""
    step, period = _period(timestamps, fps), 1e6 / fps
    if not 1 / LARGEST_RATE_ERROR <= step / period <= LARGEST_RATE_ERROR:
        raise DataError(
            f"clip {clip}: time stamps of {camera} are {step:g} apart, but its video has {fps:g} frames per second, that is "
            f"one every {period:g} microseconds. Write the time stamps in microseconds, or the video at its true rate."
        )


def reference_times(
    clip: MultiviewClip, cameras: List[str], num_frames: int, fps: float, selection: FrameSelection
) -> np.ndarray:
    """Start times (S,) of the chunks that fit into the time that all cameras share, in microseconds.

    Raises DataError when the cameras share no time, or less than one chunk.
    """
    begin = max(int(clip.timestamps[camera][0]) for camera in cameras)
    end = min(int(clip.timestamps[camera][-1]) for camera in cameras)
    if begin > end:
        ranges = "; ".join(
            f"{camera} {clip.timestamps[camera][0] / 1e6:.3f} to {clip.timestamps[camera][-1] / 1e6:.3f} s"
            for camera in cameras
        )
        raise DataError(f"clip {clip.name}: the cameras share no time ({ranges}).")
    times = clip.timestamps[cameras[0]]
    if clip.window is not None:
        times = times[clip.window[0] : clip.window[1] + 1]
    times = times[(times >= begin) & (times <= end)]
    if selection == "nearest":
        # Half a frame of tolerance: the last reference time may fall between the last two frames. It stays within the
        # reach of `_choose`, for recordings of a much higher rate.
        reach = min(_period(clip.timestamps[camera], fps) for camera in cameras)
        last = (times[-1] if len(times) else begin) + min(0.5e6 / fps, reach)
        starts = times[times + (num_frames - 1) * 1e6 / fps <= last]
    else:
        starts = times[: max(len(times) - (num_frames - 1) * _stride(clip, cameras[0], fps), 0)]
    if len(starts) == 0:
        raise DataError(
            f"clip {clip.name}: the cameras share {len(times)} frames of {cameras[0]}, too few for a chunk of {num_frames} "
            f"frames at {fps:g} fps; skipped."
        )
    return starts


def pick_frames(
    clip: MultiviewClip, cameras: List[str], start_us: int, num_frames: int, fps: float, selection: FrameSelection
) -> FramePicks:
    """Choose the frames of one chunk.

    "nearest": for t0, t0 + 1/fps, ... the nearest frame of every camera: true time. "consecutive": every n-th frame of
    the first camera, n = int(its rate / fps), and of the others the first frame at or after that time; the released
    models were trained so, with 30 frames per second called 24. Raises DataError where a recording has a gap.
    """
    if selection == "nearest":
        times = start_us + np.arange(num_frames) * 1e6 / fps
    else:
        own = clip.timestamps[cameras[0]]
        first = int(np.searchsorted(own, start_us))
        stride = _stride(clip, cameras[0], fps)
        times = own[first : first + num_frames * stride : stride][:num_frames]
        _check_steps(clip, cameras[0], times, stride * _period(own, fps))
    indices = np.stack([_choose(clip, camera, times, fps, selection) for camera in cameras])
    repeats = (np.diff(indices, axis=1) == 0).sum(axis=1).astype(np.float32)
    return FramePicks(indices, repeats, int(start_us))


def _period(timestamps: np.ndarray, fps: float) -> float:
    """Microseconds from frame to frame of a whole recording; the median, which gaps do not change."""
    return float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 1e6 / fps


def _stride(clip: MultiviewClip, camera: str, fps: float) -> int:
    """How many frames of a recording to advance per frame of a chunk.

    Rates a little off a multiple count as that multiple: 29.97 frames per second for 15 are every second frame.
    """
    ratio = 1e6 / (fps * _period(clip.timestamps[camera], fps))
    nearest = round(ratio)
    return nearest if nearest and abs(ratio / nearest - 1) <= STRIDE_TOLERANCE else max(int(ratio), 1)


def _choose(clip: MultiviewClip, camera: str, times: np.ndarray, fps: float, selection: FrameSelection) -> np.ndarray:
    """Frame numbers (F,) of a camera for these times. Raises DataError where there is no frame near one of them."""
    timestamps, period = clip.timestamps[camera], _period(clip.timestamps[camera], fps)
    chosen = np.searchsorted(timestamps, times).clip(0, len(timestamps) - 1)
    # The frame at or after a time is a whole period away where the nearest is half a period away.
    limit = 2 * REACH * period
    if selection == "nearest":
        before, limit = (chosen - 1).clip(0), REACH * period
        chosen = np.where(times - timestamps[before] <= timestamps[chosen] - times, before, chosen)
    distances = np.abs(timestamps[chosen] - times)
    worst = int(distances.argmax())
    if distances[worst] > limit:
        raise DataError(
            f"clip {clip.name}: {camera} has no frame within {limit / 1e6:.3f} s of {times[worst] / 1e6:.3f} s: frame "
            f"{chosen[worst]} is {distances[worst] / 1e6:.3f} s away. The recording has a gap; cut the clip there."
        )
    return chosen


def _check_steps(clip: MultiviewClip, camera: str, times: np.ndarray, step: float) -> None:
    """Raise DataError when the frames of a chunk do not follow one another at an even pace."""
    steps = np.diff(times)
    if len(steps) and steps.max() > 2 * REACH * step:
        raise DataError(
            f"clip {clip.name}: {camera} has a gap of {steps.max() / 1e6:.3f} s at {times[steps.argmax()] / 1e6:.3f} s, "
            f"{step / 1e6:.3f} s lie between its frames elsewhere. Cut the clip there."
        )


def read_views(clip: MultiviewClip, cameras: List[str], picks: FramePicks, height: int, width: int) -> np.ndarray:
    """Frames (V, F, height, width, 3) uint8 of a chunk, stretched to this size. Raises DataError for damaged videos."""
    views = []
    with clip.open_videos() as videos:
        for camera, indices in zip(cameras, picks.indices):
            views.append(_read_frames(videos[camera], indices, height, width))
    return np.stack(views)


def _read_frames(path: Path, indices: np.ndarray, height: int, width: int) -> np.ndarray:
    wanted, last = set(indices.tolist()), int(indices.max())
    found = {}
    for number, frame in enumerate(iterate_frames(path)):
        if number in wanted:
            found[number] = resize_frames(frame[None], height, width)[0]
        if number == last:
            break
    if last not in found:
        raise DataError(f"{path}: frame {last} is needed, only {number + 1} can be decoded. Get the clip again.")
    return np.stack([found[index] for index in indices.tolist()])
