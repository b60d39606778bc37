# SPDX-License-Identifier: Apache-2.0
"""From pixels to the latents of a sample and back, for data modules that hand over pixels and for looking at samples.

A sample is one clip, or several that the tokenizer knows nothing of together: views of cameras, or single images.
"""

from functools import cache

import torch

from cosmos1.models.tokenizers.protocol import VideoTokenizer
from cosmos1.models.tokenizers.video import build_video_tokenizer

_tokenizer = cache(build_video_tokenizer)


def pixels_to_latents(
    pixels_B3FHW: torch.Tensor, name: str, path: str | None, single_frames: bool, device: torch.device
) -> torch.Tensor:
    """Latents ``[B, C, T, h, w]`` of video in [-1, 1]; with ``single_frames`` each frame is encoded alone (``T = F``)."""
    num_frames = pixels_B3FHW.shape[2]
    tokenizer: VideoTokenizer = _tokenizer(name, path, 1 if single_frames else num_frames, device)
    if not single_frames:
        return tokenizer.encode(pixels_B3FHW.to(device))
    images = pixels_B3FHW.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    latents = tokenizer.encode(images.to(device))[:, :, 0]
    return latents.unflatten(0, (-1, num_frames)).transpose(1, 2)


def latents_to_pixels(tokenizer: VideoTokenizer, latent_BCTHW: torch.Tensor, num_clips: int) -> torch.Tensor:
    """Video ``[B, 3, clips * F, H, W]`` of latents that hold ``num_clips`` clips one after another in time."""
    clips = latent_BCTHW.unflatten(2, (num_clips, -1)).unbind(2)
    return torch.cat([tokenizer.decode(clip) for clip in clips], dim=2)
