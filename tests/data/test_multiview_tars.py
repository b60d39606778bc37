# SPDX-License-Identifier: Apache-2.0
"""Driving recordings as tars: captions as T5 rows, ego motion of a sensor, and what is refused."""

import io
import json
import pickle
import re
import tarfile

import numpy as np
import pytest

from cosmos1.data.geometry.trajectories import drive, trajectory_of_track
from cosmos1.data.sources.multiview_tars import TarClips
from cosmos1.data.video import write_video
from cosmos1.errors import DataError

CAMERAS = ["front", "left"]
SENSOR = {"name": "lidar", "nominalSensor2Rig_FLU": {"t": [1.0, 0.5, 2.0], "roll-pitch-yaw": [0.0, 0.0, 90.0]}}


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def egomotion(seconds=25, sensor=False):
    """An npz of pickled object arrays: the car drives an arc; with `sensor` the poses are those of the lidar."""
    times = np.arange(seconds * 20) / 20
    poses = drive(times, 8.0, 0.02, 0.0)
    if sensor:
        mount = np.eye(4)
        mount[:3, :3], mount[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], SENSOR["nominalSensor2Rig_FLU"]["t"]
        poses = poses @ mount
    yaw = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0])) / 2
    rows = [
        [int(time * 1e6), *pose[:3, 3], np.cos(half), 0.0, 0.0, np.sin(half), "lidar" if sensor else "rig"]
        for time, pose, half in zip(times, poses, yaw)
    ]
    keys = ["timestamp", "x", "y", "z", "qw", "qx", "qy", "qz", "coordinate_frame"]
    buffer = io.BytesIO()
    np.savez(buffer, labels_keys=np.array(keys, object), labels_data=np.array(rows, object))
    return buffer.getvalue()


def members(tmp_path, **changes):
    write_video(tmp_path / "v.mp4", np.zeros((5, 16, 16, 3), np.uint8), 30)
    stamps = json.dumps([{"timestamp": 33_333 * number} for number in range(5)]).encode()
    found = {f"c.{camera}.mp4": (tmp_path / "v.mp4").read_bytes() for camera in CAMERAS}
    found |= {f"c.{camera}.json": stamps for camera in CAMERAS}
    found |= {"c.egomotion.npz": egomotion(), "c.rig.json": json.dumps({"rig": {"sensors": [SENSOR]}}).encode()}
    return {name: content for name, content in {**found, **changes}.items() if content is not None}


def write_captions(folder, rows):
    part = folder / "chunk-00" / "part_000000"
    part.mkdir(parents=True)
    write_tar(part / "000001.tar", {"c.front.bin": pickle.dumps([rows])})
    (part / "000001.json").write_text(json.dumps({"c": {"0": ["c", ["A road."], [1], [4]]}}))
    mapping = {
        "c.front": "/elsewhere/qwen_t5_tars/chunk-00/part_000000/000001.tar",
        "c.left": "/elsewhere/qwen_t5_tars/chunk-00/chunk-00/part_000000/000002.tar",
    }
    (folder / "chunk-00" / "mapping.json").write_text(json.dumps(mapping))


@pytest.fixture
def recordings(tmp_path):
    def build(rows=None, **changes):
        folder = tmp_path / "clips"
        folder.mkdir()
        write_tar(folder / "c.tar", members(tmp_path, **changes))
        write_captions(tmp_path / "captions", np.full((3, 1024), 0.5, np.float16) if rows is None else rows)
        return TarClips(folder, tmp_path / "captions")

    return build


def test_a_clip_with_captions_of_one_view(recordings):
    clips = recordings()
    clip = clips.read("c", CAMERAS)
    assert clips.names() == ["c"] and clip.timestamps["left"].tolist() == [0, 33_333, 66_666, 99_999, 133_332]
    assert clip.track is not None and clip.track_problem == ""
    # The entry of the left camera points nowhere, as one does in the published sample.
    assert clip.captions["front"].shape == (3, 1024) and clip.captions["left"] is None and clip.window == (1, 4)
    with clip.open_videos() as videos:
        paths = list(videos.values())
        assert all(path.stat().st_size for path in paths)
    assert not any(path.exists() for path in paths)


def test_ego_motion_of_a_sensor_becomes_that_of_the_rig(recordings, tmp_path):
    of_sensor = recordings(**{"c.egomotion.npz": egomotion(sensor=True)}).read("c", CAMERAS).track
    write_tar(tmp_path / "clips" / "c.tar", members(tmp_path))
    of_rig = TarClips(tmp_path / "clips", tmp_path / "captions").read("c", CAMERAS).track
    assert of_sensor.positions == pytest.approx(of_rig.positions, abs=1e-9)
    both = [trajectory_of_track(track, 3_000_000, "x") for track in (of_sensor, of_rig)]
    assert both[0] == pytest.approx(both[1], abs=1e-6) and both[0][-3] > 4


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def video(tmp_path, num_frames=5, height=16, fps=30):
    write_video(tmp_path / "other.mp4", np.zeros((num_frames, height, 16, 3), np.uint8), fps)
    return (tmp_path / "other.mp4").read_bytes()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"c.left.mp4": None}, r"clip c: .*no video or time stamps of left; present: \['front'\]"),
        ({"c.left.mp4": b"x"}, "c.left.mp4: cannot be opened as a video"),
        ({"c.left.json": b"[1, 2, 4, 4, 5]"}, "clip c: time stamps of left do not increase at frame 3"),
        ({"c.left.json": b"[1, 2]"}, "clip c: left has 2 time stamps but 5 frames"),
        ({"c.left.mp4": {"num_frames": 9}}, "clip c: left has 5 time stamps but 9 frames"),
        ({"c.left.mp4": {"height": 32}}, "clip c: left is 32 x 16 at 30 fps, front is 16 x 16 at 30 fps"),
        ({"c.left.mp4": {"fps": 10}}, "clip c: left is 16 x 16 at 10 fps, front is 16 x 16 at 30 fps"),
    ],
)
def test_damaged_clips(recordings, tmp_path, changes, words):
    changes = {key: video(tmp_path, **value) if isinstance(value, dict) else value for key, value in changes.items()}
    with pytest.raises(DataError, match=words):
        recordings(**changes).read("c", CAMERAS)


