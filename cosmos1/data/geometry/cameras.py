# SPDX-License-Identifier: Apache-2.0
"""Pinhole cameras in motion, and the rays by which a network sees them.

Camera axes are OpenCV's: x right, y down, z forward. Poses are camera-to-world matrices (4, 4), float64. Legend of the
shapes: F frames, h w latent grid.
"""

from dataclasses import dataclass
from typing import Callable, Dict, Optional

import numpy as np

from cosmos1.data.geometry.rotations import rotation_about
from cosmos1.errors import ConfigError, DataError

TEMPORAL_FACTOR = 8
LARGEST_ROTATION_ERROR = 1e-3


@dataclass(frozen=True)
class CameraPath:
    """One camera per frame, all for pictures of `height` x `width` pixels."""

    poses: np.ndarray
    """(F, 4, 4) camera to world."""
    intrinsics: np.ndarray
    """(F, 4): focal lengths fx, fy and principal point cx, cy in pixels; the centre of the first pixel is (0.5, 0.5)."""
    height: int
    width: int

    def of_frames(self, frames) -> "CameraPath":
        """The cameras of some frames: a slice or a list of indices."""
        return CameraPath(self.poses[frames], self.intrinsics[frames], self.height, self.width)


def latent_frames(num_frames: int, temporal_factor: int = TEMPORAL_FACTOR) -> np.ndarray:
    """Indices 0, 8, 16, ... of the pixel frames whose cameras stand for the latent frames of a causal tokenizer."""
    return np.arange(0, num_frames, temporal_factor)


def opencv_from_opengl(poses: np.ndarray) -> np.ndarray:
    """Turn camera-to-world poses (..., 4, 4) with OpenGL axes (y up, z backward) into OpenCV axes.

    Negates the second and third column of the rotation. The same call turns them back.
    """
    return poses * np.array([1.0, -1.0, -1.0, 1.0])


def check_poses(poses: np.ndarray, where: str) -> None:
    """Raise DataError unless `poses` are (F, 4, 4), finite, with orthonormal right-handed rotations."""
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise DataError(f"{where}: camera poses have shape {poses.shape}, (frames, 4, 4) is needed.")
    bad = np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))
    if len(bad):
        raise DataError(f"{where}: the pose of frame {bad[0]} is not finite ({len(bad)} such frames).")
    rotations = poses[:, :3, :3]
    error = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    error = np.maximum(error, np.abs(np.linalg.det(rotations) - 1))
    worst = int(error.argmax())
    if error[worst] > LARGEST_ROTATION_ERROR or np.abs(poses[:, 3] - [0, 0, 0, 1]).max() > LARGEST_ROTATION_ERROR:
        raise DataError(
            f"{where}: the pose of frame {worst} is not a rotation and a translation (its rotation differs by "
            f"{error[worst]:.2g} from an orthonormal one, {LARGEST_ROTATION_ERROR:g} is allowed; the last row must be "
            f"0 0 0 1). Give camera-to-world matrices without scale or shear."
        )


def relative_to_first(poses: np.ndarray) -> np.ndarray:
    """Express poses (F, 4, 4) in the axes of the first camera: N_i = M_0^-1 M_i, so that N_0 is the identity."""
    return np.linalg.inv(poses[0]) @ poses


def scaled_translations(poses: np.ndarray, metres_per_unit: Optional[float] = None) -> np.ndarray:
    """Divide the camera centres of relative poses (F, 4, 4) by `metres_per_unit`.

    None divides by the largest distance between any two centres; a camera that does not move keeps its zeros.
    """
    centres = poses[:, :3, 3]
    if metres_per_unit is None:
        metres_per_unit = float(np.linalg.norm(centres[:, None] - centres[None], axis=-1).max())
        if metres_per_unit < 1e-9:
            centres, metres_per_unit = np.zeros_like(centres), 1.0
    scaled = poses.copy()
    scaled[:, :3, 3] = centres / metres_per_unit
    return scaled


