# SPDX-License-Identifier: Apache-2.0
"""Weights of cosmos-predict1's action control that its network computes with and then does not use.

Its ``action_embedder_B_D`` shifts a second name of the timestep embedding; the network goes on with the first
(``diffusion/training/networks/general_dit_action.py``). NeMo's, half as deep in width, is active.
"""

import torch

from cosmos1.checkpoint.lazy import LazyTensor

_OFFICIAL = "action_embedder_B_D."
_MODULATION = "action.to_modulation."


def inert_names(stored: dict, layout: str) -> set[str]:
    """Names of the inert branch among official names: there, the hidden layer is four times as wide as the network."""
    second = stored.get(f"{_OFFICIAL}fc2.weight")
    if layout != "official" or second is None or second.shape[1] != 4 * second.shape[0]:
        return set()
    return {name for name in stored if name.startswith(_OFFICIAL)}


def inert_zeros(native: dict, layout: str) -> dict:
    """Zeros for the inert branch of a network without it, so that the official code finds all that it loads."""
    first = native.get(f"{_MODULATION}linear_1.weight")
    if layout != "official" or first is None or "action.to_embedding.linear_1.weight" in native:
        return {}
    hidden, inputs = first.shape
    shapes = {"fc1.weight": (hidden, inputs), "fc1.bias": (hidden,), "fc2.weight": (hidden // 4, hidden)}
    shapes["fc2.bias"] = (hidden // 4,)
    return {f"{_OFFICIAL}{name}": _zeros(first, shape) for name, shape in shapes.items()}


def _zeros(like, shape: tuple[int, ...]):
    if isinstance(like, LazyTensor):
        return LazyTensor(shape, like.dtype, lambda: torch.zeros(shape, dtype=like.dtype))
    return torch.zeros(shape, dtype=like.dtype, device=like.device)
