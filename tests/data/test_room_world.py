# SPDX-License-Identifier: Apache-2.0
"""The demo worlds: pictures, depth and poses that agree, and repeatable files."""

import json

import numpy as np
import pytest

from cosmos1.data.demo_worlds.posed_worlds import (
    Clips,
    demo_hall,
    render_rig,
    sample_camera_path,
    sample_drive,
    write_camera_world,
)
from cosmos1.data.demo_worlds.room_world import Box, RoomWorld, furnished_room, render_path, render_view
from cosmos1.data.geometry.cameras import check_poses, relative_to_first
from cosmos1.data.geometry.rigs import six_camera_rig
from cosmos1.data.geometry.trajectories import interpolate, trajectory_of_track
from cosmos1.data.sources.nerfstudio import read_scene

CLIPS = Clips(num_videos=2, num_frames=5, height=48, width=64, fps=8.0, seed=0)


def test_depth_and_place_of_a_box():
    """A box 2 m ahead, 0.5 m high: where a pinhole shows it, at the distance of its front."""
    world = RoomWorld(5, 5, 3, 1.0, [Box(0, 2.25, 0.0, (0.25, 0.25, 0.25), (0.9, 0.1, 0.1))], 0)
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # looks along y, z is up
    pose[2, 3] = 0.5
    picture, depth = render_view(world, 64, 64, pose, np.array([64.0, 64, 32, 32]), supersampling=1)
    rows, columns = np.nonzero(np.abs(depth - 2.0) < 1e-4)
    # The front is 0.5 wide, from the height of the eye (its upper edge, row 32) to the floor (row 48).
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (24, 39, 32, 47)
    assert depth[0, 0] == 5 and depth[63, 32] == pytest.approx(0.5 / (31.5 / 64), abs=1e-5)
    red = picture[rows, columns].mean(axis=0)
    assert red[0] > 2 * red[1]


def test_pictures_agree_with_poses_and_depth():
    """Points of the first picture, lifted by their depth, have the same colour where the last camera sees them."""
    cameras, _ = sample_camera_path(CLIPS, 3)
    world, size = furnished_room(0), (192, 256)
    numbers = cameras.intrinsics[0] * 4
    (first, depth), (last, last_depth) = (
        render_view(world, *size, cameras.poses[index], numbers, supersampling=1) for index in (0, -1)
    )
    rows, columns = (axis.ravel() for axis in np.mgrid[0:192:3, 0:256:3])
    fx, fy, cx, cy = numbers
    seen = np.stack([(columns + 0.5 - cx) / fx, (rows + 0.5 - cy) / fy, np.ones(len(rows))], axis=1)
    points = (seen * depth[rows, columns, None]) @ cameras.poses[0, :3, :3].T + cameras.poses[0, :3, 3]
    moved = (points - cameras.poses[-1, :3, 3]) @ cameras.poses[-1, :3, :3]
    x, y = fx * moved[:, 0] / moved[:, 2] + cx - 0.5, fy * moved[:, 1] / moved[:, 2] + cy - 0.5
    inside = (moved[:, 2] > 0) & (x > 0) & (x < 255) & (y > 0) & (y < 191)
    to_row, to_column = np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)
    visible = np.abs(last_depth[to_row, to_column] - moved[inside, 2]) < 0.05
    before = first[rows[inside][visible], columns[inside][visible]].astype(int)
    after = last[to_row[visible], to_column[visible]].astype(int)
    assert visible.sum() > 1000 and np.median(np.abs(before - after).max(axis=1)) <= 2
    # Not because everything looks alike:
    assert np.median(np.abs(before - after[::-1]).max(axis=1)) > 20


def test_camera_world_files_hold_the_cameras_that_were_rendered(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_camera_world(tmp_path / name, CLIPS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    cameras, caption = sample_camera_path(CLIPS, 1)
    scene = read_scene(tmp_path / "a" / "001.zip")
    assert scene.cameras.poses == pytest.approx(cameras.poses) and len(scene.pictures) == 5
    assert np.array_equal(scene.read_frames(0, 5), render_path(furnished_room(0), cameras))
    assert json.loads((tmp_path / "a" / "captions.json").read_text())["001"] == caption


def test_camera_paths_differ_and_do_what_their_captions_say():
    seen = set()
    for index in range(40):
        cameras, caption = sample_camera_path(CLIPS, index)
        check_poses(cameras.poses, caption)
        last = relative_to_first(cameras.poses)[-1]
        seen.add(caption)
        if "forward" in caption or "backward" in caption:
            assert np.sign(last[2, 3]) == (1 if "forward" in caption else -1) and abs(last[2, 3]) > 0.4
        elif "turns" in caption:
            assert np.sign(last[0, 2]) == (1 if "right" in caption else -1)
        else:
            assert np.sign(last[0, 3]) == (1 if "right" in caption else -1)
    assert len(seen) == 8


def test_the_rig_drives_where_its_track_says():
    for index, (kind, side) in enumerate((("straight", 0), ("left", 1), ("right", -1), ("stop", 0))):
        found, track, poses = sample_drive(CLIPS, index)
        assert found == kind
        assert interpolate(track, np.arange(5) * 1e6 / 8) == pytest.approx(poses, abs=2e-3)
        y = trajectory_of_track(track, 0, kind).reshape(64, 3)[-1, 1]
        assert np.sign(np.round(y, 3)) == side


def test_views_of_the_rig_show_their_directions():
    """The left camera sees, after a turn of the car by its own angle, what the front camera saw before."""
    rig = six_camera_rig()
    pose = np.eye(4)[None]
    left = render_rig(CLIPS, rig, pose)[1]
    turned = np.linalg.inv(rig.cameras[0].rig_from_camera)
    # Put the front camera exactly where the left camera is.
    pose = rig.cameras[1].rig_from_camera @ turned
    front = render_rig(CLIPS, rig, pose[None])[0]
    assert np.abs(front.astype(int) - left).max() <= 1
    assert len(demo_hall(0).boxes) > 30
