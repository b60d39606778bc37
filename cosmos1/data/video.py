# SPDX-License-Identifier: Apache-2.0
"""Reading and writing video files, and the map between pixels in bytes and pixels as the networks see them.

Frames are numpy arrays (T, H, W, 3), uint8, RGB, upright (the turn or mirror recorded in the container is applied).
What cannot be read as it is meant to be seen is refused: see data/video_frames.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosmos1.data.files import remove_leftovers
from cosmos1.data.video_frames import check_one_size, decode, open_video, to_rgb, upright_size
from cosmos1.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VideoInfo:
    """What the container declares. Height and width are those of the upright picture."""

    path: Path
    num_frames: int
    """Frames that the container declares; 0 when it declares none, or hides some of them with an edit list."""
    height: int
    width: int
    fps: float
    pixel_format: str


def probe_video(path: str | Path) -> VideoInfo:
    """Read the header and the first frame of a video.

    Raises what `open_video` raises, and DataError when the first frame cannot be decoded.
    """
    path = Path(path)
    container, stream = open_video(path)
    with container:
        frame = next(decode(path, container, stream), None)
        if frame is None:
            raise DataError(f"{path}: no frame can be decoded; the file is probably damaged. Get it again.")
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        # Older PyAV has no index_entries; what cannot be decoded is then met when the clip is read.
        hidden = any(entry.is_discard for entry in getattr(stream, "index_entries", ()))
        num_frames = 0 if hidden else stream.frames
        return VideoInfo(path, num_frames, *upright_size(path, frame), fps=float(rate), pixel_format=frame.format.name)


def count_frames(path: str | Path) -> int:
    """Decode a whole video and return its number of frames. Raises DataError where decoding fails or stops early."""
    path = Path(path)
    container, stream = open_video(path)
    with container:
        return sum(1 for _ in decode(path, container, stream))


def iterate_frames(path: str | Path, allow_grey: bool = False) -> Iterator[np.ndarray]:
    """Yield the frames of a video one by one, each (H, W, 3) uint8 RGB.

    An alpha channel is composited over white. A grey picture is refused unless `allow_grey`, which repeats it three
    times. Raises what `open_video` and `decode` raise, and DataError for a frame of another size than the first.
    """
    path, first = Path(path), None
    container, stream = open_video(path)
    with container:
        for number, frame in enumerate(decode(path, container, stream)):
            picture = to_rgb(path, frame, allow_grey)
            first = picture if first is None else first
            check_one_size(path, first, number, picture)
            yield picture


def read_video(path: str | Path, allow_grey: bool = False) -> np.ndarray:
    """Decode a whole video into an array (T, H, W, 3) uint8 RGB. Raises what `iterate_frames` raises."""
    frames = list(iterate_frames(path, allow_grey))
    if not frames:
        raise DataError(f"{path}: no frame can be decoded; the file is probably damaged. Get it again.")
    return np.stack(frames)


def read_frames_at(path: str | Path, seconds: np.ndarray, tolerance: float) -> np.ndarray:
    """Decode the frames shown at rising times (T,) of one stretch of a video, into (T, H, W, 3) uint8 RGB.

    Only the stretch is decoded, from the key frame before it. Raises DataError when the file cannot be decoded that
    far, or when no frame lies within `tolerance` seconds of one of the times.
    """
    import av

    path, found = Path(path), []
    container, stream = open_video(path)
    with container:
        container.seek(max(round((seconds[0] - tolerance) / stream.time_base), 0), stream=stream)
        try:
            for frame in container.decode(stream):
                while len(found) < len(seconds) and abs(frame.time - seconds[len(found)]) <= tolerance:
                    found.append(to_rgb(path, frame, allow_grey=False))
                    check_one_size(path, found[0], len(found) - 1, found[-1])
                if len(found) == len(seconds) or frame.time > seconds[len(found)] + tolerance:
                    break
        except av.error.FFmpegError as error:
            raise DataError(
                f"{path}: cannot be decoded near {seconds[len(found)]:.4f} s ({error.strerror})."
            ) from error
    if len(found) < len(seconds):
        raise DataError(
            f"{path}: no frame within {tolerance:g} s of {seconds[len(found)]:.4f} s; {len(found)} of {len(seconds)} frames "
            f"of this stretch were found. The video or the times beside it are damaged: get both again."
        )
    return np.stack(found)


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as H.264 (yuv420p, near-lossless) mp4 with `fps` frames per second.

    The file appears whole or not at all. Raises ConfigError when a side is odd, since 4:2:0 colour needs even sides.
    """
    import av

    path = Path(path)
    num_frames, height, width, _ = frames.shape
    if height % 2 or width % 2 or num_frames == 0:
        raise ConfigError(
            f"writing {path}: {num_frames} frames of {height} x {width}; H.264 needs at least one frame and an even "
            f"height and width. Use {height + height % 2} x {width + width % 2}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Repeatable bytes: x264's result depends on the number of threads, and with rate control that looks ahead it was
    # seen to differ from run to run.
    look_ahead = "mbtree=0:rc-lookahead=0:sync-lookahead=0"
    options = {"crf": "12", "preset": "veryfast", "threads": "2", "x264-params": look_ahead}
    try:
        with av.open(str(temporary.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for array in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
            container.mux(stream.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch frames (T, H, W, 3) uint8 to (T, height, width, 3), bilinear with antialiasing, rounded to nearest."""
    import torch
    from torch.nn.functional import interpolate

    if frames.shape[1:3] == (height, width):
        return frames
    channels_first = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    resized = interpolate(channels_first, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


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


def frames_to_tensor(frames: np.ndarray) -> torch.Tensor:
    """Turn frames (T, H, W, 3) uint8 into a float32 tensor (1, 3, T, H, W) in [-1, 1]: x / 127.5 - 1."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0


def tensor_to_frames(video: torch.Tensor) -> np.ndarray:
    """Turn one video (1, 3, T, H, W) or (3, T, H, W) in [-1, 1] into frames (T, H, W, 3) uint8; clamps and rounds."""
    import torch

    video = video[0] if video.ndim == 5 else video
    scaled = ((video.float() + 1.0) * 127.5).round_().clamp_(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
