# SPDX-License-Identifier: Apache-2.0
"""The patch matrix of a network without some control signals, widened for one that has them."""

import torch

from cosmos1.checkpoint.lazy import LazyTensor, apply
from cosmos1.models.diffusion.config import BASE_CHANNELS, DiTConfig

PATCH_MATRIX = "x_embedder.weight"


def widen(matrix: LazyTensor, source, target) -> LazyTensor | None:
    """``matrix`` with columns for the channels that ``target`` adds to the patches of ``source``; None if it adds none.

    Known channels go where ``target`` has them; the columns of new ones are zero, so that the network computes what it
    did. Column ``(c * p + r) * p + s`` belongs to channel ``c``, row ``r`` and column ``s`` of a patch of ``p x p``.
    """
    if not (isinstance(source, DiTConfig) and isinstance(target, DiTConfig)):
        return None
    new = new_channels(source, target)
    same_size = all(target.patch_channels.get(name) == count for name, count in source.patch_channels.items())
    if not new or not same_size or any(name in BASE_CHANNELS for name in new):
        return None
    known = [column for name in source.patch_channels for column in target.patch_columns[name]]
    num_columns = target.patch_input_channels * target.patch_spatial**2
    if matrix.shape != (target.hidden_size, len(known)):
        return None

    def spread(narrow: torch.Tensor) -> torch.Tensor:
        wide = narrow.new_zeros(len(narrow), num_columns)
        wide[:, known] = narrow
        return wide

    return apply(spread, [matrix])


def new_channels(source: DiTConfig, target: DiTConfig) -> list[str]:
    """What ``target`` adds to the patches."""
    return [name for name in target.patch_channels if name not in source.patch_channels]
