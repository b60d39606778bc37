# SPDX-License-Identifier: Apache-2.0
"""The control signals of a batch of tokens: taken out, and checked against the network."""

import torch

from cosmos1.conditioning.checks import check_signals, check_view_indices, check_view_texts


def take_token_controls(gpt, batch: dict, device) -> dict[str, torch.Tensor]:
    """The signals that the ``GPTConfig`` asks for, on ``device``.

    ``action`` ``[B, N, A]``, ``plucker_tokens`` ``[B, n, 48]`` in the order of the video tokens, ``view_indices``
    ``[B, V]``, ``trajectory`` ``[B, 192]``.

    Raises:
        DataError: a signal is missing from the batch or does not fit the network.
    """
    shapes = {}
    if gpt.camera is not None:
        remedy = "set model.config.latent_shape and model.config.camera.frames_per_token to those of the data"
        shapes["plucker_tokens"] = ([gpt.num_video_tokens, gpt.camera.num_channels], remedy)
    if gpt.views is not None:
        remedy = "set model.config.views.num_views to the number of cameras in a sample"
        shapes["view_indices"] = ([gpt.num_views], remedy)
    check_signals(gpt, batch, shapes)
    if gpt.views is not None:
        check_view_indices(batch, gpt.num_views)
    if gpt.views is not None and gpt.reads_text:
        check_view_texts(batch, gpt.views.shared_text)
    return {name: batch[name].to(device) for name in gpt.controls}
