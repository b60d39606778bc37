# SPDX-License-Identifier: Apache-2.0
"""Output and gradients of the golden network under TP=2 or CP=2 against diffusers on the same rank; exits 1 on a difference."""

import sys

import torch

from cosmos1.checkpoint.layouts import from_native
from cosmos1.models.initialization import tensor_parallel_axis
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from tests.models.reference import build_network, golden_inputs, load_official, tiny_config
from tests.models.test_network import diffusers_network, diffusers_output


def main(layout: str, path: str, sequence_parallel: str) -> None:
    tp, cp = (2, 1) if layout == "tp" else (1, 2)
    strategy = MegatronStrategy(
        tensor_model_parallel_size=tp, context_parallel_size=cp, sequence_parallel=sequence_parallel == "sp"
    )
    # Shared with the other rank, as each would otherwise build the network alone to make them.
    weights = torch.load(path)
    config = tiny_config()
    network = build_network(config, strategy)
    load_official(network, config, weights)
    inputs = golden_inputs()
    ours = network(**inputs)
    oracle = diffusers_network(config, weights)
    theirs = diffusers_output(oracle, inputs)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    ours.square().mean().backward()
    theirs.square().mean().backward()
    gradients = {n: _whole(n, p, strategy) for n, p in network.named_parameters() if p.grad is not None}
    converted = from_native(gradients, "diffusers")
    for name, parameter in oracle.named_parameters():
        difference = (converted[name] - parameter.grad).abs().max()
        assert difference < 1e-5 and difference < 5e-5 * parameter.grad.abs().max(), name
    process_groups.shutdown()


def _whole(name: str, parameter: torch.nn.Parameter, strategy: MegatronStrategy) -> torch.Tensor:
    """The gradient of the whole weight, reduced as Megatron-core does before the optimizer steps."""
    gradient, axis = parameter.grad, tensor_parallel_axis(name)
    both = [torch.empty_like(gradient) for _ in range(2)]
    torch.distributed.all_gather(both, gradient)
    if strategy.context_parallel_size > 1 or parameter.__dict__.get("sequence_parallel") or "layernorm" in name:
        return sum(both)
    return gradient if axis is None else torch.cat(both, dim=axis)


if __name__ == "__main__":
    main(*sys.argv[1:])
