# SPDX-License-Identifier: Apache-2.0
"""Where a token is: 3-D rotary angles, and an embedding, learnable or fixed, that is added before every block.

Tokens are ordered view, frame, row, column; positions start anew in each view. All are computed for a contiguous range
of tokens, because context and sequence parallelism give each rank only its own range. Formulas: cosmos-predict1,
``diffusion/module/position_embedding.py``.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cosmos1.models.diffusion.config import PUBLISHED_FACTOR, DiTConfig


@dataclass(frozen=True)
class TokenGrid:
    """The token grid of a video: ``frames x rows x columns``; the frames are those of all views together."""

    frames: int
    rows: int
    columns: int
    views: int = 1

    def __len__(self) -> int:
        return self.frames * self.rows * self.columns

    def coordinates(self, start: int, stop: int, device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frame in its view, row and column (int64, ``[stop - start]`` each) of tokens ``start`` to ``stop``."""
        token = torch.arange(start, stop, device=device)
        frame = token // (self.rows * self.columns) % (self.frames // self.views)
        return frame, token // self.columns % self.rows, token % self.columns


def position_scales(config: DiTConfig) -> tuple[float, float, float]:
    """What one step of the token grid is worth in time, rows and columns, in steps of the published networks."""
    time, space = config.temporal_factor / PUBLISHED_FACTOR, config.spatial_factor / PUBLISHED_FACTOR
    return time, space, space


def rotary_angles(config: DiTConfig, grid: TokenGrid, start: int, stop: int, fps: float, device) -> torch.Tensor:
    """Rotary angles ``[stop - start, head_dim / 2]`` in fp32 of tokens ``start`` to ``stop``.

    The head width splits into time, height and width parts; each part has its own frequency base ``10000 * ratio **
    (width / (width - 2))`` (NTK-aware extrapolation). Time is in units of 1/24 s: ``frame / fps * 24``.
    """
    dtype = torch.bfloat16 if config.rope_table_dtype == "bf16" else torch.float32
    spatial_dim = config.head_dim // 6 * 2
    time_dim = config.head_dim - 2 * spatial_dim
    coordinates = zip(grid.coordinates(start, stop, device), position_scales(config))
    frame, row, column = (index.to(dtype) * scale for index, scale in coordinates)
    parts = (
        (frame / fps * 24, time_dim, config.rope_t_extrapolation_ratio),
        (row, spatial_dim, config.rope_h_extrapolation_ratio),
        (column, spatial_dim, config.rope_w_extrapolation_ratio),
    )
    angles = []
    for position, dim, ratio in parts:
        exponent = torch.arange(0, dim, 2, device=device, dtype=torch.float32)[: dim // 2].to(dtype) / dim
        base = 10000.0 * ratio ** (dim / (dim - 2))
        frequency = 1.0 / torch.tensor(base, dtype=torch.float32, device=device).to(dtype) ** exponent
        angles.append(position[:, None] * frequency[None, :])
    return torch.cat(angles, dim=1).float()


class LearnablePositions(nn.Module):
    """One vector per frame, row and column; their sum is scaled to root-mean-square 1."""

    def __init__(self, config: DiTConfig, dtype: torch.dtype, device):
        super().__init__()
        self.scales = position_scales(config)
        sizes = {
            "t": config.max_frames,
            "h": config.max_height // config.patch_spatial,
            "w": config.max_width // config.patch_spatial,
        }
        for axis, size in sizes.items():
            weight = nn.Parameter(torch.empty(size, config.hidden_size, dtype=dtype, device=device))
            self.register_parameter(f"pos_emb_{axis}", weight)

    def forward(self, grid: TokenGrid, start: int, stop: int) -> torch.Tensor:
        """``[stop - start, D]``: ``e / (1e-6 + |e| / sqrt(D))`` with ``e`` the sum of the three vectors."""
        tables = (self.pos_emb_t, self.pos_emb_h, self.pos_emb_w)
        coordinates = grid.coordinates(start, stop, self.pos_emb_t.device)
        embedding = sum(map(_rows, tables, coordinates, self.scales))
        norm = torch.linalg.vector_norm(embedding, dim=-1, keepdim=True, dtype=torch.float32)
        return (embedding / (1e-6 + norm / embedding.shape[-1] ** 0.5)).to(embedding.dtype)


def _rows(table: torch.Tensor, index: torch.Tensor, scale: float) -> torch.Tensor:
    """Row ``index * scale`` of a table; between two rows their weighted mean."""
    if scale == int(scale):
        return table[index * int(scale)]
    position = index * scale
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=len(table) - 1)
    return torch.lerp(table[lower], table[upper], (position - lower).to(table.dtype)[:, None])


def sinusoidal_positions(config: DiTConfig, grid: TokenGrid, start: int, stop: int, device, dtype) -> torch.Tensor:
    """``[stop - start, D]``: sines and cosines of frame, row and column side by side, not normalised.

    Rows and columns get ``D // 6 * 2`` channels each, frames the rest: ``sin(p w_k)``, then ``cos(p w_k)``, with
    ``w_k = 10000 ** (-2 k / channels)``.
    """
    spatial_dim = config.hidden_size // 6 * 2
    dims = (config.hidden_size - 2 * spatial_dim, spatial_dim, spatial_dim)
    parts = []
    sizes = (grid.frames // grid.views, grid.rows, grid.columns)
    for index, size, scale, dim in zip(grid.coordinates(start, stop, device), sizes, position_scales(config), dims):
        # Few different positions: the table is made in fp64 and looked up.
        positions = torch.arange(size, device=device, dtype=torch.float64) * scale
        frequency = 10000.0 ** (-2 * torch.arange(dim // 2, device=device, dtype=torch.float64) / dim)
        angle = positions[:, None] * frequency
        parts.append(torch.cat([angle.sin(), angle.cos()], dim=1).to(dtype)[index])
    return torch.cat(parts, dim=1)
