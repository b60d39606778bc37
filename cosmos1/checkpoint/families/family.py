# SPDX-License-Identifier: Apache-2.0
"""What the conversion of weights has to know of a family of networks, as one value, and the rows of its name table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Heads:
    """Attention heads of a network; every group has one key and one value head."""

    width: int
    queries_per_group: int = 1


@dataclass(frozen=True)
class Row:
    """The names of the same values in another layout and in ours; one side may hold several matrices as one tensor."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    grouping: str = "heads"
    """How several matrices lie in one: ``heads`` (interleaved by group), ``rows`` (stacked) or ``diagonal``."""
    part: str | None = None
    """The optional part of the network that this belongs to: weights hold all rows of a part or none."""


@dataclass(frozen=True, eq=False)
class Family:
    """A family of networks.

    Attributes:
        network: its name for messages.
        prefixes: the layouts it is stored in, and how the names of layer ``n`` begin in each.
        rows: the name table of a layout for a number of layers.
        attention: our name of the self-attention inside a layer.
        official_prefix: what precedes the names in the official ``model.pt``.
        optional: beginnings of our names of weights that files may lack.
        config_class: the dataclass of its sizes.
        expected_shapes: shape of every tensor by our names.
        infer_config: the network to which whole tensors by our names belong.
        describe: one line about a network.
        sizes: the published sizes.
        config_of_size: the network of one of them; the second argument asks for Video2World.
        build_task: the model of a recipe around a network, for the record in a checkpoint.
        refusal: why a network cannot be written as a format, None if it can.
        inert_names: names in another layout of weights that have no effect and are left out.
        inert_zeros: zeros for them, from the weights by our names.
    """

    network: str
    prefixes: dict[str, str]
    rows: Callable[[str, int], Iterable[Row]]
    attention: str
    official_prefix: str
    optional: tuple[str, ...]
    config_class: type
    expected_shapes: Callable[[Any], Shapes]
    infer_config: Callable[[dict], Any]
    describe: Callable[[Any], str]
    sizes: tuple[str, ...]
    config_of_size: Callable[[str, bool], Any]
    build_task: Callable[[Any], Any]
    refusal: Callable[[Any, str], str | None]
    inert_names: Callable[[dict, str], set[str]] = lambda stored, layout: set()
    inert_zeros: Callable[[dict, str], dict] = lambda native, layout: {}


def regroup(row: Row, tensors: list[torch.Tensor], num_outputs: int, index: int, heads: Heads | None) -> torch.Tensor:
    """Output ``index`` of the ``num_outputs`` that the tensors of one side of a row become on the other side."""
    if len(tensors) == num_outputs:
        return tensors[index]
    fuse, split = _GROUPINGS[row.grouping]
    return fuse(tensors, heads) if num_outputs == 1 else split(tensors[0], num_outputs, heads)[index]


def diagonal_blocks(matrix: torch.Tensor, count: int, heads: Heads | None = None) -> list[torch.Tensor]:
    rows, columns = matrix.shape[0] // count, matrix.shape[1] // count
    return [matrix[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] for i in range(count)]


def _fuse_heads(tensors: list[torch.Tensor], heads: Heads) -> torch.Tensor:
    """Query, key and value matrices, or key and value, ``[heads * width, in]`` each, to one, group by group."""
    groups = tensors[-1].shape[0] // heads.width
    return torch.cat([tensor.unflatten(0, (groups, -1)) for tensor in tensors], dim=1).flatten(0, 1)


def _split_heads(tensor: torch.Tensor, count: int, heads: Heads) -> list[torch.Tensor]:
    sizes = [heads.width * heads.queries_per_group, heads.width, heads.width][-count:]
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (-1, sum(sizes))).split(sizes, dim=1)]


_GROUPINGS = {
    "heads": (_fuse_heads, _split_heads),
    "rows": (lambda tensors, heads: torch.cat(tensors), lambda tensor, count, heads: tensor.chunk(count)),
    "diagonal": (lambda tensors, heads: torch.block_diag(*tensors), diagonal_blocks),
}
