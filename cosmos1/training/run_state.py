# SPDX-License-Identifier: Apache-2.0
"""Save and restore a run: weights, optimizer, EMA, step counts, data position, random states."""

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from cosmos1 import hub
from cosmos1.checkpoint import formats, store
from cosmos1.checkpoint.adapters import SUFFIXES, has_adapters
from cosmos1.checkpoint.folders import DAMAGED, Checkpoint, resolve, set_aside
from cosmos1.checkpoint.growth import PATCH_MATRIX, new_channels, widen
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.checkpoint.networks import ALWAYS_OPTIONAL
from cosmos1.errors import CheckpointError, ConfigError, DamagedCheckpoint
from cosmos1.parallel.device import is_cuda
from cosmos1.training import optimizer as optimizers
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel

FORMAT_VERSION = 1


@dataclass
class Progress:
    """How far a run is; the learning rate and the noise of every sample follow from it."""

    step: int = 0
    consumed_samples: int = 0
    skipped_steps: int = 0
    """Steps whose gradients were NaN, infinite or a spike, and were not applied."""
    consecutive_bad_steps: int = 0
    """How many of them are the last ones."""
    recent_grad_norms: list[float] = field(default_factory=list)
    """Of the last applied steps, for ``trainer.spike``; empty when that is off."""


def sharded_state(model: ParallelModel, progress: Progress, data) -> dict:
    """Everything a run needs to go on, ready for :class:`~cosmos1.checkpoint.store.CheckpointWriter`."""
    return {
        "format_version": FORMAT_VERSION,
        "progress": asdict(progress),
        "optimizer_steps": optimizers.step_count(model.optimizer),
        "num_ema": len(model.ema.copies),
        "layout": _layout(model),
        "data": data.state_dict(progress.consumed_samples),
        "has_data_rank_state": data.rank_state_dict() is not None,
        "data_parallel_size": parallel_state.get_data_parallel_world_size(),
        **_rank_objects(model, data.rank_state_dict()),
        **_flat(model.weights_state()),
        **_flat(model.optimizer_state()),
    }


def resume(model: ParallelModel, checkpoint: Checkpoint, data) -> Progress:
    """Bring model, optimizer, EMA and data to where ``checkpoint`` was written, under any parallel layout."""
    store.verify(checkpoint)
    common = dist_checkpointing.load_common_state_dict(str(checkpoint.weights))
    if common.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has format version {common.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}"
        )
    if common["num_ema"] != len(model.ema.copies):
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has {common['num_ema']} EMA copies, optim.ema_widths asks for "
            f"{len(model.ema.copies)}; set the same widths, or start from its weights with resume.restore_config.path"
        )
    data.load_state_dict(common["data"])
    dp_size = parallel_state.get_data_parallel_world_size()
    if common["has_data_rank_state"] and common["data_parallel_size"] != dp_size:
        raise ConfigError(
            f"resuming {checkpoint.path}: its data loaders belong to {common['data_parallel_size']} data-parallel ranks, "
            f"this run has {dp_size}; start as many, or begin a new run from its weights (resume.restore_config.path)"
        )
    same_layout = common["layout"] == _layout(model)
    objects = _rank_objects(model, {} if common["has_data_rank_state"] else None)
    if not same_layout:
        objects.pop("random_state")  # belongs to ranks that are gone; all training noise is drawn by sample
    wanted = {**_flat(model.weights_state()), **_flat(model.optimizer_state()), **objects}
    loaded = store.read(checkpoint, wanted)
    optimizers.set_step_count(model.optimizer, common["optimizer_steps"])
    if common["has_data_rank_state"]:
        data.load_rank_state_dict(loaded["data_rank_state"])
    if same_layout:
        _set_random_state(loaded["random_state"])
    model.publish()
    return Progress(**common["progress"])


