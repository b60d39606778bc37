# SPDX-License-Identifier: Apache-2.0
"""Camera motion from pictures, with OpenCV: point tracks, poses up to scale, epipolar errors.

Frames are (T, H, W, 3) uint8 RGB. Intrinsics are fx, fy, cx, cy in pixels, the first pixel's centre at (0.5, 0.5).
Poses are those of cosmos1/data/geometry/cameras.py: camera to world, OpenCV axes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Tuple

from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

MOST_POINTS = 600
LARGEST_RETURN_ERROR = 0.7  # pixels between a point and itself, tracked there and back
FEWEST_POINTS = 8
SMALLEST_TRACKED_SIDE = 384  # smaller pictures are enlarged before tracking


@dataclass(frozen=True)
class Motion:
    """Estimated camera of each frame, relative to the first."""

    poses: "np.ndarray"
    """(T, 4, 4)."""
    found: "np.ndarray"
    """(T,) bool: whether enough points could be followed to this frame."""


def load_opencv():
    """The cv2 module. Raises ConfigError when it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError("this metric needs OpenCV: pip install opencv-python-headless") from error
    cv2.setRNGSeed(0)  # RANSAC draws from it: the same videos give the same numbers
    return cv2


def camera_matrix(intrinsics: "np.ndarray") -> "np.ndarray":
    """Matrix (3, 3) in OpenCV's pixels, where the centre of the first pixel is (0, 0)."""
    import numpy as np

    fx, fy, cx, cy = intrinsics
    return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]], np.float64)


def track_from_first(frames: "np.ndarray") -> "List[Tuple[np.ndarray, np.ndarray]]":
    """Follow corners of the first frame through all others (Lucas-Kanade, checked there and back).

    Returns, for each frame, where the points were in the first frame (N, 2) and where they are now (N, 2), in OpenCV's
    pixels of the given frames.
    """
    import numpy as np

    cv2 = load_opencv()
    factor = max(1, -(-SMALLEST_TRACKED_SIDE // min(frames.shape[1:3])))
    greys = [_grey(cv2, frame, factor) for frame in frames]
    start = cv2.goodFeaturesToTrack(greys[0], MOST_POINTS, 0.005, 3 * factor)
    start = np.zeros((0, 1, 2), np.float32) if start is None else start
    now, found = start.copy(), [(_original(start, factor), _original(start, factor))]
    options = {"winSize": (21, 21), "maxLevel": 4}
    for before, after in zip(greys, greys[1:]):
        if len(now):
            moved, status, _ = cv2.calcOpticalFlowPyrLK(before, after, now, None, **options)
            back, back_status, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, **options)
            near = np.linalg.norm(back - now, axis=-1).reshape(-1) < LARGEST_RETURN_ERROR * factor
            kept = near & (status.reshape(-1) == 1) & (back_status.reshape(-1) == 1)
            start, now = start[kept], moved[kept]
        found.append((_original(start, factor), _original(now, factor)))
    return found


def _grey(cv2, frame: "np.ndarray", factor: int) -> "np.ndarray":
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    return cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else grey


def _original(points: "np.ndarray", factor: int) -> "np.ndarray":
    """Points (N, 1, 2) of the enlarged picture as (N, 2) of the original; both count from pixel centres."""
    return ((points.reshape(-1, 2) + 0.5) / factor - 0.5).astype("float64")


def poses_without_depth(frames: "np.ndarray", intrinsics: "np.ndarray") -> Motion:
    """Cameras from the essential matrix of each frame with the first; translations have length 1, or 0 where a turn on
    the spot explains nine of ten points. `intrinsics` (T, 4), those of the first frame are used for all.
    """
    import numpy as np

    cv2 = load_opencv()
    matrix = camera_matrix(intrinsics[0])
    motion = _unknown(len(frames))
    for number, (start, now) in enumerate(track_from_first(frames)):
        if number == 0 or len(start) < FEWEST_POINTS:
            continue
        turn = _pure_turn(start, now, matrix)
        if turn is not None:
            motion.poses[number, :3, :3] = turn.T
            motion.found[number] = True
            continue
        essential, _ = cv2.findEssentialMat(start, now, matrix, method=cv2.RANSAC, prob=0.999, threshold=0.7)
        if essential is not None and essential.shape == (3, 3):
            _, rotation, shift, _ = cv2.recoverPose(essential, start, now, matrix)
            motion.poses[number] = _camera_to_first(rotation, shift)
            motion.found[number] = np.isfinite(motion.poses[number]).all()
    return motion


def _pure_turn(start: "np.ndarray", now: "np.ndarray", matrix: "np.ndarray") -> "Optional[np.ndarray]":
    """Rotation (3, 3) that takes the first frame's lines of sight to this frame's, if it explains 90 % of the points.

    Least squares on unit vectors (Kabsch), repeated without the points that do not fit.
    """
    import numpy as np

    inverse = np.linalg.inv(matrix)
    rays = [np.concatenate([points, np.ones((len(points), 1))], axis=1) @ inverse.T for points in (start, now)]
    first, second = (ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in rays)
    kept = np.ones(len(first), bool)
    for _ in range(5):
        u, _, vt = np.linalg.svd(second[kept].T @ first[kept])
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        error = np.linalg.norm(second - first @ rotation.T, axis=1) * matrix[0, 0]
        kept = error < 1.0
        if kept.sum() < max(FEWEST_POINTS, 0.9 * len(first)):
            return None
    return rotation


def _unknown(num_frames: int) -> Motion:
    import numpy as np

    found = np.zeros(num_frames, bool)
    found[0] = True
    return Motion(np.tile(np.eye(4), (num_frames, 1, 1)), found)


def _camera_to_first(rotation: "np.ndarray", shift: "np.ndarray") -> "np.ndarray":
    """Invert x' = R x + t, which takes points of the first camera to this one."""
    import numpy as np

    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -rotation.T @ shift.reshape(3)
    return pose


def rotation_error_degrees(first: "np.ndarray", second: "np.ndarray") -> "np.ndarray":
    """Angle (T,) in degrees between rotations (T, 3, 3): arccos((trace(A^T B) - 1) / 2)."""
    import numpy as np

    trace = np.einsum("tij,tij->t", first, second)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def sampson_errors(fundamental: "np.ndarray", first: "np.ndarray", second: "np.ndarray") -> "np.ndarray":
    """First-order distance (N,) in pixels of matches (N, 2) from satisfying x2^T F x1 = 0 (Sampson)."""
    import numpy as np

    x1, x2 = (np.concatenate([points, np.ones((len(points), 1))], axis=1) for points in (first, second))
    line2, line1 = x1 @ fundamental.T, x2 @ fundamental
    residual = np.einsum("ni,ni->n", x2, line2)
    weight = line2[:, 0] ** 2 + line2[:, 1] ** 2 + line1[:, 0] ** 2 + line1[:, 1] ** 2
    return np.abs(residual) / np.sqrt(np.maximum(weight, 1e-12))
