# SPDX-License-Identifier: Apache-2.0
"""Text that other programs have encoded: one row of 1024 numbers per token, the padding after its end removed."""

import io
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.data.plain_pickle import ARRAY_BUILDERS, load_plain_pickle
from cosmos1.errors import DataError

ROW_FILE_SUFFIXES = (".pickle", ".pkl", ".npy", ".safetensors")
ENCODE_AGAIN = "Encode the prompts again with google-t5/t5-11b."
ENCODERS_BY_WIDTH = {
    512: "T5-small",
    768: "T5-base or a CLIP text encoder",
    2048: "T5-XL",
    4096: "T5-XXL v1.1 or UMT5-XXL",
    100352: "the text encoder of Cosmos-Predict2.5",
}


def read_text_rows(path: Path) -> np.ndarray:
    """Rows (n, 1024) of a pickled list of one array, of a `.npy`, or of the only tensor of a `.safetensors`.

    Pickles are read without running what they hold. Raises DataError naming the file for anything else.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".npy":
            value = np.load(io.BytesIO(content), allow_pickle=False)
        elif path.suffix == ".safetensors":
            value = _only_entry(list(_safetensors(content).values()), path)
        else:
            value = load_plain_pickle(content, str(path), ARRAY_BUILDERS)
            value = _only_entry(value, path) if isinstance(value, (list, tuple)) else value
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as text embeddings ({error}). {ENCODE_AGAIN}") from error
    return checked_text_rows(value, str(path))


def _safetensors(content: bytes) -> "dict[str, np.ndarray]":
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    # numpy has no bfloat16.
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in tensors.items()
    }


def _only_entry(entries: Sequence[Any], path: Path) -> Any:
    if len(entries) != 1:
        raise DataError(f"{path}: holds {len(entries)} arrays, one is needed: one text per video. {ENCODE_AGAIN}")
    return entries[0]


def checked_text_rows(value: Any, where: str) -> np.ndarray:
    """The rows (n, 1024) of an array, a leading axis of 1 dropped.

    Raises DataError unless they are 1 to 512 finite floating-point rows of that width.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        found = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise DataError(f"{where}: holds {found}, an array of floating-point numbers is needed. {ENCODE_AGAIN}")
    rows = value[0] if value.ndim == 3 and len(value) == 1 else value
    check_text_shape(rows.shape, where)
    num_bad = int((~np.isfinite(rows)).sum())
    if num_bad or not len(rows):
        raise DataError(
            f"{where}: {len(rows)} rows with {num_bad} values that are NaN or infinite; at least one row, and finite "
            f"numbers, are needed. {ENCODE_AGAIN}"
        )
    return rows


def check_text_shape(shape: Sequence[int], where: str) -> None:
    """Raise DataError unless `shape` is (L, 1024) with at most 512 rows; another width suggests which encoder it was."""
    if len(shape) != 2 or shape[1] != TEXT_WIDTH:
        encoder = ENCODERS_BY_WIDTH.get(shape[-1] if len(shape) else 0)
        hint = f"; that width suggests {encoder}" if encoder else ""
        raise DataError(
            f"{where}: text embeddings have shape {tuple(shape)}, ({NUM_TEXT_TOKENS}, {TEXT_WIDTH}) or fewer rows are "
            f"needed{hint}. {ENCODE_AGAIN}"
        )
    if shape[0] > NUM_TEXT_TOKENS:
        raise DataError(f"{where}: text of {shape[0]} tokens, at most {NUM_TEXT_TOKENS} are allowed.")
