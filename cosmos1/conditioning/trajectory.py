# SPDX-License-Identifier: Apache-2.0
"""Trajectory control: the planned path of the vehicle as channels that are the same in every patch.

Formulas: cosmos-predict1, ``diffusion/networks/general_dit_multiview.py``.
"""

import torch
from torch import nn

from cosmos1.conditioning.settings import TRAJECTORY_VALUES, TrajectoryConditioning


class TrajectoryEmbedding(nn.Module):
    """One linear layer with bias, 192 to ``trajectory_dim``. A dropped trajectory is zeros; the bias stays."""

    def __init__(self, settings: TrajectoryConditioning, **options):
        super().__init__()
        self.linear = nn.Linear(TRAJECTORY_VALUES, settings.trajectory_dim, **options)

    def forward(self, trajectory_BP: torch.Tensor, frames: int, height: int, width: int) -> torch.Tensor:
        """``[B, trajectory_dim, T, H, W]`` of a trajectory ``[B, 192]``."""
        embedding = self.linear(trajectory_BP.to(self.linear.weight.dtype))
        return embedding[..., None, None, None].expand(-1, -1, frames, height, width)
