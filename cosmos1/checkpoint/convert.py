# SPDX-License-Identifier: Apache-2.0
"""Convert weights from any format that is read to any that is written, tensor by tensor and atomically."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml

from cosmos1.checkpoint import folders, layouts, networks, writers
from cosmos1.checkpoint.families.diffusion import diffusers_config, set_rope_scale
from cosmos1.checkpoint.folders import UNFINISHED
from cosmos1.checkpoint.formats import Format, Weights, open_weights
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.errors import CheckpointError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.progress import Progress

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# The official trainer's files: trained weights rounded, EMA copies exact.
_PAIR_DTYPES = {"reg": "bf16", "ema": "fp32"}


@dataclass
class ConvertOptions:
    dtype: Literal["keep", "bf16", "fp32"] = "keep"
    ema: int | None = None
    """Convert this EMA copy instead of the trained weights."""
    rope_scale: tuple[float, float, float] | None = None
    """Diffusion: scale of the rotary positions over time, rows and columns, where source and sizes do not tell it."""
    latent_shape: tuple[int, int, int] | None = None
    """Autoregressive: token grid (frames, rows, columns), where the size does not tell it."""
    yarn_scale: float | None = None
    """Autoregressive: scale of YaRN, where the size does not tell it."""


def convert(source: Path, destination: Path, target: Format, options: ConvertOptions) -> list[Path]:
    """Write the weights at ``source`` as ``target`` to ``destination``; returns the files or folders that were written.

    Raises:
        CheckpointError: the source is damaged, incomplete or unknown; the destination is not empty or too small.
    """
    weights = _open(source, options)
    for line in weights.describe():
        print(line, flush=True)
    _check_destination(destination)
    if reason := networks.family_of(weights.config).refusal(weights.config, target):
        raise CheckpointError(f"{source} holds a {networks.describe(weights.config)}, {reason}")
    if target == "pt" and weights.checkpoint is not None and options.ema is None and destination.suffix != ".pt":
        return export_pt_pair(weights, destination, options.dtype)
    tensors = _cast(weights.tensors, options.dtype)
    if target == "pt":
        file = destination if destination.suffix == ".pt" else destination / "model.pt"
        return [_write_pt(file, weights, tensors)]
    _check_space(destination, tensors)
    write = {"dist": _write_dist, "diffusers": _write_diffusers, "nemo": _write_nemo}[target]
    return [write(destination, weights, tensors)]


def _open(source: Path, options: ConvertOptions) -> Weights:
    weights = open_weights(source, options.ema)
    _set_what_leaves_no_trace(weights, options)
    problems = networks.differences({name: t.shape for name, t in weights.tensors.items()}, weights.config)
    if problems:
        raise CheckpointError(
            f"{weights.path} is not complete: {len(problems)} differences from a {networks.describe(weights.config)} "
            f"(first: {'; '.join(problems[:3])}); see all with: python -m cosmos1.checkpoint inspect {source}"
        )
    return weights


def _set_what_leaves_no_trace(weights: Weights, options: ConvertOptions) -> None:
    names = ("rope_scale", "latent_shape", "yarn_scale")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if name == "rope_scale" and isinstance(weights.config, DiTConfig):
            set_rope_scale(weights.config, value)
        elif hasattr(weights.config, name):
            setattr(weights.config, name, list(value) if isinstance(value, tuple | list) else value)
        else:
            raise CheckpointError(f"{weights.path} holds a {networks.describe(weights.config)}; leave out --{name}")


def export_pt_pair(weights: Weights, folder: Path, dtype: str = "keep") -> list[Path]:
    """The files of the official trainer for a checkpoint of this suite: ``iter_NNNNNNNNN_reg_model.pt`` in bf16, and for
    each EMA copy ``iter_NNNNNNNNN_ema_model.pt``, ``..._RANK1_ema_model.pt``, ... in fp32.

    Raises:
        CheckpointError: the checkpoint is damaged, or the folder too small.
    """
    stem = f"iter_{weights.checkpoint.step:09d}"
    written = []
    for copy in (None, *range(weights.num_ema)):
        kind = "reg" if copy is None else "ema"
        rank = f"_RANK{copy}" if copy else ""
        source = weights if copy is None else open_weights(weights.checkpoint.path, copy)
        tensors = _cast(source.tensors, _PAIR_DTYPES[kind] if dtype == "keep" else dtype)
        written.append(_write_pt(folder / f"{stem}{rank}_{kind}_model.pt", source, tensors))
    return written


def _cast(tensors: dict[str, LazyTensor], dtype: str) -> dict[str, LazyTensor]:
    """The uncertainty head keeps its dtype: its random frequencies are of no use when they are rounded."""
    if dtype == "keep":
        return tensors
    return {n: t if n.startswith("logvar.") else t.cast(DTYPES[dtype]) for n, t in tensors.items()}


# ---- one function per format ----


def _write_pt(file: Path, weights: Weights, tensors: dict[str, LazyTensor]) -> Path:
    family, official = networks.family_of(weights.config), layouts.from_native(tensors, "official")
    # The uncertainty head of the diffusion loss lies beside the network.
    named = {n if n.startswith("logvar.") else family.official_prefix + n: tensor for n, tensor in official.items()}
    _check_space(file, named)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _published(file) as unfinished:
        writers.write_pt(unfinished, named, _report(file, named.values()))
    return file


def _write_diffusers(folder: Path, weights: Weights, tensors: dict[str, LazyTensor]) -> Path:
    named = layouts.from_native(tensors, "diffusers")
    with _published(folder) as unfinished:
        unfinished.mkdir(parents=True)
        writers.write_diffusers(unfinished, named, diffusers_config(weights.config), _report(folder, named.values()))
    return folder


def _write_nemo(folder: Path, weights: Weights, tensors: dict[str, LazyTensor]) -> Path:
    parts = []
    for name, tensor in layouts.from_native(tensors, "nemo").items():
        if match := re.match(r"module\.decoder\.layers\.(\d+)\.(.+)", name):
            stacked = f"module.decoder.layers.{match[2]}"
            parts.append(writers.Part(stacked, tensor, int(match[1]), weights.config.num_layers))
        else:
            parts.append(writers.Part(name, tensor))
    with _published(folder) as unfinished:
        (unfinished / "weights").mkdir(parents=True)
        report = _report(folder, [part.tensor for part in parts])
        writers.write_torch_dist(unfinished / "weights", parts, {}, report)
    return folder


def _write_dist(folder: Path, weights: Weights, tensors: dict[str, LazyTensor]) -> Path:
    """``folder/epoch=0-step=0/{weights,context}``, as a run writes it but with weights alone."""
    ordered = {name: tensors[name] for name in networks.expected_shapes(weights.config) if name in tensors}
    parts = [writers.Part(name, tensor) for name, tensor in ordered.items()]
    checkpoint = folder / folders.folder_name(0, 0)
    with _published(checkpoint) as unfinished:
        (unfinished / "weights").mkdir(parents=True)
        (unfinished / "context").mkdir()
        common = {"format_version": 1, "converted_from": str(weights.path)}
        report = _report(folder, ordered.values())
        checksums = writers.write_torch_dist(unfinished / "weights", parts, common, report)
        (unfinished / folders.RECIPE).write_text(_recipe(weights))
        checksums[folders.RECIPE_ENTRY] = folders.crc32(unfinished / folders.RECIPE)
        (unfinished / "context" / "checksums.json").write_text(json.dumps(checksums, indent=0, sort_keys=True))
    return checkpoint


def _recipe(weights: Weights) -> str:
    """The record of the network: the run's own, or for foreign weights that of an official network."""
    if weights.checkpoint is not None and (recorded := weights.checkpoint.context / "recipe.yaml").exists():
        return recorded.read_text()
    task = networks.family_of(weights.config).build_task(weights.config)
    return yaml.safe_dump({"model": dataclasses.asdict(task)}, sort_keys=False)


