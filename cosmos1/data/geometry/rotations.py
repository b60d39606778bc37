# SPDX-License-Identifier: Apache-2.0
"""Rotation matrices (..., 3, 3) float64 of angles and quaternions, and back."""

import numpy as np

SMALLEST_COSINE = 1e-6


def rotation_about(axis: str, degrees) -> np.ndarray:
    """Rotation matrices (..., 3, 3) about an axis, "x", "y" or "z", by the right-hand rule."""
    angle = np.radians(np.asarray(degrees, np.float64))
    cosine, sine, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = {
        "x": [[one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]],
        "y": [[cosine, zero, sine], [zero, one, zero], [-sine, zero, cosine]],
        "z": [[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one]],
    }[axis]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def rotation_of_quaternion(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4), w, x, y, z, of any length."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def rotation_matrices(angles_N3: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) of angles (N, 3) roll, pitch, yaw in radians: Rz(yaw) Ry(pitch) Rx(roll)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_N3).T, np.sin(angles_N3).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def euler_angles(rotations_N33: np.ndarray) -> np.ndarray:
    """Angles (N, 3) roll, pitch, yaw in (-pi, pi] of rotations (N, 3, 3); yaw is 0 where pitch is 90 degrees."""
    r = rotations_N33
    cosine = np.hypot(r[:, 0, 0], r[:, 1, 0])
    regular = cosine >= SMALLEST_COSINE
    roll = np.where(regular, np.arctan2(r[:, 2, 1], r[:, 2, 2]), np.arctan2(-r[:, 1, 2], r[:, 1, 1]))
    pitch = np.arctan2(-r[:, 2, 0], cosine)
    yaw = np.where(regular, np.arctan2(r[:, 1, 0], r[:, 0, 0]), 0.0)
    angles = np.stack([roll, pitch, yaw], axis=1)
    return np.where(angles <= -np.pi, np.pi, angles)
