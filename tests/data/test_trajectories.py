# SPDX-License-Identifier: Apache-2.0
"""The 192 numbers of a trajectory, from ego poses, files and names."""

import json

import numpy as np
import pytest

from cosmos1.data.geometry.trajectories import (
    EgoTrack,
    check_track,
    decode_positions,
    drive,
    encode_positions,
    interpolate,
    preset_trajectory,
    read_track,
    read_trajectory,
    track_json,
    trajectory_of_track,
)
from cosmos1.errors import ConfigError, DataError


def driven(speed=10.0, curvature=0.0, seconds=10.0, rate=20, yaw=0.0):
    """A track along an arc, in a world in which the car starts somewhere and looks somewhere."""
    times = np.arange(int(seconds * rate) + 1) / rate
    world = np.eye(4)
    world[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    world[:3, 3] = [30, -7, 2]
    poses = world @ drive(times, speed, curvature, 0.0)
    half = (yaw + curvature * speed * times) / 2
    quaternions = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=1)
    return EgoTrack(np.rint(times * 1e6).astype(np.int64), poses[:, :3, 3], quaternions)


def test_straight_at_ten_metres_per_second_wherever_the_car_stands():
    for yaw in (0.0, 2.0):
        numbers = trajectory_of_track(driven(yaw=yaw), 1_230_000, "x").reshape(64, 3)
        assert numbers.dtype == np.float32
        assert numbers[:, 0] == pytest.approx(np.arange(1, 65) / 10, abs=1e-5)
        assert np.abs(numbers[:, 1:]).max() < 1e-5


def test_order_and_scale_of_the_numbers():
    positions = np.arange(192.0).reshape(64, 3)
    numbers = encode_positions(positions)
    assert numbers[3:6] == pytest.approx([3 / 10, 4 / 4, 5]) and decode_positions(numbers) == pytest.approx(positions)


def test_left_is_positive_y():
    numbers = decode_positions(trajectory_of_track(driven(5.0, 0.1, yaw=1.0), 0, "x"))
    assert numbers[-1] == pytest.approx([10 * np.sin(3.2), 10 * (1 - np.cos(3.2)), 0], abs=1e-2)


def test_interpolation_between_poses_with_opposite_quaternion_signs():
    angles = np.array([0.0, 0.5, 1.0])
    quaternions = np.stack([np.cos(angles / 2), 0 * angles, 0 * angles, np.sin(angles / 2)], axis=1)
    quaternions[1] *= -1
    track = EgoTrack(np.array([0, 100_000, 200_000]), np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0.0]]), quaternions)
    poses = interpolate(track, np.array([50_000, 150_000, 200_000]))
    assert poses[:, 0, 3] == pytest.approx([0.5, 2, 3])
    assert np.arctan2(poses[:, 1, 0], poses[:, 0, 0]) == pytest.approx([0.25, 0.75, 1.0], abs=1e-6)


def test_presets():
    ends = {name: decode_positions(preset_trajectory(name))[-1] for name in ("straight", "left", "right", "stop")}
    assert ends["straight"] == pytest.approx([38.4, 0, 0], abs=1e-4)
    assert ends["left"][1] > 5 and ends["right"] == pytest.approx(ends["left"] * [1, -1, 1], abs=1e-5)
    assert ends["stop"] == pytest.approx([9, 0, 0], abs=1e-5)  # v^2 / 2a
    with pytest.raises(ConfigError, match='no trajectory "up"; known: straight, left, right, stop'):
        preset_trajectory("up")


def test_files(tmp_path):
    track = driven()
    (tmp_path / "track.json").write_text(json.dumps(track_json(track)))
    found = read_track(tmp_path / "track.json")
    assert np.array_equal(found.times_us, track.times_us) and found.positions == pytest.approx(track.positions)
    straight = preset_trajectory("straight", 10.0)
    assert read_trajectory(tmp_path / "track.json") == pytest.approx(straight, abs=1e-5)
    positions = decode_positions(straight).tolist()
    (tmp_path / "positions.json").write_text(json.dumps({"positions": positions}))
    assert read_trajectory(tmp_path / "positions.json") == pytest.approx(straight, abs=1e-6)
    (tmp_path / "short.json").write_text(json.dumps({"positions": positions[:10]}))
    with pytest.raises(DataError, match=r"shape \(10, 3\), \(64, 3\) finite numbers are needed"):
        read_trajectory(tmp_path / "short.json")
    for bad in (positions[:-1] + [[1, 2]], [["x", 0, 0]] * 64, [{}] * 64):
        (tmp_path / "bad.json").write_text(json.dumps({"positions": bad}))
        with pytest.raises(DataError, match="bad.json: positions are no table of numbers"):
            read_trajectory(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"poses": [{"timestamp": 1}]}')
    with pytest.raises(DataError, match="bad.json: is not an ego track"):
        read_trajectory(tmp_path / "bad.json")
    (tmp_path / "lidar.json").write_text(json.dumps(track_json(track) | {"coordinate_frame": "lidar"}))
    with pytest.raises(DataError, match='poses are of "lidar"; poses of the rig are needed'):
        read_track(tmp_path / "lidar.json")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t, p, q: (t[::-1], p, q), "do not increase"),
        (lambda t, p, q: (t[::5], p[::5], q[::5]), "a gap of 0.250 s between ego poses 0 and 1; less than 0.2 s"),
        (lambda t, p, q: (t, p * np.nan, q), "hold NaN"),
        (lambda t, p, q: (t, p, q * 1.01), "quaternion of ego pose .* unit quaternions"),
        (lambda t, p, q: (t[:1], p[:1], q[:1]), "1 ego poses, at least 2"),
    ],
)
def test_damaged_tracks(change, words):
    track = driven()
    with pytest.raises(DataError, match=f"here: .*{words}"):
        check_track(EgoTrack(*change(track.times_us, track.positions, track.quaternions)), "here")


def test_a_track_that_ends_too_early_says_what_is_needed():
    with pytest.raises(DataError, match="needed from 4.000 s to 10.400 s .*reaches from 0.000 s to 10.000 s"):
        trajectory_of_track(driven(), 4_000_000, "x")
