# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters on the networks of a run: which layers get one, what is trained beside them, and what the log says."""

import re
from fnmatch import fnmatchcase
from functools import partial
from math import prod

import torch
import torch.distributed as dist

from cosmos1.checkpoint.adapters import SUFFIXES
from cosmos1.checkpoint.networks import ALWAYS_OPTIONAL
from cosmos1.errors import ConfigError
from cosmos1.models.initialization import global_name
from cosmos1.models.lora import LowRankAdapter, adaptable_layers, add_adapter
from cosmos1.training.config import AutoResume, MegatronOptimizer, RestoreConfig
from cosmos1.training.lora import LoRA
from cosmos1.training.parallel_model import ParallelModel


def transform(lora: LoRA | None, optim: MegatronOptimizer, resume: AutoResume, seed: int):
    """What ``lora`` does to the networks of a run, as a function of the list of them; None without it."""
    if lora is None:
        return None
    restore = resume.restore_config or RestoreConfig()
    # What the base checkpoint may lack, or is made anew, has nothing to adapt: it is trained in full.
    new = (*optim.new_layers.names, *restore.allow_missing, *restore.reinitialize, *ALWAYS_OPTIONAL)
    return partial(add_adapters, lora, new, seed)


def add_adapters(lora: LoRA, trained: tuple[str, ...], seed: int, networks: list[torch.nn.Module]) -> None:
    """Freeze the pipeline chunks of this rank but for weights whose names begin with ``trained``, and add adapters to the
    layers that ``lora.targets`` names. Collective; call it before the networks are sharded.

    Raises:
        ConfigError: a target matches no layer of the network, or a pipeline stage would get no adapter.
    """
    layers = {
        global_name(network, name): layer for network in networks for name, layer in adaptable_layers(network).items()
    }
    old = [name for name in layers if not name.startswith(trained)]
    targets = [name for name in old if any(_matches(pattern, name) for pattern in lora.targets)]
    _check_targets(lora.targets, list(layers), len(targets))
    for network in networks:
        for name, parameter in network.named_parameters():
            is_new = global_name(network, name).startswith(trained)
            parameter.requires_grad_(parameter.requires_grad and is_new)
    for name in targets:
        add_adapter(layers[name], name, lora.rank, lora.alpha / lora.rank, seed)


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name.split(".")[-1], pattern) or fnmatchcase(name, pattern)


def _check_targets(patterns: list[str], names_here: list[str], num_adapters: int) -> None:
    found: list[tuple[list[str], int]] = [([], 0)] * dist.get_world_size()
    dist.all_gather_object(found, (names_here, num_adapters))
    names = {name for there, _ in found for name in there}
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            raise ConfigError(
                f"model_transform.targets has {pattern!r}, which matches no layer that can have an adapter; use names or "
                f"patterns of {', '.join(sorted({re.sub(r'[.][0-9]+[.]', '.*.', name) for name in names}))}"
            )
    if not all(count for _, count in found):
        raise ConfigError(
            f"model_transform.targets={patterns} gives no adapter to some of the pipeline stages, which then train "
            "nothing; name layers of every stage, or set trainer.strategy.pipeline_model_parallel_size=1"
        )


def describe(lora: LoRA | None, model: ParallelModel) -> list[str]:
    """Facts for the log, of the whole network. Collective."""
    if lora is None:
        return []
    here = {
        place.name: (prod(place.global_shape), tensor.requires_grad)
        for place, tensor in model.tensors
        if isinstance(tensor, torch.nn.Parameter)
    }
    found: list[dict] = [{}] * dist.get_world_size()
    dist.all_gather_object(found, here)
    sizes = {name: entry for part in found for name, entry in part.items()}
    trained = {name: size for name, (size, is_trained) in sizes.items() if is_trained}
    num_trained, num_values = sum(trained.values()), sum(size for size, _ in sizes.values())
    in_full = sorted({name.split(".")[0] for name in trained if not name.endswith(SUFFIXES)})
    return [
        f"LoRA: {sum(name.endswith(SUFFIXES[0]) for name in trained)} adapters of rank {lora.rank}, alpha {lora.alpha:g}, "
        f"dropout {lora.dropout:g}, on {', '.join(lora.targets)}",
        f"LoRA: {num_trained:,} of {num_values:,} parameters are trained ({num_trained / num_values:.2%})",
        *([f"LoRA: trained in full: {', '.join(in_full)}"] if in_full else []),
    ]


def draw_dropout(lora: LoRA | None, networks: list[torch.nn.Module], seed: int, step: int) -> None:
    """Choose the input channels that the adapters leave out in ``step``."""
    if lora is None or not lora.dropout:
        return
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, LowRankAdapter):
            module.drop_inputs(lora.dropout, seed, step)
