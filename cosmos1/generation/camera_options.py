# SPDX-License-Identifier: Apache-2.0
"""The path of the camera, as the commands of both kinds of networks take it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.data.geometry.cameras import NAMED_PATHS
from cosmos1.errors import ConfigError
from cosmos1.generation.requests import Request
from cosmos1.option_types import number, positive_number

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.data.geometry.cameras import CameraPath

DEFAULT_FIELD_OF_VIEW = 62.0  # degrees
LARGEST_ASPECT_DIFFERENCE = 0.02


def add_camera_options(p) -> None:
    """The path of the camera, for a parser or a group of its options."""
    p.add_argument("--camera_extrinsics_path", help="a camera file, transforms.json, a scene folder, or a DL3DV zip")
    p.add_argument("--camera_path", choices=tuple(NAMED_PATHS), help="instead of a file")
    p.add_argument(
        "--camera_path_amount",
        type=number,
        help="of --camera_path: degrees, or units for dolly; default: 30, or 1 unit",
    )
    what = f"horizontal, of the picture, in degrees; default {DEFAULT_FIELD_OF_VIEW:g}"
    p.add_argument("--field_of_view", type=number, help=f"of --camera_path: {what}")
    p.add_argument("--metres_per_unit", type=positive_number, help="default: as the network was trained")


def frames_of_scene(path: "str | None", count: int) -> "np.ndarray":
    """The first ``count`` pictures ``[count, H, W, 3]`` uint8 of the scene that ``--camera_extrinsics_path`` names.

    Raises ConfigError where it names no scene, which alone has pictures.
    """
    from cosmos1.data.sources.nerfstudio import read_scene

    source = Path(path or "")
    if path is None or not (source.is_dir() or source.suffix == ".zip"):
        raise ConfigError(
            "give --conditioned_image_or_video_path; only a scene (folder or zip) as --camera_extrinsics_path has pictures of "
            "its own"
        )
    return read_scene(source).read_frames(0, count)


def chosen_cameras(options: argparse.Namespace, num_frames: int, source_height: int, source_width: int) -> "CameraPath":
    """One camera per frame of the video, for pictures of the size that is given, before they are letterboxed."""
    import numpy as np

    from cosmos1.data.geometry.cameras import CameraPath, named_path
    from cosmos1.data.sources.camera_files import cameras_for_video, read_camera_path

    if (options.camera_extrinsics_path is None) == (options.camera_path is None):
        raise ConfigError(f"give either --camera_extrinsics_path or --camera_path {{{','.join(NAMED_PATHS)}}}")
    if options.camera_path is not None:
        if options.camera_path not in NAMED_PATHS:
            raise ConfigError(f"--camera_path {options.camera_path}: there is none; use {', '.join(NAMED_PATHS)}")
        poses = named_path(options.camera_path, num_frames, options.camera_path_amount)
        focal = source_width / 2 / np.tan(np.radians(_field_of_view(options.field_of_view)) / 2)
        intrinsics = np.tile([focal, focal, source_width / 2, source_height / 2], (num_frames, 1))
        return CameraPath(poses, intrinsics, source_height, source_width)
    for name in ("camera_path_amount", "field_of_view"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name} goes with --camera_path; --camera_extrinsics_path says its own, leave it out")
    where = str(options.camera_extrinsics_path)
    path = read_camera_path(Path(where))
    aspect, needed = source_width / source_height, path.width / path.height
    if abs(aspect / needed - 1) > LARGEST_ASPECT_DIFFERENCE:
        raise ConfigError(
            f"--camera_extrinsics_path {where}: its cameras take pictures of {path.height} x {path.width}, the given "
            f"picture has {source_height} x {source_width}. Give a picture of the same shape, or other cameras."
        )
    return cameras_for_video(path, num_frames, source_height, source_width, where)


def _field_of_view(degrees: "float | None") -> float:
    if degrees is None:
        return DEFAULT_FIELD_OF_VIEW
    if not 1 <= degrees <= 170:
        raise ConfigError(f"--field_of_view {degrees:g}: give 1 to 170 degrees.")
    return degrees


def save_cameras(request: Request, cameras: "CameraPath") -> None:
    """``FOLDER/cameras/NAME.json``, which the generation commands and `camera_pose` read again."""
    from cosmos1.data.sources.camera_files import write_camera_path

    folder = request.save_path.parent / "cameras"
    folder.mkdir(exist_ok=True)
    write_camera_path(folder / f"{request.save_path.stem}.json", cameras)
