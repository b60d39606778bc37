# SPDX-License-Identifier: Apache-2.0
"""Camera motion of pictures of a known world, by aligning each with a rendering of that world.

The rendering at the expected place, lifted by its depth, is moved until it looks like the frame: Gauss-Newton on
brightness differences over the six numbers of a rigid motion, coarse to fine, with weights that fall for pixels that do
not fit (Cauchy). Blurred pictures, in which no corners can be followed, align all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Tuple

from cosmos1.evaluation.geometry import Motion, camera_matrix, load_opencv

if TYPE_CHECKING:
    import numpy as np

# Standard deviations of the blur, in shares of the picture's width, coarse to fine.
BLUR_SHARES = (0.06, 0.03, 0.012, 0.006)
STEPS_PER_LEVEL = 12
MOST_POINTS = 6000
SMALLEST_SHARE_SEEN = 0.3  # of the expected view, inside the frame
REPEATED_FRAMES = (1, 2, 4, 8)  # a token may stand for 4 or 8 frames: its video stands still and jumps
SMALLEST_STEP = 1e-4  # metres and radians
SOFT_RESIDUAL = 8.0  # grey levels


# (pose, intrinsics) to a picture (H, W, 3) uint8 and its depth (H, W).
RenderWorld = Callable[["np.ndarray", "np.ndarray"], "Tuple[np.ndarray, np.ndarray]"]


@dataclass(frozen=True)
class _View:
    """What the world looks like from the expected place."""

    points: "np.ndarray"
    """(N, 3) in the axes of the expected camera."""
    brightness: "List[np.ndarray]"
    """(N,) for each blur."""


def align_with_world(
    frames: "np.ndarray", intrinsics: "np.ndarray", render: RenderWorld, first_pose: "np.ndarray"
) -> Motion:
    """Camera of every frame (T, H, W, 3) uint8 relative to the first, which is at `first_pose` (4, 4) in the world.

    `intrinsics` (T, 4). Each frame is looked for where the camera last was, and where its motion since some earlier frames
    would lead if repeated; the best fit counts.
    """
    import numpy as np

    cv2 = load_opencv()
    poses, found = [first_pose], [True]
    for frame, numbers in zip(frames[1:], intrinsics[1:]):
        last, matrix = poses[-1], camera_matrix(numbers)
        earlier = [poses[-1 - count] for count in REPEATED_FRAMES if count < len(poses)]
        starts = [last, *(last @ np.linalg.inv(pose) @ last for pose in earlier)]
        fits = [_align(cv2, frame, matrix, _look(cv2, render, start, numbers)) for start in starts]
        best = int(np.argmin([misfit for _, misfit in fits]))
        found.append(bool(np.isfinite(fits[best][1])))
        # The next frame is looked for where the camera was last seen.
        poses.append(starts[best] @ np.linalg.inv(fits[best][0]) if found[-1] else poses[-1])
    return Motion(np.linalg.inv(first_pose) @ np.stack(poses), np.array(found))


def _look(cv2, render: RenderWorld, pose: "np.ndarray", intrinsics: "np.ndarray") -> _View:
    import numpy as np

    picture, depth = render(pose, intrinsics)
    height, width = depth.shape
    stride = max(1, int((height * width / MOST_POINTS) ** 0.5))
    rows, columns = (axis.reshape(-1) for axis in np.mgrid[0:height:stride, 0:width:stride])
    homogeneous = np.stack([columns, rows, np.ones_like(rows)], axis=1) @ np.linalg.inv(camera_matrix(intrinsics)).T
    points = homogeneous * depth[rows, columns, None].astype(np.float64)
    return _View(points, [_blurred(cv2, picture, share * width)[rows, columns] for share in BLUR_SHARES])


def _blurred(cv2, frame: "np.ndarray", sigma: float) -> "np.ndarray":
    """Brightness (H, W) float32, blurred."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype("float32")
    return cv2.GaussianBlur(grey, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _align(cv2, frame: "np.ndarray", matrix: "np.ndarray", view: _View) -> Tuple["np.ndarray", float]:
    """Motion (4, 4) from the expected camera to the frame's, and how badly it fits; infinitely where the frame shows nothing
    or too little of the view."""
    import numpy as np

    motion, residual = np.eye(4), np.zeros(0)
    for share, expected in zip(BLUR_SHARES, view.brightness):
        brightness = _blurred(cv2, frame, share * frame.shape[1])
        gradient_x, gradient_y = (cv2.Scharr(brightness, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1)))
        pictures = (brightness, gradient_x, gradient_y)
        for _ in range(STEPS_PER_LEVEL):
            jacobian, residual = _linearise(cv2, pictures, matrix, view.points, expected, motion)
            if len(residual) < SMALLEST_SHARE_SEEN * len(view.points):
                return motion, np.inf
            weights = 1 / (1 + (residual / SOFT_RESIDUAL) ** 2)
            normal = jacobian.T @ (weights[:, None] * jacobian)
            if not normal.any():
                return motion, np.inf  # a blank frame shows nothing
            normal += 1e-6 * np.trace(normal) / 6 * np.eye(6)
            step = -np.linalg.solve(normal, jacobian.T @ (weights * residual))
            motion = _rigid(cv2, step) @ motion
            if np.abs(step).max() < SMALLEST_STEP:
                break
    # What the frame does not show fits as badly as one soft residual, else a small overlap would look good.
    num_unseen = len(view.points) - len(residual)
    misfit = np.log1p((residual / SOFT_RESIDUAL) ** 2).sum() + num_unseen * np.log(2)
    return motion, float(misfit / len(view.points))


def _linearise(cv2, pictures, matrix, points, expected, motion):
    """Derivatives (M, 6) of the brightness differences (M,) by shift and turn, for the points seen in the frame."""
    import numpy as np

    height, width = pictures[0].shape
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    depth = np.maximum(moved[:, 2], 1e-6)
    projected = (moved / depth[:, None]) @ matrix.T
    columns, rows = projected[:, 0], projected[:, 1]
    seen = (moved[:, 2] > 1e-2) & (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    if not seen.any():
        return np.zeros((0, 6)), np.zeros(0)
    x, y, z = moved[seen].T
    maps = columns[seen].astype(np.float32)[None], rows[seen].astype(np.float32)[None]
    brightness, gradient_x, gradient_y = (
        cv2.remap(picture, *maps, cv2.INTER_LINEAR)[0].astype(np.float64) for picture in pictures
    )
    along_x, along_y = gradient_x * matrix[0, 0] / z, gradient_y * matrix[1, 1] / z
    along_z = -(along_x * x + along_y * y) / z
    turn_x, turn_y, turn_z = along_z * y - along_y * z, along_x * z - along_z * x, along_y * x - along_x * y
    jacobian = np.stack([along_x, along_y, along_z, turn_x, turn_y, turn_z], axis=1)
    return jacobian, brightness - expected[seen]


def _rigid(cv2, step: "np.ndarray") -> "np.ndarray":
    """Motion (4, 4) of a small shift (3) and turn (3)."""
    import numpy as np

    motion = np.eye(4)
    motion[:3, :3] = cv2.Rodrigues(step[3:])[0]
    motion[:3, 3] = step[:3]
    return motion
