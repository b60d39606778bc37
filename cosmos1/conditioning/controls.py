# SPDX-License-Identifier: Apache-2.0
"""The control signals of a batch: taken out, checked against the network, and what guidance leads away from."""

from typing import TYPE_CHECKING

import torch

from cosmos1.conditioning.settings import PLUCKER_CHANNELS, TRAJECTORY_VALUES
from cosmos1.errors import DataError

if TYPE_CHECKING:
    from cosmos1.models.diffusion.config import DiTConfig


TEXT_ROWS = 512
"""Rows of one text in the data formats."""


def take_controls(config: "DiTConfig", batch: dict, latent_shape: list[int], device) -> dict[str, torch.Tensor]:
    """The signals that ``config`` asks for, on ``device``; ``latent_shape`` is ``[B, C, T, H, W]``.

    Raises:
        DataError: a signal is missing from the batch or does not fit the network or the latents.
    """
    missing = [name for name in config.controls if name not in batch]
    if missing:
        raise DataError(
            f"the network takes the control signal {missing[0]}, the batches hold {', '.join(sorted(batch))}; use the data "
            "module of this task, or the recipe of a network without this signal"
        )
    batch_size, _, frames, height, width = latent_shape
    if config.action is not None:
        _check_shape(batch, "action", [batch_size, config.action.num_actions, config.action.action_dim], _ACTION_REMEDY)
    if config.camera is not None:
        _check_shape(batch, "plucker_embeddings", [batch_size, frames, PLUCKER_CHANNELS, height, width], _CAMERA_REMEDY)
    if config.trajectory is not None:
        _check_shape(batch, "trajectory", [batch_size, TRAJECTORY_VALUES], "prepare the trajectories again")
    names = list(config.controls)
    if config.views is not None:
        _check_views(config, batch, frames)
        names += ["frame_repeat"] if "frame_repeat" in batch else []
    return {name: batch[name].to(device) for name in names}


_ACTION_REMEDY = "set model.config.action.num_actions and action_dim to those of the data"
_CAMERA_REMEDY = "give one map per latent frame on the latent grid"


def _check_shape(batch: dict, name: str, needed: list[int], remedy: str) -> None:
    if list(batch[name].shape) != needed:
        raise DataError(f"{name} has shape {list(batch[name].shape)}, this network needs {needed}; {remedy}")


def _check_views(config: "DiTConfig", batch: dict, frames: int) -> None:
    indices, num_rows = batch["view_indices"], batch["t5_text_embeddings"].shape[1]
    num_views = indices.shape[1]
    if int(indices.max()) >= config.views.num_views or int(indices.min()) < 0:
        raise DataError(
            f"view_indices {sorted(set(indices.flatten().tolist()))} do not fit a network of {config.views.num_views} views; "
            "set model.config.views.num_views to the number of cameras of the rig"
        )
    if frames % num_views:
        raise DataError(
            f"a sample has {frames} latent frames, which do not divide by its {num_views} views; prepare it again"
        )
    one_text = num_views > 1 and (num_rows == TEXT_ROWS or num_rows % num_views > 0)
    if one_text and not config.views.shared_text:
        raise DataError(
            f"the text of a sample of {num_views} views has {num_rows} rows, a text for each view is needed; prepare one for "
            "each, or set model.config.views.shared_text=true for one text"
        )
    if config.views.shared_text and num_rows > TEXT_ROWS:
        raise DataError(
            f"the text of a sample of {num_views} views has {num_rows} rows, with model.config.views.shared_text=true one "
            f"text of {TEXT_ROWS} is needed; set it to false for a text of each view"
        )


def num_views(controls: dict[str, torch.Tensor]) -> int:
    """Views of each sample; 1 for networks without views."""
    return controls["view_indices"].shape[1] if "view_indices" in controls else 1


def unconditional(controls: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The signals that guidance leads away from: those that training drops are zero, the others stay."""
    return {name: torch.zeros_like(x) if name == "trajectory" else x for name, x in controls.items()}