OF_SENSOR = {"c.egomotion.npz": egomotion(sensor=True)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"c.egomotion.npz": egomotion(seconds=10)}, "egomotion.npz: 9.9 s of ego motion, at least 20 s"),
        ({"c.egomotion.npz": b"x"}, "egomotion.npz: needs labels_keys and labels_data"),
        (OF_SENSOR | {"c.rig.json": b'{"rig": {"sensors": []}}'}, "egomotion.npz: poses are of .'lidar'."),
        (OF_SENSOR | {"c.rig.json": b"{"}, "clip c: c.rig.json: cannot be read as JSON"),
        (OF_SENSOR | {"c.rig.json": b"[1]"}, "c.rig.json: holds a list, a JSON object is needed"),
        (OF_SENSOR | {"c.rig.json": b'{"rig": {"sensors": [1]}}'}, 'c.rig.json: has no "rig" with "sensors" of name'),
        (OF_SENSOR | {"c.rig.json": None}, "member c.rig.json cannot be read"),
    ],
)
def test_clips_whose_ego_motion_is_of_no_use_are_kept_without_it(recordings, changes, words):
    clip = recordings(**changes).read("c", CAMERAS)
    assert clip.track is None and re.search(words, clip.track_problem)


@pytest.mark.parametrize("content, words", [("{", "cannot be read as JSON"), ("[1]", "holds a list, a JSON object")])
def test_damaged_mappings(recordings, tmp_path, content, words):
    recordings()
    (tmp_path / "captions" / "chunk-00" / "mapping.json").write_text(content)
    with pytest.raises(DataError, match=f"mapping.json: {words}"):
        TarClips(tmp_path / "clips", tmp_path / "captions")


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_tar_that_was_cut_is_named(recordings, tmp_path, part):
    clips = recordings()
    path = tmp_path / "clips" / "c.tar"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(DataError, match="c.tar: cannot be read as a tar file .unexpected end of data"):
        clips.read("c", CAMERAS)


def test_a_compressed_table_that_is_damaged_is_named(recordings):
    buffer = io.BytesIO()
    values = np.random.RandomState(0).rand(500, 1)
    np.savez_compressed(buffer, labels_keys=np.array(["timestamp"]), labels_data=values)
    content = bytearray(buffer.getvalue())
    content[320:350] = bytes(30)
    clip = recordings(**{"c.egomotion.npz": bytes(content)}).read("c", CAMERAS)
    assert "egomotion.npz: needs labels_keys and labels_data (error('Error -3" in clip.track_problem


@pytest.mark.parametrize(
    "rows, words",
    [
        (np.zeros((3, 768), np.float16), r"shape \(3, 768\), .*that width suggests T5-base"),
        (np.zeros((513, 1024), np.float16), "text of 513 tokens, at most 512"),
        (np.full((3, 1024), np.nan, np.float16), "3 rows with 3072 values that are NaN"),
        ([[1.0]], "holds a list, an array of floating-point numbers is needed"),
    ],
)
def test_caption_rows_of_another_encoder_are_named_by_file(recordings, rows, words):
    with pytest.raises(DataError, match=f"000001.tar: c.front.bin: .*{words}"):
        recordings(rows=rows).read("c", CAMERAS)


def test_captions_without_frames_are_named(recordings, tmp_path):
    clips = recordings()
    (tmp_path / "captions/chunk-00/part_000000/000001.json").write_text('{"other": {}}')
    with pytest.raises(DataError, match="000001.json: no caption frames of clip c"):
        clips.read("c", CAMERAS)


def test_caption_pickles_cannot_run_code(recordings):
    with pytest.raises(DataError, match="000001.tar: c.front.bin: holds a builtins.print"):
        recordings(rows=Evil()).read("c", CAMERAS)


def test_folders_without_tars(tmp_path):
    with pytest.raises(DataError, match="no <clip>.tar in it"):
        TarClips(tmp_path, tmp_path)
    write_tar(tmp_path / "c.tar", {})
    with pytest.raises(DataError, match="no mapping.json in it"):
        TarClips(tmp_path, tmp_path)


def test_two_tars_of_one_clip_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "c.tar", {})
    with pytest.raises(DataError, match="x/c.tar and .*y/c.tar are both the clip c"):
        TarClips(tmp_path, tmp_path)
