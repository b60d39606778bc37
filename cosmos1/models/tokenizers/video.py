# SPDX-License-Identifier: Apache-2.0
"""Video tokenizers by name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError
from cosmos1.models.tokenizers.protocol import VideoTokenizer

if TYPE_CHECKING:
    import torch

# Pixel frames per latent frame, by name. All of them make one latent cell of 8 x 8 pixels.
TEMPORAL_FACTORS = {"dct": 8, "dct4x8x8": 4, "cosmos_cv8x8x8": 8, "cosmos_cv4x8x8": 4}
VIDEO_TOKENIZER_NAMES = tuple(TEMPORAL_FACTORS)


def build_video_tokenizer(
    name: str,
    path: str | None = None,
    num_frames: int = 121,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VideoTokenizer:
    """Make the tokenizer called `name`.

    `path` is the weight folder, for tokenizers that have weights. `num_frames` is the chunk length in pixel frames.
    `dtype` is that of the latents (and of the weights); None means float32 without weights and bfloat16 with weights.
    Raises ConfigError for an unknown name and DataError when weights are missing.
    """
    if name not in TEMPORAL_FACTORS:
        raise ConfigError(unknown_name_message("video tokenizer", name, VIDEO_TOKENIZER_NAMES))
    options = {"device": device, "dtype": dtype, "temporal_factor": TEMPORAL_FACTORS[name]}
    if is_weight_free(name):
        from cosmos1.models.tokenizers.dct import DctTokenizer

        return DctTokenizer(**options)
    from cosmos1.models.tokenizers.cosmos_cv import load_cosmos_cv

    return load_cosmos_cv(path, num_frames=num_frames, **options)


def is_weight_free(name: str) -> bool:
    """Whether a tokenizer is a stand-in that needs no download; the hashed text encoder goes with it."""
    return name.startswith("dct")


def unknown_name_message(kind: str, name: str, valid_names: tuple[str, ...]) -> str:
    """Say that `name` is not a `kind`, and which valid name is closest."""
    closest = difflib.get_close_matches(name, valid_names, n=1, cutoff=0.3)
    hint = f'; did you mean "{closest[0]}"?' if closest else "."
    return f'there is no {kind} "{name}"{hint} Valid names: {", ".join(valid_names)}.'
