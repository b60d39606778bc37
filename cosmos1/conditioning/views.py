# SPDX-License-Identifier: Apache-2.0
"""Multi-view: what tells the network which camera a token belongs to.

Formulas: cosmos-predict1, ``diffusion/networks/general_dit_multiview.py``.
"""

import torch
from torch import nn

from cosmos1.conditioning.settings import ViewConditioning

REPEAT_SCALE = 10.0
"""The number of repeated frames is divided by this."""


class ViewEmbedding(nn.Module):
    """A learned vector per view, plus a linear function of how often the view repeats frames."""

    def __init__(self, settings: ViewConditioning, **options):
        super().__init__()
        self.table = nn.Embedding(settings.num_views, settings.view_dim, **options)
        self.repeat_frame = nn.Linear(1, settings.view_dim, **options) if settings.repeat_frame else None

    def forward(self, view_indices_BV: torch.Tensor, frame_repeat_BV: torch.Tensor | None) -> torch.Tensor:
        """``[B, V, view_dim]`` of the views of each sample; missing repeat counts are 0."""
        embedding = self.table(view_indices_BV)
        if self.repeat_frame is None:
            return embedding
        repeats = torch.zeros_like(view_indices_BV) if frame_repeat_BV is None else frame_repeat_BV
        return embedding + self.repeat_frame((repeats / REPEAT_SCALE)[..., None].to(embedding.dtype))


def view_channels(embedding_BVE: torch.Tensor, frames: int, height: int, width: int) -> torch.Tensor:
    """``[B, view_dim, V * T, H, W]``: the embedding of view ``v`` on all frames ``v * T`` to ``(v + 1) * T - 1``."""
    per_view = frames // embedding_BVE.shape[1]
    by_frame = embedding_BVE.repeat_interleave(per_view, dim=1)
    return by_frame.transpose(1, 2)[..., None, None].expand(-1, -1, -1, height, width)


def tokens_per_view(start: int, stop: int, num_tokens: int, num_views: int) -> list[int]:
    """How many of the tokens ``start`` to ``stop`` belong to each view; views hold equal, consecutive ranges."""
    size = num_tokens // num_views
    edges = [min(max(view * size, start), stop) for view in range(num_views + 1)]
    return [following - edge for edge, following in zip(edges, edges[1:])]
