# SPDX-License-Identifier: Apache-2.0
"""Initial weights that do not depend on the parallel layout, and the marks that Megatron-core needs on parameters.

Each tensor is drawn whole from a generator seeded by its global name, then this rank's part is kept; so a run starts
from the same network on any number of ranks. Rules: cosmos-predict1, ``diffusion/training/networks/general_dit.py``.
"""

import math
import re

import torch
from megatron.core import parallel_state
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from cosmos1.models.diffusion.network import DiT
from cosmos1.parallel.randomness import named_generator

# Which axis of a weight tensor parallelism splits.
_TENSOR_PARALLEL_AXIS = {
    "linear_qkv": 0,
    "linear_q": 0,
    "linear_kv": 0,
    "linear_fc1": 0,
    "linear_proj": 1,
    "linear_fc2": 1,
}
# Weights that hold several matrices one above the other: Xavier's fan-out is that of one of them.
_STACKED = {"linear_qkv": 3, "linear_kv": 2}


def tensor_parallel_axis(name: str) -> int | None:
    return _TENSOR_PARALLEL_AXIS.get(name.split(".")[-2]) if "." in name else None


def global_name(network: DiT, local_name: str) -> str:
    """``decoder.layers.<index on this stage>`` to ``decoder.layers.<index in the network>``."""
    config, pp_rank = network.config, parallel_state.get_pipeline_model_parallel_rank()
    offset = get_transformer_layer_offset(config, network.vp_stage, pp_rank)
    return re.sub(r"^decoder\.layers\.(\d+)", lambda m: f"decoder.layers.{int(m[1]) + offset}", local_name)


@torch.no_grad()
def initialize(network: DiT, seed: int) -> None:
    """Fill all parameters and buffers of a pipeline stage and mark them for Megatron-core's gradient reductions."""
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    for local_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        name = global_name(network, local_name)
        axis = tensor_parallel_axis(name)
        shape = list(tensor.shape)
        if axis is not None:
            shape[axis] *= tp_size
        whole = _draw(name, shape, named_generator(seed, name, tensor.device))
        tensor.copy_(whole if axis is None else whole.chunk(tp_size, dim=axis)[tp_rank])
        if isinstance(tensor, torch.nn.Parameter):
            _mark(network, local_name, tensor, axis)


def _draw(name: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    value = torch.empty(shape, dtype=torch.float32, device=generator.device)
    owner = name.split(".")[-2] if "." in name else name
    if "norm" in name.split(".")[-1] or owner.endswith("layernorm"):
        return value.fill_(1.0)
    if name.startswith("extra_pos_embedder."):
        return torch.nn.init.trunc_normal_(value, std=0.02, generator=generator)
    if name.startswith("t_embedder."):
        return value.normal_(std=0.02, generator=generator)
    if name == "logvar.freqs":
        return value.normal_(generator=generator).mul_(2 * math.pi)
    if name == "logvar.phases":
        return value.uniform_(generator=generator).mul_(2 * math.pi)
    if name.startswith("decoder.") and ".adaln_" in name and owner == "linear_2":
        return value.zero_()  # every block starts with a gate that only the shared modulation opens
    fan_out, fan_in = shape[0] // _STACKED.get(owner, 1), shape[1]
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return value.uniform_(-bound, bound, generator=generator)


def _mark(network: DiT, local_name: str, parameter: torch.nn.Parameter, axis: int | None) -> None:
    """Attributes by which Megatron-core reduces gradients and counts each parameter once in the gradient norm."""
    if axis is not None:
        parameter.tensor_model_parallel, parameter.partition_dim, parameter.partition_stride = True, axis, 1
    else:
        # Under sequence parallelism each rank sees some of the tokens: the gradients of replicated weights add up.
        # The uncertainty head works on samples, which every rank has whole.
        parameter.sequence_parallel = network.config.sequence_parallel and not local_name.startswith("logvar.")
    if local_name.startswith(("t_embedder.", "extra_pos_embedder.")):
        parameter.pipeline_parallel = True
        # A bucket of its own, so that every stage shards it over the replicas in the same way.
        parameter.shared_embedding = True
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=True) and not network.vp_stage
        parameter.shared = not first
