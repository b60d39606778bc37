# SPDX-License-Identifier: Apache-2.0
"""From our plain values to Megatron-core's TransformerConfig."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.megatron_settings import MegatronNetworkConfig, megatron_settings
from cosmos1.parallel.strategy import MegatronStrategy


@dataclass
class MegatronGPTConfig(MegatronNetworkConfig):
    """Megatron-core's configuration with the GPT's own values beside it."""

    gpt: GPTConfig = field(default_factory=GPTConfig)


def megatron_config(
    gpt: GPTConfig, strategy: MegatronStrategy, params_dtype: torch.dtype, device: torch.device
) -> MegatronGPTConfig:
    """The Megatron-core configuration of one network under one parallel layout."""
    return MegatronGPTConfig(
        gpt=gpt,
        num_query_groups=gpt.num_query_groups,
        ffn_hidden_size=gpt.ffn_hidden_size,
        normalization="RMSNorm",
        layernorm_epsilon=gpt.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        **megatron_settings(gpt, strategy, params_dtype, device),
    )
