# SPDX-License-Identifier: Apache-2.0
"""Where the vehicle goes: ego poses over time, and the 192 numbers by which a network is told.

Rig axes at the moment t0: x forward, y left, z up, metres. The trajectory is the position of the rig at t0 + 0.1 s,
t0 + 0.2 s, ... t0 + 6.4 s, expressed in the rig axes of t0, divided by (10, 4, 1), point after point.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict

import numpy as np

from cosmos1.conditioning.settings import NUM_POINTS, TRAJECTORY_VALUES
from cosmos1.data.geometry.rotations import rotation_of_quaternion
from cosmos1.errors import ConfigError, DataError

STEP_SECONDS = 0.1
HORIZON_SECONDS = NUM_POINTS * STEP_SECONDS
AXIS_SCALES = np.array([10.0, 4.0, 1.0])
LARGEST_GAP_SECONDS = 0.2
LARGEST_QUATERNION_ERROR = 1e-3


@dataclass(frozen=True)
class EgoTrack:
    """Poses of the rig in a fixed frame."""

    times_us: np.ndarray
    """(N,) int64, microseconds, strictly increasing."""
    positions: np.ndarray
    """(N, 3) metres."""
    quaternions: np.ndarray
    """(N, 4) w, x, y, z."""


def check_track(track: EgoTrack, where: str) -> None:
    """Raise DataError unless times increase without large gaps, values are finite and quaternions are unit."""
    if len(track.times_us) < 2:
        raise DataError(f"{where}: {len(track.times_us)} ego poses, at least 2 are needed.")
    gaps = np.diff(track.times_us) / 1e6
    if gaps.min() <= 0:
        raise DataError(f"{where}: the time stamps of the ego poses do not increase (pose {int(gaps.argmin()) + 1}).")
    if gaps.max() >= LARGEST_GAP_SECONDS:
        raise DataError(
            f"{where}: a gap of {gaps.max():.3f} s between ego poses {int(gaps.argmax())} and {int(gaps.argmax()) + 1}; "
            f"less than {LARGEST_GAP_SECONDS} s is needed."
        )
    if not (np.isfinite(track.positions).all() and np.isfinite(track.quaternions).all()):
        raise DataError(f"{where}: ego poses hold NaN or infinity.")
    error = np.abs(np.linalg.norm(track.quaternions, axis=1) - 1)
    if error.max() > LARGEST_QUATERNION_ERROR:
        raise DataError(
            f"{where}: the quaternion of ego pose {int(error.argmax())} has length {1 + error.max():.4f} or its "
            f"reciprocal; unit quaternions (within {LARGEST_QUATERNION_ERROR}) are needed, order w, x, y, z."
        )


def check_covers(track: EgoTrack, start_us: int, end_us: int, where: str) -> None:
    """Raise DataError unless the track reaches from `start_us` to `end_us`."""
    first, last = int(track.times_us[0]), int(track.times_us[-1])
    if start_us < first or end_us > last:
        raise DataError(
            f"{where}: ego motion is needed from {start_us / 1e6:.3f} s to {end_us / 1e6:.3f} s (a trajectory reaches "
            f"{HORIZON_SECONDS:g} s ahead), the track reaches from {first / 1e6:.3f} s to {last / 1e6:.3f} s."
        )


def interpolate(track: EgoTrack, times_us: np.ndarray) -> np.ndarray:
    """Poses (M, 4, 4) at these times: positions linearly, quaternions linearly with equal signs, then normalised."""
    times_us = np.asarray(times_us, np.float64)
    after = np.clip(np.searchsorted(track.times_us, times_us, side="right"), 1, len(track.times_us) - 1)
    before = after - 1
    span = track.times_us[after] - track.times_us[before]
    share = ((times_us - track.times_us[before]) / span)[:, None]
    first, second = track.quaternions[before], track.quaternions[after]
    second = np.where((first * second).sum(axis=1, keepdims=True) < 0, -second, second)
    poses = np.tile(np.eye(4), (len(times_us), 1, 1))
    poses[:, :3, :3] = rotation_of_quaternion(first + share * (second - first))
    poses[:, :3, 3] = track.positions[before] + share * (track.positions[after] - track.positions[before])
    return poses


def trajectory_of_track(track: EgoTrack, start_us: int, where: str) -> np.ndarray:
    """The 192 numbers (192,) float32 of the motion after `start_us`. Raises DataError when the track is too short."""
    check_covers(track, start_us, start_us + round(HORIZON_SECONDS * 1e6), where)
    times_us = start_us + np.arange(NUM_POINTS + 1) * STEP_SECONDS * 1e6
    poses = np.linalg.inv(interpolate(track, times_us[:1])) @ interpolate(track, times_us)
    return encode_positions(poses[1:, :3, 3])


def encode_positions(positions: np.ndarray) -> np.ndarray:
    """Positions (64, 3) in metres to the 192 numbers, float32."""
    return (positions / AXIS_SCALES).reshape(TRAJECTORY_VALUES).astype(np.float32)


def decode_positions(trajectory: np.ndarray) -> np.ndarray:
    """The 192 numbers to positions (64, 3) in metres."""
    return np.asarray(trajectory, np.float64).reshape(NUM_POINTS, 3) * AXIS_SCALES


def read_track(path: Path) -> EgoTrack:
    """Read `trajectory/<clip>.json`: {"poses": [{"timestamp": us, "x", "y", "z", "qw", "qx", "qy", "qz"}, ...]}.

    Raises DataError for what is not such a file, or not in rig axes, and for what `check_track` finds.
    """
    try:
        content = json.loads(path.read_text())
        poses = content["poses"]
        times_us = np.array([pose["timestamp"] for pose in poses], np.int64)
        positions = np.array([[pose[key] for key in "xyz"] for pose in poses], np.float64)
        quaternions = np.array([[pose[key] for key in ("qw", "qx", "qy", "qz")] for pose in poses], np.float64)
        frame = content.get("coordinate_frame", "rig")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path}: is not an ego track ({error!r}); needed is {{"poses": [{{"timestamp": microseconds, "x", "y", "z" '
            f'in metres, "qw", "qx", "qy", "qz"}}, ...]}}.'
        ) from error
    if frame != "rig":
        raise DataError(f'{path}: poses are of "{frame}"; poses of the rig are needed (coordinate_frame "rig").')
    track = EgoTrack(times_us, positions, quaternions)
    check_track(track, str(path))
    return track


def track_json(track: EgoTrack) -> Dict:
    """The content of an ego track file."""
    rows = zip(track.times_us.tolist(), track.positions.tolist(), track.quaternions.tolist())
    poses = [
        dict(zip(("timestamp", "x", "y", "z", "qw", "qx", "qy", "qz"), [time_us, *position, *quaternion]))
        for time_us, position, quaternion in rows
    ]
    return {"coordinate_frame": "rig", "poses": poses}


def read_trajectory(path: Path) -> np.ndarray:
    """The 192 numbers of a trajectory file: {"positions": 64 x [x, y, z] in metres}, or an ego track from its start.

    Raises DataError for anything else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"trajectory {path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict) or "positions" not in content:
        track = read_track(path)
        return trajectory_of_track(track, int(track.times_us[0]), str(path))
    try:
        positions = np.array(content["positions"], np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"trajectory {path}: positions are no table of numbers ({error}); ({NUM_POINTS}, 3) are needed."
        ) from error
    if positions.shape != (NUM_POINTS, 3) or not np.isfinite(positions).all():
        raise DataError(
            f"trajectory {path}: positions have shape {positions.shape}, ({NUM_POINTS}, 3) finite numbers are needed: x, "
            f"y, z in metres at 0.1 s, 0.2 s, ... 6.4 s."
        )
    return encode_positions(positions)


