# SPDX-License-Identifier: Apache-2.0
"""The official autoregressive weights split over tensor-parallel ranks: ``<name>_model_mp_<rank>.pt``, one per rank.

Source: cosmos-predict1, ``autoregressive/utils/checkpoint.py`` (which axis each matrix is split on).
"""

import re
from pathlib import Path

import torch

from cosmos1.checkpoint.containers import read_pt
from cosmos1.checkpoint.lazy import LazyTensor, apply
from cosmos1.errors import CheckpointError

_NAME = re.compile(r"^(.*)_model_mp_(\d+)\.pt$")
# Last but one part of an official name: heads, hidden units and vocabulary are split; norms are the same everywhere.
_AXIS = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "tok_embeddings": 0, "output": 0, "wo": 1, "w2": 1}
_POSSIBLE_COUNTS = (2, 4, 8)


def find_split(path: Path) -> list[Path]:
    """The files of the split that ``path`` (one of them, or a folder) belongs to, by rank; empty if there is none.

    Raises:
        CheckpointError: the folder holds more than one split, or a file of it is missing.
    """
    folder = path if path.is_dir() else path.parent
    chosen = _NAME.match(path.name)
    splits: dict[str, dict[int, Path]] = {}
    for file in folder.glob("*_model_mp_*.pt") if chosen or path.is_dir() else ():
        name = _NAME.match(file.name)
        if name and (chosen is None or name[1] == chosen[1]):
            splits.setdefault(name[1], {})[int(name[2])] = file
    if len(splits) > 1:
        raise CheckpointError(
            f"{folder} holds several splits ({', '.join(sorted(splits))}); name a file of the wanted one"
        )
    for stem, files in splits.items():
        if sorted(files) != list(range(len(files))) or len(files) not in _POSSIBLE_COUNTS:
            raise CheckpointError(
                f"{folder}/{stem}_model_mp_*.pt: ranks {sorted(files)} are there; a split has ranks 0 to 1, 3 or 7: copy the "
                "missing files"
            )
        return [files[rank] for rank in sorted(files)]
    return []


def read_split(files: list[Path]) -> dict[str, LazyTensor]:
    """Whole tensors by official names. Norms, which every rank has, are averaged as the official merge does.

    Raises:
        CheckpointError: a file cannot be read, or holds other names than the first.
    """
    ranks = [read_pt(file) for file in files]
    for file, tensors in zip(files, ranks):
        if odd := set(tensors) ^ set(ranks[0]):
            raise CheckpointError(
                f"{file} and {files[0]} hold different names (first: {sorted(odd)[:3]}); copy both again"
            )
    return {name: apply(_joiner(name), [tensors[name] for tensors in ranks]) for name in ranks[0]}


def _joiner(name: str):
    axis = _AXIS.get(name.split(".")[-2]) if "." in name else None
    if axis is None:
        return lambda *parts: torch.stack([part.float() for part in parts]).mean(0).to(parts[0].dtype)
    return lambda *parts: torch.cat(parts, dim=axis)