def resume_newest_good(
    model: ParallelModel, checkpoints: list[Checkpoint], data
) -> tuple[Checkpoint, Progress, list[str]]:
    """Resume the newest checkpoint whose files are as they were written; damaged ones after it are set aside.

    ``checkpoints`` are the complete ones of a run, oldest first. Also returns lines about the damaged ones.

    Raises:
        CheckpointError: all are damaged (nothing is changed then), or the newest good one does not fit this run.
    """
    damaged: list[tuple[Checkpoint, DamagedCheckpoint]] = []
    for checkpoint in reversed(checkpoints):
        try:
            progress = resume(model, checkpoint, data)
            break
        except DamagedCheckpoint as error:
            damaged.append((checkpoint, error))
    else:
        raise CheckpointError(
            f"{damaged[0][1]}; this run has no older checkpoint that could be used instead; to begin again give another "
            f"log.version, or delete {checkpoints[0].path.parent}"
        )
    lines = []
    for bad, error in damaged:
        if dist.get_rank() == 0:
            set_aside(bad)
        lines.append(
            f"WARNING: {error}; it is kept as {bad.path.name}{DAMAGED}, which may be deleted, and an older one is used"
        )
    return checkpoint, progress, lines


def load_weights(model: ParallelModel, restore: RestoreConfig) -> list[str]:
    """Weights only, from any format. Returns a report: matched, missing (kept at their initial values), unexpected.

    Raises:
        CheckpointError: weights are missing that ``restore.allow_missing`` does not name, or shapes differ.
    """
    path = hub.locate(restore.path)
    # Adapters begin as this run made them; those of the checkpoint, if any, are merged into its weights.
    wanted = {name: parts for name, parts in model.weights_state().items() if not name.endswith(SUFFIXES)}
    shapes = _all_shapes(wanted)
    open_source = _own_weights if formats.detect(path) == "dist" else _foreign_weights
    stored, read = open_source(path, restore.ema)
    stored = {name: shape for name, shape in stored.items() if not name.startswith(tuple(restore.reinitialize))}
    allowed = (*restore.allow_missing, *restore.reinitialize, *ALWAYS_OPTIONAL)
    missing = sorted(set(shapes) - set(stored))
    refused = [name for name in missing if not name.startswith(allowed)]
    unexpected = sorted(set(stored) - set(shapes))
    if refused or unexpected:
        raise CheckpointError(
            f"checkpoint {path} does not fit this network: {len(refused)} weights missing (first: {refused[:3]}), "
            f"{len(unexpected)} unexpected (first: {unexpected[:3]}); use the recipe of that network, or name the prefixes "
            "of new layers in resume.restore_config.allow_missing"
        )
    widened, lines = _widened(path, restore, model.task.config, stored, shapes)
    for name, shape in shapes.items():
        if name in stored and shape is not None and stored[name] != shape and name not in widened:
            raise CheckpointError(
                f"checkpoint {path} is of another network: {name} has shape {list(stored[name])}, this network needs "
                f"{list(shape)}; use the recipe of that network"
            )
    read({name: parts for name, parts in wanted.items() if name not in missing and name not in widened})
    _all_or_none(lambda: _copy({name: parts for name, parts in wanted.items() if name in widened}, widened))
    model.draw_masters(missing)
    model.publish()
    if model.ema is not None:
        model.ema.restart()
    return [
        f"weights: {path}: {len(shapes) - len(missing)} matched, {len(missing)} missing and kept at their initial values, "
        f"{len(unexpected)} unexpected",
        *(f"weights: missing {name}" for name in missing),
        *lines,
    ]


def _widened(path: Path, restore: RestoreConfig, config, stored: dict, shapes: dict) -> tuple[dict, list[str]]:
    """The patch matrix with zero columns for new control signals, where ``restore.allow_missing`` names it, and a line."""
    wanted = shapes.get(PATCH_MATRIX)
    if wanted is None or stored.get(PATCH_MATRIX, wanted) == wanted:
        return {}, []
    weights = _all_or_none(lambda: formats.open_weights(path, restore.ema))
    matrix = widen(weights.tensors[PATCH_MATRIX], weights.config, config)
    if matrix is None:
        return {}, []
    channels = ", ".join(new_channels(weights.config, config))
    if not PATCH_MATRIX.startswith(tuple(restore.allow_missing)):
        raise CheckpointError(
            f"checkpoint {path} is of a network without {channels}: {PATCH_MATRIX} has shape {list(stored[PATCH_MATRIX])}, "
            f"this network needs {list(wanted)}; to start from it with zeros for the new columns add {PATCH_MATRIX} to "
            "resume.restore_config.allow_missing"
        )
    return {PATCH_MATRIX: matrix}, [f"weights: {PATCH_MATRIX} starts with zeros in the columns of {channels}"]