# ---- destination and progress ----


def _check_destination(destination: Path) -> None:
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise CheckpointError(f"{destination} exists and is not empty; name a new place, or delete it first")


def _check_space(destination: Path, tensors: dict[str, LazyTensor]) -> None:
    folder = next(parent for parent in (destination, *destination.absolute().parents) if parent.is_dir())
    needed, free = sum(tensor.num_bytes for tensor in tensors.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{destination} needs {needed / 2**30:.1f} GiB, {folder} has {free / 2**30:.1f} GiB free; choose another disk or "
            "a smaller --dtype"
        )


def _report(written: Path, tensors: Iterable[LazyTensor]) -> Callable[[int], None]:
    """To be called with the number of bytes of each tensor that is written."""
    num_bytes = sum(tensor.num_bytes for tensor in tensors)
    return Progress(num_bytes, "GiB", label=written.name, per_unit=2**30).advance


@contextmanager
def _published(final: Path):
    """A name beside ``final`` to write to; renamed to ``final`` when all is written, deleted when something fails."""
    unfinished = final.with_name(final.name + UNFINISHED)
    _remove(unfinished)  # left by a process that was killed
    try:
        yield unfinished
        if final.is_dir():
            final.rmdir()  # empty, as was checked
        os.rename(unfinished, final)
    except BaseException:
        _remove(unfinished)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
