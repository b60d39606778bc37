# SPDX-License-Identifier: Apache-2.0
"""What all data preparation programs share: ranks, files that appear whole or not at all, progress, and exit codes."""

import argparse
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosmos1.errors import ConfigError, DataError, UserError

SECONDS_TO_WAIT_FOR_RANK_0 = 1800  # it may be fetching encoders first


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes, as torchrun sets them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def share_of_rank(count: int, rank: int, world_size: int) -> range:
    """Return the contiguous block of 0..count-1 that one rank works on."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that a reader sees it whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_tensor(path: Path, tensor) -> None:
    """Save one plain tensor. The bytes depend on nothing but the tensor."""
    write_bytes(path, tensor_bytes(tensor))


def tensor_bytes(tensor) -> bytes:
    import torch

    buffer = io.BytesIO()
    # A clone: saving a view would write the whole storage behind it. A buffer: a file name would become content.
    torch.save(tensor.detach().cpu().contiguous().clone(), buffer)
    return buffer.getvalue()


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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


class Progress:
    """Says how far the work is, how fast it goes, and how long it will take; on one rank only."""

    def __init__(self, total: int, unit: str, enabled: bool):
        self.total, self.unit, self.enabled = total, unit, enabled and total > 0
        self.done = 0
        self.started = time.monotonic()
        self.last_shown = self.started
        self.is_terminal = sys.stdout.isatty()

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        interval = 0.2 if self.is_terminal else 10.0
        if not self.enabled or (self.done < self.total and now - self.last_shown < interval):
            return
        self.last_shown = now
        rate = self.done / max(now - self.started, 1e-9)
        left = round((self.total - self.done) / rate)
        line = f"{self.done}/{self.total} {self.unit}, {rate:.2f} {self.unit}/s, {left // 60}:{left % 60:02d} left"
        ending = "\n" if self.done >= self.total or not self.is_terminal else ""
        print(f"\r{line:60s}" if self.is_terminal else line, end=ending, flush=True)


def run_command(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """Parse the command line and run `main`; a user's mistake prints one line and exits with status 2."""
    try:
        main(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
