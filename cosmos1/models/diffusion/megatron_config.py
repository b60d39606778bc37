# SPDX-License-Identifier: Apache-2.0
"""From our plain values to Megatron-core's TransformerConfig and module classes."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig

from cosmos1.errors import ConfigError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.parallel.strategy import MegatronStrategy


@dataclass
class MegatronDiTConfig(TransformerConfig):
    """Megatron-core's configuration with the DiT's own values beside it."""

    dit: DiTConfig = field(default_factory=DiTConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    context_parallel_mode: str = "auto"
    has_cond_embedder: bool = True
    """Megatron-core then sums the gradients of the embedders that every pipeline stage holds."""


def megatron_config(
    dit: DiTConfig, strategy: MegatronStrategy, params_dtype: torch.dtype, device: torch.device
) -> MegatronDiTConfig:
    """The Megatron-core configuration of one network under one parallel layout."""
    pipeline = strategy.pipeline_model_parallel_size
    virtual = strategy.virtual_pipeline_model_parallel_size
    return MegatronDiTConfig(
        dit=dit,
        device=device,
        context_parallel_mode=dit.context_parallel_mode,
        num_layers=dit.num_layers,
        hidden_size=dit.hidden_size,
        num_attention_heads=dit.num_attention_heads,
        kv_channels=dit.head_dim,
        ffn_hidden_size=dit.mlp_ratio * dit.hidden_size,
        layernorm_epsilon=dit.layernorm_epsilon,
        activation_func=F.gelu,
        add_bias_linear=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        gradient_accumulation_fusion=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        qk_layernorm=True,
        perform_initialization=False,
        params_dtype=params_dtype,
        pipeline_dtype=params_dtype,
        # Under FSDP parameters are kept in fp32 and PyTorch casts them for the computation.
        bf16=params_dtype == torch.bfloat16,
        tensor_model_parallel_size=strategy.tensor_model_parallel_size,
        sequence_parallel=strategy.sequence_parallel,
        context_parallel_size=strategy.context_parallel_size,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual,
        microbatch_group_size_per_vp_stage=pipeline if virtual else None,
        # With two stages, batched messages of virtual stages get mixed up between the same two ranks.
        overlap_p2p_comm=virtual is not None,
        batch_p2p_comm=virtual is None,
        batch_p2p_sync=False,
        # Interleaved stages send while they compute; freeing an output then corrupts the message in flight.
        deallocate_pipeline_outputs=virtual is None,
    )


def parallel_linears(transformer_impl: str) -> tuple[type, type]:
    """The column-parallel and row-parallel linear classes."""
    if transformer_impl == "local":
        return ColumnParallelLinear, RowParallelLinear
    from megatron.core.extensions import transformer_engine

    if not transformer_engine.HAVE_TE:
        raise ConfigError(
            "model.config.transformer_impl=transformer_engine, but transformer-engine cannot be imported; install it "
            "(pip install -e .[te]) or use model.config.transformer_impl=local"
        )
    return transformer_engine.TEColumnParallelLinear, transformer_engine.TERowParallelLinear


def is_row_parallel(linear_class: type) -> bool:
    return "RowParallel" in linear_class.__name__
