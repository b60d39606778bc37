# SPDX-License-Identifier: Apache-2.0
"""Control signals of ``recipes/generate/autoregressive.py``: the options, and what the network needs of them."""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos1.data.geometry.actions import ACTION_CONVENTIONS
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation.action_command import add_dataset_options
from cosmos1.generation.camera_options import add_camera_options, chosen_cameras, frames_of_scene
from cosmos1.generation.command import checkpoint_path, recorded_data
from cosmos1.generation.trajectory_options import add_trajectory_options, chosen_trajectory
from cosmos1.generation.view_options import CAMERA, view_paths, view_rows

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.data.geometry.cameras import CameraPath
    from cosmos1.data.geometry.rigs import Rig
    from cosmos1.models.autoregressive.model import AutoregressiveModel

# The options of each signal, by its field of ``model.config``: those of which one is needed, and what may go with it.
OPTIONS = {
    "action": (("action_annotation_path",), ("action_convention",)),
    "camera": (("camera_extrinsics_path", "camera_path"), ("camera_path_amount", "field_of_view", "metres_per_unit")),
    "views": (("conditioned_images",), ("view_prompts", "rig")),
    "trajectory": (("trajectory", "trajectory_path"), ("trajectory_speed",)),
}
FOR_ALL_VIDEOS = ("action_convention", "metres_per_unit", "rig")
PER_VIDEO = ("visual_input", "seed") + tuple(
    option for options in OPTIONS.values() for option in sum(options, ()) if option not in FOR_ALL_VIDEOS
)
"""What a line of ``--batch_input_path`` may set."""
DEFAULT_FPS = 25.0


