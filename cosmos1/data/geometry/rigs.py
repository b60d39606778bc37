# SPDX-License-Identifier: Apache-2.0
"""Rigs of cameras: which views a sample has, in which order, and where each camera sits.

A rig file is JSON:
    {"cameras": [{"name": "...", "description": "...", "position": [x, y, z], "roll_pitch_yaw_degrees": [r, p, y],
                  "width": 1920, "height": 1080, "fx": ..., "fy": ..., "cx": ..., "cy": ...}, ...],
     "preview": [["left", "front"], ...]}
Only `name` is needed. The order of the cameras is that of the views in videos, text rows and the view embedding. Rig
axes: x forward, y left, z up, in metres, origin on the ground below the rear axle.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from cosmos1.data.geometry.rotations import rotation_about
from cosmos1.errors import ConfigError, DataError

SIX_CAMERAS = "six_cameras"
# Optical axes (right, down, forward) in terms of a sensor whose x points along its line of sight, y left, z up.
SENSOR_FROM_OPTICAL = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)
INTRINSICS = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True)
class RigCamera:
    """One camera of a rig. Geometry is None where the rig file does not state it."""

    name: str
    description: str
    """A sentence for the text encoder; it stands before the caption of the view."""
    rig_from_camera: Optional[np.ndarray] = None
    """(4, 4): OpenCV camera axes to rig axes."""
    intrinsics: Optional[np.ndarray] = None
    """fx, fy, cx, cy in pixels of `height` x `width`."""
    height: int = 0
    width: int = 0

    def intrinsics_for(self, height: int, width: int) -> np.ndarray:
        """Intrinsics (4,) for pictures stretched to another size. Raises DataError when the rig states none."""
        if self.intrinsics is None:
            raise DataError(f"rig camera {self.name}: the rig file states no fx, fy, cx, cy, width, height. Add them.")
        return self.intrinsics * ([width / self.width, height / self.height] * 2)


@dataclass(frozen=True)
class Rig:
    """Cameras in the order of the views; `preview` arranges their names in rows for looking at."""

    cameras: List[RigCamera]
    preview: List[List[str]]

    @property
    def names(self) -> List[str]:
        return [camera.name for camera in self.cameras]

    def preview_picture(self, frames_VTHWC: np.ndarray) -> np.ndarray:
        """Arrange the views (V, T, H, W, 3) side by side: (T, rows * H, columns * W, 3); gaps are black."""
        num_columns = max(len(row) for row in self.preview)
        empty = np.zeros_like(frames_VTHWC[0])
        rows = []
        for row in self.preview:
            views = [frames_VTHWC[self.names.index(name)] for name in row]
            rows.append(np.concatenate(views + [empty] * (num_columns - len(row)), axis=2))
        return np.concatenate(rows, axis=1)


def six_camera_rig() -> Rig:
    """The six views of the released driving models, in their order, with nominal positions and fields of view.

    Order and names are those of the training data: front, left, right, back, back left, back right. The geometry is
    nominal: recordings bring their own.
    """
    # name, what it sees, position, yaw, horizontal field of view
    table = [
        ("camera_front_wide_120fov", "faces forward", (1.7, 0.0, 1.5), 0.0, 120.0),
        ("camera_cross_left_120fov", "faces left", (1.6, 0.9, 1.1), 75.0, 120.0),
        ("camera_cross_right_120fov", "faces right", (1.6, -0.9, 1.1), -75.0, 120.0),
        ("camera_rear_tele_30fov", "faces backwards", (-0.4, 0.0, 1.5), 180.0, 30.0),
        ("camera_rear_left_70fov", "faces the rear left side", (1.8, 0.9, 1.0), 145.0, 70.0),
        ("camera_rear_right_70fov", "faces the rear right side", (1.8, -0.9, 1.0), -145.0, 70.0),
    ]
    cameras = []
    for name, facing, position, yaw, field_of_view in table:
        focal = 960 / np.tan(np.radians(field_of_view / 2))
        cameras.append(
            RigCamera(
                name,
                f"The video is taken by a camera mounted on a car. The camera {facing}.",
                pose_in_rig(position, (0.0, 0.0, yaw)),
                np.array([focal, focal, 960.0, 540.0]),
                1080,
                1920,
            )
        )
    order = [[1, 0, 2], [4, 3, 5]]
    return Rig(cameras, [[cameras[view].name for view in row] for row in order])


def pose_in_rig(position, roll_pitch_yaw_degrees) -> np.ndarray:
    """Pose (4, 4) of a camera's OpenCV axes in the rig: turned by yaw about z, then pitch about y, then roll about x."""
    roll, pitch, yaw = roll_pitch_yaw_degrees
    pose = np.eye(4)
    turned = rotation_about("z", yaw) @ rotation_about("y", pitch) @ rotation_about("x", roll)
    pose[:3, :3] = turned @ SENSOR_FROM_OPTICAL
    pose[:3, 3] = position
    return pose


