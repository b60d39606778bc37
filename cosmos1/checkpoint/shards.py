# SPDX-License-Identifier: Apache-2.0
"""Where each local tensor lies in the whole one, in terms of Megatron-core's dist_checkpointing.

Weights, Adam moments and EMA copies are stored whole and under the same names whatever the layout was: tensor-parallel
slices, FSDP shards, and the distributed optimizer's flat ranges are all described as rectangles of the whole tensor. So
a checkpoint written under one layout (DDP or FSDP, any TP, PP, CP, DP) is read under any other, without a conversion
and without communication.
"""

from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing import ShardedTensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from cosmos1.models.initialization import global_name
from cosmos1.parallel.master_weight import MasterWeight, local_tensor


@dataclass(frozen=True)
class Placement:
    """Place of a parameter (before FSDP) in the whole tensor."""

    name: str
    """Name in the whole network, the same on all ranks."""
    local_shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    global_offset: tuple[int, ...]
    stored_here: bool
    """Of several ranks that hold the same part, one stores it."""
    num_stacked: int = 1
    """Matrices one above the other in the tensor, each split over the tensor-parallel ranks by itself."""


def placements(networks: list[torch.nn.Module]) -> dict[str, Placement]:
    """Placement of every parameter and buffer, keyed ``<chunk index>.<local name>``. Call before FSDP wraps them."""
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    tp_size = parallel_state.get_tensor_model_parallel_world_size()
    result = {}
    for index, network in enumerate(networks):
        for local_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            split = getattr(tensor, "tensor_model_parallel", False)
            axis = tensor.partition_dim if split else None
            result[f"{index}.{local_name}"] = Placement(
                name=global_name(network, local_name),
                local_shape=tuple(tensor.shape),
                global_shape=tuple(n * tp_size if a == axis else n for a, n in enumerate(tensor.shape)),
                global_offset=tuple(n * tp_rank if a == axis else 0 for a, n in enumerate(tensor.shape)),
                stored_here=(split or tp_rank == 0) and not getattr(tensor, "shared", False),
                num_stacked=getattr(tensor, "partition_stride", 1) if axis == 0 and tp_size > 1 else 1,
            )
    return result


def rectangles(shape: tuple[int, ...], start: int, stop: int) -> list[tuple[slice, tuple[int, ...], tuple[int, ...]]]:
    """Cut the flat range ``start:stop`` of a one- or two-dimensional tensor into rectangles of it.

    Returns ``(part of the range, rectangle shape, rectangle offset)`` for at most three rectangles: the rest of the first
    row, whole rows, the beginning of the last row.
    """
    if len(shape) == 1:
        return [(slice(0, stop - start), (stop - start,), (start,))]
    assert len(shape) == 2, shape
    width, result, position = shape[1], [], start
    while position < stop:
        row, column = divmod(position, width)
        if column == 0 and stop - position >= width:
            rows = (stop - position) // width
            size, rectangle = rows * width, (rows, width)
        else:
            size = min(width - column, stop - position)
            rectangle = (1, size)
        result.append((slice(position - start, position - start + size), rectangle, (row, column)))
        position += size
    return result


def _sharded(
    placement: Placement, key: str, data: torch.Tensor, offset: tuple[int, ...], main: bool
) -> list[ShardedTensor]:
    """``data``, which lies at ``offset`` of this rank's part of the whole tensor."""
    return [
        ShardedTensor(
            key=key,
            data=piece,
            dtype=piece.dtype,
            local_shape=tuple(piece.shape),
            global_shape=placement.global_shape,
            global_offset=place,
            axis_fragmentations=None,  # shards need not be of equal size
            replica_id=0 if main else 1,
        )
        for piece, place in _pieces(placement, data, offset)
    ]


def _pieces(placement: Placement, data: torch.Tensor, offset: tuple[int, ...]):
    """``(rows of data, their offset in the whole tensor)`` for each of the stacked matrices that ``data`` is of."""
    if placement.num_stacked == 1:
        yield data, tuple(a + b for a, b in zip(placement.global_offset, offset))
        return
    here, whole = (shape[0] // placement.num_stacked for shape in (placement.local_shape, placement.global_shape))
    split_offset = placement.global_offset[0] // placement.num_stacked
    for matrix in range(placement.num_stacked):
        first, last = (min(max(row, matrix * here), (matrix + 1) * here) for row in (offset[0], offset[0] + len(data)))
        if first < last:
            row = matrix * whole + split_offset + first - matrix * here
            yield data[first - offset[0] : last - offset[0]], (row, *offset[1:])


def replicated_tensor(placement: Placement, key: str, tensor: torch.Tensor) -> list[ShardedTensor]:
    """A tensor that all data-parallel ranks hold alike (frozen weights, buffers), or an FSDP shard of one."""
    if isinstance(tensor, DTensor):
        return _fsdp_shard(placement, key, tensor, tensor)
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    main = placement.stored_here and replica == 0
    return _sharded(placement, key, tensor.detach(), (0,) * tensor.dim(), main)


def optimizer_tensor(placement: Placement, key: str, master: MasterWeight, tensor: torch.Tensor) -> list[ShardedTensor]:
    """A tensor shaped like the master weight: the weight itself, an Adam moment, or an EMA copy."""
    if master.start is None:
        return _fsdp_shard(placement, key, master.weight, tensor)
    flat = local_tensor(tensor)
    pieces = rectangles(placement.local_shape, master.start, master.start + flat.numel())
    return [
        shard
        for part, shape, offset in pieces
        for shard in _sharded(placement, key, flat[part].view(shape), offset, placement.stored_here)
    ]


def _fsdp_shard(placement: Placement, key: str, layout: DTensor, tensor: torch.Tensor) -> list[ShardedTensor]:
    local = local_tensor(tensor)
    shape, offset = compute_local_shape_and_global_offset(layout.shape, layout.device_mesh, layout.placements)
    if local.numel() == 0:
        return []
    assert tuple(local.shape) == tuple(shape), (placement.name, local.shape, shape)
    return _sharded(placement, key, local, tuple(offset), placement.stored_here)
