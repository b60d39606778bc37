# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs of the DiT: every matrix product and the attention, two operations per multiply-add."""

from cosmos1.models.diffusion.config import DiTConfig


def forward_flops(config: DiTConfig, num_tokens: int, num_text_tokens: int, num_texts: int = 1) -> float:
    """FLOPs of one forward pass of one sample with ``num_text_tokens`` in all, of which each video token attends to one
    of ``num_texts`` equal parts."""
    D, S, M = config.hidden_size, num_tokens, num_text_tokens
    rank, patch = config.adaln_lora_dim, config.patch_spatial**2
    self_attention = 2 * S * (3 * D * D + D * D) + 4 * S * S * D
    cross_attention = 2 * S * (D * D + D * D) + 2 * M * config.text_embedding_dim * 2 * D + 4 * S * M // num_texts * D
    mlp = 2 * S * 2 * config.mlp_ratio * D * D
    modulation = 3 * 2 * (D * rank + rank * 3 * D)
    outside = 2 * S * patch * D * (config.patch_input_channels + config.latent_channels)
    timestep = 2 * (D * D + D * 3 * D) + 2 * (D * rank + rank * 2 * D)
    return config.num_layers * (self_attention + cross_attention + mlp + modulation) + outside + timestep


def training_flops(
    config: DiTConfig, num_tokens: int, num_text_tokens: int, num_texts: int = 1, frozen: bool = False
) -> float:
    """FLOPs of forward and backward of one sample: three forward passes. Recomputation is not counted.

    The backward pass of a ``frozen`` network has no products for gradients of weights: two passes, and attention a third
    time. Its adapters are not counted.
    """
    forward = forward_flops(config, num_tokens, num_text_tokens, num_texts)
    if not frozen:
        return 3 * forward
    context = num_tokens + num_text_tokens // num_texts
    return 2 * forward + config.num_layers * 4 * num_tokens * context * config.hidden_size
