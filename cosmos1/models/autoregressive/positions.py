# SPDX-License-Identifier: Apache-2.0
"""Where a token is: 3-D rotary angles (with YaRN), and the sinusoids that Video2World adds before every layer.

A sequence is the token grid of a clip in the order frame, row, column; with several views in the order frame, view, row,
column, and a token has the place that it would have in its view alone. Video2World puts the token that begins a video in
front and padding behind; those have angle zero and no sinusoid. Both tables are computed for a contiguous range of the
sequence, because context and sequence parallelism give each rank only its own. Formulas: the released implementation,
``autoregressive/modules/embedding.py``.
"""

import math

import torch
import torch.nn.functional as F

from cosmos1.models.autoregressive.config import GPTConfig


def axis_widths(width: int) -> tuple[int, int, int]:
    """How many of ``width`` channels go to time, rows and columns."""
    spatial = width // 6 * 2
    return width - 2 * spatial, spatial, spatial


def rotary_frequencies(config: GPTConfig) -> list[torch.Tensor]:
    """Angle per step along time, rows and columns, each ``[axis width / 2]``, float64.

    YaRN divides slow frequencies by ``yarn_scale`` and keeps fast ones; what counts as fast depends on the length of the
    grid that the network knew before: frames for time, rows for both spatial axes. Its magnitude factor is not used.
    """
    frames, rows, _ = config.yarn_original_latent_shape
    frequencies = []
    for width, length in zip(axis_widths(config.head_dim), (frames, rows, rows)):
        frequency = config.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        if config.yarn_scale is not None:
            high, low = (2 * math.pi * beta / length for beta in (config.yarn_beta_fast, config.yarn_beta_slow))
            kept = ((frequency - low) / (high - low)).clamp(0, 1)
            frequency = frequency * ((1 - kept) / config.yarn_scale + kept)
        frequencies.append(frequency)
    return frequencies


def _per_token(config: GPTConfig, start: int, stop: int, tables: list[torch.Tensor], device) -> torch.Tensor:
    """Rows ``start`` to ``stop`` of the sequence, each the table rows of its frame, row and column side by side."""
    first = 1 if config.video2world else 0
    begin, end = (min(max(place - first, 0), config.num_video_tokens) for place in (start, stop))
    _, rows, columns = config.latent_shape
    token = torch.arange(begin, end, device=device)
    frame = token // (config.num_views * rows * columns)
    row, column = token // columns % rows, token % columns
    values = torch.cat([table.to(device)[place] for table, place in zip(tables, (frame, row, column))], dim=1)
    front = min(max(first - start, 0), stop - start)
    return F.pad(values, (0, 0, front, stop - start - front - len(token)))


def rotary_angles(config: GPTConfig, start: int, stop: int, device) -> torch.Tensor:
    """Rotary angles ``[stop - start, head_dim / 2]``, fp32; channel ``c`` turns with channel ``c + head_dim / 2``."""
    frequencies = rotary_frequencies(config)
    tables = [torch.arange(n)[:, None] * frequency for n, frequency in zip(config.latent_shape, frequencies)]
    return _per_token(config, start, stop, [table.float() for table in tables], device)


def absolute_positions(config: GPTConfig, start: int, stop: int, dtype: torch.dtype, device) -> torch.Tensor:
    """Sinusoids ``[stop - start, hidden_size]``: per axis all sines, then all cosines of ``p * 10000^(-2i / width)``."""
    tables = []
    for width, length in zip(axis_widths(config.hidden_size), config.latent_shape):
        frequency = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
        angle = torch.arange(length)[:, None] * frequency
        tables.append(torch.cat([angle.sin(), angle.cos()], dim=1).to(dtype))
    return _per_token(config, start, stop, tables, device)
