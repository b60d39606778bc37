# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs of the GPT: every matrix product and the attention, two operations per multiply-add."""

from cosmos1.models.autoregressive.config import GPTConfig


def forward_flops(config: GPTConfig, num_tokens: int, num_text_tokens: int) -> float:
    """FLOPs of one forward pass of one sample; causal attention counts the half that is not masked."""
    D, S, M = config.hidden_size, num_tokens, num_text_tokens
    width, kv_width = config.num_attention_heads * config.head_dim, config.num_query_groups * config.head_dim
    self_attention = 2 * S * (2 * D * width + 2 * D * kv_width) + 2 * S * S * width
    cross_attention = 2 * S * 2 * D * width + 2 * M * config.text_embedding_dim * 2 * kv_width + 4 * S * M * width
    mlp = 2 * S * 3 * D * config.ffn_hidden_size
    layer = self_attention + mlp + (cross_attention if config.video2world else 0)
    return config.num_layers * layer + 2 * S * D * config.vocab_size


def training_flops(config: GPTConfig, num_tokens: int, num_text_tokens: int, frozen: bool = False) -> float:
    """FLOPs of forward and backward of one sample: three forward passes. Recomputation is not counted.

    The backward pass of a ``frozen`` network has no products for gradients of weights: two passes, and attention a third
    time. Its adapters are not counted.
    """
    forward = forward_flops(config, num_tokens, num_text_tokens)
    if not frozen:
        return 3 * forward
    context = num_tokens / 2 + (num_text_tokens if config.video2world else 0)
    return 2 * forward + config.num_layers * 4 * num_tokens * context * config.num_attention_heads * config.head_dim
