# SPDX-License-Identifier: Apache-2.0
"""Multi-view: do views that overlap show the same world?

Both views are turned into one common direction, where overlapping parts look alike; points are matched there (SIFT)
and must satisfy the epipolar geometry of the rig. The error of a match is its Sampson distance. Views of different
videos share nothing, which gives the shuffled score.
"""

import argparse
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

from cosmos1.errors import DataError
from cosmos1.evaluation.command_gap import add_command_options, measure_commands
from cosmos1.evaluation.control_gap import ControlScore, Scores
from cosmos1.evaluation.geometry import camera_matrix, load_opencv, sampson_errors

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.data.geometry.rigs import RigCamera

SCORES = (
    ControlScore("sampson_error", "median Sampson error of matches", "pixels", False),
    ControlScore("consistent_matches", "matches within 2 pixels, per frame and pair", "", True),
)
CONSISTENT_PIXELS = 2.0
BEST_TO_SECOND = 0.85  # a match must be that much closer than the second best
COMMON_SIZE = 320  # pixels of the common view
SMALLEST_OVERLAP = 0.12  # share of the common view that both cameras see
MOST_FRAMES = 6


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `view_consistency` to `python -m cosmos1.evaluation`."""
    p = commands.add_parser("view_consistency", help="multi-view: do overlapping views agree?", description=__doc__)
    p.add_argument("--generated", type=Path, required=True, help="folder of <camera>/NAME.mp4")
    p.add_argument("--rig", default="six_cameras", help="rig file, or the preset; must state the cameras' geometry")
    add_command_options(p)
    p.set_defaults(function=run)


def run(options: argparse.Namespace) -> Dict:
    """Measure all videos, print and write the result."""
    from cosmos1.data.geometry.rigs import load_rig
    from cosmos1.data.video import read_video

    cameras = load_rig(options.rig).cameras
    names = _common_names(options.generated, [camera.name for camera in cameras])
    views = lru_cache(maxsize=4 * len(cameras))(
        lambda camera, name: read_video(_video_path(options.generated, camera, name))
    )
    paths = [_video_path(options.generated, camera.name, name) for name in names for camera in cameras]
    pairs = overlapping_pairs(cameras, *_common_size(paths))
    if not pairs:
        raise DataError(f"--rig {options.rig}: no two of its cameras see the same part of the world.")

    def score(video: str, other: str) -> Scores:
        """Of each pair, the first view from one video and the second from the other."""
        return consistency([(pair, views(pair.names[0], video), views(pair.names[1], other)) for pair in pairs])

    return measure_commands(names, score, SCORES, options)


class ViewPair:
    """Two cameras, the turn of each into a common view, and the epipolar geometry there."""

    def __init__(self, first: "RigCamera", second: "RigCamera", height: int, width: int):
        import numpy as np
        from scipy.spatial.transform import Rotation, Slerp

        self.names = (first.name, second.name)
        turns = Rotation.from_matrix([camera.rig_from_camera[:3, :3] for camera in (first, second)])
        middle = Slerp([0, 1], turns)(0.5).as_matrix()
        angle = 2 * np.radians(35.0)
        focal = COMMON_SIZE / 2 / np.tan(angle / 2)
        self.common = camera_matrix(np.array([focal, focal, COMMON_SIZE / 2, COMMON_SIZE / 2]))
        self.warps = [
            self.common @ middle.T @ turn @ np.linalg.inv(camera_matrix(camera.intrinsics_for(height, width)))
            for camera, turn in zip((first, second), turns.as_matrix())
        ]
        self.seen = [self._seen(warp, height, width) for warp in self.warps]
        # x2 = x1 + t in camera axes; both cameras of the common view have one rotation.
        x, y, z = middle.T @ (first.rig_from_camera[:3, 3] - second.rig_from_camera[:3, 3])
        inverse = np.linalg.inv(self.common)
        self.fundamental = inverse.T @ np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ inverse
        self.has_baseline = np.hypot(np.hypot(x, y), z) > 1e-6

    @property
    def overlap(self) -> float:
        """Share of the common view that both cameras see."""
        return float((self.seen[0] & self.seen[1]).mean())

    def _seen(self, warp: "np.ndarray", height: int, width: int) -> "np.ndarray":
        """Which pixels of the common view (COMMON_SIZE squared, bool) a camera sees."""
        import numpy as np

        columns, rows = np.meshgrid(np.arange(COMMON_SIZE), np.arange(COMMON_SIZE))
        points = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(warp).T
        in_front = points[..., 2] > 1e-9
        x, y = (points[..., axis] / np.where(in_front, points[..., 2], 1) for axis in (0, 1))
        return in_front & (x >= 1) & (x <= width - 2) & (y >= 1) & (y <= height - 2)

    def turned(self, which: int, frame: "np.ndarray") -> "Tuple[np.ndarray, np.ndarray]":
        """Grey common view of a frame, and where to look for points (uint8 masks for OpenCV)."""
        import numpy as np

        cv2 = load_opencv()
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        picture = cv2.warpPerspective(grey, self.warps[which], (COMMON_SIZE, COMMON_SIZE), flags=cv2.INTER_CUBIC)
        both = (self.seen[0] & self.seen[1]).astype(np.uint8) * 255
        return picture, cv2.erode(both, np.ones((7, 7), np.uint8))


def overlapping_pairs(cameras: "List[RigCamera]", height: int, width: int) -> List[ViewPair]:
    """Pairs of cameras that see a common part of the world. Raises DataError for cameras without geometry."""
    for camera in cameras:
        if camera.rig_from_camera is None or camera.intrinsics is None:
            raise DataError(f"rig camera {camera.name}: the rig file states no position or no intrinsics. Add them.")
    pairs = [
        ViewPair(first, second, height, width)
        for index, first in enumerate(cameras)
        for second in cameras[index + 1 :]
        if first.rig_from_camera[:3, 2] @ second.rig_from_camera[:3, 2] > -0.5
    ]
    return [pair for pair in pairs if pair.overlap >= SMALLEST_OVERLAP and pair.has_baseline]


def consistency(views: "List[Tuple[ViewPair, np.ndarray, np.ndarray]]") -> Scores:
    """Scores over pairs of views (T, H, W, 3); up to six frames of each are matched."""
    import numpy as np

    errors, num_pictures = [], 0
    for pair, first, second in views:
        count = min(len(first), len(second))
        for number in np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)):
            found = match_errors(pair, first[number], second[number])
            num_pictures += 1
            if found is not None:
                errors.append(found)
    if not errors:
        return {"sampson_error": None, "consistent_matches": 0.0}
    together = np.concatenate(errors)
    consistent = float((together < CONSISTENT_PIXELS).sum()) / num_pictures
    return {"sampson_error": float(np.median(together)), "consistent_matches": consistent}


def match_errors(pair: ViewPair, first: "np.ndarray", second: "np.ndarray") -> "Optional[np.ndarray]":
    """Sampson errors (N,) in pixels of the common view; None without a match."""
    import numpy as np

    cv2 = load_opencv()
    finder = cv2.SIFT_create(contrastThreshold=0.02)
    described = [finder.detectAndCompute(*pair.turned(which, frame)) for which, frame in enumerate((first, second))]
    (points1, features1), (points2, features2) = described
    if features1 is None or features2 is None or len(points2) < 2:
        return None
    matches = cv2.BFMatcher().knnMatch(features1, features2, k=2)
    kept = [best for best, next_best in matches if best.distance < BEST_TO_SECOND * next_best.distance]
    if not kept:
        return None
    ends = [
        np.array([points[index].pt for points, index in ((points1, m.queryIdx), (points2, m.trainIdx))]) for m in kept
    ]
    ends = np.stack(ends)
    return sampson_errors(pair.fundamental, ends[:, 0], ends[:, 1])


def _video_path(folder: Path, camera: str, name: str) -> Path:
    return folder / camera / f"{name}.mp4"


def _common_size(paths: List[Path]) -> Tuple[int, int]:
    """Height and width of all videos, which one geometry is made for. Raises DataError naming two that differ."""
    from cosmos1.data.video import probe_video

    found = {}
    for info in map(probe_video, paths):
        found.setdefault((info.height, info.width), info.path)
    if len(found) > 1:
        first, second, *_ = (f"{path} is {height} x {width}" for (height, width), path in found.items())
        raise DataError(
            f"--generated: {first}, but {second}; all views of all videos must have one size. Put videos of another size into "
            f"a folder of their own."
        )
    return next(iter(found))


def _common_names(folder: Path, cameras: List[str]) -> List[str]:
    """Names of the videos that every camera has."""
    found = [{path.stem for path in (folder / camera).glob("*.mp4")} for camera in cameras]
    names = sorted(set.intersection(*found))
    if not names:
        counts = ", ".join(f"{camera} {len(videos)}" for camera, videos in zip(cameras, found))
        raise DataError(f"--generated {folder}: no NAME.mp4 that all cameras have; videos by camera: {counts}.")
    return names
