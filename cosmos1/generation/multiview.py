# SPDX-License-Identifier: Apache-2.0
"""The command line of ``recipes/generate/multiview.py``: the videos of all cameras of a rig, as one sample."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError, DataError
from cosmos1.generation import command
from cosmos1.generation.requests import Request, output_path, read_batch, read_each
from cosmos1.generation.trajectory_options import add_trajectory_options, chosen_trajectory
from cosmos1.generation.view_options import CAMERA, save_views, view_paths, view_rows, view_texts
from cosmos1.option_types import count_from, number

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.data.geometry.rigs import Rig
    from cosmos1.generation.generator import VideoGenerator, VideoShape
    from cosmos1.models.diffusion.model import DiffusionModel

PROGRAM = "recipes/generate/multiview.py"
PER_VIDEO = ("prompt_path", "conditioned_images", "trajectory_path", "trajectory", "trajectory_speed", "seed")
REPEATED_FRAMES = 10.0


def parser(description: str) -> argparse.ArgumentParser:
    p = command.parser(description, video2world=False)
    p.set_defaults(num_video_frames=57, height=480, width=848)
    p.add_argument("--rig", default="six_cameras", help="rig file, or the preset: the views and their order")
    p.add_argument("--prompt_path", help='json {"<camera>": "text"} in place of --prompt: a text for each view')
    p.add_argument(
        "--conditioned_images",
        nargs="+",
        help=f"a picture or video for each view, in the order of the rig, or one path with {CAMERA} in it",
    )
    p.add_argument(
        "--num_input_frames", type=count_from(0), default=1, help="1 or 9: how many first frames of videos are given"
    )
    p.add_argument("--frame_repeat", nargs="+", type=number, help="repeated frames of each view; default: see the docs")
    add_trajectory_options(p)
    return p


@dataclass
class Drive:
    """One sample to make: what is told and given of each of the V views."""

    request: Request
    options: argparse.Namespace
    captions: "list[str]"
    given_frames: "list[np.ndarray]"
    """(N, H, W, 3) uint8 of each view; empty where nothing is given."""
    controls: "dict[str, torch.Tensor]"


def generate(options: argparse.Namespace) -> None:
    """Generate the videos. Everything that can be refused is, before the network is built."""
    from cosmos1.data.geometry.rigs import load_rig

    requests, rig = _requests(options), load_rig(options.rig)
    from cosmos1.generation.generator import VideoShape, given_latents
    from cosmos1.parallel import process_groups

    check_prompt, finish_video = command.hooks(options)
    task = command.choose_network(options, PROGRAM, lambda size: _untrained(size, rig, options))
    shape = VideoShape(options.num_video_frames, options.height, options.width, options.fps)
    shape.latent_shape(task.config)
    rows = view_rows(options, task.config.views.num_views, rig)

    def read(request: Request) -> Drive:
        drive = read_drive(options, request, task, rig, rows)
        if drive.given_frames:
            given_latents(task.config, len(drive.given_frames[0]), shape)
        drive.captions = [check_prompt(caption) for caption in drive.captions]
        return drive

    drives = read_each(requests, read)

    generator = command.open_generator(options, task)
    *texts, negative = drive_texts(
        generator, rig, [*(drive.captions for drive in drives), [options.negative_prompt] * len(rows)]
    )
    for drive, text in zip(drives, texts):
        views = generate_views(generator, drive, text, negative if options.negative_prompt else None, shape)
        views = [finish_video(frames) for frames in views]
        if process_groups.is_main_rank():
            save(drive, rig, views)
    process_groups.shutdown()


def _requests(options: argparse.Namespace) -> list[Request]:
    """The samples asked for, by --prompt, --prompt_path, or the lines of --batch_input_path, which need no prompt."""
    sources = {name: getattr(options, name) for name in ("prompt", "prompt_path", "batch_input_path")}
    if sum(value is not None for value in sources.values()) != 1:
        raise ConfigError("give one of --prompt, --prompt_path and --batch_input_path")
    if options.batch_input_path is None:
        return [Request(options.prompt or "", None, output_path(options, is_folder=False))]
    requests = read_batch(options, PER_VIDEO, needs_prompt=False)
    if any(request.prompt and "prompt_path" in request.entry for request in requests):
        raise DataError(f'--batch_input_path {options.batch_input_path}: give "prompt" or "prompt_path" in a line')
    return requests


def _untrained(size: str, rig: "Rig", options: argparse.Namespace) -> "DiffusionModel":
    from cosmos1.conditioning.settings import TrajectoryConditioning, ViewConditioning
    from cosmos1.generation.generator import network_of_size

    task = network_of_size(size, video2world=options.conditioned_images is not None)
    task.config.views = ViewConditioning(num_views=len(rig.names))
    if options.trajectory is not None or options.trajectory_path is not None:
        task.config.trajectory = TrajectoryConditioning()
    return task


def read_drive(
    options: argparse.Namespace, request: Request, task: "DiffusionModel", rig: "Rig", rows: "list[int]"
) -> Drive:
    """Read what one sample is made from. Raises ConfigError or DataError for what does not fit rig or network."""
    import torch

    options = request.options(options)
    controls = {"view_indices": torch.tensor([rows]), "frame_repeat": torch.tensor([frame_repeats(options, len(rows))])}
    trajectory = _trajectory(options, task)
    if trajectory is not None:
        controls["trajectory"] = torch.from_numpy(trajectory)[None]
    given = _given_frames(options, task, rig)
    return Drive(request, options, _captions(options, request, rig), given, controls)


def frame_repeats(options: argparse.Namespace, num_views: int) -> "list[float]":
    """How many frames of each view are to repeat the one before. The released networks of six views were trained with slow
    cameras in the last two places and are told so when they generate; runs of this suite need no such hint."""
    if options.frame_repeat is not None:
        if len(options.frame_repeat) != num_views or min(options.frame_repeat) < 0:
            raise ConfigError(
                f"--frame_repeat {' '.join(f'{count:g}' for count in options.frame_repeat)}: give {num_views} numbers, one "
                "for each view of --rig, each 0 or more"
            )
        return options.frame_repeat
    is_own = not options.checkpoint or command.recorded_data(options)
    return [0.0] * num_views if is_own or num_views != 6 else [0.0] * 4 + [REPEATED_FRAMES] * 2


def _captions(options: argparse.Namespace, request: Request, rig: "Rig") -> "list[str]":
    """A caption for each view, empty where there is none."""
    if options.prompt_path is None:
        return [request.prompt] * len(rig.names)
    try:
        texts = json.loads(Path(options.prompt_path).read_text())
        captions = [texts.get(name, "") for name in rig.names]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f'--prompt_path {options.prompt_path}: is no json {{"<camera>": "text"}} ({error})') from error
    unknown = [name for name in texts if name not in rig.names]
    if unknown:
        raise DataError(
            f"--prompt_path {options.prompt_path}: there is no camera {unknown[0]}; --rig {options.rig} has "
            f"{', '.join(rig.names)}"
        )
    return captions


def _given_frames(options: argparse.Namespace, task: "DiffusionModel", rig: "Rig") -> "list[np.ndarray]":
    """The first frames of each view; none for networks that take none, or with --num_input_frames 0."""
    from cosmos1.generation.given_frames import read_views

    paths = options.conditioned_images
    if not task.config.condition_mask:
        if paths is not None:
            raise ConfigError("--conditioned_images need a network of the image2world recipes; this one is text2world")
        return []
    if options.num_input_frames == 0 and paths is None:
        return []
    if paths is None:
        raise ConfigError(
            "a network of the image2world recipes needs --conditioned_images, one for each view; --num_input_frames 0 goes "
            "without"
        )
    return read_views(view_paths(paths, rig), options.num_input_frames)


def _trajectory(options: argparse.Namespace, task: "DiffusionModel") -> "np.ndarray | None":
    """The 192 numbers; None for networks without trajectory."""
    if task.config.trajectory is not None:
        return chosen_trajectory(options)
    names = ("trajectory_path", "trajectory", "trajectory_speed")
    given = [getattr(options, name) for name in names if getattr(options, name) is not None]
    if given:
        raise ConfigError(
            f"trajectory {given[0]}: the network takes no trajectory; use one of the w_traj recipes, or leave it out"
        )
    return None


def drive_texts(generator: "VideoGenerator", rig: "Rig", captions: "list[list[str]]") -> "list[torch.Tensor]":
    """The text of each sample: one for each view, or with shared text ``[1, 512, 1024]``, the first caption alone."""
    if generator.task.config.views.shared_text:
        return list(generator.embed([sample[0] for sample in captions]).split(1))
    return view_texts(generator.embed, rig, captions)


def generate_views(
    generator: "VideoGenerator",
    drive: Drive,
    text: "torch.Tensor",
    negative: "torch.Tensor | None",
    shape: "VideoShape",
) -> "list[np.ndarray]":
    """Frames ``[T, H, W, 3]`` uint8 of each view. Views are encoded and decoded one by one."""
    import torch

    from cosmos1.generation.generator import given_latents
    from cosmos1.models.diffusion.generation import GivenFrames, Prompt

    config, prompt = generator.task.config, Prompt(text, shape.fps, negative, drive.controls)
    channels, frames, height, width = shape.latent_shape(config)
    num_views = drive.controls["view_indices"].shape[1]
    if drive.given_frames:
        count = given_latents(config, len(drive.given_frames[0]), shape)
        starts = [generator.encode_start(frames, shape) for frames in drive.given_frames]
        prompt.given = GivenFrames(torch.cat(starts, dim=2), count)
    latent_shape, settings = [channels, num_views * frames, height, width], command.sampling_settings(drive.options)
    latent = generator.sample_latent(latent_shape, prompt, settings, command.step_reporter())
    return [generator.decode(view, shape.num_frames) for view in latent.chunk(num_views, dim=2)]


def save(drive: Drive, rig: "Rig", views: "list[np.ndarray]") -> None:
    """``FOLDER/NAME.mp4`` with all views side by side and what repeats it, and ``FOLDER/<camera>/NAME.mp4`` of each."""
    import numpy as np

    facts = {"views": rig.names, "captions": drive.captions}
    command.save(drive.request, drive.captions[0], rig.preview_picture(np.stack(views)), drive.options, facts)
    save_views(drive.request, rig, views, drive.options.fps)
