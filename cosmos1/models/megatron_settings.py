# SPDX-License-Identifier: Apache-2.0
"""What every network tells Megatron-core alike: its size, no dropout, no biases, no fused extras, and the layout."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from cosmos1.parallel.strategy import MegatronStrategy

if TYPE_CHECKING:
    from cosmos1.models.autoregressive.config import GPTConfig
    from cosmos1.models.diffusion.config import DiTConfig


@dataclass
class MegatronNetworkConfig(TransformerConfig):
    """Megatron-core's configuration with what our layers read beside it."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    context_parallel_mode: str = "auto"
    has_cond_embedder: bool = True
    """Megatron-core then sums the gradients of parameters that every pipeline stage holds, where there are some."""


def megatron_settings(
    network: Union["DiTConfig", "GPTConfig"],
    strategy: MegatronStrategy,
    params_dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    """Arguments of :class:`MegatronNetworkConfig` that follow one rule for every family of networks."""
    pipeline = strategy.pipeline_model_parallel_size
    virtual = strategy.virtual_pipeline_model_parallel_size
    return {
        "device": device,
        "context_parallel_mode": network.context_parallel_mode,
        "num_layers": network.num_layers,
        "hidden_size": network.hidden_size,
        "num_attention_heads": network.num_attention_heads,
        "kv_channels": network.head_dim,
        "add_bias_linear": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "gradient_accumulation_fusion": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "qk_layernorm": True,
        "perform_initialization": False,
        "params_dtype": params_dtype,
        "pipeline_dtype": params_dtype,
        # Under FSDP parameters are kept in fp32 and PyTorch casts them for the computation.
        "bf16": params_dtype == torch.bfloat16,
        "tensor_model_parallel_size": strategy.tensor_model_parallel_size,
        "sequence_parallel": strategy.sequence_parallel,
        "context_parallel_size": strategy.context_parallel_size,
        "pipeline_model_parallel_size": pipeline,
        "virtual_pipeline_model_parallel_size": virtual,
        "microbatch_group_size_per_vp_stage": pipeline if virtual else None,
        # With two stages, batched messages of virtual stages get mixed up between the same two ranks.
        "overlap_p2p_comm": virtual is not None,
        "batch_p2p_comm": virtual is None,
        "batch_p2p_sync": False,
        # Interleaved stages send while they compute; freeing an output then corrupts the message in flight.
        "deallocate_pipeline_outputs": virtual is None,
    }
