# SPDX-License-Identifier: Apache-2.0
"""Open weights of any format by what lies in the file or folder, and give them under our names."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import yaml

from cosmos1.checkpoint import folders, layouts, networks
from cosmos1.checkpoint.containers import read_arrays, read_pt, read_safetensors
from cosmos1.checkpoint.folders import Checkpoint
from cosmos1.checkpoint.lazy import LazyTensor
from cosmos1.errors import CheckpointError
from cosmos1.models.diffusion.config import DiTConfig

Format = Literal["dist", "pt", "diffusers", "nemo"]
_NOT_WEIGHTS = ("optimizer.", "ema.")


@dataclass
class Weights:
    """Weights that lie in files. ``tensors`` are whole and lazy, under our names."""

    path: Path
    format: Format
    tensors: dict[str, LazyTensor]
    config: DiTConfig
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
    "pt": "official model.pt",
    "diffusers": "diffusers transformer (safetensors)",
    "nemo": "NeMo distributed checkpoint",
}


def open_weights(path: Path | str, ema: int | None = None) -> Weights:
    """Open a ``model.pt``, a diffusers folder, a NeMo distributed checkpoint, or a checkpoint of this suite.

    Args:
        path: a file or folder. A folder is searched where each format keeps its weights: ``model.pt``, ``transformer``,
            ``nemo/weights``, ``checkpoints/epoch=E-step=S/weights``.
        ema: take this EMA copy instead of the trained weights.

    Raises:
        CheckpointError: nothing that is known lies there; a key is unknown or missing; a file is damaged.
    """
    format, place = _find(Path(path).expanduser())
    return {"pt": _open_pt, "diffusers": _open_diffusers, "nemo": _open_nemo, "dist": _open_own}[format](place, ema)


def detect(path: Path) -> Format:
    """The format of what lies at ``path``; "dist" where it looks like nothing else."""
    return _find(path)[0]


def _find(path: Path) -> tuple[Format, Path]:
    """The format, and the file or folder that holds the weights."""
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a model.pt, a diffusers folder, a NeMo checkpoint, a checkpoint or run folder of "
            "this suite, or a Hugging Face id such as nvidia/Cosmos-1.0-Diffusion-7B-Text2World"
        )
    if path.is_file():
        return ("diffusers" if path.suffix == ".safetensors" else "pt"), path
    for folder in (path, path / "transformer"):
        if any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json")):
            return "diffusers", folder
    for folder in (path, path / "weights", path / "nemo", path / "nemo/weights"):
        if any(folder.glob("*/.zarray")) or ((folder / ".metadata").exists() and not _is_ours(folder)):
            # The official file is the smaller and surer one where a release has both.
            return ("pt", path / "model.pt") if (path / "model.pt").exists() else ("nemo", folder)
    files = sorted(path.glob("*.pt"))
    if (path / "model.pt").exists() or len(files) == 1:
        return "pt", path / "model.pt" if (path / "model.pt").exists() else files[0]
    return "dist", path


def _is_ours(weights: Path) -> bool:
    return (weights.parent / "context" / "checksums.json").exists()


def _open_pt(path: Path, ema: int | None) -> Weights:
    return _foreign(path, "pt", read_pt(path, ema))


def _open_diffusers(path: Path, ema: int | None) -> Weights:
    _refuse_ema(path, ema)
    folder = path if path.is_dir() else path.parent
    weights = _foreign(path, "diffusers", read_safetensors(folder))
    config_file = folder / "config.json"
    if not config_file.exists():
        weights.notes.append(f"{config_file} is missing; sizes come from the weights")
        return weights
    try:
        ratios = json.loads(config_file.read_text()).get("rope_scale")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{config_file} cannot be read: {error}") from error
    if ratios is not None:
        networks.set_rope_scale(weights.config, ratios)
    return weights


def _open_nemo(path: Path, ema: int | None) -> Weights:
    _refuse_ema(path, ema)
    tensors = {name: t for name, t in read_arrays(path).items() if not name.startswith("optimizer.")}
    worst = 0.0
    for name, tensor in tensors.items():
        if name.endswith("adaLN_modulation.2.weight") and ".layers." in name:
            share = layouts.off_diagonal_share(tensor.load())
            worst = max(worst, share)
            if share > layouts.OFF_DIAGONAL_TOLERANCE:
                raise CheckpointError(
                    f"{path}: {name} has {share:.2e} of its norm outside the three diagonal blocks (at most "
                    f"{layouts.OFF_DIAGONAL_TOLERANCE:g} can be dropped): fine-tuning made the modulation dense, which the "
                    "official network cannot hold; use the checkpoint from before, or one trained with this suite"
                )
    weights = _foreign(path, "nemo", tensors)
    weights.notes.append(f"modulation: at most {worst:.1e} of the norm lies outside the diagonal blocks")
    return weights


def _foreign(path: Path, format: Format, stored: dict[str, LazyTensor]) -> Weights:
    layout = layouts.identify(stored)
    try:
        num_layers, head_dim = layouts.count_layers(stored, layout), layouts.head_width(stored, layout)
        tensors = layouts.to_native(stored, layout, num_layers, head_dim)
        config = networks.infer_config(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Weights(path, format, tensors, config)


def _open_own(path: Path, ema: int | None) -> Weights:
    checkpoint = folders.resolve(path)
    stored = read_arrays(checkpoint.weights)
    copies = {name.split(".")[1] for name in stored if name.startswith("ema.")}
    if ema is not None and str(ema) not in copies:
        raise CheckpointError(f"{checkpoint.path} has {len(copies)} EMA copies; there is no number {ema}")
    # Weights that are not trained have no EMA copy.
    tensors = {n: stored.get(f"ema.{ema}.{n}", t) for n, t in stored.items() if not n.startswith(_NOT_WEIGHTS)}
    notes = []
    try:
        recorded = yaml.safe_load((checkpoint.context / "recipe.yaml").read_text())["model"]["config"]
        config = DiTConfig(**{name: value for name, value in recorded.items() if name != "_target_"})
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        notes = [f"{checkpoint.context / 'recipe.yaml'} does not name the network ({error}); sizes are inferred"]
        config = networks.infer_config(tensors)
    return Weights(checkpoint.path, "dist", tensors, config, notes, checkpoint, len(copies))


def _refuse_ema(path: Path, ema: int | None) -> None:
    if ema is not None:
        raise CheckpointError(f"{path} has no EMA copies; leave out the choice of one (ema)")
