# SPDX-License-Identifier: Apache-2.0
"""Initial weights of the GPT, and the marks of those that every rank holds.

Rules: cosmos-predict1, ``autoregressive/training/networks/transformer.py``: what leads back into the residual stream is
smaller the deeper the layer.
"""

import re
from collections.abc import Collection
from functools import partial

import torch

from cosmos1.conditioning.token_modules import ON_EVERY_STAGE
from cosmos1.models import initialization
from cosmos1.models.autoregressive.network import GPT


def initialize(network: GPT, seed: int) -> None:
    """Fill all parameters of a pipeline stage and mark them for Megatron-core's gradient reductions."""
    initialization.initialize(network, initial_values(network, seed), partial(_mark_replicated, network))


def initial_values(network: GPT, seed: int, names: Collection[str] | None = None):
    """``(local name, tensor, fp32 value, axis)`` as in :func:`cosmos1.models.initialization.initial_values`."""
    return initialization.initial_values(network, seed, _draw, names)


def _draw(name: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    value = torch.empty(shape, dtype=torch.float32, device=generator.device)
    owner = name.split(".")[-2]
    if owner.endswith("layernorm"):
        return value.fill_(1.0)
    if not name.startswith(("embedding.", "decoder.", "output_layer.")):
        return _draw_control(owner, value, generator)
    if owner == "word_embeddings":
        return value.normal_(generator=generator)
    if owner == "output_layer":
        std = shape[1] ** -0.5
        return torch.nn.init.trunc_normal_(value, std=std, a=-3 * std, b=3 * std, generator=generator)
    torch.nn.init.trunc_normal_(value, std=0.02, generator=generator)
    depth = int(re.match(r"decoder\.layers\.(\d+)\.", name)[1]) + 1
    if owner in ("linear_proj", "linear_fc2"):
        value.mul_((2 * depth) ** -0.5)
    if owner == "linear_fc1":
        value[shape[0] // 2 :].mul_((2 * depth) ** -0.5)  # the rows after the gate's
    return value


def _draw_control(owner: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What is added to the tokens starts at zero. Context rows start with PyTorch's rule for linear layers, without biases:
    attention weighs rows by their direction, so that none of them has no effect."""
    if owner in ("camera", "views") or value.ndim == 1:
        return value.zero_()
    if owner == "index":
        return value.normal_(std=0.02, generator=generator)
    bound = value.shape[1] ** -0.5
    return value.uniform_(-bound, bound, generator=generator)


def _mark_replicated(network: GPT, local_name: str, parameter: torch.nn.Parameter) -> None:
    # Under sequence parallelism each rank sees some of the tokens: the gradients of replicated weights add up. Context rows
    # are whole on every rank.
    is_context = local_name.startswith(ON_EVERY_STAGE)
    parameter.sequence_parallel = network.config.sequence_parallel and not is_context
    if is_context:
        initialization.mark_on_every_stage(network, parameter)
