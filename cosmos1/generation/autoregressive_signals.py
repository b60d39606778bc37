# SPDX-License-Identifier: Apache-2.0
"""Control signals of ``recipes/generate/autoregressive.py``: the options, and what the network needs of them."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.data.geometry.actions import ACTION_CONVENTIONS
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation.camera_control import add_camera_options, chosen_cameras
from cosmos1.generation.command import checkpoint_path, recorded_data
from cosmos1.generation.trajectory_options import add_trajectory_options, chosen_trajectory

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.models.autoregressive.model import AutoregressiveModel

# The options of each signal, by its field of ``model.config``: those of which one is needed, and what may go with it.
OPTIONS = {
    "action": (("action_annotation_path",), ("action_convention",)),
    "camera": (("camera_extrinsics_path", "camera_path"), ("camera_path_amount", "field_of_view", "metres_per_unit")),
    "views": (("conditioned_images",), ("view_prompts",)),
    "trajectory": (("trajectory", "trajectory_path"), ("trajectory_speed",)),
}


def add_signal_options(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("action control")
    group.add_argument("--action_annotation_path", help="Bridge annotation (json); all its actions are followed")
    group.add_argument("--action_convention", choices=tuple(ACTION_CONVENTIONS), help="default: as trained")
    add_camera_options(p.add_argument_group("camera control"))
    group = p.add_argument_group("several views")
    group.add_argument("--conditioned_images", nargs="+", help="a picture or video per view, in the order of training")
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


def check_options(options: argparse.Namespace, task: "AutoregressiveModel") -> None:
    """Raise :class:`ConfigError` for options of signals that the network does not take, and for missing ones."""
    if task.config.controls and options.batch_input_path:
        raise ConfigError("--batch_input_path knows no control signals; make one video per call")
    for name, (alternatives, others) in OPTIONS.items():
        given = [f"--{option}" for option in (*alternatives, *others) if getattr(options, option) is not None]
        if getattr(task.config, name) is None and given:
            raise ConfigError(f"{given[0]}: the network takes no control signal of this kind ({name}); leave it out")
        num_given = sum(getattr(options, option) is not None for option in alternatives)
        if getattr(task.config, name) is not None and num_given != 1:
            needed = " or ".join(f"--{option}" for option in alternatives)
            raise ConfigError(f"the network takes the control signal {name}; give {needed}")


def read_signals(options: argparse.Namespace, task: "AutoregressiveModel", path: str) -> Signals:
    """Read the pictures at ``path`` (with several views, those of ``--conditioned_images``) and the signals of one video.

    Raises:
        ConfigError, DataError: for files that do not fit the network.
    """
    import torch

    from cosmos1.generation.given_frames import first_picture

    config = task.config
    if config.action is not None:
        return Signals([first_picture(path)[None]], actions=_read_actions(options, task))
    signals = Signals(_given_frames([path] if config.views is None else options.conditioned_images, options, task))
    if config.views is not None:
        signals.controls["view_indices"] = torch.arange(task.config.num_views)[None]
    if config.camera is not None:
        signals.controls["plucker_tokens"] = _read_rays(options, task, signals.views[0])
    if config.trajectory is not None:
        signals.controls["trajectory"] = torch.from_numpy(chosen_trajectory(options))[None]
    return signals


def _given_frames(paths: list[str], options: argparse.Namespace, task: "AutoregressiveModel") -> "list[np.ndarray]":
    """Frames ``[N, H, W, 3]`` uint8 that each view begins with."""
    from cosmos1.generation.given_frames import read_views

    if len(paths) != task.config.num_views:
        raise ConfigError(
            f"--conditioned_images: {len(paths)} files, the network has {task.config.num_views} views; give one for each"
        )
    return read_views(paths, 1 if (options.input_type or "").endswith("image") else options.num_input_frames)


def _read_actions(options: argparse.Namespace, task: "AutoregressiveModel") -> "torch.Tensor":
    import torch

    from cosmos1.data.sources.bridge import actions_between, read_episode
    from cosmos1.generation.action_control import agreed_frames, frames_of_checkpoint, steps_of

    path = Path(options.action_annotation_path)
    episode = read_episode(None, path, task.config.action.action_dim)
    recorded = frames_of_checkpoint(checkpoint_path(options)) if options.checkpoint else None
    height, width = (size * factor for size, factor in zip(task.config.latent_shape[1:], task.compression_factor[1:]))
    known = {"action_convention": options.action_convention, "height": height, "width": width, "fps": None}
    # The frame rate does not matter here.
    frames = agreed_frames(recorded, known if recorded else known | {"fps": options.fps})
    steps = steps_of(episode, frames, task)
    actions = actions_between(episode, steps, frames.convention, frames.from_first)
    if frames.from_first and task.config.action.num_actions > 1:
        raise DataError(
            f"{path}: motions seen from the first frame of a window cannot be rolled out; use num_actions=1"
        )
    return torch.from_numpy(actions).float()


def _read_rays(options: argparse.Namespace, task: "AutoregressiveModel", frames: "np.ndarray") -> "torch.Tensor":
    import torch

    from cosmos1.data.geometry.cameras import plucker_embeddings
    from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras, padding_mask
    from cosmos1.data.modules.token_folder import rays_of_tokens
    from cosmos1.models.tokenizers.token_grid import clip_shape

    _, h, w = task.config.latent_shape
    num_frames, height, width = clip_shape(task.config.latent_shape, tuple(task.compression_factor))
    metres_per_unit = options.metres_per_unit or recorded_data(options).get("metres_per_unit")
    source_height, source_width = frames.shape[1:3]
    box = letterbox(source_height, source_width, height, width)
    cameras = letterbox_cameras(chosen_cameras(options, num_frames, source_height, source_width), box)
    rays_F6hw = plucker_embeddings(cameras, h, w, metres_per_unit) * (1 - padding_mask(box, h, w))
    return torch.from_numpy(rays_of_tokens(rays_F6hw, task.config.camera.frames_per_token))[None]
