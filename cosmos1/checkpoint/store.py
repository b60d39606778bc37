# SPDX-License-Identifier: Apache-2.0
"""Write and read sharded state through Megatron-core's dist_checkpointing (torch_dist), in the background and atomically."""

import json
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from cosmos1.checkpoint import folders
from cosmos1.checkpoint.folders import UNFINISHED, Checkpoint
from cosmos1.errors import CheckpointError, DamagedCheckpoint
from cosmos1.parallel.megatron import write_results_in_process

for _name in ("megatron.core.dist_checkpointing", "torch.distributed.checkpoint"):
    logging.getLogger(_name).setLevel(logging.ERROR)


OPTIMIZER_PREFIX = "optimizer."
_COMMON_FILE_ROOM = 2**18


@dataclass
class _PendingSave:
    """A save whose files are being written by a thread of every rank."""

    unfinished: Path
    request: object
    thread: threading.Thread
    failures: list[BaseException]
    checksums: dict[str, int]


class _SaveStrategy(TorchDistSaveShardedStrategy):
    """Megatron-core's own, but a list of contents (``.metadata``) that cannot be written is an error on every rank."""

    def _get_save_and_finalize_callbacks(self, writer, save_state_dict_ret):
        request = super()._get_save_and_finalize_callbacks(writer, save_state_dict_ret)

        def write_metadata():
            _, metadata, gatherer = save_state_dict_ret
            results = gatherer.gather_object(writer.retrieve_write_results())
            folder = Path(writer.path).parent
            _on_main_rank(
                lambda: writer.finish(metadata, results),
                f"checkpoint {folder.with_name(folder.name.removesuffix(UNFINISHED))} was not saved",
                on_failure=lambda: _remove(folder),
            )

        return request._replace(finalize_fns=[write_metadata])


