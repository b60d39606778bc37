# SPDX-License-Identifier: Apache-2.0
"""Names, order and retention of the checkpoints of a run.

A checkpoint is ``checkpoints/epoch=E-step=S``. It is written under a name that ends in ``.unfinished`` and renamed when
everything is on disk, so that a folder without that ending is complete. ``context/checksums.json`` holds a CRC-32 per
file of ``weights``, and of ``context/recipe.yaml``, the record of the run.
"""

import json
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import yaml

from cosmos1.errors import CheckpointError, DamagedCheckpoint

UNFINISHED = ".unfinished"
DAMAGED = ".damaged"
RECIPE = "context/recipe.yaml"
RECIPE_ENTRY = f"../{RECIPE}"
"""Its name in the list of checksums, whose names are seen from ``weights``."""
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


def remove_unfinished(folder: Path) -> list[str]:
    """Delete what interrupted saves left behind; returns a line about each."""
    lines = []
    for leftover in sorted(folder.glob(f"epoch=*{UNFINISHED}")):
        try:
            shutil.rmtree(leftover)
            lines.append(f"removed {leftover.name}, left by an interrupted save")
        except OSError as error:
            lines.append(f"WARNING: {leftover}, left by an interrupted save, cannot be deleted: {error}")
    return lines


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a checkpoint so that no run takes it or counts it as one that is kept; returns the new path."""
    renamed = checkpoint.path.with_name(checkpoint.path.name + DAMAGED)
    if renamed.exists():
        shutil.rmtree(renamed)
    return checkpoint.path.rename(renamed)


def prune(folder: Path, keep_last_k: int, keep_every_n_steps: int | None) -> list[str]:
    """Delete old checkpoints, renaming each first so that a killed deletion never leaves half a checkpoint.

    What cannot be deleted is no failure of the new checkpoint; returns a warning about each.
    """
    warnings: list[str] = []
    if keep_last_k < 0:
        return warnings
    for checkpoint in complete_checkpoints(folder)[:-keep_last_k]:
        if keep_every_n_steps and checkpoint.step % keep_every_n_steps == 0:
            continue
        doomed = checkpoint.path.with_name(checkpoint.path.name + UNFINISHED)
        try:
            checkpoint.path.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            warnings.append(f"WARNING: the old checkpoint {checkpoint.path} cannot be deleted: {error}")
    return warnings


def crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def verify(checkpoint: Checkpoint, rank: int, world_size: int, without_prefixes: tuple[str, ...] = ()) -> str | None:
    """Compare this rank's share of the files with their checksums; the first difference, or None.

    Files whose name starts with one of ``without_prefixes`` are left out.
    """
    listing = checkpoint.context / "checksums.json"
    try:
        expected = json.loads(listing.read_text())
    except (OSError, ValueError) as error:
        return f"{listing}: {error}"
    chosen = [item for item in sorted(expected.items()) if not item[0].startswith(without_prefixes)]
    problems = (_damage(checkpoint, name, checksum) for name, checksum in chosen[rank::world_size])
    return next((problem for problem in problems if problem), None)


def read_recipe(checkpoint: Checkpoint) -> dict:
    """The settings that the run recorded with this checkpoint.

    Raises:
        DamagedCheckpoint: the record is missing or not what was written.
    """
    if problem := damage_of_recipe(checkpoint):
        raise DamagedCheckpoint(f"checkpoint {checkpoint.path} cannot be used: {problem}")
    return yaml.safe_load((checkpoint.path / RECIPE).read_text())


def damage_of_recipe(checkpoint: Checkpoint) -> str | None:
    """What is wrong with the record of the run, or None. Early checkpoints have no checksum of it."""
    path = checkpoint.path / RECIPE
    try:
        checksum = json.loads((checkpoint.context / "checksums.json").read_text()).get(RECIPE_ENTRY)
        recipe = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"{path} cannot be read: {error}"
    if not isinstance(recipe, dict):
        return f"{path} is damaged: it holds no settings"
    return None if checksum is None else _damage(checkpoint, RECIPE_ENTRY, checksum)


def _damage(checkpoint: Checkpoint, name: str, checksum: int) -> str | None:
    """What is wrong with a file that the list of checksums names, or None."""
    path = checkpoint.path / RECIPE if name == RECIPE_ENTRY else checkpoint.weights / name
    if not path.exists():
        return f"{path} is missing"
    try:
        found = crc32(path)
    except OSError as error:
        return f"{path} cannot be read: {error}"
    return None if found == checksum else f"{path} is damaged: its content does not match the checksum written with it"
