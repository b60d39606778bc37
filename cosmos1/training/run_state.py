# SPDX-License-Identifier: Apache-2.0
"""Save and restore a run: weights, optimizer, EMA, step counts, data position, random states."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from cosmos1 import hub
from cosmos1.checkpoint import formats, store
from cosmos1.checkpoint.folders import Checkpoint, resolve
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.checkpoint.networks import ALWAYS_OPTIONAL
from cosmos1.errors import CheckpointError, ConfigError
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
    """Steps whose gradients were NaN or infinite and were not applied."""


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


def load_weights(model: ParallelModel, restore: RestoreConfig) -> list[str]:
    """Weights only, from any format. Returns a report: matched, missing (kept at their initial values), unexpected.

    Raises:
        CheckpointError: weights are missing that ``restore.allow_missing`` does not name, or shapes differ.
    """
    path = hub.locate(restore.path)
    wanted = model.weights_state()
    shapes = _all_shapes(wanted)
    open_source = _own_weights if formats.detect(path) == "dist" else _foreign_weights
    stored, read = open_source(path, restore.ema)
    allowed = (*restore.allow_missing, *ALWAYS_OPTIONAL)
    missing = sorted(set(shapes) - set(stored))
    refused = [name for name in missing if not name.startswith(allowed)]
    unexpected = sorted(set(stored) - set(shapes))
    if refused or unexpected:
        raise CheckpointError(
            f"checkpoint {path} does not fit this network: {len(refused)} weights missing (first: {refused[:3]}), "
            f"{len(unexpected)} unexpected (first: {unexpected[:3]}); use the recipe of that network, or name the prefixes "
            "of new layers in resume.restore_config.allow_missing"
        )
    for name, shape in shapes.items():
        if name in stored and shape is not None and stored[name] != shape:
            raise CheckpointError(
                f"checkpoint {path} is of another network: {name} has shape {list(stored[name])}, this network needs "
                f"{list(shape)}; use the recipe of that network"
            )
    read({name: parts for name, parts in wanted.items() if name not in missing})
    model.publish()
    if model.ema is not None:
        model.ema.restart()
    return [
        f"weights: {path}: {len(shapes) - len(missing)} matched, {len(missing)} missing and kept at their initial values, "
        f"{len(unexpected)} unexpected",
        *(f"weights: missing {name}" for name in missing),
    ]


def _own_weights(path: Path, ema: int | None):
    """``(shape of each weight by name, function that fills shards)`` of a checkpoint of this suite."""
    checkpoint = resolve(path)
    store.verify(checkpoint, weights_only=True)
    stored = {name: shape for name, (shape, _) in store.stored_tensors(checkpoint).items()}
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
    """The same for a model.pt, a diffusers folder or a NeMo checkpoint: every rank cuts its parts out of whole tensors."""
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
