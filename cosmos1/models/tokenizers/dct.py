# SPDX-License-Identifier: Apache-2.0
"""A video tokenizer without weights: a space-time discrete cosine transform with the geometry of CV8x8x8 or CV4x8x8.

Blocks of 8 x 8 pixels and 8 or 4 frames (the first frame alone) are projected on 16 orthonormal patterns of low frequency.
The result is a stand-in that needs no download: real, recognisable, blurry video.

The patterns are among the strongest in natural driving and robot video (96 to 640 pixels) and in the demo world.
Measured share of the signal energy in natural | demo video, groups of 8 frames:
    luma, constant in time, 8 spatial patterns      81.6 | 60.1 %
    chroma, constant in time                        12.0 | 32.1 %
    luma, 3 frequencies in time                      2.5 |  1.1 %
    both chroma and a vertical edge, changing        0.3 |  0.6 %
A single frame has no frequency in time; its six free channels carry finer spatial detail instead, so that every
channel of every latent frame is well scaled and decoding then encoding gives back any latent exactly.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange

from cosmos1.models.tokenizers.protocol import check_video_shape

# Each pattern: (colour axis, frequency in time, vertical frequency, horizontal frequency, standard deviation).
# Colour axes: 0 luma, 1 blue against yellow, 2 red against green. The standard deviations are those of the pattern's
# coefficient over the clips above; constant patterns list the value of one frame. Their means are taken as zero.
_SHARED = (
    (0, 0, 0, 0, 4.6),
    (1, 0, 0, 0, 2.0),
    (2, 0, 0, 0, 1.4),
    (0, 0, 1, 0, 0.95),
    (0, 0, 0, 1, 0.80),
    (0, 0, 1, 1, 0.45),
    (0, 0, 2, 0, 0.54),
    (0, 0, 0, 2, 0.41),
    (0, 0, 2, 1, 0.30),
    (0, 0, 3, 0, 0.28),
)
_FIRST_FRAME = (
    (0, 0, 1, 2, 0.26),
    (0, 0, 2, 2, 0.20),
    (0, 0, 0, 3, 0.25),
    (1, 0, 1, 0, 0.28),
    (1, 0, 0, 1, 0.24),
    (2, 0, 1, 0, 0.22),
)
_GROUP = (
    (0, 1, 0, 0, 1.90),
    (0, 2, 0, 0, 1.00),
    (0, 3, 0, 0, 0.75),
    (0, 1, 0, 1, 0.60),
    (1, 1, 0, 0, 0.70),
    (2, 1, 0, 0, 0.55),
)
# In groups of 4 frames the patterns that change in time are so much weaker: measured 0.53 to 0.58 (0.83 for the edge).
_GROUP_OF_FOUR = 0.57
COLOUR_AXES = torch.tensor(
    [
        [1 / math.sqrt(3)] * 3,
        [-1 / math.sqrt(6), -1 / math.sqrt(6), 2 / math.sqrt(6)],
        [1 / math.sqrt(2), -1 / math.sqrt(2), 0.0],
    ],
    dtype=torch.float64,
)


class DctTokenizer:
    """Space-time DCT tokenizer; see the module's text. Works on any device and in any floating dtype."""

    latent_channels = 16
    spatial_factor = 8

    def __init__(self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, temporal_factor: int = 8):
        assert temporal_factor in (4, 8)
        self.name = "dct" if temporal_factor == 8 else f"dct{temporal_factor}x8x8"
        self.temporal_factor = temporal_factor
        self.dtype = dtype or torch.float32
        self.device = torch.device(device)
        # The sums run in float32 at least, also for bfloat16 latents.
        self.compute_dtype = torch.promote_types(self.dtype, torch.float32)
        self._patterns = {}
        self._scale = {}
        for frames, extra in ((1, _FIRST_FRAME), (self.temporal_factor, _GROUP)):
            patterns, scale = _orthonormal_patterns(_SHARED + extra, frames, self.spatial_factor)
            self._patterns[frames] = patterns.to(self.device, self.compute_dtype)
            self._scale[frames] = scale.to(self.device, self.compute_dtype)

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] to (B, 16, (T-1)/f + 1, H/8, W/8), f the temporal factor, in the tokenizer's dtype."""
        check_video_shape(self, video_BCTHW)
        video = video_BCTHW.to(self.device, self.compute_dtype)
        parts = [self._project(video[:, :, :1], 1)]
        if video.shape[2] > 1:
            parts.append(self._project(video[:, :, 1:], self.temporal_factor))
        return torch.cat(parts, dim=2).to(self.dtype)

    def decode(self, latent_BCTHW: torch.Tensor) -> torch.Tensor:
        """Decode (B, 16, t, h, w) to (B, 3, f (t-1) + 1, 8 h, 8 w), f the temporal factor, in the tokenizer's dtype; not clamped."""
        latent = latent_BCTHW.to(self.device, self.compute_dtype)
        parts = [self._expand(latent[:, :, :1], 1)]
        if latent.shape[2] > 1:
            parts.append(self._expand(latent[:, :, 1:], self.temporal_factor))
        return torch.cat(parts, dim=2).to(self.dtype)

    def _project(self, video: torch.Tensor, frames: int) -> torch.Tensor:
        side = self.spatial_factor
        blocks = rearrange(video, "b c (t f) (h p) (w q) -> b t h w (c f p q)", f=frames, p=side, q=side)
        return rearrange(blocks @ self._patterns[frames] / self._scale[frames], "b t h w c -> b c t h w")

    def _expand(self, latent: torch.Tensor, frames: int) -> torch.Tensor:
        side = self.spatial_factor
        coefficients = rearrange(latent, "b c t h w -> b t h w c") * self._scale[frames]
        blocks = coefficients @ self._patterns[frames].T
        return rearrange(blocks, "b t h w (c f p q) -> b c (t f) (h p) (w q)", c=3, f=frames, p=side, q=side)


def _orthonormal_patterns(table, frames: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patterns (3 * frames * side * side, channels) with orthonormal columns, and the scale per channel."""
    time, space = cosines(frames), cosines(side)
    columns = [
        torch.einsum("c,f,p,q->cfpq", COLOUR_AXES[colour], time[k], space[v], space[h]).flatten()
        for colour, k, v, h, _ in table
    ]
    # A pattern that is constant in time sums `frames` equal contributions: its coefficient grows by the root.
    changing = _GROUP_OF_FOUR if frames == 4 else 1.0
    scale = [deviation * (math.sqrt(frames) if k == 0 else changing) for _, k, _, _, deviation in table]
    return torch.stack(columns, dim=1), torch.tensor(scale, dtype=torch.float64)


def cosines(length: int) -> torch.Tensor:
    """Rows are the orthonormal cosines of the discrete cosine transform of type II."""
    frequency = torch.arange(length, dtype=torch.float64)[:, None]
    position = torch.arange(length, dtype=torch.float64)[None] + 0.5
    rows = torch.cos(math.pi * frequency * position / length) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows
