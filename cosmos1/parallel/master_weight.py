# SPDX-License-Identifier: Apache-2.0
"""The fp32 weights that an optimizer updates, described alike for DDP and FSDP."""

from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor


@dataclass
class MasterWeight:
    """The part of one parameter that this rank's optimizer updates."""

    parameter: torch.nn.Parameter
    """The model's parameter (whole on this tensor-parallel rank, or an FSDP DTensor)."""
    weight: torch.Tensor
    """What the torch optimizer holds: fp32, flat under the distributed optimizer, a DTensor under FSDP."""
    start: int | None
    """First element of ``weight`` within the flattened parameter; None under FSDP."""

    @property
    def local(self) -> torch.Tensor:
        """The fp32 values on this rank, as a plain tensor that shares their memory."""
        return local_tensor(self.weight)


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor.detach()
