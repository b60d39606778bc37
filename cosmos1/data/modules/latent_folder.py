# SPDX-License-Identifier: Apache-2.0
"""Data module for a folder of cached latents: `[i].video_latent.pth`, `[i].t5_text_embeddings.pth`, `[i].info.json`...

The batch is a dict of CPU tensors (B micro batch, t latent frames, h w latent grid):
    video [B, 16, t, h, w], t5_text_embeddings [B, 512, 1024], t5_text_mask [B, 512] as stored;
    fps [B] float32; num_frames [B] int64; image_size [B, 4] int64 (target height, width, content height, width);
    padding_mask [B, 1, h, w] float32, 1 where padded; sample_position [B] int64, the global sample position (for
    validation: the place in the held-out list); gt_latent like video, only with require_conditioning_latent.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cosmos1.data.batches.ordered import OrderedDataModule
from cosmos1.data.batches.sampler import held_out_names
from cosmos1.data.files import read_facts
from cosmos1.data.formats.latent_sample import (
    CONDITIONING_PART,
    REQUIRED_PARTS,
    check_latent,
    load_folder_sample,
    load_tensor,
    read_info,
)
from cosmos1.errors import DataError

PREPARE_AGAIN = "Delete it or prepare the folder again."


@dataclass
class LatentFolderDataModule(OrderedDataModule):
    """Feeds one folder of cached latents, shuffled per epoch and resumable at any sample.

    Held-out samples come from `validation_path`, or else from `validation_fraction` of the source videos (chunks of
    one video overlap, so the split never runs through a video). `latent_shape` [16, t, h, w], when given, must be the
    folder's.
    """

    validation_path: Optional[str] = None
    validation_fraction: float = 0.1
    latent_shape: Optional[List[int]] = None
    require_conditioning_latent: bool = False

    def setup(self) -> None:
        """Find the samples and split them. Raises DataError or ConfigError; reads no tensor but the first latent."""
        self._folder = Path(self.path)
        names, self._num_unfinished = _scan(self._folder, self._parts())
        self._shape = self._first_shape(names[0])
        videos = {name: read_info(self._folder / f"{name}.info.json")["video_path"] for name in names}
        self._num_videos = len(set(videos.values()))
        self._facts = read_facts(self._folder, PREPARE_AGAIN)
        self.sample_shape, self.tokenizer = self._shape, self._facts.get("tokenizer")
        if self.validation_path:
            self._validation_folder = Path(self.validation_path)
            self._train = names
            self._validation, _ = _scan(self._validation_folder, self._parts())
            self._check_alike(read_facts(self._validation_folder, PREPARE_AGAIN))
            self._num_validation_videos = 0
        else:
            self._validation_folder = self._folder
            held_out = held_out_names(sorted(set(videos.values())), self.validation_fraction, self.seed)
            self._train = [name for name in names if videos[name] not in held_out]
            self._validation = [name for name in names if videos[name] in held_out]
            self._num_validation_videos = len(held_out)
        identity = [[name, videos[name]] for name in self._train] + [self._shape]
        self._begin(len(self._train), len(self._validation), identity)

    def _check_alike(self, held_out: Dict[str, Any]) -> None:
        """Raise DataError unless the held-out samples were made as those of training, as far as both record it."""
        names = ("format", "tokenizer", "compression", "text_encoder", "num_frames", "height", "width")
        different = [
            f"{name}: {held_out[name]} here, {self._facts[name]} in {self.path}"
            for name in names
            if name in held_out and name in self._facts and held_out[name] != self._facts[name]
        ]
        if different:
            raise DataError(
                f"data.validation_path={self.validation_path}: {'; '.join(different)}. Prepare it with the options of the "
                f"training data."
            )

    def _parts(self) -> Sequence[str]:
        """The files of a finished sample."""
        return (*REQUIRED_PARTS, CONDITIONING_PART) if self.require_conditioning_latent else REQUIRED_PARTS

    def _first_shape(self, name: str) -> List[int]:
        """Shape of the first sample, which all others must have."""
        return _first_shape(self._folder, name, self.latent_shape)

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        held_out = self.validation_path or f"of {self._num_validation_videos} videos held out"
        if not self._validation:
            held_out = "(one source video only, or validation_fraction=0)"
        planned = self._facts.get("num_samples")
        lines = [
            f"data: {self.path}: {len(self._train)} training samples, source videos in the folder: {self._num_videos}",
            f"data: {len(self._validation)} validation samples {held_out}",
            f"data: latent shape {tuple(self._shape)}",
            f"data: tokenizer {self._facts.get('tokenizer', 'not recorded')}, text encoder "
            f"{self._facts.get('text_encoder', 'not recorded')}",
        ]
        num_finished = len(self._train) + (0 if self.validation_path else len(self._validation))
        if self._num_unfinished or (planned and planned != num_finished):
            lines.append(
                f"data: WARNING: {num_finished} of {planned or num_finished + self._num_unfinished} samples are "
                f"finished; prepare the folder with --resume to complete it"
            )
        return lines

    def split_names(self) -> "tuple[List[str], List[str]]":
        """Return the names of the training and of the held-out samples, each in numeric order."""
        return list(self._train), list(self._validation)

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        if training:
            return self._load(self._folder, self._train[index], position)
        return self._load(self._validation_folder, self._validation[index], position)

    def _load(self, folder: Path, name: str, position: int) -> Dict[str, Any]:
        first = f"sample {self._train[0]}" if self.latent_shape is None else "data.latent_shape"
        return load_folder_sample(folder, name, position, self.require_conditioning_latent, self._shape, first)


def _scan(folder: Path, needed: Sequence[str]) -> "tuple[List[str], int]":
    """Return the names of finished samples in numeric order, and how many are unfinished."""
    if not folder.is_dir():
        raise DataError(f"data.path={folder}: there is no such folder. Prepare one with data_prep/prepare_dataset.py.")
    parts: Dict[str, set] = {}
    for entry in os.scandir(folder):
        name, _, part = entry.name.partition(".")
        if name and part in needed:
            parts.setdefault(name, set()).add(part)
    finished = [name for name in parts if "info.json" in parts[name]]
    if not finished:
        raise DataError(
            f"data.path={folder}: no sample found: a sample is a set of files "
            f"{', '.join(f'[i].{part}' for part in needed)}. Prepare one with data_prep/prepare_dataset.py."
        )
    finished.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    for name in finished:
        for part in needed:
            if part not in parts[name]:
                raise DataError(
                    f"{folder}: sample {name} has no file {name}.{part}. Prepare the folder again with --resume."
                )
    return finished, len(parts) - len(finished)


def _first_shape(folder: Path, name: str, required: Optional[List[int]]) -> List[int]:
    latent = load_tensor(folder / f"{name}.video_latent.pth")
    check_latent(latent, f"{folder}: sample {name}: video_latent")
    shape = list(latent.shape)
    if required is not None and shape != list(required):
        _, t, h, w = required
        raise DataError(
            f"{folder}: sample {name}: video_latent is {tuple(shape)} but this recipe needs {tuple(required)}, that is "
            f"{8 * (t - 1) + 1} pixel frames of {8 * h} x {8 * w}. Prepare the folder again with --num_frames "
            f"{8 * (t - 1) + 1} --height {8 * h} --width {8 * w}, or set data.latent_shape={shape}."
        )
    return shape
