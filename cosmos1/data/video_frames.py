# SPDX-License-Identifier: Apache-2.0
"""What a video file stores, turned into pictures as they are meant to be seen; what cannot be is refused.

`container`, `stream` and `frame` are PyAV's. Reading whole videos: data/video.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cosmos1.errors import DataError

# Scaling to even sides leaves pixels that are a little off square; nobody sees that.
LARGEST_PIXEL_ASPECT_DIFFERENCE = 0.01
# Codes of ITU-T H.273, which containers and PyAV share.
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
HDR_TO_SDR = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
)
# One per core otherwise, also for the colours of every single frame: where many ranks read videos on a machine of many cores, the
# system ran out of threads.
DECODER_THREADS = 4
SQUARE_PIXELS = "scale=trunc(iw*sar/2)*2:ih,setsar=1"


def open_video(path: Path):
    """Return an open container and its picture stream; the caller closes the container.

    Raises DataError: no file, no video, no pictures but covers, pixels that are not square, high dynamic range.
    """
    import av

    if not path.is_file():
        raise DataError(f"{path}: no such video file. Check the path.")
    try:
        # Absolute, since FFmpeg takes "10:20.mp4" for a protocol. Tags may be in any encoding, and nobody reads them.
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path}: cannot be opened as a video ({error.strerror}); the file is probably truncated or is not a "
            f"video. Get it again, or remove it."
        ) from error
    try:
        stream = _picture_stream(path, container)
        _check_pictures(path, stream)
    except DataError:
        container.close()
        raise
    stream.thread_type, stream.codec_context.thread_count = "AUTO", DECODER_THREADS
    return container, stream


def decode(path: Path, container, stream) -> Iterator:
    """Yield decoded frames; compare their number with the container's when the end is reached.

    Raises DataError when decoding stops half-way and when fewer frames come out than the container declares.
    """
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


def to_rgb(path: Path, frame, allow_grey: bool) -> np.ndarray:
    """The upright picture (H, W, 3) uint8 RGB of a frame; alpha over white.

    Raises DataError for a grey picture unless `allow_grey`, and for a slanted one.
    """
    colours = [component for component in frame.format.components if not component.is_alpha]
    has_alpha = len(colours) < len(frame.format.components)
    if len(colours) < 3 and not frame.format.has_palette and not allow_grey:
        raise DataError(
            f"{path}: pixel format {frame.format.name} has {len(colours)} colour channel(s), 3 are needed. Allow grey "
            f"input where there is such an option, or convert: ffmpeg -i {path.name} -pix_fmt yuv420p out.mp4"
        )
    if has_alpha:
        rgba = frame.to_ndarray(format="rgba", threads=1).astype(np.float32)
        alpha = rgba[..., 3:] / 255.0
        array = np.rint(rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
    else:
        array = frame.to_ndarray(format="rgb24", threads=1)
    transposed, mirror_rows, mirror_columns = _orientation(path, frame)
    array = array.swapaxes(0, 1) if transposed else array
    array = array[::-1] if mirror_rows else array
    return np.ascontiguousarray(array[:, ::-1] if mirror_columns else array)


def upright_size(path: Path, frame) -> tuple[int, int]:
    """Height and width of what :func:`to_rgb` returns. Raises DataError for a slanted picture."""
    transposed = _orientation(path, frame)[0]
    return (frame.width, frame.height) if transposed else (frame.height, frame.width)


def check_one_size(path: Path, first: np.ndarray, number: int, picture: np.ndarray) -> None:
    """Raise DataError when a picture has another size than the first of its video."""
    if picture.shape != first.shape:
        sizes = [f"{found.shape[0]} x {found.shape[1]}" for found in (picture, first)]
        raise DataError(
            f"{path}: frame {number} is {sizes[0]}, the first that was read is {sizes[1]}; one size is needed. Cut the "
            f"video where it changes, or convert: ffmpeg -i {path.name} -vf scale={first.shape[1]}:{first.shape[0]} out.mp4"
        )


def _picture_stream(path: Path, container):
    import av

    covers = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & covers]
    if moving:
        return moving[0]
    found = "has no readable video stream"
    if container.streams.video:
        raise DataError(f"{path}: {found}, only a cover picture beside sound. Remove it, or give the video.")
    raise DataError(f"{path}: {found}; the file is truncated or no video. Get it again.")


def _check_pictures(path: Path, stream) -> None:
    """Refuse what would be decoded to a picture with other proportions or brightness than players show."""
    aspect = stream.sample_aspect_ratio
    if aspect and abs(aspect - 1) > LARGEST_PIXEL_ASPECT_DIFFERENCE:
        raise DataError(
            f"{path}: its pixels are not square (sample aspect ratio {aspect.numerator}:{aspect.denominator}), 1:1 is "
            f'needed. Convert: ffmpeg -i {path.name} -vf "{SQUARE_PIXELS}" out.mp4'
        )
    transfer = HDR_TRANSFERS.get(stream.codec_context.color_trc)
    if transfer:
        raise DataError(
            f"{path}: is high dynamic range video ({transfer}), standard range is needed. Convert: "
            f'ffmpeg -i {path.name} -vf "{HDR_TO_SDR}" out.mp4'
        )


def _orientation(path: Path, frame) -> tuple[bool, bool, bool]:
    """How the display matrix of the container makes a stored picture upright.

    Whether its axes are exchanged, and whether the rows and the columns of the result are then reversed.
    """
    from av.sidedata.sidedata import Type

    stored = frame.side_data.get(Type.DISPLAYMATRIX)
    if stored is None:
        return False, False, False
    # Of nine numbers, a pixel at (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = (int(number) for number in np.frombuffer(stored, np.int32)[:5])
    transposed = abs(b) > abs(a)
    across, down, *slants = (c, b, a, d) if transposed else (a, d, b, c)
    # A degree off is 1/57 of the length.
    if not across or not down or max(map(abs, slants)) * 57 > min(abs(across), abs(down)):
        degrees = math.degrees(math.atan2(b, a))
        raise DataError(
            f"{path}: is to be shown turned by {degrees:.1f} degrees; only quarter turns and mirrors can be read. "
            f"Convert it with the turn you want: ffmpeg -noautorotate -i {path.name} out.mp4"
        )
    return transposed, down < 0, across < 0
