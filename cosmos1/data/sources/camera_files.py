# SPDX-License-Identifier: Apache-2.0
"""Camera paths in files: what --camera_extrinsics_path reads, and what is written beside a generated video.

    {"convention": "opencv_camera_to_world", "height": 704, "width": 1280,
     "intrinsics": [[fx, fy, cx, cy], ...], "poses": [[[4 numbers] x 4], ...]}

`convention` may also be "opengl_camera_to_world" or "opencv_world_to_camera"; it is never guessed. `intrinsics` may be one
row for all frames. A nerfstudio transforms.json, a folder that holds one, and a DL3DV zip are read as well.
"""

from pathlib import Path
from typing import Any, Dict

import numpy as np

from cosmos1.data.files import read_json, write_json
from cosmos1.data.geometry.cameras import CameraPath, check_poses, opencv_from_opengl
from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras
from cosmos1.data.sources.nerfstudio import TRANSFORMS, read_scene, read_transforms
from cosmos1.errors import DataError

OWN_CONVENTION = "opencv_camera_to_world"
CONVENTIONS = {
    OWN_CONVENTION: lambda poses: poses,
    "opengl_camera_to_world": opencv_from_opengl,
    "opencv_world_to_camera": np.linalg.inv,
}


def read_camera_path(path: Path) -> CameraPath:
    """Read the cameras of a file or a scene. Raises DataError naming the file, what was found and what is needed."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        return read_scene(path).cameras
    content = read_json(path, "Formats: docs/camera_control.md.", f"cameras {path}")
    if path.name == TRANSFORMS or (isinstance(content, dict) and "frames" in content):
        return read_transforms(content, str(path))
    return _from_json(content, str(path))


def write_camera_path(path: Path, cameras: CameraPath) -> None:
    """Write a file from which `read_camera_path` reads the same cameras."""
    content = {"convention": OWN_CONVENTION, "height": cameras.height, "width": cameras.width}
    write_json(path, content | {"intrinsics": cameras.intrinsics.tolist(), "poses": cameras.poses.tolist()})


def _from_json(content: Dict[str, Any], where: str) -> CameraPath:
    try:
        convention, height, width = content["convention"], int(content["height"]), int(content["width"])
        poses = np.array(content["poses"], np.float64)
        intrinsics = np.atleast_2d(np.array(content["intrinsics"], np.float64))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"cameras {where}: needs convention, height, width, intrinsics and poses ({error!r}). Formats: "
            f"docs/camera_control.md."
        ) from error
    if convention not in CONVENTIONS:
        raise DataError(f'cameras {where}: convention "{convention}"; known: {", ".join(CONVENTIONS)}.')
    check_poses(poses, f"cameras {where}")
    intrinsics = np.repeat(intrinsics, len(poses), axis=0) if len(intrinsics) == 1 else intrinsics
    if intrinsics.shape != (len(poses), 4) or not np.isfinite(intrinsics).all() or intrinsics[:, :2].min() <= 0:
        raise DataError(
            f"cameras {where}: intrinsics have shape {intrinsics.shape}; one row fx, fy, cx, cy in pixels is needed, or one "
            f"for each of the {len(poses)} poses."
        )
    return CameraPath(CONVENTIONS[convention](poses), intrinsics, height, width)


def cameras_for_video(cameras: CameraPath, num_frames: int, height: int, width: int, where: str) -> CameraPath:
    """The first `num_frames` cameras for pictures of `height` x `width`, letterboxed as the training data were.

    Raises DataError when there are fewer cameras.
    """
    if len(cameras.poses) < num_frames:
        raise DataError(
            f"cameras {where}: {len(cameras.poses)} poses, a video of {num_frames} frames needs one for each. Add poses, or "
            "make the video shorter."
        )
    box = letterbox(cameras.height, cameras.width, height, width)
    return letterbox_cameras(cameras.of_frames(slice(0, num_frames)), box)
