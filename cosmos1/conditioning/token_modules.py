# SPDX-License-Identifier: Apache-2.0
"""The layers by which an autoregressive network obeys control signals, and where each signal enters.

Actions and trajectories become rows of the context of cross-attention. Camera rays and views are added to the hidden
states before the first layer; position ``p`` of the sequence reads token ``p - 1`` and says token ``p``, so it gets the
signal of token ``p``. Formula of the action: Cosmos, ``autoregressive/nemo/cosmos_action_control.py``.

Shapes: B batch, s positions of this rank, n video tokens, M text rows, E their width, D model width, V views.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cosmos1.conditioning.settings import NUM_POINTS, POINT_VALUES

# Modules whose results every pipeline stage needs.
ON_EVERY_STAGE = ("action.", "trajectory.")


class ContextRows(nn.Module):
    """``num_rows`` vectors to as many context rows: linear, ReLU, linear with biases, and a learned vector per row."""

    def __init__(self, num_rows: int, num_values: int, hidden_size: int, text_embedding_dim: int, **options):
        super().__init__()
        self.shape = (num_rows, num_values)
        self.linear_1 = nn.Linear(num_values, hidden_size, **options)
        self.linear_2 = nn.Linear(hidden_size, text_embedding_dim, **options)
        self.index = nn.Embedding(num_rows, text_embedding_dim, **options) if num_rows > 1 else None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``[B, num_rows * num_values]`` in any shape to ``[B, num_rows, E]``."""
        values = values.reshape(len(values), *self.shape).to(self.linear_1.weight.dtype)
        rows_BRE = self.linear_2(F.relu(self.linear_1(values)))
        if self.index is None:
            return rows_BRE
        return rows_BRE + self.index(torch.arange(self.shape[0], device=rows_BRE.device))


def control_modules(gpt, pre_process: bool, options: dict) -> dict[str, nn.Module]:
    """The layers of the control signals of ``gpt`` on one pipeline stage, by the names of their fields."""
    modules: dict[str, nn.Module] = {}
    if gpt.action is not None:
        sizes = (gpt.action.num_actions, gpt.action.action_dim, gpt.action.hidden_size)
        modules["action"] = ContextRows(*sizes, gpt.text_embedding_dim, **options)
    if gpt.trajectory is not None:
        sizes = (NUM_POINTS, POINT_VALUES, gpt.trajectory.hidden_size)
        modules["trajectory"] = ContextRows(*sizes, gpt.text_embedding_dim, **options)
    if gpt.camera is not None and pre_process:
        modules["camera"] = nn.Linear(gpt.camera.num_channels, gpt.hidden_size, bias=False, **options)
    if gpt.views is not None and pre_process:
        modules["views"] = nn.Embedding(gpt.views.num_views, gpt.hidden_size, **options)
    return modules


def view_slots(gpt, start: int, stop: int, device) -> torch.Tensor:
    """``[stop - start]``: the place among the views of the token that each position says; padding counts on."""
    _, rows, columns = gpt.latent_shape
    return torch.arange(start, stop, device=device) // (rows * columns) % gpt.num_views


def added_inputs(modules, gpt, controls: dict[str, torch.Tensor], start: int, stop: int) -> torch.Tensor | None:
    """``[stop - start, B, D]``: what rays and views add to the positions ``start`` to ``stop``; None without them.

    Positions that say padding get zeros.
    """
    end = min(stop, gpt.num_video_tokens)
    begin = min(start, end)
    parts = []
    if gpt.camera is not None:
        rays = controls["plucker_tokens"][:, begin:end]
        parts.append(modules.camera(rays.to(modules.camera.weight.dtype)))
    if gpt.views is not None:
        indices = controls["view_indices"]
        parts.append(modules.views(indices[:, view_slots(gpt, begin, end, indices.device)]))
    if not parts:
        return None
    return F.pad(sum(parts).transpose(0, 1), (0, 0, 0, 0, 0, stop - start - (end - begin)))


def context_rows(modules, gpt, text_BME: torch.Tensor | None, controls: dict[str, torch.Tensor]) -> torch.Tensor:
    """``[B, M', E]``: what cross-attention reads. Actions replace the text, a trajectory follows it."""
    rows = text_BME if gpt.action is None else modules.action(controls["action"])
    if gpt.trajectory is None:
        return rows
    trajectory = modules.trajectory(controls["trajectory"])
    return torch.cat([rows.to(trajectory.dtype), trajectory], dim=1)


def context_mask(gpt, num_rows: int, controls: dict[str, torch.Tensor], start: int, stop: int) -> torch.Tensor | None:
    """``[1 or B, 1, 1 or s, M']``: which of the context rows the positions ``start`` to ``stop`` see; None: all.

    A view sees its own text alone, where each has one, and nobody sees a trajectory that was dropped.
    """
    mask, num_points = None, 0 if gpt.trajectory is None else NUM_POINTS
    if gpt.views is not None and not gpt.views.shared_text:
        device, num_text_rows = controls["view_indices"].device, num_rows - num_points
        text_of_row = torch.arange(num_text_rows, device=device) // (num_text_rows // gpt.num_views)
        mask = view_slots(gpt, start, stop, device)[:, None] == text_of_row
        mask = F.pad(mask, (0, num_points), value=True)[None, None]
    if gpt.trajectory is not None:
        is_point = torch.arange(num_rows, device=controls["trajectory"].device) >= num_rows - num_points
        is_present = (controls["trajectory"] != 0).any(1)
        visible = (is_present[:, None] | ~is_point)[:, None, None]
        mask = visible if mask is None else mask & visible
    return mask
