# SPDX-License-Identifier: Apache-2.0
"""Which frames of several cameras belong together, and the answer to recordings that do not fit."""

import contextlib
import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest

from cosmos1.data.sources.multiview_clips import (
    MultiviewClip,
    check_timestamps,
    check_unit,
    pick_frames,
    read_timestamps,
    read_views,
    reference_times,
    view_timestamps,
)
from cosmos1.data.video import write_video
from cosmos1.errors import DataError

MS = 1000  # microseconds


def clip(window=None, **starts_and_rates):
    """Cameras with 60 frames each: name = (start in ms, frames per second)."""
    times = {
        name: np.rint(start * MS + np.arange(60) * 1e6 / rate).astype(np.int64)
        for name, (start, rate) in starts_and_rates.items()
    }
    return MultiviewClip("c", times, dict.fromkeys(times), contextlib.nullcontext, window=window)


def picks(found, frames, fps, selection, which=0):
    cameras = list(found.timestamps)
    starts = reference_times(found, cameras, frames, fps, selection)
    return pick_frames(found, cameras, int(starts[which]), frames, fps, selection), len(starts)


def test_shifted_cameras_show_the_same_moments():
    """The second camera began 100 ms (3 frames of 30 per second) earlier."""
    found = clip(a=(500, 30), b=(400, 30))
    for selection in ("nearest", "consecutive"):
        chosen, _ = picks(found, 9, 30, selection)
        assert chosen.indices[0].tolist() == list(range(9)) and chosen.start_us == 500 * MS
        assert chosen.indices[1].tolist() == list(range(3, 12)) and chosen.frame_repeat.tolist() == [0, 0]


def test_true_time_and_the_compatible_consecutive_frames_differ():
    """24 frames per second of a recording of 30: every fifth frame is left out, or none and the label is wrong."""
    found = clip(a=(0, 30))
    assert picks(found, 9, 24, "nearest")[0].indices[0].tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10]
    assert picks(found, 9, 24, "consecutive")[0].indices[0].tolist() == list(range(9))
    assert picks(found, 9, 15, "consecutive")[0].indices[0].tolist() == list(range(0, 18, 2))


def test_the_stride_of_consecutive_frames_allows_for_odd_rates():
    """29.97 frames per second are 30, in the whole recording as in the part that captions describe; 28 are not."""
    for window in (None, (3, 50)):
        found = clip(window=window, a=(0, 30000 / 1001), b=(0, 30000 / 1001))
        first = window[0] if window else 0
        assert picks(found, 9, 15, "consecutive")[0].indices[0].tolist() == list(range(first, first + 18, 2))
    assert picks(clip(a=(0, 28)), 9, 15, "consecutive")[0].indices[0].tolist() == list(range(9))
    # The last chunk ends with the recording: frames 43, 45, ... 59.
    chosen, count = picks(clip(a=(0, 30000 / 1001)), 9, 15, "consecutive", which=-1)
    assert count == 44 and chosen.indices[0].tolist() == list(range(43, 60, 2))


def with_gap(camera, first, length):
    found = clip(a=(0, 30), b=(0, 30))
    kept = np.delete(found.timestamps[camera], slice(first, first + length))
    return dataclasses.replace(found, timestamps={**found.timestamps, camera: kept})


@pytest.mark.parametrize(
    "camera, selection, words",
    [
        ("b", "nearest", r"b has no frame within 0.037 s of 0.667 s: frame 10 is 0.333 s away. .*cut the clip there"),
        ("b", "consecutive", r"b has no frame within 0.073 s of 0.333 s: frame 10 is 0.667 s away"),
        ("a", "nearest", r"a has no frame within 0.037 s"),
        ("a", "consecutive", r"a has a gap of 0.700 s at 0.300 s, 0.033 s lie between its frames elsewhere"),
    ],
)
def test_chunks_over_a_gap_are_refused(camera, selection, words):
    found = with_gap(camera, 10, 20)
    fps = 24 if selection == "nearest" else 30
    with pytest.raises(DataError, match=f"clip c: {words}"):
        pick_frames(found, ["a", "b"], 0, 17, fps, selection)
    # One lost frame does no harm, nor does a gap elsewhere.
    assert pick_frames(with_gap(camera, 10, 1), ["a", "b"], 0, 17, fps, selection).indices.shape == (2, 17)
    assert pick_frames(found, ["a", "b"], 1_000_000, 9, fps, selection).frame_repeat.tolist() == [0, 0]


def test_the_last_chunk_of_a_fast_recording_stays_within_reach():
    """120 frames per second for 12: no reference time is more than a frame after the end."""
    found = clip(a=(0, 120), b=(0, 120))
    starts = reference_times(found, ["a", "b"], 5, 12, "nearest")
    assert pick_frames(found, ["a", "b"], int(starts[-1]), 5, 12, "nearest").indices[0, -1] == 59


def test_between_frames_the_nearest_or_the_next():
    found = clip(a=(0, 10), b=(-30, 10))
    assert picks(found, 3, 10, "nearest")[0].indices[1].tolist() == [0, 1, 2]
    assert picks(found, 3, 10, "consecutive")[0].indices[1].tolist() == [1, 2, 3]


