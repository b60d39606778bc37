# SPDX-License-Identifier: Apache-2.0
"""Action control: two MLPs turn the actions of a sample into shifts of what modulates every block.

Wiring: cosmos-predict1, ``diffusion/training/networks/general_dit_action.py``; NeMo,
``collections/diffusion/models/dit/action_control/action_control_layers.py``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cosmos1.conditioning.settings import ActionConditioning


class _MLP(nn.Module):
    """Two linear layers with biases and a GELU between them."""

    def __init__(self, widths: tuple[int, int, int], gelu: str, **options):
        super().__init__()
        self.linear_1 = nn.Linear(widths[0], widths[1], **options)
        self.linear_2 = nn.Linear(widths[1], widths[2], **options)
        self.approximation = "tanh" if gelu == "tanh" else "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate=self.approximation))


class ActionEmbedding(nn.Module):
    """Actions ``[B, N, A]`` to a shift of the timestep embedding ``[B, D]`` and of the shared modulation ``[B, 3 D]``."""

    def __init__(self, settings: ActionConditioning, hidden_size: int, **options):
        super().__init__()
        inputs = settings.num_actions * settings.action_dim
        self.shape = (settings.num_actions, settings.action_dim)
        self.to_embedding = None
        if settings.use_d_branch:
            hidden = hidden_size * (4 if settings.hidden_width == "4D" else 1)
            self.to_embedding = _MLP((inputs, hidden, hidden_size), settings.gelu, **options)
        self.to_modulation = _MLP((inputs, 4 * hidden_size, 3 * hidden_size), settings.gelu, **options)

    def forward(self, action_BNA: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor]:
        """``(shift of the timestep embedding, shift of the shared modulation)``; the first is 0 without its branch."""
        assert action_BNA.shape[1:] == self.shape
        actions = action_BNA.flatten(1).to(self.to_modulation.linear_1.weight.dtype)
        return self.to_embedding(actions) if self.to_embedding is not None else 0.0, self.to_modulation(actions)
