# SPDX-License-Identifier: Apache-2.0
"""Camera control: the rays of the camera as channels of the patches. It has no weights but its columns of the patch matrix."""

import torch


def camera_channels(plucker_BT6HW: torch.Tensor) -> torch.Tensor:
    """``[B, 6, T, H, W]`` of Pluecker maps ``[B, T, 6, H, W]``, one per latent frame."""
    return plucker_BT6HW.transpose(1, 2)
