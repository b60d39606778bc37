# SPDX-License-Identifier: Apache-2.0
"""Trajectory control: does the car of a generated video drive where it was told?

The motion is that of one camera of the rig, found in its view. With the demo world pictures are aligned with
renderings of it and errors are in metres; elsewhere pycolmap finds the path, which is scaled to fit the command, so
that only its shape is compared.
"""

import argparse
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Dict

from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.command_gap import (
    add_command_options,
    check_moves,
    demo_world_seed,
    generated_videos,
    measure_commands,
)
from cosmos1.evaluation.control_gap import ControlScore, Scores
from cosmos1.evaluation.geometry import Motion

if TYPE_CHECKING:
    import numpy as np

SCORES = (
    ControlScore("mean_error", "mean distance to the commanded path", "metres", False),
    ControlScore("final_error", "distance to the commanded path in the last frame", "metres", False),
    ControlScore("frames_found", "frames whose camera was found", "share", True),
)


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `trajectory_following` to `python -m cosmos1.evaluation`."""
    p = commands.add_parser(
        "trajectory_following", help="trajectory control: where the car of a video drives", description=__doc__
    )
    p.add_argument("--generated", type=Path, required=True, help="folder of the generated mp4s of one view, NAME.mp4")
    p.add_argument("--trajectories", type=Path, required=True, help="folder of NAME.json, tracks or positions")
    p.add_argument("--rig", default="six_cameras", help="rig file, or the preset; must state the camera's geometry")
    p.add_argument("--camera", help="whose view --generated shows; default: the first of the rig")
    p.add_argument("--demo_world", type=Path, help="folder written by data_prep/demo_world.py --world rig")
    p.add_argument(
        "--frames_per_token",
        type=int,
        default=1,
        help="groups of so many frames show one picture, their mean (dct_fsq); compare groups, not frames",
    )
    add_command_options(p)
    p.set_defaults(function=run)


def run(options: argparse.Namespace) -> Dict:
    """Measure all videos, print and write the result."""
    if options.frames_per_token < 1:
        raise ConfigError(f"--frames_per_token {options.frames_per_token}: at least 1 is needed.")
    videos = generated_videos(options.generated)
    evaluation = _TrajectoryEvaluation(options, videos)
    return measure_commands(list(videos), evaluation.score, SCORES, options)


class _TrajectoryEvaluation:
    """Scores of (video, trajectory) pairs; the motion of each video is estimated once."""

    def __init__(self, options: argparse.Namespace, videos: Dict[str, Path]):
        from cosmos1.data.demo_worlds.posed_worlds import demo_hall
        from cosmos1.data.geometry.rigs import load_rig

        self.options, self.videos = options, videos
        rig = load_rig(options.rig)
        name = options.camera or rig.names[0]
        if name not in rig.names:
            raise ConfigError(f"--camera {name}: the cameras of --rig are {', '.join(rig.names)}.")
        self.camera = rig.cameras[rig.names.index(name)]
        if self.camera.rig_from_camera is None:
            raise DataError(f"rig camera {name}: the rig file states no position and roll_pitch_yaw_degrees. Add them.")
        self.world = demo_hall(demo_world_seed(options.demo_world, "rig")) if options.demo_world else None
        self.command = lru_cache(maxsize=None)(self._command)
        self.estimate = lru_cache(maxsize=None)(self._estimate)

    def score(self, video: str, command: str) -> Scores:
        motion, fps = self.estimate(video)
        positions = rig_positions(motion, self.camera.rig_from_camera)
        known = {"fps": fps, "has_scale": self.world is not None, "frames_per_token": self.options.frames_per_token}
        return path_errors(positions, motion.found, self.command(command), **known)

    def _command(self, name: str) -> "np.ndarray":
        from cosmos1.data.geometry.trajectories import read_trajectory

        path = self.options.trajectories / f"{name}.json"
        if not path.exists():
            raise DataError(f"--trajectories {self.options.trajectories}: there is no {name}.json.")
        return read_trajectory(path)

    def _estimate(self, video: str) -> "tuple[Motion, float]":
        """Motion of the camera, and the video's frame rate."""
        import numpy as np

        from cosmos1.data.demo_worlds.room_world import render_view
        from cosmos1.data.video import probe_video, read_video
        from cosmos1.evaluation.alignment import align_with_world

        frames, fps = read_video(self.videos[video]), probe_video(self.videos[video]).fps
        check_moves(self.videos[video], len(frames))
        check_groups(self.videos[video], len(frames), self.options.frames_per_token)
        intrinsics = np.tile(self.camera.intrinsics_for(*frames.shape[1:3]), (len(frames), 1))
        if self.world is None:
            from cosmos1.evaluation.structure_from_motion import poses_by_pycolmap

            return poses_by_pycolmap(frames, intrinsics[0]), fps
        pose = self._first_rig_pose(video) @ self.camera.rig_from_camera
        show = partial(render_view, self.world, *frames.shape[1:3])
        return align_with_world(frames, intrinsics, show, pose), fps

    def _first_rig_pose(self, video: str) -> "np.ndarray":
        from cosmos1.data.geometry.trajectories import interpolate, read_track

        track = read_track(self.options.demo_world / "trajectory" / f"{video}.json")
        return interpolate(track, track.times_us[:1])[0]


