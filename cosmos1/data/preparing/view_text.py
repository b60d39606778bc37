# SPDX-License-Identifier: Apache-2.0
"""Text of several views: for each view what its camera is, then what it sees."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.data.formats.latent_sample import load_tensor
from cosmos1.data.geometry.rigs import Rig
from cosmos1.data.sources.multiview_clips import Caption
from cosmos1.errors import DataError

if TYPE_CHECKING:
    import torch

# Embeddings (512, 1024) of a text and the number of rows that are not padding.
EncodeText = Callable[[str], "Tuple[torch.Tensor, int]"]


def view_descriptions(rig: Rig, encode: EncodeText, folder: Optional[Path] = None) -> "List[torch.Tensor]":
    """One tensor (n, 1024) per view: the encoded description of its camera.

    With `folder` they are read from `video_camera_embeddings_v0_<camera>.pt` instead, without trailing zero rows.
    Raises DataError for a file that is missing or has another width.
    """
    if folder is None:
        return [_rows(*encode(camera.description)) for camera in rig.cameras]
    return [read_view_embedding(folder / f"video_camera_embeddings_v0_{name}.pt") for name in rig.names]


def read_view_embedding(path: Path) -> "torch.Tensor":
    """Rows (n, 1024) of a view embedding file, (512, 1024) or (1, 512, 1024), without trailing zero rows."""
    if not path.exists():
        raise DataError(
            f"{path}: there is no such view embedding. Without --view_embeddings_dir the descriptions in the rig file are "
            f"encoded instead."
        )
    rows = load_tensor(path)
    rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != TEXT_WIDTH:
        raise DataError(f"{path}: has shape {tuple(rows.shape)}, (rows, {TEXT_WIDTH}) is needed.")
    filled = rows.abs().sum(dim=1).nonzero()
    return rows[: int(filled.max()) + 1 if len(filled) else 0].bfloat16()


def multiview_text(
    descriptions: "List[torch.Tensor]", captions: List[Optional[Caption]], encode: EncodeText
) -> "Tuple[torch.Tensor, torch.Tensor]":
    """Text (V * 512, 1024) bfloat16 and mask (V * 512,), 1 on the rows that hold text.

    The rows of a view are its description, then its caption, cut to 512; a view without caption has the description
    alone. Without `descriptions` captions stand alone.
    """
    import torch

    text = torch.zeros(len(captions), NUM_TEXT_TOKENS, TEXT_WIDTH, dtype=torch.bfloat16)
    mask = torch.zeros(len(captions), NUM_TEXT_TOKENS, dtype=torch.bfloat16)
    for view, caption in enumerate(captions):
        rows = torch.cat([*descriptions[view : view + 1], _caption_rows(caption, encode)])[:NUM_TEXT_TOKENS]
        text[view, : len(rows)], mask[view, : len(rows)] = rows, 1
    return text.flatten(0, 1), mask.flatten()


def _caption_rows(caption: Optional[Caption], encode: EncodeText) -> "torch.Tensor":
    import torch

    if caption is None:
        return torch.zeros(0, TEXT_WIDTH, dtype=torch.bfloat16)
    if isinstance(caption, str):
        return _rows(*encode(caption))
    return torch.from_numpy(caption).bfloat16()


def _rows(embeddings: "torch.Tensor", length: int) -> "torch.Tensor":
    return embeddings[:length].bfloat16()