def test_repeated_frames_are_counted_per_view():
    found = clip(a=(0, 30), b=(0, 10))
    chosen, _ = picks(found, 9, 30, "nearest")
    # 0, 33, 67, 100 ms ... of a camera at 10 per second: 0, 0, 1, 1, 1, 2, 2, 2, 3.
    assert chosen.indices[1].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert chosen.frame_repeat.tolist() == [0, 5] and chosen.frame_repeat.dtype == np.float32


@pytest.mark.parametrize("selection", ["nearest", "consecutive"])
def test_starts_leave_room_for_a_chunk(selection):
    found = clip(a=(0, 30))
    chosen, count = picks(found, 57, 30, selection, which=-1)
    assert count == 4 and chosen.indices[0].tolist() == list(range(3, 60))
    # The frames that captions describe bound it too: frames 10 to 29.
    chosen, count = picks(clip(window=(10, 29), a=(0, 30)), 17, 30, selection, which=-1)
    assert count == 4 and chosen.indices[0].tolist() == list(range(13, 30))


def test_recordings_that_do_not_fit():
    with pytest.raises(DataError, match="clip c: the cameras share no time .a 0.000 to 1.967 s; b 5.000 to 6.967 s"):
        picks(clip(a=(0, 30), b=(5000, 30)), 9, 30, "nearest")
    with pytest.raises(DataError, match="clip c: the cameras share 30 frames of a, too few for a chunk of 57 frames"):
        picks(clip(a=(0, 30), b=(1000, 30)), 57, 30, "nearest")


def test_timestamps():
    assert (
        read_timestamps(b"[1, 2]", "x").tolist()
        == read_timestamps(b'[{"timestamp": 1}, {"timestamp": 2}]', "x").tolist()
    )
    assert check_timestamps("c", "a", np.array([0, 40_000, 90_000]), 3).tolist() == [0, 40_000, 90_000]
    with pytest.raises(DataError, match="x: a list of time stamps in microseconds"):
        read_timestamps(b'{"a": 1}', "x")
    with pytest.raises(DataError, match="clip c: a has 2 time stamps but 3 frames"):
        check_timestamps("c", "a", np.array([0, 1]), 3)
    with pytest.raises(DataError, match="clip c: time stamps of a do not increase at frame 2"):
        check_timestamps("c", "a", np.array([0, 5, 5]), 3)


@pytest.mark.parametrize("unit, per_second", [("ns", 1e9), ("ms", 1e3), ("100 ns", 1e7)])
def test_timestamps_of_another_unit_are_refused(unit, per_second):
    """They would place a chunk of two seconds within one frame, or a frame every half minute: a still or a refusal."""
    with pytest.raises(DataError, match="time stamps of a are .* apart, but its video has 30 .*in microseconds"):
        check_unit("c", "a", np.rint(np.arange(90) * per_second / 30).astype(np.int64), 30.0)


def test_timestamps_may_differ_somewhat_from_the_rate_that_the_container_states():
    for rate in (16, 30, 59):
        check_unit("c", "a", np.rint(np.arange(90) * 1e6 / rate).astype(np.int64), 30.0)
    check_unit("c", "a", np.array([0]), 30.0)


def write_at(path, milliseconds):
    """A video whose pictures tell their time: a grey level of a 40th of a second each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "5", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for time in milliseconds:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), round(time / 25), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_camera_that_dropped_frames_is_read_at_the_times_of_its_file(tmp_path):
    times = [round(k * 1000 / 30) for k in range(150)]
    videos = {name: tmp_path / f"{name}.mp4" for name in "ab"}
    write_at(videos["a"], times)
    # As many frames over the same time, so that the average rate tells nothing.
    write_at(videos["b"], sorted([*times[:20], *times[24:], *(time + 16 for time in times[140:144])]))
    stamps = view_timestamps("c", videos, dict.fromkeys(videos))
    assert stamps["b"][:20].tolist() == [1000 * time for time in times[:20]] and stamps["b"][20] == 1000 * times[24]
    found = MultiviewClip("c", stamps, dict.fromkeys(videos), lambda: contextlib.nullcontext(videos))
    chosen = pick_frames(found, ["a", "b"], 2_000_000, 9, 10, "nearest")
    levels = read_views(found, ["a", "b"], chosen, 32, 32).mean(axis=(2, 3, 4))
    # By k / average rate the second camera would be 4 frames, 5 levels, ahead.
    assert np.abs(levels[0] - levels[1]).max() < 1.5 and levels[0, 0] == pytest.approx(80, abs=1.5)


def test_videos_of_even_times_are_where_their_rate_says(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((12, 16, 16, 3), np.uint8), 30000 / 1001)
    stamps = view_timestamps("c", {"a": tmp_path / "a.mp4"}, {"a": None})["a"]
    assert np.abs(stamps - np.arange(12) * 1e6 * 1001 / 30000).max() < 1
