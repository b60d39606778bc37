# SPDX-License-Identifier: Apache-2.0
"""Memory-bound arithmetic that the networks share, each as one function that torch.compile can fuse.

Tensors: ``s`` tokens, ``b`` batch, ``h`` heads, ``d`` head width.
"""

from functools import cache

import torch

from cosmos1.parallel.device import is_cuda


@cache
def fused(function, compile_on_gpu: bool):
    """``function``, compiled into fused kernels when asked for and when there is a GPU."""
    return torch.compile(function, dynamic=False) if compile_on_gpu and is_cuda() else function


def rms_norm(x, weight, epsilon: float = 1e-6):
    """RMS normalisation over the last axis; fp32 through the multiplication with ``weight``, then cast back."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * weight.float()).to(x.dtype)


def rms_norm_rotate(x_sbhd, weight_d, cos_sd, sin_sd, epsilon: float = 1e-6):
    """Normalise each head, then rotate channel ``c`` with channel ``c + d / 2`` by the token's angle, in fp32.

    ``cos`` and ``sin`` are ``[s, d / 2]``.
    """
    wide = x_sbhd.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight_d.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = cos_sd[:, None, None, :], sin_sd[:, None, None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_sbhd.dtype)
