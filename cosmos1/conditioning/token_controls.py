# SPDX-License-Identifier: Apache-2.0
"""The control signals of a batch of tokens: taken out, and checked against the network."""

from typing import TYPE_CHECKING

import torch

from cosmos1.conditioning.controls import TEXT_ROWS
from cosmos1.conditioning.settings import TRAJECTORY_VALUES
from cosmos1.errors import DataError

if TYPE_CHECKING:
    from cosmos1.models.autoregressive.config import GPTConfig


def take_token_controls(gpt: "GPTConfig", batch: dict, device) -> dict[str, torch.Tensor]:
    """The signals that ``gpt`` asks for, on ``device``.

    ``action`` ``[B, N, A]``, ``plucker_tokens`` ``[B, n, 48]`` in the order of the video tokens, ``view_indices``
    ``[B, V]``, ``trajectory`` ``[B, 192]``.

    Raises:
        DataError: a signal is missing from the batch or does not fit the network.
    """
    missing = [name for name in gpt.controls if name not in batch]
    if missing:
        raise DataError(
            f"the network takes the control signal {missing[0]}, the batches hold {', '.join(sorted(batch))}; use the data "
            "module of this task, or the recipe of a network without this signal"
        )
    for name, (needed, remedy) in _needed(gpt).items():
        found = list(batch[name].shape[1:])
        if found != needed:
            raise DataError(f"each {name} has shape {found}, this network needs {needed}; {remedy}")
    if gpt.views is not None:
        _check_views(gpt, batch)
    return {name: batch[name].to(device) for name in gpt.controls}


def _needed(gpt: "GPTConfig") -> dict[str, tuple[list[int], str]]:
    """Shape of a sample's signals, and what to do about another one."""
    needed = {}
    if gpt.action is not None:
        sizes = [gpt.action.num_actions, gpt.action.action_dim]
        needed["action"] = (sizes, "set model.config.action.num_actions and action_dim to those of the data")
    if gpt.camera is not None:
        sizes = [gpt.num_video_tokens, gpt.camera.num_channels]
        remedy = "set model.config.latent_shape and model.config.camera.frames_per_token to those of the data"
        needed["plucker_tokens"] = (sizes, remedy)
    if gpt.views is not None:
        remedy = "set model.config.views.num_views to the number of cameras in a sample"
        needed["view_indices"] = ([gpt.num_views], remedy)
    if gpt.trajectory is not None:
        needed["trajectory"] = ([TRAJECTORY_VALUES], "prepare the trajectories again")
    return needed


def _check_views(gpt: "GPTConfig", batch: dict) -> None:
    indices = batch["view_indices"]
    if int(indices.min()) < 0 or int(indices.max()) >= gpt.num_views:
        raise DataError(
            f"view_indices {sorted(set(indices.flatten().tolist()))} do not fit a network of {gpt.num_views} views; set "
            "model.config.views.num_views to the number of cameras of the rig"
        )
    if not gpt.reads_text:
        return
    num_rows = batch["t5_text_embeddings"].shape[1]
    if gpt.num_views == 1:
        return
    if gpt.views.shared_text and num_rows > TEXT_ROWS:
        raise DataError(
            f"the text of a sample of {gpt.num_views} views has {num_rows} rows, with model.config.views.shared_text=true one "
            f"text of {TEXT_ROWS} is needed; set it to false for a text of each view"
        )
    if not gpt.views.shared_text and (num_rows == TEXT_ROWS or num_rows % gpt.num_views):
        raise DataError(
            f"the text of a sample of {gpt.num_views} views has {num_rows} rows, a text for each view is needed; prepare one "
            "for each, or set model.config.views.shared_text=true for one text"
        )
