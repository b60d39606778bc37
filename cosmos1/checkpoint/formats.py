# SPDX-License-Identifier: Apache-2.0
"""Open weights of any format by what lies in the file or folder, and give them under our names."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import yaml

from cosmos1.checkpoint import adapters, folders, layouts, networks
from cosmos1.checkpoint.containers import read_arrays, read_pt, read_safetensors
from cosmos1.checkpoint.families.diffusion import set_rope_scale
from cosmos1.checkpoint.folders import Checkpoint
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.checkpoint.split_files import find_split, read_split
from cosmos1.errors import CheckpointError
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.diffusion.config import DiTConfig

Format = Literal["dist", "pt", "diffusers", "nemo"]
Container = Literal["dist", "pt", "split", "safetensors", "arrays"]
_NOT_WEIGHTS = ("optimizer.", "ema.")


@dataclass
class Weights:
    """Weights that lie in files. ``tensors`` are whole and lazy, under our names."""

    path: Path
    format: Format
    tensors: dict[str, LazyTensor]
    config: DiTConfig | GPTConfig
    notes: list[str] = field(default_factory=list)
    """What the reader decided or assumed, for the log."""
    checkpoint: Checkpoint | None = None
    """The checkpoint of this suite, if it is one."""
    num_ema: int = 0

    def describe(self) -> list[str]:
        """Format, network, size and dtypes, one fact per line."""
        sizes: dict[torch.dtype, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_bytes
        values = sum(size // dtype.itemsize for dtype, size in sizes.items())
        dtypes = ", ".join(f"{str(d).removeprefix('torch.')} {size / 2**30:.2f} GiB" for d, size in sizes.items())
        return [
            f"{self.path}: {_TITLES[self.format]}",
            f"network: {networks.describe(self.config)}",
            f"weights: {len(self.tensors)} tensors, {values:,} values, {dtypes}",
            *self.notes,
        ]


_TITLES = {
    "dist": "checkpoint of this suite (torch_dist)",
    "pt": "official weights (model.pt)",
    "diffusers": "diffusers transformer (safetensors)",
    "nemo": "NeMo distributed checkpoint",
}
_FORMAT_OF_LAYOUT = {"official": "pt", "diffusers": "diffusers", "nemo": "nemo", "native": "dist"}


def open_weights(path: Path | str, ema: int | None = None) -> Weights:
    """Open a ``model.pt``, safetensors, a NeMo distributed checkpoint, or a checkpoint of this suite.

    Args:
        path: a file or folder. A folder is searched where each format keeps its weights: ``model.pt``, ``transformer``,
            ``nemo/weights``, ``checkpoints/epoch=E-step=S/weights``.
        ema: take this EMA copy instead of the trained weights.

    Raises:
        CheckpointError: nothing that is known lies there; a key is unknown or missing; a file is damaged.
    """
    container, place = _find(Path(path).expanduser())
    if container == "dist":
        return _open_own(place, ema)
    if container == "pt":
        return _foreign(place, read_pt(place, ema))
    if ema is not None:
        raise CheckpointError(f"{path} has no EMA copies; leave out the choice of one (ema)")
    open_container = {"split": _open_split, "safetensors": _open_safetensors, "arrays": _open_nemo}[container]
    return open_container(place)


def detect(path: Path) -> Container:
    """What lies at ``path``; "dist", a checkpoint of this suite, where it looks like nothing else."""
    return _find(path)[0]


def _find(path: Path) -> tuple[Container, Path]:
    """The kind of container, and the file or folder that holds the weights."""
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a model.pt, a diffusers folder, a NeMo checkpoint, a checkpoint or run folder of "
            "this suite, or a Hugging Face id such as nvidia/Cosmos-1.0-Diffusion-7B-Text2World"
        )
    if path.is_file():
        return ("safetensors" if path.suffix == ".safetensors" else "split" if find_split(path) else "pt"), path
    if _is_own_folder(path):
        return "dist", path
    for folder in (path, path / "transformer"):
        if any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json")):
            return "safetensors", folder
    for folder in (path, path / "weights", path / "nemo", path / "nemo/weights"):
        if any(folder.glob("*/.zarray")) or ((folder / ".metadata").exists() and not _is_ours(folder)):
            # The official file is the smaller and surer one where a release has both.
            return ("pt", path / "model.pt") if (path / "model.pt").exists() else ("arrays", folder)
    if find_split(path):
        return "split", path
    files = sorted(path.glob("*.pt"))
    if (path / "model.pt").exists() or len(files) == 1:
        return "pt", path / "model.pt" if (path / "model.pt").exists() else files[0]
    return "dist", path


def _is_own_folder(path: Path) -> bool:
    """Whether this is a run folder of this suite, its checkpoints, one of them, or the weights of one; files that were
    put beside them, an export for example, do not matter."""
    holds_checkpoints = any(folders.complete_checkpoints(folder) for folder in (path, path / "checkpoints"))
    return holds_checkpoints or _is_ours(path) or _is_ours(path / "weights")


def _is_ours(weights: Path) -> bool:
    return (weights.parent / "context" / "checksums.json").exists()


def _open_split(path: Path) -> Weights:
    files = find_split(path)
    weights = _foreign(path, read_split(files))
    weights.notes.append(f"put together from {len(files)} tensor-parallel files, {files[0].name} and so on")
    return weights


def _open_safetensors(path: Path) -> Weights:
    folder = path if path.is_dir() else path.parent
    weights = _foreign(path, read_safetensors(path))
    if weights.format != "diffusers":
        return weights
    config_file = folder / "config.json"
    if not config_file.exists():
        weights.notes.append(f"{config_file} is missing; sizes come from the weights")
        return weights
    try:
        ratios = json.loads(config_file.read_text()).get("rope_scale")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{config_file} cannot be read: {error}") from error
    if ratios is not None:
        set_rope_scale(weights.config, ratios)
    return weights


def _open_nemo(path: Path) -> Weights:
    tensors = {name: t for name, t in read_arrays(path).items() if not name.startswith("optimizer.")}
    worst = _check_modulation(path, tensors)
    weights = _foreign(path, tensors)
    if worst is not None:
        weights.notes.append(f"modulation: at most {worst:.1e} of the norm lies outside the diagonal blocks")
    return weights


def _check_modulation(path: Path, tensors: dict[str, LazyTensor]) -> float | None:
    """Largest off-diagonal share of NeMo's modulation matrices, which only diffusion networks have."""
    worst = None
    for name, tensor in tensors.items():
        if name.endswith("adaLN_modulation.2.weight") and ".layers." in name:
            share = layouts.off_diagonal_share(tensor.load())
            worst = max(worst or 0.0, share)
            if share > layouts.OFF_DIAGONAL_TOLERANCE:
                raise CheckpointError(
                    f"{path}: {name} has {share:.2e} of its norm outside the three diagonal blocks (at most "
                    f"{layouts.OFF_DIAGONAL_TOLERANCE:g} can be dropped): fine-tuning made the modulation dense, which the "
                    "official network cannot hold; use the checkpoint from before, or one trained with this suite"
                )
    return worst


