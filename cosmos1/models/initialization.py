# SPDX-License-Identifier: Apache-2.0
"""Initial weights that do not depend on the parallel layout, and the marks that Megatron-core needs on parameters.

Each tensor is drawn whole from a generator seeded by its global name, then this rank's part is kept; so a run starts
from the same network on any number of ranks.
"""

import re
from collections.abc import Collection
from typing import Callable

import torch
from megatron.core import parallel_state
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from cosmos1.parallel.randomness import named_generator

# Which axis of a weight tensor parallelism splits.
_TENSOR_PARALLEL_AXIS = {
    "word_embeddings": 0,
    "linear_qkv": 0,
    "linear_q": 0,
    "linear_kv": 0,
    "linear_fc1": 0,
    "output_layer": 0,
    "linear_proj": 1,
    "linear_fc2": 1,
}


def tensor_parallel_axis(name: str) -> int | None:
    return _TENSOR_PARALLEL_AXIS.get(name.split(".")[-2]) if "." in name else None


def tensor_parallel_stride(network, name: str) -> int:
    """How many matrices stand one above the other in a weight, each of them split over the ranks."""
    return 2 if network.config.gated_linear_unit and name.split(".")[-2] == "linear_fc1" else 1


def mark_on_every_stage(network, parameter: torch.nn.Parameter) -> None:
    """Mark a parameter that every pipeline stage holds: its gradients add up over the stages, and count once."""
    parameter.pipeline_parallel = True
    # A bucket of its own, so that every stage shards it over the replicas in the same way.
    parameter.shared_embedding = True
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True) and not network.vp_stage
    parameter.shared = not first


def global_name(network, local_name: str) -> str:
    """``decoder.layers.<index on this stage>`` to ``decoder.layers.<index in the network>``."""
    config, pp_rank = network.config, parallel_state.get_pipeline_model_parallel_rank()
    offset = get_transformer_layer_offset(config, network.vp_stage, pp_rank)
    return re.sub(r"^decoder\.layers\.(\d+)", lambda m: f"decoder.layers.{int(m[1]) + offset}", local_name)


@torch.no_grad()
def initial_values(network, seed: int, draw: Callable, names: Collection[str] | None = None):
    """``(local name, tensor, fp32 value, axis)`` of all parameters and buffers of a pipeline stage. The value is this rank's
    part of what is drawn, split along ``axis`` by tensor parallelism (None: every rank has the whole).

    Args:
        draw: ``(global name, whole shape, generator)`` to the whole fp32 tensor.
        names: global names of the only ones that are drawn; all without it.
    """
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    for local_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        name = global_name(network, local_name)
        if names is not None and name not in names:
            continue
        axis = tensor_parallel_axis(name)
        shape = list(tensor.shape)
        if axis is not None:
            shape[axis] *= tp_size
        value = draw(name, shape, named_generator(seed, name, tensor.device))
        if axis is not None:
            matrices = value.chunk(tensor_parallel_stride(network, name))
            value = torch.cat([matrix.chunk(tp_size, dim=axis)[tp_rank] for matrix in matrices], dim=axis)
        yield local_name, tensor, value, axis


@torch.no_grad()
def initialize(network, values, mark_replicated: Callable) -> None:
    """Fill a pipeline stage with its ``initial_values`` and mark parameters for Megatron-core's gradient reductions.

    Args:
        mark_replicated: ``(local name, parameter)`` for parameters that every tensor-parallel rank holds.
    """
    for local_name, tensor, value, axis in values:
        tensor.copy_(value)
        if axis is not None:
            stride = tensor_parallel_stride(network, global_name(network, local_name))
            tensor.tensor_model_parallel, tensor.partition_dim, tensor.partition_stride = True, axis, stride
        elif isinstance(tensor, torch.nn.Parameter):
            mark_replicated(local_name, tensor)
