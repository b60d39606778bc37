# SPDX-License-Identifier: Apache-2.0
"""Camera control: does the camera of a generated video move as it was told?

With the demo world, whole pictures are aligned with renderings of it and translations have a scale; elsewhere corners
are followed and only the direction of a translation can be told.
"""

import argparse
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional

from cosmos1.errors import DataError
from cosmos1.evaluation.command_gap import (
    add_command_options,
    check_moves,
    demo_world_seed,
    generated_videos,
    measure_commands,
)
from cosmos1.evaluation.control_gap import ControlScore, Scores
from cosmos1.evaluation.geometry import Motion, rotation_error_degrees

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.data.geometry.cameras import CameraPath

SMALLEST_MOTION = 0.02  # of the largest distance in a command; below it, a direction means nothing
ROTATION = ControlScore("rotation_error", "rotation error", "degrees", False)
FOUND = ControlScore("frames_found", "frames whose camera was found", "share", True)
WITH_DEPTH = (
    ROTATION,
    ControlScore("translation_error", "translation error", "shares of the median depth", False),
    ControlScore("world_psnr", "PSNR against the world as commanded", "dB", True),
    FOUND,
)
WITHOUT_DEPTH = (
    ROTATION,
    ControlScore("direction_error", "error of the direction of translation", "degrees", False),
    FOUND,
)
COMMAND_SUFFIXES = (".json", ".zip", "")


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `camera_pose` to `python -m cosmos1.evaluation`."""
    p = commands.add_parser("camera_pose", help="camera control: pose errors of generated videos", description=__doc__)
    p.add_argument("--generated", type=Path, required=True, help="folder of generated mp4s, NAME.mp4")
    p.add_argument("--cameras", type=Path, required=True, help="folder of NAME.json, NAME.zip or scene folders NAME")
    p.add_argument("--demo_world", action="store_true", help="--cameras was written by data_prep/demo_world.py")
    p.add_argument("--method", choices=("opencv", "pycolmap"), default="opencv", help="without --demo_world")
    add_command_options(p)
    p.set_defaults(function=run)


def run(options: argparse.Namespace) -> Dict:
    """Measure all videos, print and write the result."""
    videos = generated_videos(options.generated)
    evaluation = _CameraEvaluation(options, videos)
    scores = WITH_DEPTH if options.demo_world else WITHOUT_DEPTH
    return measure_commands(list(videos), evaluation.score, scores, options)


class _CameraEvaluation:
    """Scores of (video, command) pairs; each video is read and its cameras are estimated once."""

    def __init__(self, options: argparse.Namespace, videos: Dict[str, Path]):
        from cosmos1.data.demo_worlds.room_world import furnished_room

        self.options, self.videos = options, videos
        self.world = furnished_room(demo_world_seed(options.cameras, "camera")) if options.demo_world else None
        self.frames = lru_cache(maxsize=1)(self._frames)
        self.command = lru_cache(maxsize=None)(self._command)
        self.estimate = lru_cache(maxsize=None)(self._estimate)

    def score(self, video: str, command: str) -> Scores:
        """Errors of one video under one command, which is taken to start where the video's own command starts."""
        from cosmos1.data.geometry.cameras import CameraPath, relative_to_first

        own, commanded = self.command(video), self.command(command)
        motion, median_depth = self.estimate(video)
        errors = pose_errors(motion, relative_to_first(commanded.poses)[: len(motion.poses)], median_depth)
        if self.world is not None:
            poses = own.poses[0] @ relative_to_first(commanded.poses)
            path = CameraPath(poses, own.intrinsics, own.height, own.width)
            errors["world_psnr"] = self._world_psnr(self.frames(video), path)
        return errors

    def _frames(self, video: str) -> "np.ndarray":
        from cosmos1.data.video import read_video

        return read_video(self.videos[video])

    def _command(self, name: str) -> "CameraPath":
        from cosmos1.data.sources.camera_files import cameras_for_video, read_camera_path
        from cosmos1.data.video import count_frames, probe_video

        found = [
            path for path in (self.options.cameras / f"{name}{suffix}" for suffix in COMMAND_SUFFIXES) if path.exists()
        ]
        if not found:
            raise DataError(f"--cameras {self.options.cameras}: no {name}.json, {name}.zip or folder {name}.")
        info = probe_video(self.videos[name])
        num_frames = info.num_frames or count_frames(info.path)
        # Here, since other videos are measured under this command as well.
        check_moves(info.path, num_frames)
        return cameras_for_video(read_camera_path(found[0]), num_frames, info.height, info.width, str(found[0]))

    def _estimate(self, video: str) -> "tuple[Motion, Optional[float]]":
        """Cameras of a video, and the median depth of its first frame where that is known."""
        import numpy as np

        from cosmos1.data.demo_worlds.room_world import render_view
        from cosmos1.evaluation.alignment import align_with_world
        from cosmos1.evaluation.geometry import poses_without_depth

        frames, command = self.frames(video), self.command(video)
        if self.world is not None:
            show = partial(render_view, self.world, command.height, command.width)
            _, depth = show(command.poses[0], command.intrinsics[0])
            return align_with_world(frames, command.intrinsics, show, command.poses[0]), float(np.median(depth))
        if self.options.method == "pycolmap":
            from cosmos1.evaluation.structure_from_motion import poses_by_pycolmap

            return poses_by_pycolmap(frames, command.intrinsics[0]), None
        return poses_without_depth(frames, command.intrinsics), None

    def _world_psnr(self, frames: "np.ndarray", path: "CameraPath") -> float:
        from cosmos1.data.demo_worlds.room_world import render_path
        from cosmos1.evaluation.metrics import psnr

        # The first frame is given, not generated.
        return psnr(frames[1:], render_path(self.world, path.of_frames(slice(1, len(frames))))).value


def pose_errors(motion: Motion, commanded: "np.ndarray", median_depth: Optional[float]) -> Scores:
    """Mean errors over the frames after the first whose camera was found; None where there is nothing to average.

    Args:
        commanded: (T, 4, 4), relative to the first camera; two frames or more, as in `motion`.
        median_depth: unit of the translation error; None when `motion` has no scale, then only directions are
            compared, in frames where the command has moved.
    """
    import numpy as np

    count = min(len(commanded), len(motion.poses))
    found = motion.found[:count].copy()
    found[0] = False
    estimated, commanded = motion.poses[:count], commanded[:count]
    rotation = rotation_error_degrees(estimated[:, :3, :3], commanded[:, :3, :3])
    shift, wanted = estimated[:, :3, 3], commanded[:, :3, 3]
    errors = {"rotation_error": _mean(rotation[found]), "frames_found": float(found[1:].mean())}
    if median_depth is not None:
        errors["translation_error"] = _mean(np.linalg.norm(shift - wanted, axis=1)[found] / median_depth)
        return errors
    distance = np.linalg.norm(wanted, axis=1)
    moved = found & (distance > SMALLEST_MOTION * max(distance.max(), 1e-9)) & (np.linalg.norm(shift, axis=1) > 0)
    cosine = (shift * wanted).sum(axis=1) / np.maximum(np.linalg.norm(shift, axis=1) * distance, 1e-12)
    errors["direction_error"] = _mean(np.degrees(np.arccos(np.clip(cosine, -1, 1)))[moved])
    return errors


def _mean(values: "np.ndarray") -> Optional[float]:
    return float(values.mean()) if len(values) else None