def _own_weights(path: Path, ema: int | None):
    """``(shape of each weight by name, function that fills shards)`` of a checkpoint of this suite."""
    checkpoint = resolve(path)
    store.verify(checkpoint, weights_only=True)
    stored = {name: shape for name, (shape, _) in store.stored_tensors(checkpoint).items()}
    if has_adapters(stored):
        return _foreign_weights(checkpoint.path, ema)
    prefix = "" if ema is None else f"ema.{ema}."
    if ema is not None and not any(name.startswith(prefix) for name in stored):
        raise CheckpointError(f"checkpoint {checkpoint.path} has no EMA copy {ema} (resume.restore_config.ema)")

    def read(shards: dict[str, list]) -> None:
        for name, parts in shards.items():
            for part in parts:
                # Weights that are not trained have no EMA copy.
                part.key = prefix + name if prefix + name in stored else name
        store.read(checkpoint, _flat(shards))

    return {name: shape for name, shape in stored.items() if not name.startswith(("optimizer.", "ema."))}, read


def _foreign_weights(path: Path, ema: int | None):
    """The same for a model.pt, a diffusers folder, a NeMo checkpoint, or one with adapters, which are merged: every rank
    cuts its parts out of whole tensors."""
    tensors = _all_or_none(lambda: formats.open_weights(path, ema).tensors)

    def read(shards: dict[str, list]) -> None:
        _all_or_none(lambda: _copy(shards, tensors))

    return {name: tensor.shape for name, tensor in tensors.items()}, read


def _copy(shards: dict[str, list], tensors: dict[str, LazyTensor]) -> None:
    for name, parts in shards.items():
        whole = tensors[name].load() if parts else None
        for part in parts:
            part.data.copy_(whole[tuple(slice(o, o + n) for o, n in zip(part.global_offset, part.local_shape))])


def _all_or_none(action):
    """The result of ``action``; every rank raises what the first one found that failed."""
    result = problem = None
    try:
        result = action()
    except CheckpointError as error:
        problem = str(error)
    problems = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if any(problems):
        raise CheckpointError(next(text for text in problems if text))
    return result


def _all_shapes(wanted: dict[str, list]) -> dict[str, tuple[int, ...] | None]:
    """Whole shapes by name over all ranks: stages and replicas hold different weights, and all must decide alike."""
    shapes = [None] * dist.get_world_size()
    dist.all_gather_object(
        shapes, {name: tuple(parts[0].global_shape) if parts else None for name, parts in wanted.items()}
    )
    merged: dict[str, tuple[int, ...] | None] = {}
    for part in shapes:
        merged.update({name: shape for name, shape in part.items() if shape is not None or name not in merged})
    return merged


def _flat(state: dict[str, list]) -> dict:
    return {f"{name}/{index}": part for name, parts in state.items() for index, part in enumerate(parts)}


def _layout(model: ParallelModel) -> str:
    return model.strategy.describe(dist.get_world_size())


def _rank_objects(model: ParallelModel, data_rank_state) -> dict[str, ShardedObject]:
    """State of single ranks: random generators of each, data loader of each data-parallel rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    objects = {"random_state": ShardedObject("random_state", _random_state(), (size,), (rank,))}
    if data_rank_state is not None:
        dp_rank, dp_size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
        replica = (
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_tensor_model_parallel_rank(),
            parallel_state.get_context_parallel_rank(),
        )
        objects["data_rank_state"] = ShardedObject(
            "data_rank_state", data_rank_state, (dp_size,), (dp_rank,), replica_id=replica
        )
    return objects


def _random_state() -> dict:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if is_cuda() else None,
        "tracker": get_cuda_rng_tracker().get_states(),
    }


def _set_random_state(state: dict) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if is_cuda() and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    get_cuda_rng_tracker().set_states(state["tracker"])
