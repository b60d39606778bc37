# SPDX-License-Identifier: Apache-2.0
"""Keys and values of the tokens so far, in memory that is allocated once.

All shapes are fixed and the position is a tensor, so that the step from one token to the next can be captured as a CUDA
graph. Shapes: ``b`` batch, ``h`` query heads and ``g`` key-value heads of this tensor-parallel rank, ``d`` head width,
``S`` the longest sequence.
"""

from typing import Callable

import torch

from cosmos1.models.autoregressive.conditions import Conditions
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.autoregressive.positions import absolute_positions, rotary_angles
from cosmos1.models.elementwise import fused
from cosmos1.parallel.attention import attend


class KeyValueCache:
    """The state of one generation: keys (rotated) and values per layer, the text's, and the tables of positions."""

    def __init__(self, config: GPTConfig, batch_size: int, tp_size: int, dtype: torch.dtype, device):
        length = config.sequence_length
        shape = (config.num_layers, batch_size, config.num_query_groups // tp_size, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        """Place in the sequence of the token that comes next."""
        angles = rotary_angles(config, 0, length, device)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.positions = absolute_positions(config, 0, length, dtype, device) if config.video2world else None
        self.conditions: Conditions | None = None
        """Of all positions; set before the prompt is read."""
        self._text: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._one_token = fused(attend_one_token, config.compile)

    def tables(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """``cos``, ``sin`` and absolute positions of the next tokens: of the whole prompt, or of one token after it."""
        return tuple(self.rows(table, num_tokens) for table in (self.cos, self.sin, self.positions))

    def rows(self, table: torch.Tensor | None, num_tokens: int, axis: int = 0) -> torch.Tensor | None:
        """The rows of a table over all positions that belong to the next tokens; a single row belongs to all."""
        if table is None or table.shape[axis] == 1:
            return table
        return table.index_select(axis, self.position) if num_tokens == 1 else table.narrow(axis, 0, num_tokens)

    def attend(self, layer_number: int, q_sbhd, k_sbgd, v_sbgd) -> torch.Tensor:
        """Keep keys and values of a layer; ``[s, b, h * d]``. Several tokens are the prompt, one token comes after it."""
        keys, values = self.keys[layer_number - 1], self.values[layer_number - 1]
        k_bgsd, v_bgsd = k_sbgd.permute(1, 2, 0, 3), v_sbgd.permute(1, 2, 0, 3)
        if len(q_sbhd) > 1:
            keys[:, :, : len(q_sbhd)], values[:, :, : len(q_sbhd)] = k_bgsd, v_bgsd
            return attend(q_sbhd, k_sbgd, v_sbgd, causal=True).flatten(2)
        keys.index_copy_(2, self.position, k_bgsd)
        values.index_copy_(2, self.position, v_bgsd)
        q_bgnd = q_sbhd[0].unflatten(1, (keys.shape[1], -1))
        return self._one_token(q_bgnd, keys, values, self.position).flatten(1)[None]

    def text(self, layer_number: int, compute: Callable) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the text, which are computed once."""
        if layer_number not in self._text:
            self._text[layer_number] = compute()
        return self._text[layer_number]


def attend_one_token(q_bgnd, keys_bgSd, values_bgSd, position) -> torch.Tensor:
    """Attention of one token to those up to ``position``; ``[b, g, n, d]`` for the ``n`` query heads of each group.

    Written as products and sums in fp32: with so few queries it is bound by reading keys and values, which torch.compile
    then reads once, in the dtype they are kept in.
    """
    q = q_bgnd.float() * q_bgnd.shape[-1] ** -0.5
    scores_bgnS = (q[:, :, :, None] * keys_bgSd[:, :, None].float()).sum(-1)
    visible = torch.arange(keys_bgSd.shape[2], device=position.device) <= position
    weights = scores_bgnS.masked_fill(~visible, -torch.inf).softmax(-1)
    out = (weights[..., None] * values_bgSd[:, :, None].float()).sum(-2)
    return out.to(q_bgnd.dtype)
