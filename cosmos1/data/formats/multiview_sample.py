# SPDX-License-Identifier: Apache-2.0
"""The files of a cached sample of several views: their text, and one number or row of numbers for each."""

from pathlib import Path
from typing import Any, Sequence

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.data.formats.latent_sample import load_tensor
from cosmos1.errors import DataError


def load_view_text(folder: Path, name: str, num_views: int) -> "tuple[Any, Any]":
    """Text (V*512, 1024) and mask (V*512,), or one text (512, 1024) for all views. Raises DataError for other shapes."""
    text = load_tensor(folder / f"{name}.t5_text_embeddings.pth")
    mask = load_tensor(folder / f"{name}.t5_text_mask.pth")
    rows = (NUM_TEXT_TOKENS * num_views, NUM_TEXT_TOKENS)
    if text.ndim != 2 or text.shape[1] != TEXT_WIDTH or len(text) not in rows or mask.shape != text.shape[:1]:
        raise DataError(
            f"{folder}: sample {name}: text embeddings {tuple(text.shape)} with mask {tuple(mask.shape)}, needed is "
            f"({rows[0]}, {TEXT_WIDTH}) with ({rows[0]},): 512 rows for each of {num_views} views, or 512 rows for all."
        )
    return text, mask


def check_trajectories(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError, with their number, when samples have no trajectory: a run would stop at the first it meets."""
    missing = [name for name in names if not (folder / f"{name}.trajectory.pth").exists()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(names)} samples have no trajectory, the first is sample {missing[0]} (no "
            f"{missing[0]}.trajectory.pth). Prepare another folder with --require_trajectory, or set "
            f"data.with_trajectory=False."
        )


def load_vector(folder: Path, name: str, part: str, length: int):
    """Finite numbers (length,) float32 of one file of a sample. Raises DataError."""
    import torch

    path = folder / f"{name}.{part}.pth"
    if not path.exists():
        advice = "--require_trajectory" if part == "trajectory" else "--resume"
        raise DataError(f"{folder}: sample {name} has no {path.name}. Prepare the folder again with {advice}.")
    vector = load_tensor(path).float()
    if tuple(vector.shape) != (length,) or not torch.isfinite(vector).all():
        raise DataError(f"{path}: has shape {tuple(vector.shape)}, ({length},) finite numbers are needed.")
    return vector