def load_rig(name_or_path: str) -> Rig:
    """The preset "six_cameras", or the rig of a file. Raises ConfigError or DataError."""
    return six_camera_rig() if name_or_path == SIX_CAMERAS else read_rig(Path(name_or_path))


def read_rig(path: Path) -> Rig:
    """Read a rig file. Raises DataError naming the file, the camera and the key."""
    if not path.is_file():
        raise ConfigError(f"rig {path}: there is no such file. Give a rig file, or {SIX_CAMERAS} for the preset.")
    try:
        content = json.loads(path.read_text())
        entries = content["cameras"]
        cameras = [_camera(entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}: is not a rig ({error!r}). A rig is {{"cameras": [{{"name": "..."}}, ...]}}; docs/multiview.md.'
        ) from error
    names = [camera.name for camera in cameras]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: cameras {names}: at least one camera is needed, and each name once.")
    preview = content.get("preview") or [names]
    unknown = {name for row in preview for name in row} - set(names)
    if unknown:
        raise DataError(f'{path}: "preview" names {sorted(unknown)}, the cameras are {names}.')
    return Rig(cameras, preview)


def _camera(entry: Dict[str, Any]) -> RigCamera:
    name = entry["name"]
    pose = None
    if "position" in entry:
        pose = pose_in_rig(entry["position"], entry["roll_pitch_yaw_degrees"])
    intrinsics = np.array([float(entry[key]) for key in INTRINSICS]) if "fx" in entry else None
    size = (int(entry["height"]), int(entry["width"])) if intrinsics is not None else (0, 0)
    return RigCamera(name, entry.get("description", f"The view of {name}."), pose, intrinsics, *size)


def rig_json(rig: Rig) -> Dict[str, Any]:
    """The content of a rig file, so that `read_rig` gives the same rig."""
    cameras = []
    for camera in rig.cameras:
        entry: Dict[str, Any] = {"name": camera.name, "description": camera.description}
        if camera.rig_from_camera is not None:
            entry["position"] = camera.rig_from_camera[:3, 3].tolist()
            entry["roll_pitch_yaw_degrees"] = _roll_pitch_yaw(camera.rig_from_camera)
        if camera.intrinsics is not None:
            entry |= dict(zip(INTRINSICS, camera.intrinsics.tolist()))
            entry |= {"height": camera.height, "width": camera.width}
        cameras.append(entry)
    return {"cameras": cameras, "preview": rig.preview}


def _roll_pitch_yaw(pose: np.ndarray) -> List[float]:
    r = pose[:3, :3] @ SENSOR_FROM_OPTICAL.T
    angles = [np.arctan2(r[2, 1], r[2, 2]), np.arcsin(np.clip(-r[2, 0], -1, 1)), np.arctan2(r[1, 0], r[0, 0])]
    return [float(np.degrees(angle)) for angle in angles]