class CheckpointWriter:
    """Saves checkpoints into one folder; at most one save is under way.

    ``start`` copies the state to host memory and returns; a thread writes it. ``finish`` is called together by all
    ranks; it makes the checkpoint visible once every rank has written its files. A process that dies at any moment
    leaves either the complete checkpoint or an ``.unfinished`` folder, which the next run deletes.
    """

    def __init__(
        self,
        folder: Path,
        keep_last_k: int = -1,
        keep_every_n_steps: int | None = None,
        message: Callable[[str], None] = print,
    ):
        self.folder = folder
        self.keep_last_k = keep_last_k
        self.keep_every_n_steps = keep_every_n_steps
        self.message = message
        self._pending: _PendingSave | None = None

    @property
    def is_writing(self) -> bool:
        """Whether this rank's files of a started save are still being written."""
        return self._pending is not None and self._pending.thread.is_alive()

    @property
    def has_pending(self) -> bool:
        return self._pending is not None

    def start(self, name: str, sharded_state: dict, context: dict[str, str]) -> None:
        """Begin to save ``sharded_state`` as checkpoint ``name``; ``context`` maps file names to texts. Collective.

        Raises:
            CheckpointError: on all ranks alike; the caller may go on and try again.
            RuntimeError: on this rank, perhaps on no other; the process has to end.
        """
        self.finish()
        write_results_in_process()
        unfinished = self.folder / (name + UNFINISHED)
        _on_main_rank(
            lambda: _make_folders(unfinished, context),
            f"cannot create checkpoint {unfinished}",
            on_failure=lambda: _remove(unfinished),
        )
        # Moments in files of their own: whoever reads only weights need not read and verify them.
        strategy = _SaveStrategy("torch_dist", 1, thread_count=2, separation_hint=OPTIMIZER_PREFIX)
        try:
            request = dist_checkpointing.save(
                sharded_state, str(unfinished / "weights"), strategy, async_sharded_save=True
            )
        except (OSError, RuntimeError) as error:
            # Rank 0 alone writes here (common.pt), and a rank may have died: this one leaves with an error that nobody
            # takes for a failure of all ranks, and the launcher ends those that wait.
            _remove(unfinished)
            raise RuntimeError(f"checkpoint {unfinished} was not saved: {error}") from error
        buckets = _copy_to_host(request)
        pending = _PendingSave(unfinished, request, None, [], {})
        pending.thread = threading.Thread(target=_write, args=(pending, buckets), name="checkpoint-writer")
        pending.thread.start()
        self._pending = pending

    def finish(self) -> Path | None:
        """Wait for the started save and make it visible; returns its path. Collective.

        Raises:
            CheckpointError: some rank could not write its files; nothing is left behind.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        pending.thread.join()
        final = pending.unfinished.with_name(pending.unfinished.name.removesuffix(UNFINISHED))
        failure = str(pending.failures[0]) if pending.failures else None
        _agree(failure, f"checkpoint {final} was not saved", on_failure=lambda: _remove(pending.unfinished))
        pending.request.finalize_fns[0]()
        checksums = [None] * dist.get_world_size()
        dist.all_gather_object(checksums, pending.checksums)
        _on_main_rank(
            lambda: self._publish(pending.unfinished, final, checksums),
            f"checkpoint {final} was not saved",
            on_failure=lambda: _remove(pending.unfinished),
        )
        return final

    def _publish(self, unfinished: Path, final: Path, checksums: list[dict[str, int]]) -> None:
        save_config(CheckpointingConfig("torch_dist", 1), str(unfinished / "weights"))
        merged = {name: value for part in checksums for name, value in part.items()}
        for name in (".metadata", "common.pt", "metadata.json"):
            merged[name] = folders.crc32(unfinished / "weights" / name)
        if (unfinished / folders.RECIPE).exists():
            merged[folders.RECIPE_ENTRY] = folders.crc32(unfinished / folders.RECIPE)
        (unfinished / "context" / "checksums.json").write_text(json.dumps(merged, indent=0, sort_keys=True))
        _sync_files(unfinished)
        replaced = final.with_name(f"{final.name}-replaced{UNFINISHED}")
        if final.exists():  # the same step was reached again after a resume from an earlier checkpoint
            os.rename(final, replaced)
        os.rename(unfinished, final)
        _sync(self.folder)
        _remove(replaced)
        for line in folders.prune(self.folder, self.keep_last_k, self.keep_every_n_steps):
            self.message(line)


def verify(checkpoint: Checkpoint, weights_only: bool = False) -> None:
    """Check the files against their checksums, shared among the ranks. Collective; call it before anything is read.

    ``weights_only`` leaves out the files of the optimizer, and the record of the run.

    Raises:
        DamagedCheckpoint: a file is missing or damaged.
    """
    without = (OPTIMIZER_PREFIX, folders.RECIPE_ENTRY) if weights_only else ()
    problem = folders.verify(checkpoint, dist.get_rank(), dist.get_world_size(), without)
    if not problem and not weights_only:
        problem = folders.damage_of_recipe(checkpoint)
    _agree(problem, f"checkpoint {checkpoint.path} cannot be used", error=DamagedCheckpoint)


def read(checkpoint: Checkpoint, sharded_state: dict) -> dict:
    """Fill the tensors of ``sharded_state`` in place; returns the state that is not sharded. Collective.

    Raises:
        CheckpointError: the checkpoint has not what is asked for, or in another shape.
    """
    _agree(_misfit(checkpoint, sharded_state), f"checkpoint {checkpoint.path} does not fit this network")
    try:
        return dist_checkpointing.load(sharded_state, str(checkpoint.weights), validate_access_integrity=False)
    except (KeyError, dist_checkpointing.core.CheckpointingException) as error:
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit this run: {error}") from error


def _misfit(checkpoint: Checkpoint, sharded_state: dict) -> str | None:
    """The first tensor whose stored shape is not the wanted one, or None."""
    stored = stored_tensors(checkpoint)
    for part in sharded_state.values():
        if not isinstance(part, ShardedTensor) or part.key not in stored:
            continue
        there, here = stored[part.key][0], tuple(part.global_shape)
        if there != here:
            return f"{part.key} is {there} in the checkpoint and {here} here; use the model.config of that run"
    return None


def stored_tensors(checkpoint: Checkpoint) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor in the checkpoint, by name."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        metadata = FileSystemReader(checkpoint.weights).read_metadata()
    except Exception as error:
        raise CheckpointError(f"checkpoint {checkpoint.path} cannot be read: {error}") from error
    entries = metadata.state_dict_metadata.items()
    return {k: (tuple(v.size), v.properties.dtype) for k, v in entries if isinstance(v, TensorStorageMetadata)}


def _copy_to_host(request) -> list:
    """The write plan with every tensor copied, so that training may go on to change the originals."""
    if request.async_fn is None:
        return []
    buckets = request.async_fn_args[1]
    copied = []
    for file_name, storage_key, (bytes_data, tensor_data) in buckets:
        on_host = [(item, tensor.to("cpu", copy=True)) for item, tensor in tensor_data]
        copied.append((file_name, storage_key, (bytes_data, on_host)))
    return copied


def _write(pending: _PendingSave, buckets: list) -> None:
    """Write this rank's files (runs in a thread)."""
    results = {}
    try:
        for index, bucket in enumerate(buckets):
            done, count = queue.Queue(), queue.Queue()
            count.put(index)
            transforms = pending.request.async_fn.args[0]
            FileSystemWriterAsync.write_preloaded_data(transforms, index, bucket, done, count, use_fsync=True)
            _, written = done.get_nowait()
            if isinstance(written, BaseException):
                raise written
            results[index] = written
            pending.checksums[Path(bucket[0]).name] = folders.crc32(Path(bucket[0]))
        if buckets:
            pending.request.async_fn_args[2].put(results)
    except BaseException as error:  # a thread must hand every failure to the training loop
        pending.failures.append(error)


def _make_folders(unfinished: Path, context: dict[str, str]) -> None:
    if unfinished.exists():
        _remove(unfinished)
    (unfinished / "weights").mkdir(parents=True)
    (unfinished / "context").mkdir()
    for name, text in context.items():
        (unfinished / "context" / name).write_text(text)
    # Room for what rank 0 alone writes, checked while all ranks can still agree to give up.
    with open(unfinished / "weights" / "common.pt", "wb") as file:
        file.write(bytes(_COMMON_FILE_ROOM))
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)


def _sync_files(checkpoint: Path) -> None:
    """Everything small to disk, folders included; the writers have synced the tensor files."""
    for path in (
        *checkpoint.glob("weights/*.json"),
        *checkpoint.glob("weights/.metadata"),
        *checkpoint.glob("weights/*.pt"),
    ):
        _sync(path)
    for path in (*checkpoint.glob("context/*"), checkpoint / "weights", checkpoint / "context", checkpoint):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_main_rank(action, failure_text: str, on_failure=None) -> None:
    """Run ``action`` on rank 0; every rank raises if it failed."""
    problem = None
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            problem = str(error)
    _agree(problem, failure_text, on_failure)


def _agree(problem: str | None, text: str, on_failure=None, error: type[CheckpointError] = CheckpointError) -> None:
    """Raise the same error on all ranks if any of them has a problem."""
    problems = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    first = next((p for p in problems if p), None)
    if first:
        if on_failure is not None:
            on_failure()
        raise error(f"{text}: {first}")
