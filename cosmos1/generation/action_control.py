# SPDX-License-Identifier: Apache-2.0
"""Rolling a robot's video out over a list of actions, frame after frame."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from megatron.core import dist_checkpointing

from cosmos1 import hub
from cosmos1.checkpoint import folders, formats
from cosmos1.data.formats.action_frames import NOT_RECORDED, STATE_KEY, ActionFrames
from cosmos1.data.geometry.actions import ACTION_CONVENTIONS
from cosmos1.data.sources.bridge import Episode, actions_between, check_convention, check_poses
from cosmos1.data.video import frames_to_tensor, resize_frames, tensor_to_frames
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation.generator import VideoGenerator
from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, Prompt
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.pixels import latents_to_pixels
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.parallel.device import device

FROM_OPTIONS = {"convention": "action_convention", "height": "height", "width": "width", "fps": "fps"}
"""Facts that other formats than the suite's own do not record, and the options that say them."""


def frames_of_checkpoint(path: Path) -> ActionFrames | None:
    """What a checkpoint of this suite was trained on; None for other formats and for networks of other tasks."""
    path = hub.locate(str(path))
    if formats.detect(path) != "dist":
        return None
    common = dist_checkpointing.load_common_state_dict(str(folders.resolve(path).weights))
    recorded = common.get("data", {}).get(STATE_KEY)
    return ActionFrames(**recorded) if recorded else None


def agreed_frames(recorded: ActionFrames | None, options: dict) -> ActionFrames:
    """The recorded facts, or those of ``options`` (by name of the option, None where not given) where there are none.

    Raises:
        ConfigError: an option contradicts what was recorded, or says what neither does.
    """
    values = vars(recorded) if recorded else {}
    known = {name: value for name, value in values.items() if value != NOT_RECORDED}
    for name, option in FROM_OPTIONS.items():
        given = options[option]
        if name not in known and given is None:
            raise ConfigError(
                f"the checkpoint does not record --{option}; give the one that the network was trained with"
            )
        if given is not None and known.get(name, given) != given:
            raise ConfigError(
                f"--{option} {given}: the network was trained with {known[name]}; leave the option out, or use another "
                "checkpoint"
            )
        known.setdefault(name, given)
    if known["convention"] not in ACTION_CONVENTIONS:
        raise ConfigError(
            f"--action_convention {known['convention']}: there is no such convention; use {', '.join(ACTION_CONVENTIONS)}"
        )
    return ActionFrames(**known)


def steps_of(episode: Episode, frames: ActionFrames, task: DiffusionModel) -> list[int]:
    """Frames of the episode that a roll-out makes, the first one included.

    Raises:
        ConfigError, DataError: the network or the convention cannot take these actions, or there are too few.
    """
    action = task.config.action
    width = episode.action.shape[1]
    if width != action.action_dim:
        raise DataError(
            f"{episode.annotation}: actions of {width} numbers, the network takes {action.action_dim}; give the annotation "
            "of a robot like that of the training data"
        )
    check_convention(frames.convention, width, frames.interval, frames.from_first)
    check_poses(episode, frames.convention)
    steps = list(range(0, episode.num_frames, frames.interval))
    if len(steps) <= action.num_actions:
        raise DataError(
            f"{episode.annotation}: {len(steps) - 1} actions, the network needs at least {action.num_actions} at once"
        )
    return steps


def windows(num_steps: int, num_actions: int) -> Iterator[tuple[int, int]]:
    """``(first frame, new frames)`` of each sample of a roll-out over ``num_steps`` frames.

    Each sample starts with the last frame of the one before. The last one begins earlier where it would be too long.
    """
    done = 1
    while done < num_steps:
        first = min(done - 1, num_steps - 1 - num_actions)
        yield first, first + num_actions + 1 - done
        done = first + num_actions + 1


@torch.no_grad()
def roll_out(
    generator: VideoGenerator,
    start: np.ndarray,
    episode: Episode,
    frames: ActionFrames,
    settings: GenerationSettings,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The video ``[N, H, W, 3]`` uint8 that begins with ``start`` ``[H, W, 3]`` and follows the actions of an episode.

    Every frame is a latent of its own. The last frame of a sample, as it was predicted, is the given one of the next; seeds
    count up.
    """
    task = generator.task
    steps, num_actions = steps_of(episode, frames, task), task.config.action.num_actions
    tokenizer = build_video_tokenizer(task.tokenizer, task.tokenizer_path, 1, device())
    picture = frames_to_tensor(resize_frames(start[None], frames.height, frames.width))
    latent = tokenizer.encode(picture.to(device())).float()
    planned = list(windows(len(steps), num_actions))
    for index, (first, num_new) in enumerate(planned):
        action = actions_between(episode, steps[first : first + num_actions + 1], frames.convention, frames.from_first)
        seeded = replace(settings, seed=settings.seed + index)
        sampled = _sample(generator, latent[:, :, first : first + 1], action, frames.fps, seeded)
        latent = torch.cat([latent, sampled[:, :, -num_new:]], dim=2)
        if progress is not None:
            progress(index + 1, len(planned))
    return tensor_to_frames(latents_to_pixels(tokenizer, latent, latent.shape[2]))


def _sample(
    generator: VideoGenerator, given: torch.Tensor, action: np.ndarray, fps: float, settings: GenerationSettings
) -> torch.Tensor:
    """The latents ``[1, C, N + 1, h, w]`` that begin with ``given`` ``[1, C, 1, h, w]`` and follow actions ``[N, A]``."""
    task = generator.task
    clean = torch.zeros(1, given.shape[1], len(action) + 1, *given.shape[3:], device=given.device)
    clean[:, :, :1] = given * task.objective.sigma_data
    prompt = Prompt(
        # Attention to any number of equal rows is the same.
        text=torch.zeros(1, 1, task.config.text_embedding_dim),
        fps=fps,
        controls={"action": torch.from_numpy(action).float()[None]},
        given=GivenFrames(clean, 1),
    )
    return generator.sample_latent(list(clean.shape[1:]), prompt, settings)
