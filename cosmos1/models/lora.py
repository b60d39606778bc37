# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters on Megatron-core's tensor-parallel linear layers: ``y = W x + (alpha / rank) * B (A x)``.

Formula: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". An adapter is a child of its layer, so
that no weight of the network changes its name. Tensors are ``[s, b, channels]``; ``r`` is the rank.
"""

from functools import partial

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import nn

from cosmos1.parallel.randomness import named_generator


def adaptable_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that can have an adapter, by their names in this pipeline stage."""
    kinds = (ColumnParallelLinear, RowParallelLinear)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


class LowRankAdapter(nn.Module):
    """What is added to the output of one layer. ``a`` ``[r, in]`` and ``b`` ``[out, r]`` are split as the layer's weight is.

    On a column-parallel layer ``a`` is whole on every rank and ``b`` has the layer's output channels; on a row-parallel
    one ``a`` has the layer's input channels and ``b`` is whole. Only ``r`` channels travel between ranks.
    """

    def __init__(self, linear: nn.Module, name: str, rank: int, scale: float):
        super().__init__()
        self.name, self.scale = name, scale
        self.row_parallel, self.input_size = isinstance(linear, RowParallelLinear), linear.input_size
        self.tp_group = linear.tp_group
        self.exchange = _exchange(linear)
        self.input_factors: torch.Tensor | None = None
        num_outputs, num_inputs = linear.weight.shape
        options = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.a = nn.Parameter(torch.empty(rank, num_inputs, **options))
        self.b = nn.Parameter(torch.empty(num_outputs, rank, **options))

    def forward(self, x_sbI: torch.Tensor) -> torch.Tensor:
        drops = self.training and self.input_factors is not None
        a = self.a * self.input_factors.to(self.a.dtype) if drops else self.a
        return F.linear(self.exchange(F.linear(x_sbI, a) * self.scale), self.b)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """``b`` is zero, so that nothing is added."""
        self.a.copy_(self.initial_a(seed))
        self.b.zero_()

    def initial_a(self, seed: int) -> torch.Tensor:
        """This rank's part of ``a`` in fp32, drawn by PyTorch's rule for linear layers."""
        whole_a = torch.empty(self.a.shape[0], self.input_size, device=self.a.device)
        bound = self.input_size**-0.5
        whole_a.uniform_(-bound, bound, generator=named_generator(seed, f"{self.name}.lora.a", self.a.device))
        return self._inputs_here(whole_a)

    def drop_inputs(self, share: float, seed: int, step: int) -> None:
        """Leave out ``share`` of the layer's input channels in training step ``step``, and weigh the others more.

        One draw serves all tokens and samples of a step, as in Lin et al. 2024, "LoRA Dropout as a Sparsity Regularizer
        for Overfitting Control". So it is the same in recomputation, in every micro batch and under every layout.
        """
        generator = named_generator(seed, f"{self.name}.lora dropout {step}")
        factors = (torch.rand(self.input_size, generator=generator) >= share) / (1 - share)
        self.input_factors = self._inputs_here(factors).to(self.a.device, non_blocking=True)

    def _inputs_here(self, values: torch.Tensor) -> torch.Tensor:
        """The part of ``[..., input channels]`` that this rank has."""
        return values.chunk(self.tp_group.size(), dim=-1)[self.tp_group.rank()] if self.row_parallel else values


def _exchange(linear: nn.Module):
    """How the narrow values ``[s, b, r]`` pass between the tensor-parallel ranks, with gradients."""
    if isinstance(linear, RowParallelLinear):
        sequence, tensor = reduce_scatter_to_sequence_parallel_region, reduce_from_tensor_model_parallel_region
    else:
        assert not linear.gather_output
        sequence, tensor = gather_from_sequence_parallel_region, copy_to_tensor_model_parallel_region
    return partial(sequence if linear.sequence_parallel else tensor, group=linear.tp_group)


def add_adapter(linear: nn.Module, name: str, rank: int, scale: float, seed: int) -> None:
    """Give ``linear``, which is called ``name`` in the whole network, an adapter ``linear.lora`` that adds nothing yet."""
    adapter = LowRankAdapter(linear, name, rank, scale)
    adapter.initialize(seed)
    split, whole = (adapter.a, adapter.b) if adapter.row_parallel else (adapter.b, adapter.a)
    for mark in ("tensor_model_parallel", "partition_dim", "partition_stride"):
        setattr(split, mark, getattr(linear.weight, mark))
    # Under sequence parallelism the whole matrix meets some of the tokens: its gradients add up over the ranks.
    whole.sequence_parallel = linear.sequence_parallel
    linear.lora = adapter
    linear.register_forward_hook(_add_output)


def _add_output(linear: nn.Module, inputs: tuple, output: tuple) -> tuple:
    values, bias = output
    return values + linear.lora(inputs[0]), bias