def rig_positions(motion: Motion, rig_from_camera: "np.ndarray") -> "np.ndarray":
    """Where the rig is in each frame (T, 3), in the rig axes of the first, from the motion of one of its cameras."""
    import numpy as np

    poses = rig_from_camera @ motion.poses @ np.linalg.inv(rig_from_camera)
    return poses[:, :3, 3]


def check_groups(path: Path, num_frames: int, frames_per_token: int) -> None:
    """Raise DataError for a video that is not one frame and whole groups of `frames_per_token`."""
    if (num_frames - 1) % frames_per_token:
        raise DataError(
            f"{path}: {num_frames} frames; --frames_per_token {frames_per_token} needs 1 and a multiple of it. Give the "
            "temporal compression of the tokenizer (model.compression_factor)."
        )


def path_errors(
    positions: "np.ndarray",
    found: "np.ndarray",
    trajectory: "np.ndarray",
    fps: float,
    has_scale: bool,
    frames_per_token: int = 1,
) -> Scores:
    """Distances in metres, along the ground, between achieved and commanded positions.

    Args:
        positions: (T, 3) of the rig, T at least 2, frame k at k / fps seconds.
        found: (T,) whether the position of a frame is known.
        trajectory: (192,), covers 6.4 s; later frames are not compared.
        has_scale: otherwise positions are scaled so that they fit the command best (least squares).
        frames_per_token: after the first frame, mean positions of so many frames are compared; divides T - 1.
    """
    import numpy as np

    from cosmos1.data.geometry.trajectories import HORIZON_SECONDS, STEP_SECONDS, decode_positions

    def groups(values):
        """Without the first frame, which is given."""
        return values[1:].reshape(-1, frames_per_token, *values.shape[1:])

    seconds = np.arange(len(positions)) / fps
    used = groups(found & (seconds <= HORIZON_SECONDS)).all(axis=1)
    path = np.concatenate([np.zeros((1, 3)), decode_positions(trajectory)])
    times = np.arange(len(path)) * STEP_SECONDS
    commanded = np.stack([np.interp(seconds, times, path[:, axis]) for axis in range(2)], axis=1)
    commanded, achieved = (groups(values).mean(axis=1)[used] for values in (commanded, positions[:, :2]))
    errors = {"frames_found": float(found[1:].mean())}
    if not len(achieved):
        return errors
    if not has_scale:
        achieved = achieved * max((achieved * commanded).sum() / max((achieved**2).sum(), 1e-12), 0)
    distances = np.linalg.norm(achieved - commanded, axis=1)
    return errors | {"mean_error": float(distances.mean()), "final_error": float(distances[-1])}
