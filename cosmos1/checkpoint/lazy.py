# SPDX-License-Identifier: Apache-2.0
"""Tensors that lie in files and are read when they are needed, one at a time.

Files are read, not mapped: mapped pages stay in the resident set until the kernel wants them back, read ones are ours to
free. So a conversion holds one tensor, however large the model is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from cosmos1.errors import CheckpointError


@dataclass(frozen=True)
class LazyTensor:
    """Shape and dtype of a tensor, known now, and ``load()``, which gives its values on the CPU."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def cast(self, dtype: torch.dtype) -> "LazyTensor":
        return self if dtype == self.dtype else LazyTensor(self.shape, dtype, lambda: self.load().to(dtype))


def apply(function: Callable[..., torch.Tensor], tensors: list) -> "torch.Tensor | LazyTensor":
    """``function(*tensors)``, put off until it is needed if the tensors are lazy."""
    if not isinstance(tensors[0], LazyTensor):
        return function(*tensors)
    outline = function(*(torch.empty(t.shape, dtype=t.dtype, device="meta") for t in tensors))
    return LazyTensor(tuple(outline.shape), outline.dtype, lambda: function(*(t.load() for t in tensors)))


def file_tensor(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    """A contiguous tensor at byte ``offset`` of a file."""

    def load() -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        try:
            with open(path, "rb") as stream:
                stream.seek(offset)
                count = stream.readinto(as_bytes(tensor))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        if count != tensor.nbytes:
            raise CheckpointError(
                f"{path} ends after {offset + count} bytes, a tensor in it needs {offset + tensor.nbytes}: the file is cut "
                "off; copy or download it again"
            )
        return tensor

    return LazyTensor(tuple(shape), dtype, load)


def as_bytes(tensor: torch.Tensor):
    """The memory of a contiguous CPU tensor as a flat array of bytes, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
