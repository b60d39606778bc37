# SPDX-License-Identifier: Apache-2.0
"""What text and control signals mean for a range of positions of the sequence."""

from typing import NamedTuple

import torch

from cosmos1.conditioning.token_modules import added_inputs, context_mask, context_rows


class Conditions(NamedTuple):
    """Shapes: ``s`` positions, ``b`` batch, ``M`` context rows of width ``E``, ``D`` model width."""

    added: torch.Tensor | None
    """``[s, b, D]``: added to the embedded tokens."""
    rows: torch.Tensor | None
    """``[M, b, E]``: what cross-attention reads."""
    mask: torch.Tensor | None
    """``[1 or b, 1, 1 or s, M]`` bool: the rows that each position sees; None: all."""


def conditions_of(
    network,
    text_BME: torch.Tensor | None,
    controls: dict[str, torch.Tensor],
    added_range: tuple[int, int],
    mask_range: tuple[int, int],
) -> Conditions:
    """The conditions of the positions that this rank embeds, and of those whose attention it computes."""
    gpt = network.config.gpt
    assert (text_BME is not None) == gpt.reads_text and controls.keys() == set(gpt.controls)
    if not gpt.video2world:
        return Conditions(None, None, None)
    rows_BME = context_rows(network, gpt, text_BME, controls)
    added = added_inputs(network, gpt, controls, *added_range) if network.pre_process else None
    mask = context_mask(gpt, rows_BME.shape[1], controls, *mask_range)
    return Conditions(added, rows_BME.transpose(0, 1).to(network.config.pipeline_dtype), mask)
