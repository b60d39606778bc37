# SPDX-License-Identifier: Apache-2.0
"""From our plain values to Megatron-core's TransformerConfig."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.megatron_settings import megatron_settings
from cosmos1.parallel.strategy import MegatronStrategy


@dataclass
class MegatronGPTConfig(TransformerConfig):
    """Megatron-core's configuration with the GPT's own values beside it."""

    gpt: GPTConfig = field(default_factory=GPTConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    context_parallel_mode: str = "auto"
    has_cond_embedder: bool = True
    """Megatron-core then sums the gradients of parameters that every pipeline stage holds, where a task adds some."""


def megatron_config(
    gpt: GPTConfig, strategy: MegatronStrategy, params_dtype: torch.dtype, device: torch.device
) -> MegatronGPTConfig:
    """The Megatron-core configuration of one network under one parallel layout."""
    return MegatronGPTConfig(
        gpt=gpt,
        device=device,
        context_parallel_mode=gpt.context_parallel_mode,
        num_layers=gpt.num_layers,
        hidden_size=gpt.hidden_size,
        num_attention_heads=gpt.num_attention_heads,
        num_query_groups=gpt.num_query_groups,
        kv_channels=gpt.head_dim,
        ffn_hidden_size=gpt.ffn_hidden_size,
        normalization="RMSNorm",
        layernorm_epsilon=gpt.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        **megatron_settings(strategy, params_dtype),
    )