def plucker_embeddings(path: CameraPath, h: int, w: int, metres_per_unit: Optional[float] = None) -> np.ndarray:
    """Lines of sight (F, 6, h, w) float32 of every cell of a grid over the picture: moment o x d, then direction d.

    `o` is the camera centre and `d` the unit direction through the middle of the cell, both in the axes of the first
    camera of the path; translations are scaled over the whole path (`scaled_translations`). Formula: Pluecker
    coordinates of a line.
    """
    poses = scaled_translations(relative_to_first(path.poses), metres_per_unit)
    fx, fy, cx, cy = (path.intrinsics * ([w / path.width, h / path.height] * 2)).T
    columns = (np.arange(w) + 0.5 - cx[:, None]) / fx[:, None]
    rows = (np.arange(h) + 0.5 - cy[:, None]) / fy[:, None]
    directions_F3hw = np.ones((len(poses), 3, h, w))
    directions_F3hw[:, 0] = columns[:, None, :]
    directions_F3hw[:, 1] = rows[:, :, None]
    directions_F3hw = np.einsum("fij,fjhw->fihw", poses[:, :3, :3], directions_F3hw)
    directions_F3hw /= np.linalg.norm(directions_F3hw, axis=1, keepdims=True)
    origins_F3hw = np.broadcast_to(poses[:, :3, 3, None, None], directions_F3hw.shape)
    moments_F3hw = np.cross(origins_F3hw, directions_F3hw, axis=1)
    return np.concatenate([moments_F3hw, directions_F3hw], axis=1).astype(np.float32)


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Pose (4, 4) of a camera at `position` that sees `target` in the middle and `up` upwards."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose


def _orbit(progress: np.ndarray, amount: float) -> np.ndarray:
    """Around a point one unit ahead, which stays in the middle; positive degrees bring the camera to the right."""
    poses = _still(len(progress))
    poses[:, :3, :3] = rotation_about("y", -amount * progress)
    poses[:, :3, 3] = np.array([0, 0, 1.0]) - poses[:, :3, 2]
    return poses


def _dolly(progress: np.ndarray, amount: float) -> np.ndarray:
    """Along the line of sight; positive amounts go forward."""
    poses = _still(len(progress))
    poses[:, 2, 3] = amount * progress
    return poses


def _pan(progress: np.ndarray, amount: float) -> np.ndarray:
    """Turn on the spot; positive degrees look to the right."""
    poses = _still(len(progress))
    poses[:, :3, :3] = rotation_about("y", amount * progress)
    return poses


def _still(count: int) -> np.ndarray:
    return np.tile(np.eye(4), (count, 1, 1))


NAMED_PATHS: Dict[str, "tuple[Callable[[np.ndarray, float], np.ndarray], float]"] = {
    "orbit": (_orbit, 30.0),
    "dolly": (_dolly, 1.0),
    "pan": (_pan, 30.0),
}
"""Path by name, with its usual amount: degrees, or scene units for dolly."""


def path_along(name: str, progress: np.ndarray, amount: Optional[float] = None) -> np.ndarray:
    """Poses (F, 4, 4) of a simple camera path, the identity where `progress` (F,) is 0, its full amount where it is 1.

    "orbit" and "pan" take degrees (30; positive: to the right), "dolly" units (1; positive: forward). Raises
    ConfigError for an unknown name.
    """
    if name not in NAMED_PATHS:
        raise ConfigError(f'there is no camera path "{name}"; known: {", ".join(NAMED_PATHS)}.')
    build, usual = NAMED_PATHS[name]
    return build(progress, usual if amount is None else amount)


def named_path(name: str, num_frames: int, amount: Optional[float] = None) -> np.ndarray:
    """Poses (num_frames, 4, 4) that move evenly along `path_along` from its start to its end."""
    return path_along(name, np.arange(num_frames) / max(num_frames - 1, 1), amount)
