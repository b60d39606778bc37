# SPDX-License-Identifier: Apache-2.0
"""Initial weights of the DiT, and the marks of those that every rank holds.

Rules: cosmos-predict1, ``diffusion/training/networks/general_dit.py``.
"""

import math
from collections.abc import Collection
from functools import partial

import torch

from cosmos1.models import initialization
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.network import DiT

# Weights that hold several matrices one above the other: Xavier's fan-out is that of one of them.
_STACKED = {"linear_qkv": 3, "linear_kv": 2}


def initialize(network: DiT, seed: int) -> None:
    """Fill all parameters and buffers of a pipeline stage and mark them for Megatron-core's gradient reductions."""
    initialization.initialize(network, initial_values(network, seed), partial(_mark_replicated, network))


def initial_values(network: DiT, seed: int, names: Collection[str] | None = None):
    """``(local name, tensor, fp32 value, axis)`` as in :func:`cosmos1.models.initialization.initial_values`."""
    return initialization.initial_values(network, seed, partial(_draw, network.config.dit), names)


def _draw(dit: DiTConfig, name: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
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
    if name.startswith("action."):
        return _draw_action(dit, owner, value, generator)
    if name == "views.table.weight":
        return value.normal_(generator=generator)
    if name.endswith(".bias"):
        return value.zero_()
    if name == "x_embedder.weight" and len(dit.base_patch_columns) < shape[1]:
        # The network without control signals, and zeros where their channels enter.
        base = _draw(dit, name, [shape[0], len(dit.base_patch_columns)], generator)
        return value.zero_().index_copy_(1, torch.tensor(dit.base_patch_columns, device=value.device), base)
    fan_out, fan_in = shape[0] // _STACKED.get(owner, 1), shape[1]
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return value.uniform_(-bound, bound, generator=generator)


def _draw_action(dit: DiTConfig, owner: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Second layers start at zero, so that nothing is shifted. First layers spread widely (PyTorch's rule for linear
    layers), so that the second get gradients from the first step on, although actions are small numbers."""
    if owner == "linear_2":
        return value.zero_()
    bound = (dit.action.num_actions * dit.action.action_dim) ** -0.5
    return value.uniform_(-bound, bound, generator=generator)


def _mark_replicated(network: DiT, local_name: str, parameter: torch.nn.Parameter) -> None:
    """Attributes by which Megatron-core reduces gradients and counts each parameter once in the gradient norm."""
    # Under sequence parallelism each rank sees some of the tokens: the gradients of replicated weights add up.
    # The uncertainty head works on samples, which every rank has whole.
    parameter.sequence_parallel = network.config.sequence_parallel and not local_name.startswith("logvar.")
    if local_name.startswith(("t_embedder.", "extra_pos_embedder.", "action.")):
        initialization.mark_on_every_stage(network, parameter)
