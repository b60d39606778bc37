# SPDX-License-Identifier: Apache-2.0
"""Output folders that several ranks fill: who writes what, whose folder it is, and what could not be used."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from cosmos1.data.files import write_json
from cosmos1.errors import ConfigError, DataError

SECONDS_TO_WAIT_FOR_RANK_0 = 1800  # it may be fetching encoders first


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes, as torchrun sets them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def share_of_rank(count: int, rank: int, world_size: int) -> range:
    """Return the contiguous block of 0..count-1 that one rank works on."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def add_folder_options(parser: argparse.ArgumentParser, stop_at: str) -> None:
    """Add what to do with a folder that exists, and with input that cannot be used: `stop_at` says which it is."""
    parser.add_argument(
        "--resume", action="store_true", help="complete a folder that an earlier run with the same options began"
    )
    parser.add_argument("--strict", action="store_true", help=f"stop at the first {stop_at}")


def claim_output_folder(
    folder: Path, facts: dict[str, Any], resume: bool, rank: int, option: str = "--output_path"
) -> None:
    """Make the output folder this run's own: rank 0 checks it and writes `dataset.json`; the others wait for that.

    `facts` must hold "plan_sha256", the identity of what will be written; `option` is how the user gave the folder.
    Raises what :func:`check_output_folder` raises.
    """
    record = folder / "dataset.json"
    if rank > 0:
        deadline = time.monotonic() + SECONDS_TO_WAIT_FOR_RANK_0
        while _recorded_plan(record) != facts["plan_sha256"]:
            if time.monotonic() > deadline:
                raise DataError(f"{record}: rank 0 did not write it; is {folder} on a file system that all ranks see?")
            time.sleep(0.1)
        return
    check_output_folder(folder, facts, resume, option)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, facts)


def check_output_folder(folder: Path, facts: dict[str, Any], resume: bool, option: str = "--output_path") -> None:
    """Raise ConfigError when a folder holds something and `resume` is not set, or was begun with another plan.

    For rank 0, before slow work such as loading encoders; :func:`claim_output_folder` does it again.
    """
    record = folder / "dataset.json"
    occupied = folder.exists() and any(folder.iterdir())
    if occupied and not resume:
        raise ConfigError(
            f"{option} {folder} is not empty. Add --resume to complete it, or give another folder, or delete it."
        )
    if occupied and _recorded_plan(record) != facts["plan_sha256"]:
        raise ConfigError(
            f"--resume: {folder} was prepared from other videos or with other options ({_differences(record, facts)}). "
            f"Use the same options, or another {option}."
        )


def _recorded_plan(record: Path) -> str | None:
    try:
        return json.loads(record.read_text()).get("plan_sha256")
    except (OSError, ValueError, AttributeError):
        return None


def _differences(record: Path, facts: dict[str, Any]) -> str:
    if not record.exists():
        return "it has no dataset.json"
    before = json.loads(record.read_text())
    changed = [key for key in facts if before.get(key) != facts[key] and not key.endswith("sha256")]
    return "; ".join(f"{key}: {before.get(key)} before, {facts[key]} now" for key in changed) or "other videos or text"


def report_failures(folder: Path, failures: list[str], finished: str) -> None:
    """Say what this rank could not use; called once by every rank, at its end.

    `finished` is the pattern of a file that every finished sample has. Raises DataError when no rank has anything to
    show for its work. Only the last rank to end knows: one that fails earlier would take the others with it.
    """
    rank, world_size = rank_and_world_size()
    empty_handed = [folder / f".rank-{number}-wrote-nothing" for number in range(world_size)]
    if not any(folder.glob(finished)):
        empty_handed[rank].touch()
    all_ended = all(path.exists() for path in empty_handed)
    # Looked at again: another rank may have finished its first sample just now.
    something_written = any(folder.glob(finished))
    if something_written or all_ended:
        for path in empty_handed:
            path.unlink(missing_ok=True)
    if all_ended and not something_written:
        raise DataError("\n".join([*failures, f"rank {rank}: no sample was written, by this rank or any other."]))
    for failure in failures:
        print(f"FAILED: {failure}", flush=True)
