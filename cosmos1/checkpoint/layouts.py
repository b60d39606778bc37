# SPDX-License-Identifier: Apache-2.0
"""Weights of other layouts (official, diffusers, NeMo) under our names, and back.

One explicit table per family of networks (:mod:`cosmos1.checkpoint.families`) serves all directions. All tensors are
whole (not split over ranks); NeMo's, which it stacks over the layers, are one layer each here.
"""

import re
from collections.abc import Iterable

import torch

from cosmos1.checkpoint.families import ALL
from cosmos1.checkpoint.families.family import Family, Heads, Row, diagonal_blocks, regroup
from cosmos1.checkpoint.lazy import apply
from cosmos1.errors import CheckpointError

# Off-diagonal part of a NeMo modulation matrix, relative to the whole, above which it is no block diagonal any more.
OFF_DIAGONAL_TOLERANCE = 1e-6
_NORM = "q_layernorm.weight"


def identify(names: Iterable[str]) -> tuple[Family, str]:
    """The family and layout ("official", "diffusers", "nemo" or "native") with most names in common.

    Raises:
        CheckpointError: they belong to no network that is known here.
    """
    names = set(names)
    known = {(family, layout): _names(family, layout) for family in ALL for layout in family.prefixes}
    best = max(known, key=lambda key: len(known[key] & names))
    if known[best] & names:
        return best
    raise CheckpointError(
        f"no weights of a Cosmos network: {len(names)} tensors, first {sorted(names)[:3]}; expected names like "
        "net.blocks.block0..., transformer_blocks.0..., model.layers.0..., or decoder.layers.0..."
    )


def _names(family: Family, layout: str) -> set[str]:
    """The names of a network of one layer."""
    if layout == "native":
        return {name for row in family.rows("official", 1) for name in row.ours}
    return {name for row in family.rows(layout, 1) for name in row.theirs}


def count_layers(names: Iterable[str], family: Family, layout: str = "native") -> int:
    pattern = re.compile("^" + re.escape(family.prefixes[layout]).replace(re.escape("{n}"), r"(\d+)"))
    return 1 + max((int(match[1]) for name in names if (match := pattern.match(name))), default=-1)


def to_native(state: dict) -> dict:
    """Weights of another layout (names without the prefix of a ``model.pt``) under our names.

    The tensors may be lazy; then so are the results.

    Raises:
        CheckpointError: keys that the network has and the file lacks, or the other way round.
    """
    family, layout = identify(state)
    if layout == "native":
        return dict(state)
    inert = family.inert_names(state, layout)
    state = {name: tensor for name, tensor in state.items() if name not in inert}
    num_layers = max(1, count_layers(state, family, layout))
    rows = _present(list(family.rows(layout, num_layers)), state)
    expected = {name for row in rows for name in row.theirs}
    missing, unexpected = expected - set(state), set(state) - expected
    if missing or unexpected:
        raise CheckpointError(
            f"{layout} weights do not fit a {family.network} of {num_layers} layers: {len(missing)} missing (first: "
            f"{sorted(missing)[:3]}), {len(unexpected)} unexpected (first: {sorted(unexpected)[:3]})"
        )
    width = next(state[row.theirs[0]].shape[0] for row in rows if row.ours[0].endswith(f".{family.attention}.{_NORM}"))
    return {name: t for row in rows for name, t in _converted(row, row.theirs, row.ours, state, Heads(width))}


def from_native(state: dict, layout: str) -> dict:
    """The inverse of :func:`to_native`, bit for bit. What ``layout`` has no place for is left out."""
    family, _ = identify(state)
    heads, result = _heads(state, family), family.inert_zeros(state, layout)
    for row in family.rows(layout, count_layers(state, family)):
        if row.ours[0] in state:
            result.update(_converted(row, row.ours, row.theirs, state, heads))
    return result


def _present(rows: list[Row], state: dict) -> list[Row]:
    """The rows of the parts that a network has, of which at least one name is there."""
    parts = {row.part for row in rows if row.part and not state.keys().isdisjoint(row.theirs)}
    return [row for row in rows if row.part is None or row.part in parts]


def _converted(row: Row, sources: tuple[str, ...], results: tuple[str, ...], state: dict, heads: Heads):
    tensors = [state[name] for name in sources]
    for i, name in enumerate(results):
        if len(sources) == len(results):
            yield name, tensors[i]
        else:
            yield name, apply(lambda *parts, i=i: regroup(row, parts, len(results), i, heads), tensors)


def _heads(state: dict, family: Family) -> Heads:
    """The heads of a network, from the shapes of its first self-attention under our names."""
    attention = family.prefixes["native"].format(n=0) + family.attention
    width = state[f"{attention}.{_NORM}"].shape[0]
    queries = state[f"{attention}.linear_proj.weight"].shape[1] // width
    keys_and_values = state[f"{attention}.linear_qkv.weight"].shape[0] // width - queries
    return Heads(width, 2 * queries // keys_and_values)


def off_diagonal_share(matrix: torch.Tensor) -> float:
    """Norm outside the three diagonal blocks of a NeMo modulation matrix ``[9 D, 3 r]``, relative to its whole norm."""
    whole = torch.linalg.vector_norm(matrix, dtype=torch.float64).item()
    outside = matrix.clone()
    for block in diagonal_blocks(outside, 3):
        block.zero_()
    return torch.linalg.vector_norm(outside, dtype=torch.float64).item() / whole if whole else 0.0
