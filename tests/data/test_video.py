# SPDX-License-Identifier: Apache-2.0
"""Reading and writing real, generated video files."""

import math
import struct
from fractions import Fraction

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


def write_turned(path, across_x, across_y, down_x, down_y):
    """Write a video whose track header shows the pixel at (x, y) at (across_x x + down_x y, across_y x + down_y y)."""
    write_video(path, gradient_frames(), 24)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(number * (1 << 16)) for number in (across_x, across_y, down_x, down_y))
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


TURNS = {
    # As a phone held upright records: a quarter turn clockwise.
    (0, 1, -1, 0): lambda frames: np.rot90(frames, k=-1, axes=(1, 2)),
    (-1, 0, 0, -1): lambda frames: frames[:, ::-1, ::-1],
    (0, -1, 1, 0): lambda frames: np.rot90(frames, k=1, axes=(1, 2)),
    # As front cameras record.
    (-1, 0, 0, 1): lambda frames: frames[:, :, ::-1],
    (1, 0, 0, -1): lambda frames: frames[:, ::-1],
    (0, 1, 1, 0): lambda frames: frames.swapaxes(1, 2),
    (0, -1, -1, 0): lambda frames: frames.swapaxes(1, 2)[:, ::-1, ::-1],
}


@pytest.mark.parametrize("matrix", TURNS)
def test_turns_and_mirrors_of_the_container_are_applied(tmp_path, matrix):
    write_turned(tmp_path / "a.mp4", *matrix)
    expected = TURNS[matrix](gradient_frames())
    info, decoded = probe_video(tmp_path / "a.mp4"), read_video(tmp_path / "a.mp4")
    assert (info.height, info.width) == expected.shape[1:3] == decoded.shape[1:3]
    assert np.abs(decoded.astype(float) - expected).mean() < 3


def test_a_slanted_picture_is_refused(tmp_path):
    write_turned(tmp_path / "a.mp4", 0.8, 0.6, -0.6, 0.8)
    with pytest.raises(DataError, match=r"a.mp4: is to be shown turned by 36.9 degrees; only quarter turns"):
        probe_video(tmp_path / "a.mp4")


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


def test_a_tag_that_is_no_utf8_does_no_harm(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.metadata["title"] = "Caf_ Demo"
        stream = container.add_stream("mpeg4", rate=24)
        stream.height = stream.width = 16
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "a.mp4").read_bytes()
    assert b"Caf_ Demo" in content
    (tmp_path / "a.mp4").write_bytes(content.replace(b"Caf_ Demo", b"Caf\xe9 Demo"))
    assert len(read_video(tmp_path / "a.mp4")) == 1


def test_a_relative_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("2024-05-01T10:20:30.mp4", gradient_frames(), 24)
    assert len(read_video("2024-05-01T10:20:30.mp4")) == 12


def test_a_picture_size_that_changes_is_refused(tmp_path):
    encode(tmp_path / "a.ts", gradient_frames(), "libx264", "yuv420p")
    encode(tmp_path / "b.ts", gradient_frames(height=32), "libx264", "yuv420p")
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(DataError, match=r"c.mp4: frame 12 is 32 x 64, the first that was read is 48 x 64.*scale=64:48"):
        read_video(tmp_path / "c.mp4")


def encode_with(path, **settings):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for frame in gradient_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"sample_aspect_ratio": Fraction(16, 15)}, r"a.mp4: its pixels are not square .*16:15.*ffmpeg -i a.mp4 -vf"),
        ({"color_trc": 16}, r"a.mp4: is high dynamic range video \(PQ\).*ffmpeg -i a.mp4 -vf .*tonemap"),
        ({"color_trc": 18}, r"a.mp4: is high dynamic range video \(HLG\)"),
    ],
)
def test_pictures_that_players_show_otherwise_are_refused(tmp_path, settings, words):
    encode_with(tmp_path / "a.mp4", **settings)
    with pytest.raises(DataError, match=words):
        read_video(tmp_path / "a.mp4")


def test_pixels_that_are_square_but_for_rounding_are_read(tmp_path):
    encode_with(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(1280, 1281))
    assert len(read_video(tmp_path / "a.mp4")) == 12


def test_a_cover_picture_beside_sound_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        cover, sound = container.add_stream("mjpeg", rate=1), container.add_stream("aac", rate=8000)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        for stream, frame in ((cover, picture), (sound, silence)):
            container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(DataError, match="song.mp4: has no readable video stream, only a cover picture"):
        probe_video(tmp_path / "song.mp4")


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
