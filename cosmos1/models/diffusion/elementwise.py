# SPDX-License-Identifier: Apache-2.0
"""Memory-bound arithmetic that only the DiT has, each as one function that torch.compile can fuse.

Tensors: ``s`` tokens, ``b`` batch, ``D`` model width.
"""

import torch.nn.functional as F


def modulated_layer_norm(x_sbD, shift_bD, scale_bD, epsilon: float):
    """``LN(x) * (1 + scale) + shift`` without learned weights."""
    return F.layer_norm(x_sbD, x_sbD.shape[-1:], eps=epsilon) * (1 + scale_bD) + shift_bD


def gated_residual(x_sbD, gate_bD, update_sbD):
    return x_sbD + gate_bD * update_sbD
