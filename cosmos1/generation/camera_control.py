# SPDX-License-Identifier: Apache-2.0
"""The command line of ``recipes/generate/camera_control.py``: videos whose camera moves along a given path."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos1.data.geometry.cameras import NAMED_PATHS
from cosmos1.errors import ConfigError
from cosmos1.generation import command
from cosmos1.generation.requests import Request, read_requests
from cosmos1.option_types import count_from, number, positive_number

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.data.geometry.cameras import CameraPath
    from cosmos1.generation.generator import VideoShape

PROGRAM = "recipes/generate/camera_control.py"
PER_VIDEO = ("visual_input", "camera_extrinsics_path", "camera_path", "camera_path_amount", "field_of_view", "seed")
DEFAULT_FIELD_OF_VIEW = 62.0  # degrees
LARGEST_ASPECT_DIFFERENCE = 0.02


def parser(description: str) -> argparse.ArgumentParser:
    p = command.parser(description, video2world=False)
    p.set_defaults(num_video_frames=57, fps=7)
    p.add_argument("--conditioned_image_or_video_path", help="default: the first pictures of the scene of the cameras")
    p.add_argument(
        "--num_input_frames", type=count_from(1), default=1, help="1 or 9: how many last frames of a video are given"
    )
    add_camera_options(p)
    p.add_argument("--frame_alignment", choices=("latent", "first"), help="default: as the network was trained")
    return p


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


@dataclass
class Shot:
    """One video to make: what is given, and how the camera moves."""

    request: Request
    options: argparse.Namespace
    given_frames: "np.ndarray"
    """(N, H, W, 3) uint8, letterboxed."""
    cameras: "CameraPath"
    """For pictures as they were given, one for each frame of the video."""
    controls: "dict[str, torch.Tensor]"
    padding_mask: "torch.Tensor"


def generate(options: argparse.Namespace) -> None:
    """Generate the videos. Everything that can be refused is, before the network is built."""
    requests = read_requests(options, PER_VIDEO)
    from cosmos1.generation.generator import VideoShape, given_latents
    from cosmos1.models.diffusion.generation import Prompt
    from cosmos1.parallel import process_groups

    check_prompt, finish_video = command.hooks(options)
    prompts = [check_prompt(request.prompt) for request in requests]
    task = command.choose_network(options, PROGRAM, _untrained)
    shape = VideoShape(options.num_video_frames, options.height, options.width, options.fps)
    _, *latent_shape = shape.latent_shape(task.config)
    trained = command.recorded_data(options)
    rays = {
        "metres_per_unit": options.metres_per_unit or trained.get("metres_per_unit"),
        "alignment": options.frame_alignment or trained.get("frame_alignment", "latent"),
    }
    shots = [read_shot(options, request, shape, latent_shape, **rays) for request in requests]
    for shot in shots:
        given_latents(task.config, len(shot.given_frames), shape)

    generator = command.open_generator(options, task)
    texts = generator.embed([*prompts, options.negative_prompt])
    negative = texts[-1:] if options.negative_prompt else None
    for shot, prompt, text in zip(shots, prompts, texts[:-1]):
        shown = Prompt(text[None], shape.fps, negative, shot.controls, shot.padding_mask)
        settings = command.sampling_settings(shot.options)
        frames = generator.generate(shown, shape, settings, shot.given_frames, command.step_reporter())
        frames = finish_video(frames)
        if process_groups.is_main_rank():
            save(shot, prompt, frames, rays)
    process_groups.shutdown()


def _untrained(size: str):
    from cosmos1.conditioning.settings import CameraConditioning
    from cosmos1.generation.generator import network_of_size

    task = network_of_size(size, video2world=True)
    task.config.camera = CameraConditioning()
    return task


def read_shot(
    options: argparse.Namespace,
    request: Request,
    shape: "VideoShape",
    latent_shape: "list[int]",
    metres_per_unit: "float | None",
    alignment: str,
) -> Shot:
    """Read pictures and cameras of one video, which is ``latent_shape`` (frames, rows, columns) as a latent.

    Raises ConfigError or DataError for what does not go together.
    """
    import torch

    from cosmos1.data.geometry.cameras import plucker_embeddings
    from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras, letterbox_frames, padding_mask

    options = request.options(options)
    frames = _given_frames(options, request)
    source_height, source_width = frames.shape[1:3]
    box = letterbox(source_height, source_width, shape.height, shape.width)
    cameras = chosen_cameras(options, shape.num_frames, source_height, source_width)
    mask = torch.from_numpy(padding_mask(box, *latent_shape[1:]).copy())
    rays_F6hw = torch.from_numpy(
        plucker_embeddings(letterbox_cameras(cameras, box), *latent_shape[1:], metres_per_unit)
    )
    rays_t6hw = rays_F6hw[_frames_of_latents(alignment, shape.num_frames, latent_shape[0])] * (1 - mask)
    controls = {"plucker_embeddings": rays_t6hw[None]}
    return Shot(request, options, letterbox_frames(frames, box), cameras, controls, mask[None])


def _frames_of_latents(alignment: str, num_frames: int, num_latents: int) -> "np.ndarray":
    import numpy as np

    from cosmos1.data.geometry.cameras import latent_frames

    if alignment == "first" or num_latents == 1:
        return np.arange(num_latents)
    return latent_frames(num_frames, (num_frames - 1) // (num_latents - 1))


def _given_frames(options: argparse.Namespace, request: Request) -> "np.ndarray":
    from cosmos1.generation.given_frames import read_given_frames

    picture = request.visual_input or options.conditioned_image_or_video_path
    if picture is not None:
        return read_given_frames(picture, options.num_input_frames)
    return frames_of_scene(options.camera_extrinsics_path, options.num_input_frames)


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


def save(shot: Shot, prompt: str, frames: "np.ndarray", rays: "dict[str, Any]") -> None:
    """The mp4, what repeats it, and its cameras."""
    command.save(shot.request, prompt, frames, shot.options, rays)
    save_cameras(shot.request, shot.cameras)


def save_cameras(request: Request, cameras: "CameraPath") -> None:
    """``FOLDER/cameras/NAME.json``, which the generation commands and `camera_pose` read again."""
    from cosmos1.data.sources.camera_files import write_camera_path

    folder = request.save_path.parent / "cameras"
    folder.mkdir(exist_ok=True)
    write_camera_path(folder / f"{request.save_path.stem}.json", cameras)
