# SPDX-License-Identifier: Apache-2.0
"""Finite scalar quantisation with levels 8, 8, 8, 5, 5, 5: six numbers per cell, 64000 codes, one integer id each.

A digit q of a channel with L levels is 0..L-1; its code is (q - L//2) / (L//2), between -1 and 1 and exact in bfloat16.
The id is the sum of digit times basis, channel 0 varying fastest. The last axis of every tensor holds the six channels.
"""

from __future__ import annotations

import math

import torch

LEVELS = (8, 8, 8, 5, 5, 5)
BASIS = (1, 8, 64, 512, 2560, 12800)
NUM_CODES = math.prod(LEVELS)
_SLACK = 1e-3


def quantize(values: torch.Tensor) -> torch.Tensor:
    """Round unbounded values (..., 6) to codes (..., 6), as the published tokenizers do.

    A hyperbolic tangent bounds each channel to its levels; with an even number of levels it is shifted by half a level,
    so that value 0 is rounded to code 0.
    """
    levels = torch.tensor(LEVELS, dtype=values.dtype, device=values.device)
    half = (levels - 1) * (1 + _SLACK) / 2
    offset = 0.5 * (levels % 2 == 0)
    bounded = torch.tanh(values + torch.atanh(offset / half)) * half - offset
    return bounded.round() / (levels // 2)


def codes_to_digits(codes: torch.Tensor) -> torch.Tensor:
    """Turn codes (..., 6) into digits (..., 6) int64, each from 0 to one below its number of levels."""
    half = torch.tensor(LEVELS, device=codes.device) // 2
    return (codes.float() * half + half).round().long()


def digits_to_ids(digits: torch.Tensor) -> torch.Tensor:
    """Turn digits (..., 6) into ids (...) int64 in 0..63999."""
    return (digits.long() * torch.tensor(BASIS, device=digits.device)).sum(dim=-1)


def ids_to_digits(ids: torch.Tensor) -> torch.Tensor:
    """Turn ids (...) into digits (..., 6) int64."""
    basis, levels = torch.tensor(BASIS, device=ids.device), torch.tensor(LEVELS, device=ids.device)
    return ids.long()[..., None] // basis % levels
