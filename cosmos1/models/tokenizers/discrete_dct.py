# SPDX-License-Identifier: Apache-2.0
"""A discrete video tokenizer without weights: five low frequencies of each cell, quantised to one of 64000 ids.

It has the geometry and the codes of the published discrete tokenizers, for any compression factor, and needs no
download. A cell is one frame (the first) or a group of frames; a group is represented by its mean picture, and every
cell stands for itself, so that encoding and decoding are causal and decoding then encoding gives back any ids.

Which frequencies get which levels was chosen among all divisions of the six digits for the least squared error over
natural driving and robot video (160 to 640 rows) and the demo world, at 8 x 16 x 16 and at 4 x 8 x 8; the best is the
same for all of them. Amplitudes are standard deviations per pixel:
    digit 0, 8 levels     blue against yellow (0.25)       digits 3 and 4 together, 25 levels    luma (0.68 about zero)
    digit 1, 8 levels     red against green (0.16)         digit 5, 5 levels     luma, horizontal slope (0.09)
    digit 2, 8 levels     luma, vertical slope (0.12)
A frequency in time instead of any of these makes the picture worse.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange

from cosmos1.models.tokenizers import fsq
from cosmos1.models.tokenizers.dct import COLOUR_AXES, cosines
from cosmos1.models.tokenizers.token_grid import check_clip, check_ids

# Colour axis, vertical and horizontal frequency of each pattern, in the order of the digits; luma comes last.
_PATTERNS = ((1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))
_DIGITS = (0, 1, 2, 5)
_SCALES = (0.435, 0.277, 0.303, 0.212)
# What a digit is decoded to: the mean amplitude of the cells that have it, made symmetric.
_AMPLITUDES = (
    (-0.65, -0.39, -0.20, -0.05, 0.05, 0.20, 0.39, 0.65),
    (-0.45, -0.24, -0.12, -0.035, 0.035, 0.12, 0.24, 0.45),
    (-0.53, -0.27, -0.13, -0.03, 0.03, 0.13, 0.27, 0.53),
    (-0.335, -0.10, 0.0, 0.10, 0.335),
)
_LUMA_STEP, _LUMA_LEVELS = 0.125, 25
# `fsq.quantize` rounds 0 to the middle of a level; with eight levels the amplitudes lie on both sides of a threshold.
_SHIFT_8 = math.atanh(0.5 / (7 * (1 + 1e-3) / 2))


class DiscreteDctTokenizer:
    """Space-time DCT and finite scalar quantisation; see the module's text."""

    name = "dct_fsq"
    vocab_size = fsq.NUM_CODES

    def __init__(self, compression: tuple[int, int, int] = (8, 16, 16), device: str | torch.device = "cpu"):
        self.compression = tuple(compression)
        self.device = torch.device(device)
        rows, columns = (cosines(length) / math.sqrt(length) for length in self.compression[1:])
        patterns = [torch.einsum("c,p,q->cpq", COLOUR_AXES[colour], rows[v], columns[h]) for colour, v, h in _PATTERNS]
        # With this scale the amplitude is the root of the pattern's energy per pixel, whatever the size of a cell.
        self._patterns = torch.stack(patterns).flatten(1).float().to(self.device)
        self._expand = self._patterns * self.compression[1] * self.compression[2]

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] to ids (B, 1 + (T-1)/r_t, H/r_h, W/r_w) int64."""
        check_clip(self.name, self.compression, video_BCTHW)
        video = video_BCTHW.to(self.device, torch.float32)
        groups = rearrange(video[:, :, 1:], "b c (t f) h w -> b c t f h w", f=self.compression[0])
        pictures = torch.cat([video[:, :, :1], groups.mean(dim=3)], dim=2)
        _, per_row, per_column = self.compression
        cells = rearrange(pictures, "b c t (h p) (w q) -> b t h w (c p q)", p=per_row, q=per_column)
        return fsq.digits_to_ids(_digits_of(cells @ self._patterns.T))

    def decode(self, ids_BTHW: torch.Tensor) -> torch.Tensor:
        """Decode ids (B, t, h, w) to (B, 3, 1 + (t-1) r_t, h r_h, w r_w) float32; all frames of a group are equal."""
        check_ids(ids_BTHW, self.vocab_size, f"decoding with {self.name}")
        amplitudes = _amplitudes_of(fsq.ids_to_digits(ids_BTHW.to(self.device)))
        per_frame, per_row, per_column = self.compression
        cells = amplitudes @ self._expand
        pictures = rearrange(cells, "b t h w (c p q) -> b c t (h p) (w q)", c=3, p=per_row, q=per_column)
        return torch.cat([pictures[:, :, :1], pictures[:, :, 1:].repeat_interleave(per_frame, dim=2)], dim=2)


def _digits_of(amplitudes: torch.Tensor) -> torch.Tensor:
    """Quantise amplitudes (..., 5) to digits (..., 6)."""
    scaled = torch.zeros(*amplitudes.shape[:-1], len(fsq.LEVELS), device=amplitudes.device)
    for pattern, (digit, scale) in enumerate(zip(_DIGITS, _SCALES)):
        shift = _SHIFT_8 if fsq.LEVELS[digit] == 8 else 0.0
        scaled[..., digit] = amplitudes[..., pattern] / scale - shift
    digits = fsq.codes_to_digits(fsq.quantize(scaled))
    middle = _LUMA_LEVELS // 2
    luma = (amplitudes[..., -1] / _LUMA_STEP).round().clamp(-middle, middle).long() + middle
    digits[..., 3], digits[..., 4] = luma // 5, luma % 5
    return digits


def _amplitudes_of(digits: torch.Tensor) -> torch.Tensor:
    """Return the amplitudes (..., 5) that digits (..., 6) stand for."""
    tables = [torch.tensor(table, device=digits.device) for table in _AMPLITUDES]
    columns = [table[digits[..., digit]] for digit, table in zip(_DIGITS, tables)]
    luma = (digits[..., 3] * 5 + digits[..., 4] - _LUMA_LEVELS // 2) * _LUMA_STEP
    return torch.stack([*columns, luma], dim=-1)