def add_signal_options(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("action control")
    group.add_argument("--action_annotation_path", help="Bridge annotation (json); all its actions are followed")
    group.add_argument("--action_convention", choices=tuple(ACTION_CONVENTIONS), help="default: as trained")
    add_dataset_options(p.add_argument_group("action control: all episodes of a Bridge tree"))
    add_camera_options(p.add_argument_group("camera control"))
    group = p.add_argument_group("several views")
    group.add_argument("--rig", help="rig file or six_cameras: names of the views; each then gets a video of its own")
    group.add_argument(
        "--conditioned_images",
        nargs="+",
        help=f"a picture or video per view, in the order of training; with --rig in its order, or one path with {CAMERA}",
    )
    group.add_argument("--view_prompts", nargs="+", help="a prompt per view, where each has a text; default: --prompt")
    add_trajectory_options(group)


@dataclass
class Signals:
    """The control signals of one video."""

    views: "list[np.ndarray]"
    """Given frames of each view."""
    controls: "dict[str, torch.Tensor]" = field(default_factory=dict)
    actions: "torch.Tensor | None" = None
    """``[N, A]``: all actions of a roll-out."""
    cameras: "CameraPath | None" = None
    """For pictures as they were given."""
    fps: float = DEFAULT_FPS
    """Frames per second of the video, where ``--fps`` says nothing."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the record of the video tells of the signals."""


def check_options(options: argparse.Namespace, task: "AutoregressiveModel") -> None:
    """Raise :class:`ConfigError` for options of signals that the network does not take, and for missing ones."""
    for name, (alternatives, others) in OPTIONS.items():
        given = [f"--{option}" for option in (*alternatives, *others) if getattr(options, option) is not None]
        if getattr(task.config, name) is None and given:
            raise ConfigError(f"{given[0]}: the network takes no control signal of this kind ({name}); leave it out")
        num_given = sum(getattr(options, option) is not None for option in alternatives)
        if getattr(task.config, name) is not None and num_given != 1:
            needed = " or ".join(f"--{option}" for option in alternatives)
            raise ConfigError(f"the network takes the control signal {name}; give {needed}")


def read_signals(
    options: argparse.Namespace, task: "AutoregressiveModel", path: str | None, rig: "Rig | None"
) -> Signals:
    """Read the pictures at ``path`` (with several views, those of ``--conditioned_images``; without a path, those of the scene
    whose cameras are followed) and the signals of one video.

    Raises:
        ConfigError, DataError: for files that do not fit the network.
    """
    import torch

    config = task.config
    if config.action is not None:
        return _read_actions(options, task, path)
    rows = None if config.views is None else _rows_of_views(options, task, rig)
    signals = Signals(_given_frames(options, task, path, rig))
    if rows is not None:
        signals.controls["view_indices"] = torch.tensor([rows])
        signals.facts["views"] = rig.names if rig else None
    if config.camera is not None:
        signals.facts["metres_per_unit"] = options.metres_per_unit or recorded_data(options).get("metres_per_unit")
        signals.controls["plucker_tokens"], signals.cameras = _read_rays(
            options, task, signals.views[0], signals.facts["metres_per_unit"]
        )
    if config.trajectory is not None:
        signals.controls["trajectory"] = torch.from_numpy(chosen_trajectory(options))[None]
    return signals


def _given_frames(
    options: argparse.Namespace, task: "AutoregressiveModel", path: str | None, rig: "Rig | None"
) -> "list[np.ndarray]":
    """Frames ``[N, H, W, 3]`` uint8 that each view begins with."""
    from cosmos1.generation.autoregressive import given_latents
    from cosmos1.generation.given_frames import read_given_frames, read_views

    count = 1 if (options.input_type or "").endswith("image") else options.num_input_frames
    if task.config.views is not None:
        views = read_views(_paths_of_views(options.conditioned_images, task.config.num_views, rig), count)
    elif path is None:
        views = [frames_of_scene(options.camera_extrinsics_path, count)]
    else:
        views = [read_given_frames(path, count)]
    given_latents(task, len(views[0]))
    return views


def _paths_of_views(paths: "str | list[str]", num_views: int, rig: "Rig | None") -> list[str]:
    if rig is not None:
        return view_paths(paths, rig)
    paths = [paths] if isinstance(paths, str) else paths
    if CAMERA in paths[0]:
        raise ConfigError(
            f"--conditioned_images {paths[0]}: give the --rig that names the cameras, or a path for each view"
        )
    if len(paths) != num_views:
        raise ConfigError(
            f"--conditioned_images: {len(paths)} files, the network has {num_views} views; give one for each"
        )
    return paths


def _rows_of_views(options: argparse.Namespace, task: "AutoregressiveModel", rig: "Rig | None") -> list[int]:
    """Row of the view embedding of each view: in order, or by the names of the rig."""
    num_views = task.config.num_views
    rows = list(range(num_views)) if rig is None else view_rows(options, num_views, rig)
    if len(rows) != num_views:
        raise ConfigError(
            f"--rig {options.rig} has {len(rows)} cameras; the network makes all of its {num_views} views at once"
        )
    return rows


def _read_actions(options: argparse.Namespace, task: "AutoregressiveModel", start: str) -> Signals:
    import torch

    from cosmos1.data.sources.bridge import actions_between, read_episode
    from cosmos1.generation.action_control import agreed_frames, frames_of_checkpoint, steps_of
    from cosmos1.generation.given_frames import first_picture

    path = Path(options.action_annotation_path)
    episode = read_episode(None, path, task.config.action.action_dim)
    recorded = frames_of_checkpoint(checkpoint_path(options)) if options.checkpoint else None
    height, width = (size * factor for size, factor in zip(task.config.latent_shape[1:], task.compression_factor[1:]))
    known = {"action_convention": options.action_convention, "height": height, "width": width, "fps": None}
    # The network is not told the frame rate: any will do where none is recorded.
    frames = agreed_frames(recorded, known if recorded else known | {"fps": options.fps or DEFAULT_FPS})
    steps = steps_of(episode, frames, task)
    actions = actions_between(episode, steps, frames.convention, frames.from_first)
    if frames.from_first and task.config.action.num_actions > 1:
        raise DataError(
            f"{path}: motions seen from the first frame of a window cannot be rolled out; use num_actions=1"
        )
    facts = asdict(frames) | {"action_annotation": str(path), **vars(task.config.action)}
    facts["control_rate"] = facts.pop("fps")  # Not that of the mp4, which --fps may change.
    fps = frames.fps / frames.interval  # a video shows every interval-th frame
    return Signals([first_picture(start)[None]], actions=torch.from_numpy(actions).float(), fps=fps, facts=facts)


def _read_rays(
    options: argparse.Namespace, task: "AutoregressiveModel", frames: "np.ndarray", metres_per_unit: float | None
) -> "tuple[torch.Tensor, CameraPath]":
    """What the network is told, and the cameras for pictures of the size that was given."""
    import torch

    from cosmos1.data.geometry.cameras import plucker_embeddings
    from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras, padding_mask
    from cosmos1.data.modules.token_folder import rays_of_tokens
    from cosmos1.models.tokenizers.token_grid import clip_shape

    _, h, w = task.config.latent_shape
    num_frames, height, width = clip_shape(task.config.latent_shape, tuple(task.compression_factor))
    source_height, source_width = frames.shape[1:3]
    box = letterbox(source_height, source_width, height, width)
    cameras = chosen_cameras(options, num_frames, source_height, source_width)
    rays_F6hw = plucker_embeddings(letterbox_cameras(cameras, box), h, w, metres_per_unit) * (
        1 - padding_mask(box, h, w)
    )
    return torch.from_numpy(rays_of_tokens(rays_F6hw, task.config.camera.frames_per_token))[None], cameras
