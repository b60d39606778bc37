# SPDX-License-Identifier: Apache-2.0
"""Names, order and retention of the checkpoints of a run.

A checkpoint is ``checkpoints/epoch=E-step=S``. It is written under a name that ends in ``.unfinished`` and renamed when
everything is on disk, so that a folder without that ending is complete. ``context/checksums.json`` holds a CRC-32 per
file of ``weights``.
"""

import json
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from cosmos1.errors import CheckpointError

UNFINISHED = ".unfinished"
DAMAGED = ".damaged"
_NAME = re.compile(r"^epoch=(\d+)-step=(\d+)$")


@dataclass(frozen=True, order=True)
class Checkpoint:
    step: int
    path: Path

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def context(self) -> Path:
        return self.path / "context"


def folder_name(epoch: int, step: int) -> str:
    return f"epoch={epoch}-step={step}"


def complete_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints, oldest step first."""
    found = [(match, path) for path in folder.glob("epoch=*") if (match := _NAME.match(path.name)) and path.is_dir()]
    return sorted(Checkpoint(int(match[2]), path) for match, path in found)


def resolve(path: Path) -> Checkpoint:
    """The checkpoint meant by a path: a checkpoint folder, its ``weights``, or a run folder (its newest).

    Raises:
        CheckpointError: there is none, or it was never finished.
    """
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist; give a folder .../checkpoints/epoch=E-step=S")
    if path.name == "weights":
        path = path.parent
    if path.name.endswith(UNFINISHED):
        raise CheckpointError(f"checkpoint {path} was interrupted while it was written; use an earlier one beside it")
    if match := _NAME.match(path.name):
        return Checkpoint(int(match[2]), path)
    for folder in (path, path / "checkpoints"):
        if found := complete_checkpoints(folder):
            return found[-1]
    raise CheckpointError(
        f"{path} holds no checkpoint of this suite (looked for epoch=E-step=S folders with weights and context)"
    )


def remove_unfinished(folder: Path) -> list[Path]:
    """Delete what interrupted saves left behind; returns the deleted folders."""
    leftovers = sorted(folder.glob(f"epoch=*{UNFINISHED}"))
    for leftover in leftovers:
        shutil.rmtree(leftover)
    return leftovers


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a checkpoint so that no run takes it or counts it as one that is kept; returns the new path."""
    renamed = checkpoint.path.with_name(checkpoint.path.name + DAMAGED)
    if renamed.exists():
        shutil.rmtree(renamed)
    return checkpoint.path.rename(renamed)


def prune(folder: Path, keep_last_k: int, keep_every_n_steps: int | None) -> None:
    """Delete old checkpoints, renaming each first so that a killed deletion never leaves half a checkpoint."""
    if keep_last_k < 0:
        return
    for checkpoint in complete_checkpoints(folder)[:-keep_last_k]:
        if keep_every_n_steps and checkpoint.step % keep_every_n_steps == 0:
            continue
        doomed = checkpoint.path.with_name(checkpoint.path.name + UNFINISHED)
        checkpoint.path.rename(doomed)
        shutil.rmtree(doomed)


def crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def verify(checkpoint: Checkpoint, rank: int, world_size: int, without_prefix: str | None = None) -> str | None:
    """Compare this rank's share of the files with their checksums; the first difference, or None.

    Files whose name starts with ``without_prefix`` are left out.
    """
    listing = checkpoint.context / "checksums.json"
    try:
        expected = json.loads(listing.read_text())
    except (OSError, ValueError) as error:
        return f"{listing}: {error}"
    chosen = [item for item in sorted(expected.items()) if not (without_prefix and item[0].startswith(without_prefix))]
    for name, checksum in chosen[rank::world_size]:
        path = checkpoint.weights / name
        if not path.exists():
            return f"{path} is missing"
        try:
            found = crc32(path)
        except OSError as error:
            return f"{path} cannot be read: {error}"
        if found != checksum:
            return f"{path} is damaged: its content does not match the checksum written with it"
    return None
