# SPDX-License-Identifier: Apache-2.0
"""Reading and writing real, generated video files."""

import math
import struct

import av
import numpy as np
import pytest

from cosmos1.data.video import (
    frames_to_tensor,
    iterate_frames,
    probe_video,
    read_video,
    resize_frames,
    tensor_to_frames,
    write_video,
)
from cosmos1.errors import ConfigError, DataError


def gradient_frames(num_frames=12, height=48, width=64):
    """Smooth pictures whose upper left corner is bright, so that turns can be seen."""
    rows = np.linspace(1, 0, height)[:, None] * np.linspace(1, 0, width)[None]
    frames = np.stack([np.stack([rows, rows * 0.5, 1 - rows], axis=-1)] * num_frames)
    frames *= np.linspace(0.7, 1, num_frames)[:, None, None, None]
    return np.rint(frames * 255).astype(np.uint8)


def encode(path, frames, codec, pixel_format):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for frame in frames:
            channels = {1: "gray", 3: "rgb24", 4: "rgba"}[frame.shape[2]]
            array = frame[..., 0] if channels == "gray" else frame
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=channels)))
        container.mux(stream.encode())


@pytest.mark.parametrize("fps", [24.0, 30000 / 1001, 3.0])
def test_write_then_read(tmp_path, fps):
    frames = gradient_frames()
    write_video(tmp_path / "a.mp4", frames, fps)
    info = probe_video(tmp_path / "a.mp4")
    assert (info.num_frames, info.height, info.width) == (12, 48, 64)
    assert math.isclose(info.fps, fps, rel_tol=1e-6)
    decoded = read_video(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(float) - frames).mean() < 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_write_is_repeatable(tmp_path):
    write_video(tmp_path / "a.mp4", gradient_frames(), 24)
    write_video(tmp_path / "b.mp4", gradient_frames(), 24)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_odd_sides_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ConfigError, match="Use 48 x 64"):
        write_video(tmp_path / "a.mp4", gradient_frames(height=47, width=63), 24)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec, suffix", [("mpeg4", "mp4"), ("libx265", "mp4"), ("libvpx-vp9", "webm")])
def test_other_codecs(tmp_path, codec, suffix):
    path = tmp_path / f"a.{suffix}"
    encode(path, gradient_frames(), codec, "yuv420p")
    frames = read_video(path)
    assert frames.shape == (12, 48, 64, 3)
    assert np.abs(frames.astype(float) - gradient_frames()).mean() < 8


def test_full_range_colour_is_not_stretched(tmp_path):
    encode(tmp_path / "a.mkv", gradient_frames(), "mjpeg", "yuvj420p")
    assert np.abs(read_video(tmp_path / "a.mkv").astype(float) - gradient_frames()).mean() < 4


def test_rotation_of_the_container_is_applied(tmp_path):
    path = tmp_path / "a.mp4"
    frames = gradient_frames()
    write_video(path, frames, 24)
    content = bytearray(path.read_bytes())
    # The display matrix of the track header: a quarter turn clockwise, as a phone held upright records.
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)
    info = probe_video(path)
    assert (info.height, info.width) == (64, 48)
    decoded = read_video(path)
    assert np.abs(decoded.astype(float) - np.rot90(frames, k=-1, axes=(1, 2))).mean() < 3


def test_grey_needs_permission(tmp_path):
    grey = gradient_frames()[..., :1]
    encode(tmp_path / "a.mkv", grey, "ffv1", "gray")
    with pytest.raises(DataError, match=r"a.mkv: pixel format gray has 1 colour channel.*ffmpeg"):
        read_video(tmp_path / "a.mkv")
    np.testing.assert_array_equal(read_video(tmp_path / "a.mkv", allow_grey=True), np.repeat(grey, 3, axis=-1))


def test_alpha_is_composited_over_white(tmp_path):
    frames = np.zeros((2, 16, 16, 4), np.uint8)
    frames[:, :, 8:, 3] = 255
    encode(tmp_path / "a.mov", frames, "png", "rgba")
    decoded = read_video(tmp_path / "a.mov")
    assert (decoded[:, :, :8] == 255).all() and (decoded[:, :, 8:] == 0).all()


def test_cut_file_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    encode(path, gradient_frames(), "mpeg4", "yuv420p")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.mp4: .*truncated"):
        probe_video(path)


def test_hole_in_the_file_names_both_counts(tmp_path):
    path = tmp_path / "a.mp4"
    noise = np.random.RandomState(0).randint(0, 255, (24, 48, 64, 3)).astype(np.uint8)
    write_video(path, noise, 24)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 4] = bytes(len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.mp4: (decoding stopped after )?\d+ frames.*declares 24"):
        read_video(path)


def test_not_a_video_and_no_file(tmp_path):
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        list(iterate_frames(tmp_path / "a.mp4"))
    with pytest.raises(DataError, match="no such video file"):
        probe_video(tmp_path / "b.mp4")


def test_pixels_to_tensor_and_back_is_exact():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    tensor = frames_to_tensor(frames)
    assert tensor.shape == (1, 3, 1, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(tensor_to_frames(tensor), frames)
    assert tensor_to_frames(tensor * 2).max() == 255


def test_resize_keeps_mean_and_is_free_for_the_same_size():
    frames = gradient_frames()
    assert resize_frames(frames, 48, 64) is frames
    small = resize_frames(frames, 16, 32)
    assert small.shape == (12, 16, 32, 3)
    assert abs(small.mean() - frames.mean()) < 1
