# SPDX-License-Identifier: Apache-2.0
"""Running the layers of a pipeline stage, with what the backward pass needs kept or computed again."""

from functools import partial

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# Self-attention is a large part of the arithmetic and its output a small part of a layer's activations: selective
# recomputation keeps that output (with its log-sum-exp) and recomputes the rest, cross-attention to the few text tokens
# included.
_ATTENTION_OPERATIONS = {
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def _keep_attention(context, operation, *args, **kwargs) -> CheckpointPolicy:
    if operation in _ATTENTION_OPERATIONS and args[1].shape[-2] >= args[0].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def run_layers(layers, x_sbD: torch.Tensor, granularity: str | None, num_layers: int | None, *arguments):
    """``layer(x, *arguments)`` one after another; in training the first ``num_layers`` (all if None) recompute.

    ``granularity`` is ``full``, ``selective`` or None (keep everything).
    """
    num_recomputed = 0
    if granularity is not None and layers.training and torch.is_grad_enabled():
        num_recomputed = len(layers) if num_layers is None else num_layers
    recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    if granularity == "selective":
        recompute = partial(recompute, context_fn=partial(create_selective_checkpoint_contexts, _keep_attention))
    for index, layer in enumerate(layers):
        x_sbD = recompute(layer, x_sbD, *arguments) if index < num_recomputed else layer(x_sbD, *arguments)
    return x_sbD
