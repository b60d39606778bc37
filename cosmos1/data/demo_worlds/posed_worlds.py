# SPDX-License-Identifier: Apache-2.0
"""Demo data with exact geometry: camera paths in the DL3DV layout, and a driving rig in the multi-view layout."""

import io
import json
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import List, Tuple

import numpy as np

from cosmos1.data.command_line import for_each
from cosmos1.data.demo_worlds.room_world import furnished_room, pillared_hall, render_path
from cosmos1.data.files import write_bytes, write_json
from cosmos1.data.geometry.cameras import CameraPath, look_at, opencv_from_opengl, path_along
from cosmos1.data.geometry.rigs import Rig, rig_json
from cosmos1.data.geometry.rotations import rotation_about
from cosmos1.data.geometry.trajectories import HORIZON_SECONDS, PRESETS, EgoTrack, drive, track_json
from cosmos1.data.video import write_video

UP = np.array([0, 0, 1.0])
FIELD_OF_VIEW_DEGREES = 62.0
EGO_RATE = 20  # poses per second
WORDS = {
    "straight": "The car drives straight on through a large hall with coloured pillars.",
    "left": "The car turns left in a large hall with coloured pillars.",
    "right": "The car turns right in a large hall with coloured pillars.",
    "stop": "The car brakes and stops in a large hall with coloured pillars.",
}


@dataclass(frozen=True)
class Clips:
    """How many clips, from which number on, and of what size."""

    num_videos: int
    num_frames: int
    height: int
    width: int
    fps: float
    seed: int
    first: int = 0

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.num_videos)


def write_camera_world(folder: Path, clips: Clips, num_processes: int = 1) -> None:
    """Write one DL3DV-like zip per clip, `<name>.zip` with images/frame_00001.png, ... and transforms.json.

    All clips show one room, from a place near its middle; the camera moves along a path of its own. Captions go
    to captions.json; world.json records the room's seed, so that its depth can be rendered again.
    """
    for_each(partial(_write_camera_clip, folder, clips), clips.numbers, "clips", num_processes)
    captions = {f"{index:03d}": sample_camera_path(clips, index)[1] for index in clips.numbers}
    write_json(folder / "captions.json", captions)


def _write_camera_clip(folder: Path, clips: Clips, index: int) -> None:
    cameras, _ = sample_camera_path(clips, index)
    frames = render_path(furnished_room(clips.seed), cameras)
    write_bytes(folder / f"{index:03d}.zip", _scene_zip(frames, cameras))


def sample_camera_path(clips: Clips, index: int) -> Tuple[CameraPath, str]:
    """The cameras of clip `index` in the world, and a caption. Kinds of motion take turns, both directions alike."""
    random = np.random.RandomState([clips.seed % 2**32, 3, index])
    position = np.array([0, -0.9, 1.4]) + random.uniform([-0.3, -0.3, -0.15], [0.3, 0.3, 0.15])
    start = look_at(position, position + [random.uniform(-0.25, 0.25), 1.0, random.uniform(-0.12, 0.02)], UP)
    kind = ("orbit", "dolly", "pan", "truck")[index % 4]
    amount = random.uniform(0.6, 1.0) * (1 if random.rand() < 0.5 else -1)
    # Most paths speed up or slow down a little.
    progress = np.linspace(0, 1, clips.num_frames) ** random.uniform(0.8, 1.5)
    steps = _relative_path(kind, amount, progress)
    focal = clips.width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEGREES / 2))
    intrinsics = np.tile([focal, focal, clips.width / 2, clips.height / 2], (clips.num_frames, 1))
    side = {"dolly": ("backward", "forward")}.get(kind, ("left", "right"))[int(amount > 0)]
    words = {"orbit": "circles", "dolly": "moves", "pan": "turns", "truck": "moves sideways"}[kind]
    caption = f"A video of a camera that {words} to the {side} in a colourful room."
    if kind == "dolly":
        caption = f"A video of a camera that moves {side} in a colourful room."
    return CameraPath(start @ steps, intrinsics, clips.height, clips.width), caption


def _relative_path(kind: str, amount: float, progress: np.ndarray) -> np.ndarray:
    """Poses (F, 4, 4) in the axes of the first camera; `amount` in -1..1."""
    if kind == "truck":
        poses = path_along("dolly", progress, 0.8 * amount)
        # From forward to the right; the camera keeps looking forward.
        poses[:, :3, 3] = poses[:, :3, 3] @ rotation_about("y", 90.0).T
        return poses
    poses = path_along(kind, progress, {"orbit": 24.0, "dolly": 1.0, "pan": 18.0}[kind] * amount)
    if kind == "orbit":
        # The point that is circled lies 1.6 m ahead.
        poses[:, :3, 3] *= 1.6
    return poses


