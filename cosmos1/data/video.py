# SPDX-License-Identifier: Apache-2.0
"""Reading and writing video files, and the map between pixels in bytes and pixels as the networks see them.

Frames are numpy arrays (T, H, W, 3), uint8, RGB, upright (the rotation recorded in the container is applied).
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

    Raises DataError when the file cannot be opened, has no picture stream, or its first frame cannot be decoded.
    """
    path = Path(path)
    with _open_video(path) as container:
        stream = container.streams.video[0]
        frame = next(_decode(path, container, stream), None)
        if frame is None:
            raise DataError(f"{path}: no frame can be decoded; the file is probably damaged. Get it again.")
        upright = (frame.height, frame.width) if frame.rotation % 180 == 0 else (frame.width, frame.height)
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        # Older PyAV has no index_entries; what cannot be decoded is then met when the clip is read.
        hidden = any(entry.is_discard for entry in getattr(stream, "index_entries", ()))
        num_frames = 0 if hidden else stream.frames
        return VideoInfo(path, num_frames, *upright, fps=float(rate), pixel_format=frame.format.name)


def count_frames(path: str | Path) -> int:
    """Decode a whole video and return its number of frames. Raises DataError where decoding fails or stops early."""
    path = Path(path)
    with _open_video(path) as container:
        return sum(1 for _ in _decode(path, container, container.streams.video[0]))


def iterate_frames(path: str | Path, allow_grey: bool = False) -> Iterator[np.ndarray]:
    """Yield the frames of a video one by one, each (H, W, 3) uint8 RGB.

    An alpha channel is composited over white. A grey picture is refused unless `allow_grey`, which repeats it three
    times. Raises DataError with the decoder's message when decoding stops half-way, and when fewer frames come out
    than the container declares.
    """
    path = Path(path)
    with _open_video(path) as container:
        stream = container.streams.video[0]
        for frame in _decode(path, container, stream):
            yield _to_rgb(path, frame, allow_grey)


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
    with _open_video(path) as container:
        stream = container.streams.video[0]
        container.seek(max(round((seconds[0] - tolerance) / stream.time_base), 0), stream=stream)
        try:
            for frame in container.decode(stream):
                while len(found) < len(seconds) and abs(frame.time - seconds[len(found)]) <= tolerance:
                    found.append(_to_rgb(path, frame, allow_grey=False))
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Repeatable bytes: x264's result depends on the number of threads, and with rate control that looks ahead it was
    # seen to differ from run to run.
    look_ahead = "mbtree=0:rc-lookahead=0:sync-lookahead=0"
    options = {"crf": "12", "preset": "veryfast", "threads": "2", "x264-params": look_ahead}
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
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


def _open_video(path: Path):
    import av

    if not path.is_file():
        raise DataError(f"{path}: no such video file. Check the path.")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path}: cannot be opened as a video ({error.strerror}); the file is probably truncated or is not a "
            f"video. Get it again, or remove it."
        ) from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: has no readable video stream; the file is truncated or no video. Get it again.")
    container.streams.video[0].thread_type = "AUTO"
    return container


def _decode(path: Path, container, stream) -> Iterator:
    """Yield decoded frames; compare their number with the container's when the end is reached."""
    import av

    num_decoded = num_discarded = 0
    try:
        for packet in container.demux(stream):
            # An edit list can hide packets: they count as declared frames but never come out.
            num_discarded += packet.is_discard
            for frame in packet.decode():
                num_decoded += 1
                yield frame
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path}: decoding stopped after {num_decoded} frames, the container declares {stream.frames} "
            f"({error.strerror}). The file is damaged: get it again, or remove it."
        ) from error
    if num_decoded < stream.frames - num_discarded:
        raise DataError(
            f"{path}: {num_decoded} frames can be decoded but the container declares {stream.frames}; the file is "
            f"probably truncated. Get it again, or remove it."
        )


def _to_rgb(path: Path, frame, allow_grey: bool) -> np.ndarray:
    colours = [component for component in frame.format.components if not component.is_alpha]
    has_alpha = len(colours) < len(frame.format.components)
    if len(colours) < 3 and not frame.format.has_palette and not allow_grey:
        raise DataError(
            f"{path}: pixel format {frame.format.name} has {len(colours)} colour channel(s), 3 are needed. Allow grey "
            f"input where there is such an option, or convert: ffmpeg -i {path.name} -pix_fmt yuv420p out.mp4"
        )
    if has_alpha:
        rgba = frame.to_ndarray(format="rgba").astype(np.float32)
        alpha = rgba[..., 3:] / 255.0
        array = np.rint(rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
    else:
        array = frame.to_ndarray(format="rgb24")
    # The container states the counter-clockwise turn that makes the picture upright, in degrees.
    return np.ascontiguousarray(np.rot90(array, k=round(frame.rotation / 90) % 4))