# Name: curvature in 1/metre (positive turns left) and deceleration in metres per second squared.
PRESETS = {"straight": (0.0, 0.0), "left": (0.06, 0.0), "right": (-0.06, 0.0), "stop": (0.0, 2.0)}


def drive(seconds: np.ndarray, speed: float, curvature: float, deceleration: float) -> np.ndarray:
    """Poses (N, 4, 4) in the plane after these times: an arc of constant curvature, slowing down to a stop.

    Distances: v t - a t^2 / 2 until the vehicle stands.
    """
    moving = np.minimum(seconds, speed / deceleration) if deceleration > 0 else np.asarray(seconds, np.float64)
    distance = speed * moving - 0.5 * deceleration * moving**2
    angle = curvature * distance
    poses = np.tile(np.eye(4), (len(distance), 1, 1))
    cosine, sine = np.cos(angle), np.sin(angle)
    poses[:, :2, :2] = np.moveaxis(np.array([[cosine, -sine], [sine, cosine]]), -1, 0)
    if curvature:
        poses[:, 0, 3], poses[:, 1, 3] = sine / curvature, (1 - cosine) / curvature
    else:
        poses[:, 0, 3] = distance
    return poses


def preset_trajectory(name: str, speed: float = 6.0) -> np.ndarray:
    """The 192 numbers of "straight", "left", "right" or "stop" at a speed in metres per second.

    Turns have a radius of 17 m; "stop" brakes with 2 m/s^2. Raises ConfigError for an unknown name.
    """
    if name not in PRESETS:
        raise ConfigError(f'there is no trajectory "{name}"; known: {", ".join(PRESETS)}.')
    seconds = STEP_SECONDS * np.arange(1, NUM_POINTS + 1)
    return encode_positions(drive(seconds, speed, *PRESETS[name])[:, :3, 3])
