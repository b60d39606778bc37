# SPDX-License-Identifier: Apache-2.0
"""Start the ranks of test runs, wait for them with a limit, and read what they left."""

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from cosmos1.training.metrics import read_metrics
from tests.processes import Process


def job(name: str, latents: Path, log_dir: Path, settings: dict, **extra) -> dict:
    """One training run for :mod:`tests.distributed.worker`; its run folder is ``<log_dir>/<name>/run``."""
    places = {"data.path": str(latents), "log.log_dir": str(log_dir), "log.name": name}
    return {"name": name, "set": places | settings, **extra}


def start(jobs: list[dict], num_processes: int, folder: Path) -> list[Process]:
    """Start the ranks that run ``jobs``; they leave ``<folder>/<job>.<rank>.json``."""
    return start_ranks("tests.distributed.worker", [str(_write_plan(jobs, folder))], num_processes, folder)


def _write_plan(jobs: list[dict], folder: Path) -> Path:
    plan = {"store": str(folder / "store"), "results": str(folder), "jobs": jobs}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder / "plan.json"


def start_ranks(module: str, arguments: list[str], num_processes: int, folder: Path) -> list[Process]:
    """Start ``python -m module`` once per rank; output goes to ``<folder>/rank<r>.log``."""
    meeting_point = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    shared = os.environ | meeting_point | {"WORLD_SIZE": str(num_processes), "WANDB_MODE": "disabled"}
    logs = [folder / f"rank{rank}.log" for rank in range(num_processes)]
    return [Process(module, arguments, {**shared, "RANK": str(rank)}, log, log) for rank, log in enumerate(logs)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_ranks(module: str, arguments: list, num_processes: int, folder: Path) -> None:
    """Run ``python -m module`` on all ranks to its end. Any failing rank fails the test."""
    statuses = wait(start_ranks(module, [str(argument) for argument in arguments], num_processes, folder))
    if any(statuses):
        logs = "\n".join(f"rank {r}: {log_tail(folder, r)}" for r in range(num_processes))
        pytest.fail(f"ranks ended with {statuses}\n{logs}", pytrace=False)


def wait(processes: list[Process], limit_s: float = 240) -> list[int]:
    """Exit statuses. When one rank fails or time is up, the others are killed, so that nothing hangs."""
    deadline = time.monotonic() + limit_s
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                time.sleep(1)  # the others may be about to report the same error
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"ranks still run after {limit_s} s")
            time.sleep(0.05)
    finally:
        kill(processes)
    return [process.returncode for process in processes]


def kill(processes: list[Process]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def launch(jobs: list[dict], num_processes: int, worker: str = "tests.distributed.worker") -> dict[str, list[dict]]:
    """Run all jobs on ``num_processes`` ranks; results by job name and rank. Any failing rank fails the test."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_ranks(worker, [_write_plan(jobs, folder)], num_processes, folder)
        return {
            j["name"]: [json.loads((folder / f"{j['name']}.{r}.json").read_text()) for r in range(num_processes)]
            for j in jobs
        }


def log_tail(folder: Path, rank: int) -> str:
    return (folder / f"rank{rank}.log").read_text()[-3000:]


def series(log_dir: Path, name: str, key: str) -> dict[int, float]:
    """A logged value by step."""
    rows = read_metrics(log_dir / name / "run" / "metrics.jsonl")
    return {row["step"]: row[key] for row in rows if key in row}


def checkpoint_folder(log_dir: Path, name: str, step: int) -> Path:
    found = list((log_dir / name / "run" / "checkpoints").glob(f"epoch=*-step={step}"))
    assert len(found) == 1, found
    return found[0]


def stored(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, by name."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = dcp.FileSystemReader(checkpoint / "weights")
    entries = reader.read_metadata().state_dict_metadata.items()
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def assert_close(found: dict, expected: dict, tolerance: float, what: str) -> None:
    """Values by step agree to a relative tolerance; there are some, and none is NaN."""
    assert expected and found.keys() == expected.keys(), f"{what}: steps {list(found)}, expected {list(expected)}"
    differences = {step: abs(found[step] - expected[step]) / abs(expected[step]) for step in expected}
    # One by one: max() may pass over a NaN.
    beyond = {step: f"{value:.2e}" for step, value in differences.items() if not value <= tolerance}
    assert not beyond, f"{what}: relative differences by step {beyond} are not within {tolerance:.0e}"


def assert_same_series(
    log_dir: Path, name: str, reference: str, steps: int, keys: Iterable[str] = ("loss", "grad_norm", "val_loss")
) -> None:
    """Two runs of so many steps logged the same values to 1e-5."""
    assert len(series(log_dir, reference, "loss")) == steps
    for key in keys:
        assert_close(series(log_dir, name, key), series(log_dir, reference, key), 1e-5, f"{name} {key}")


def assert_same_tensors(log_dir: Path, name: str, reference: str, step: int) -> None:
    """Two runs saved the same weights, moments and EMA copies at a step, to 1e-4."""
    found, expected = (stored(checkpoint_folder(log_dir, run, step)) for run in (name, reference))
    assert found.keys() == expected.keys(), f"{name}: not in both are {sorted(found.keys() ^ expected.keys())}"
    for key, tensor in expected.items():
        error = (found[key] - tensor).norm() / tensor.norm().clamp(min=1e-6)
        assert error < 1e-4, f"{name}: {key} differs by {error:.1e}"


def assert_trained_alike(log_dir: Path, name: str, reference: str, steps: int) -> None:
    """Two runs of so many steps logged the same values, and ended with the same tensors."""
    assert_same_series(log_dir, name, reference, steps)
    assert_same_tensors(log_dir, name, reference, steps)
