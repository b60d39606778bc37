# SPDX-License-Identifier: Apache-2.0
"""Where a token is: 3-D rotary angles, and the learnable embedding that is added before every block.

Tokens are ordered frame, row, column. Both are computed for a contiguous range of tokens, because context and sequence
parallelism give each rank only its own range. Formulas: cosmos-predict1, ``diffusion/module/position_embedding.py``.
"""

from dataclasses import dataclass

import torch
from torch import nn

from cosmos1.models.diffusion.config import DiTConfig


@dataclass(frozen=True)
class TokenGrid:
    """The token grid of a video: ``frames x rows x columns``."""

    frames: int
    rows: int
    columns: int

    def __len__(self) -> int:
        return self.frames * self.rows * self.columns

    def coordinates(self, start: int, stop: int, device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frame, row and column (int64, ``[stop - start]`` each) of tokens ``start`` to ``stop``."""
        token = torch.arange(start, stop, device=device)
        return token // (self.rows * self.columns), token // self.columns % self.rows, token % self.columns


def rotary_angles(config: DiTConfig, grid: TokenGrid, start: int, stop: int, fps: float, device) -> torch.Tensor:
    """Rotary angles ``[stop - start, head_dim / 2]`` in fp32 of tokens ``start`` to ``stop``.

    The head width splits into time, height and width parts; each part has its own frequency base ``10000 * ratio **
    (width / (width - 2))`` (NTK-aware extrapolation). Time is in units of 1/24 s: ``frame / fps * 24``.
    """
    dtype = torch.bfloat16 if config.rope_table_dtype == "bf16" else torch.float32
    spatial_dim = config.head_dim // 6 * 2
    time_dim = config.head_dim - 2 * spatial_dim
    frame, row, column = (index.to(dtype) for index in grid.coordinates(start, stop, device))
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
        frame, row, column = grid.coordinates(start, stop, self.pos_emb_t.device)
        embedding = (self.pos_emb_t[frame] + self.pos_emb_h[row]) + self.pos_emb_w[column]
        norm = torch.linalg.vector_norm(embedding, dim=-1, keepdim=True, dtype=torch.float32)
        return (embedding / (1e-6 + norm / embedding.shape[-1] ** 0.5)).to(embedding.dtype)
