# SPDX-License-Identifier: Apache-2.0
"""Video tokenizers by name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError
from cosmos1.models.tokenizers.protocol import VideoTokenizer

if TYPE_CHECKING:
    import torch

VIDEO_TOKENIZER_NAMES = ("dct", "cosmos_cv8x8x8")


def build_video_tokenizer(
    name: str,
    path: str | None = None,
    num_frames: int = 121,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VideoTokenizer:
    """Make the tokenizer called `name`.

    `path` is the weight folder, for tokenizers that have weights. `num_frames` is the chunk length in pixel frames.
    `dtype` is that of the latents (and of the weights); None means float32 for "dct" and bfloat16 for the others.
    Raises ConfigError for an unknown name and DataError when weights are missing.
    """
    if name == "dct":
        from cosmos1.models.tokenizers.dct import DctTokenizer

        return DctTokenizer(device=device, dtype=dtype)
    if name == "cosmos_cv8x8x8":
        from cosmos1.models.tokenizers.cosmos_cv import load_cosmos_cv

        return load_cosmos_cv(path, num_frames=num_frames, device=device, dtype=dtype)
    raise ConfigError(unknown_name_message("video tokenizer", name, VIDEO_TOKENIZER_NAMES))


def unknown_name_message(kind: str, name: str, valid_names: tuple[str, ...]) -> str:
    """Say that `name` is not a `kind`, and which valid name is closest."""
    closest = difflib.get_close_matches(name, valid_names, n=1, cutoff=0.3)
    hint = f'; did you mean "{closest[0]}"?' if closest else "."
    return f'there is no {kind} "{name}"{hint} Valid names: {", ".join(valid_names)}.'
