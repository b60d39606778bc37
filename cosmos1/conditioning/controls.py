# SPDX-License-Identifier: Apache-2.0
"""The control signals of a batch: taken out, checked against the network, and what guidance leads away from."""

import torch

from cosmos1.conditioning.checks import check_signals, check_view_indices, check_view_texts
from cosmos1.conditioning.settings import PLUCKER_CHANNELS
from cosmos1.errors import DataError


def take_controls(config, batch: dict, latent_shape: list[int], device) -> dict[str, torch.Tensor]:
    """The signals that the ``DiTConfig`` asks for, on ``device``; ``latent_shape`` is ``[B, C, T, H, W]``.

    Raises:
        DataError: a signal is missing from the batch or does not fit the network or the latents.
    """
    _, _, frames, height, width = latent_shape
    shapes = {}
    if config.camera is not None:
        remedy = "give one map per latent frame on the latent grid"
        shapes["plucker_embeddings"] = ([frames, PLUCKER_CHANNELS, height, width], remedy)
    check_signals(config, batch, shapes)
    names = list(config.controls)
    if config.views is not None:
        check_view_indices(batch, config.views.num_views)
        if frames % num_views(batch):
            raise DataError(
                f"a sample has {frames} latent frames, which do not divide by its {num_views(batch)} views; prepare it again"
            )
        check_view_texts(batch, config.views.shared_text)
        names += ["frame_repeat"] if "frame_repeat" in batch else []
    return {name: batch[name].to(device) for name in names}


def num_views(controls: dict[str, torch.Tensor]) -> int:
    """Views of each sample; 1 for networks without views."""
    return controls["view_indices"].shape[1] if "view_indices" in controls else 1


def unconditional(controls: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The signals that guidance leads away from: those that training drops are zero, the others stay."""
    return {name: torch.zeros_like(x) if name == "trajectory" else x for name, x in controls.items()}
