# SPDX-License-Identifier: Apache-2.0
"""The memory-bound arithmetic between the matrix products, each as one function that torch.compile can fuse.

Tensors: ``s`` tokens, ``b`` batch, ``D`` model width, ``h`` heads, ``d`` head width.
"""

from functools import cache

import torch
import torch.nn.functional as F

from cosmos1.parallel.device import is_cuda

EPSILON = 1e-6


@cache
def fused(function, compile_on_gpu: bool):
    """``function``, compiled into fused kernels when asked for and when there is a GPU."""
    return torch.compile(function, dynamic=False) if compile_on_gpu and is_cuda() else function


def modulated_layer_norm(x_sbD, shift_bD, scale_bD):
    """``LN(x) * (1 + scale) + shift`` without learned weights."""
    return F.layer_norm(x_sbD, x_sbD.shape[-1:], eps=EPSILON) * (1 + scale_bD) + shift_bD


def gated_residual(x_sbD, gate_bD, update_sbD):
    return x_sbD + gate_bD * update_sbD


def rms_norm(x, weight):
    """RMS normalisation over the last axis; fp32 through the multiplication with ``weight``, then cast back."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)
    return (wide * weight.float()).to(x.dtype)


def rms_norm_rotate(x_sbhd, weight_d, cos_sd, sin_sd):
    """Normalise each head, then rotate channel ``c`` with channel ``c + d / 2`` by the token's angle, in fp32.

    ``cos`` and ``sin`` are ``[s, d / 2]``.
    """
    wide = x_sbhd.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON) * weight_d.float()
    first, second = wide.chunk(2, dim=-1)
    cos, sin = cos_sd[:, None, None, :], sin_sd[:, None, None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_sbhd.dtype)
