# SPDX-License-Identifier: Apache-2.0
"""Whether the control signals of a batch are those that the network takes, whatever its family."""

from typing import Any

import torch

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TRAJECTORY_VALUES, signals
from cosmos1.errors import DataError

# By batch key, the shape of one sample's signal and what to do about another one.
Shapes = dict[str, tuple[list[int], str]]


def check_signals(config: Any, batch: dict[str, torch.Tensor], others: Shapes) -> None:
    """Raise :class:`DataError` unless the batch has the signals of ``config``, each in its shape.

    ``others`` are the shapes of the signals that depend on the family; actions and trajectories are alike in all.
    """
    missing = [settings.batch_key for settings in signals(config) if settings.batch_key not in batch]
    if missing:
        raise DataError(
            f"the network takes the control signal {missing[0]}, the batches hold {', '.join(sorted(batch))}; use the data "
            "module of this task, or the recipe of a network without this signal"
        )
    for name, (shape, remedy) in (_shapes(config) | others).items():
        found = list(batch[name].shape[1:])
        if found != shape:
            raise DataError(f"each {name} has shape {found}, this network needs {shape}; {remedy}")


def _shapes(config: Any) -> Shapes:
    shapes: Shapes = {}
    if config.action is not None:
        remedy = "set model.config.action.num_actions and action_dim to those of the data"
        shapes["action"] = ([config.action.num_actions, config.action.action_dim], remedy)
    if config.trajectory is not None:
        shapes["trajectory"] = ([TRAJECTORY_VALUES], "prepare the trajectories again")
    return shapes


def check_view_indices(batch: dict[str, torch.Tensor], num_views: int) -> None:
    """Raise :class:`DataError` for cameras that a network of ``num_views`` views does not know."""
    indices = batch["view_indices"]
    if int(indices.min()) < 0 or int(indices.max()) >= num_views:
        raise DataError(
            f"view_indices {sorted(set(indices.flatten().tolist()))} do not fit a network of {num_views} views; set "
            "model.config.views.num_views to the number of cameras of the rig"
        )


def check_view_texts(batch: dict[str, torch.Tensor], shared_text: bool) -> None:
    """Raise :class:`DataError` for one text where each view needs its own, and for several where all share one."""
    num_views, num_rows = batch["view_indices"].shape[1], batch["t5_text_embeddings"].shape[1]
    one_text = num_views > 1 and (num_rows == NUM_TEXT_TOKENS or num_rows % num_views > 0)
    if one_text and not shared_text:
        raise DataError(
            f"the text of a sample of {num_views} views has {num_rows} rows, a text for each view is needed; prepare one for "
            "each, or set model.config.views.shared_text=true for one text"
        )
    if shared_text and num_rows > NUM_TEXT_TOKENS:
        raise DataError(
            f"the text of a sample of {num_views} views has {num_rows} rows, with model.config.views.shared_text=true one "
            f"text of {NUM_TEXT_TOKENS} is needed; set it to false for a text of each view"
        )
