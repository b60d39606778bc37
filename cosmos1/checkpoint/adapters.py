# SPDX-License-Identifier: Apache-2.0
"""The weights of a run with low-rank adapters, as those of a plain network: ``W + (alpha / rank) * B A``."""

from functools import partial

import torch
import yaml

from cosmos1.checkpoint.folders import Checkpoint
from cosmos1.checkpoint.lazy import LazyTensor, apply
from cosmos1.errors import CheckpointError

SUFFIXES = (".lora.a", ".lora.b")
"""How the names of an adapter's two matrices end, after the name of its layer."""


def has_adapters(names) -> bool:
    return any(name.endswith(SUFFIXES) for name in names)


def merge(checkpoint: Checkpoint, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """``tensors`` with the adapters added to the weights of their layers, in fp32, and gone.

    Raises:
        CheckpointError: the recorded recipe does not say how the adapters are scaled.
    """
    scale = _scale(checkpoint)
    merged = {}
    for name, tensor in tensors.items():
        if name.endswith(SUFFIXES):
            continue
        layer = name.removesuffix(".weight")
        parts = [tensors[layer + suffix] for suffix in SUFFIXES if layer + suffix in tensors]
        merged[name] = apply(partial(_merged, scale), [tensor, *parts]) if parts else tensor
    return merged


def _merged(scale: float, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return weight.float() + scale * (b.float() @ a.float())


def _scale(checkpoint: Checkpoint) -> float:
    recipe = checkpoint.context / "recipe.yaml"
    try:
        recorded = yaml.safe_load(recipe.read_text())["model_transform"]
        return recorded["alpha"] / recorded["rank"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has low-rank adapters, but its {recipe} does not say model_transform.alpha and "
            f"rank ({error}); put back the recipe.yaml that the run wrote"
        ) from error