def _foreign(path: Path, stored: dict[str, LazyTensor]) -> Weights:
    try:
        family, layout = layouts.identify(stored)
        tensors = layouts.to_native(stored)
        weights = Weights(path, _FORMAT_OF_LAYOUT[layout], tensors, networks.infer_config(tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if inert := sorted(family.inert_names(stored, layout)):
        weights.notes.append(f"left out, since they have no effect in the network that they are of: {', '.join(inert)}")
    return weights


def _open_own(path: Path, ema: int | None) -> Weights:
    checkpoint = folders.resolve(path)
    stored = read_arrays(checkpoint.weights)
    copies = {name.split(".")[1] for name in stored if name.startswith("ema.")}
    if ema is not None and str(ema) not in copies:
        raise CheckpointError(f"{checkpoint.path} has {len(copies)} EMA copies; there is no number {ema}")
    # Weights that are not trained have no EMA copy.
    tensors = {n: stored.get(f"ema.{ema}.{n}", t) for n, t in stored.items() if not n.startswith(_NOT_WEIGHTS)}
    notes = []
    if adapters.has_adapters(tensors):
        tensors = adapters.merge(checkpoint, tensors)
        notes = ["low-rank adapters: merged into the weights of their layers"]
    try:
        recorded = yaml.safe_load((checkpoint.context / "recipe.yaml").read_text())["model"]["config"]
        config = networks.recorded_config(tensors, recorded)
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        notes.append(f"{checkpoint.context / 'recipe.yaml'} does not name the network ({error}); sizes are inferred")
        config = networks.infer_config(tensors)
    return Weights(checkpoint.path, "dist", tensors, config, notes, checkpoint, len(copies))
