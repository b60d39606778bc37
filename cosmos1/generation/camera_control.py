# SPDX-License-Identifier: Apache-2.0
"""The command line of ``recipes/generate/camera_control.py``: videos whose camera moves along a given path."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosmos1.generation import command
from cosmos1.generation.camera_options import add_camera_options, chosen_cameras, frames_of_scene, save_cameras
from cosmos1.generation.requests import Request, read_each, read_requests
from cosmos1.option_types import count_from

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.data.geometry.cameras import CameraPath
    from cosmos1.generation.generator import VideoShape

PROGRAM = "recipes/generate/camera_control.py"
PER_VIDEO = ("visual_input", "camera_extrinsics_path", "camera_path", "camera_path_amount", "field_of_view", "seed")


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
    task = command.choose_network(options, PROGRAM, _untrained)
    shape = VideoShape(options.num_video_frames, options.height, options.width, options.fps)
    _, *latent_shape = shape.latent_shape(task.config)
    trained = command.recorded_data(options)
    rays = {
        "metres_per_unit": options.metres_per_unit or trained.get("metres_per_unit"),
        "alignment": options.frame_alignment or trained.get("frame_alignment", "latent"),
    }

    def read(request: Request) -> tuple[Shot, str]:
        shot = read_shot(options, request, shape, latent_shape, **rays)
        given_latents(task.config, len(shot.given_frames), shape)
        return shot, check_prompt(request.prompt)

    shots, prompts = zip(*read_each(requests, read))

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


def save(shot: Shot, prompt: str, frames: "np.ndarray", rays: "dict[str, Any]") -> None:
    """The mp4, what repeats it, and its cameras."""
    command.save(shot.request, prompt, frames, shot.options, rays)
    save_cameras(shot.request, shot.cameras)
