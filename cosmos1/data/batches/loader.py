# SPDX-License-Identifier: Apache-2.0
"""Loading batches in background processes, in a fixed order, with user errors that arrive as they were raised."""

import atexit
import contextlib
import multiprocessing.util  # registers its own exit function now, so that ours runs before it
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cosmos1.errors import UserError


class _Batches:
    """Map-style dataset whose items are whole batches. A user error becomes a value, so that the data loader does not
    replace its message by a traceback."""

    def __init__(self, load: Callable[[list[int]], dict[str, Any]]):
        self.load = load

    def __getitem__(self, positions: list[int]) -> Any:
        try:
            return self.load(positions)
        except UserError as error:
            return error


def load_batches(
    positions: Iterable[list[int]],
    load: Callable[[list[int]], dict[str, Any]],
    num_workers: int,
    prefetch_factor: int,
) -> Iterator[dict[str, Any]]:
    """Yield `load(p)` for each list p of sample positions, in order, whatever the number of workers.

    `num_workers` = 0 loads in this process; otherwise each worker keeps `prefetch_factor` batches ready. Tensors are
    pinned when there is a CUDA device. A UserError of `load` is raised here when its batch is reached.
    """
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _Batches(load),
        sampler=positions,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # Without its own generator the loader would draw from the global one and change the run's random numbers.
        generator=torch.Generator(),
    )
    with termination_blocked():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        # Workers do not hear SIGTERM, so they are told to end instead of being killed at the end of the process.
        if num_workers:
            batches._shutdown_workers()


def stack_samples(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples along a new first axis, key by key."""
    import torch

    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


_deaf_processes: "weakref.WeakSet[multiprocessing.Process]" = weakref.WeakSet()


@contextlib.contextmanager
def termination_blocked() -> Iterator[None]:
    """Processes started inside never receive SIGTERM.

    Slurm and torchrun send it to every process of a job. The trainer answers it with a checkpoint and still needs its
    workers; a worker that dies of it would take the trainer along.
    """
    others = set(multiprocessing.active_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _deaf_processes.update(set(multiprocessing.active_children()) - others)


@atexit.register
def _kill_deaf_processes() -> None:
    """At the end of this process Python would terminate its children and wait; these would not hear it."""
    alive = [process for process in _deaf_processes if process.is_alive()]
    if alive:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report each as a failure
    for process in alive:
        process.kill()
