# SPDX-License-Identifier: Apache-2.0
"""What every network tells Megatron-core alike: no dropout, no biases, no fused extras, and the parallel layout."""

from typing import Any

import torch

from cosmos1.parallel.strategy import MegatronStrategy


def megatron_settings(strategy: MegatronStrategy, params_dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of Megatron-core's TransformerConfig that do not depend on the network."""
    pipeline = strategy.pipeline_model_parallel_size
    virtual = strategy.virtual_pipeline_model_parallel_size
    return {
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