def _scene_zip(frames: np.ndarray, cameras: CameraPath) -> bytes:
    from PIL import Image

    fx, fy, cx, cy = (float(value) for value in cameras.intrinsics[0])
    transforms = {"w": cameras.width, "h": cameras.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "k1": 0.0}
    transforms |= {"camera_model": "OPENCV", "frames": []}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (frame, pose) in enumerate(zip(frames, opencv_from_opengl(cameras.poses)), 1):
            name = f"images/frame_{number:05d}.png"
            picture = io.BytesIO()
            Image.fromarray(frame).save(picture, "PNG")
            # A fixed time stamp: the same options give the same bytes.
            archive.writestr(zipfile.ZipInfo(name), picture.getvalue())
            transforms["frames"].append({"file_path": name, "transform_matrix": pose.tolist(), "colmap_im_id": number})
        archive.writestr(zipfile.ZipInfo("transforms.json"), json.dumps(transforms))
    return buffer.getvalue()


def write_rig_world(folder: Path, clips: Clips, rig: Rig, num_processes: int = 1) -> None:
    """Write videos/<camera>/<clip>.mp4, captions/<camera>/<clip>.txt, trajectory/<clip>.json and rig.json.

    One hall; each clip drives off from a place of its own: straight on, to the left, to the right, or to a stop. The
    rig must state positions and intrinsics.
    """
    (folder / "trajectory").mkdir(exist_ok=True)
    for camera in rig.cameras:
        (folder / "captions" / camera.name).mkdir(parents=True, exist_ok=True)
    for_each(partial(_write_drive, folder, clips, rig), clips.numbers, "clips", num_processes)
    write_json(folder / "rig.json", rig_json(rig))


def _write_drive(folder: Path, clips: Clips, rig: Rig, index: int) -> None:
    drive_kind, track, poses = sample_drive(clips, index)
    name = f"{index:03d}"
    for camera, frames in zip(rig.cameras, render_rig(clips, rig, poses)):
        write_bytes(folder / "captions" / camera.name / f"{name}.txt", (WORDS[drive_kind] + "\n").encode())
        write_video(folder / "videos" / camera.name / f"{name}.mp4", frames, clips.fps)
    write_json(folder / "trajectory" / f"{name}.json", track_json(track))


def sample_drive(clips: Clips, index: int) -> Tuple[str, EgoTrack, np.ndarray]:
    """What clip `index` does, its ego track (6.4 s longer than the clip), and the rig's pose (4, 4) at every frame."""
    random = np.random.RandomState([clips.seed % 2**32, 4, index])
    kind = list(PRESETS)[index % len(PRESETS)]
    curvature, deceleration = PRESETS[kind]
    motion = (random.uniform(4.5, 7.0), curvature * random.uniform(0.8, 1.3), deceleration * random.uniform(0.9, 1.5))
    start = np.eye(4)
    start[:3, :3] = rotation_about("z", random.uniform(-8, 8))
    start[:2, 3] = random.uniform(-2, 2, 2)
    duration = clips.num_frames / clips.fps + HORIZON_SECONDS + 0.5
    times = np.arange(int(duration * EGO_RATE) + 1) / EGO_RATE
    poses = start @ drive(times, *motion)
    yaw = np.arctan2(poses[:, 1, 0], poses[:, 0, 0])
    quaternions = np.stack([np.cos(yaw / 2), np.zeros_like(yaw), np.zeros_like(yaw), np.sin(yaw / 2)], axis=1)
    track = EgoTrack(np.rint(times * 1e6).astype(np.int64), poses[:, :3, 3], quaternions)
    return kind, track, start @ drive(np.arange(clips.num_frames) / clips.fps, *motion)


def render_rig(clips: Clips, rig: Rig, poses: np.ndarray) -> List[np.ndarray]:
    """Frames (F, H, W, 3) uint8 of every camera of a rig that has these poses (F, 4, 4) in the demo hall."""
    world = demo_hall(clips.seed)
    views = []
    for camera in rig.cameras:
        intrinsics = np.tile(camera.intrinsics_for(clips.height, clips.width), (len(poses), 1))
        views.append(
            render_path(world, CameraPath(poses @ camera.rig_from_camera, intrinsics, clips.height, clips.width))
        )
    return views


def demo_hall(seed: int):
    """The hall of all clips of a seed; pillars stand clear of every drive."""
    seconds = np.linspace(0, 12, 40)
    paths = []
    for curvature in np.linspace(-0.08, 0.08, 9):
        paths.append(drive(seconds, 6.0, curvature, 0.0)[:, :2, 3])
    return pillared_hall(seed, np.concatenate(paths), clearance=3.0)
