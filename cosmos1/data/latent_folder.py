# SPDX-License-Identifier: Apache-2.0
"""Data module for a folder of cached latents: `[i].video_latent.pth`, `[i].t5_text_embeddings.pth`, `[i].info.json`...

The batch is a dict of CPU tensors (B micro batch, t latent frames, h w latent grid):
    video [B, 16, t, h, w], t5_text_embeddings [B, 512, 1024], t5_text_mask [B, 512] as stored;
    fps [B] float32; num_frames [B] int64; image_size [B, 4] int64 (target height, width, content height, width);
    padding_mask [B, 1, h, w] float32, 1 where padded; sample_position [B] int64, the global sample position (for
    validation: the place in the held-out list); gt_latent like video, only with require_conditioning_latent.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import numpy as np

from cosmos1.data.latent_sample import (
    CONDITIONING_PART,
    REQUIRED_PARTS,
    check_latent,
    load_folder_sample,
    load_tensor,
    read_info,
    stack_samples,
)
from cosmos1.data.loader import load_batches
from cosmos1.data.sampler import (
    check_batch_sizes,
    check_same_order,
    held_out_positions,
    micro_batch_positions,
    sample_of_position,
)
from cosmos1.errors import ConfigError, DataError

STATE_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass
class LatentFolderDataModule:
    """Feeds one folder of cached latents, shuffled per epoch and resumable at any sample.

    Held-out samples come from `validation_path`, or else from `validation_fraction` of the source videos (chunks of
    one video overlap, so the split never runs through a video). `latent_shape` [16, t, h, w], when given, must be the
    folder's. A training sample that cannot be used stops the run, unless `max_bad_samples` allows some: then the next
    sample of the epoch takes its place and a warning counts it. `repeat` allows fewer samples than a global batch.
    """

    path: str
    micro_batch_size: int = 1
    global_batch_size: int = 1
    num_workers: int = 2
    prefetch_factor: int = 2
    seed: int = 0
    shuffle: bool = True
    validation_path: Optional[str] = None
    validation_fraction: float = 0.1
    latent_shape: Optional[List[int]] = None
    require_conditioning_latent: bool = False
    max_bad_samples: int = 0
    repeat: bool = False

    def setup(self) -> None:
        """Find the samples and split them. Raises DataError or ConfigError; reads no tensor but the first latent."""
        self._batches = None
        self._folder = Path(self.path)
        names, self._num_unfinished = _scan(self._folder, self.require_conditioning_latent)
        self._shape = _first_shape(self._folder, names[0], self.latent_shape)
        videos = {name: read_info(self._folder / f"{name}.info.json")["video_path"] for name in names}
        self._num_videos = len(set(videos.values()))
        self._facts = _read_dataset_facts(self._folder)
        if self.validation_path:
            self._validation_folder = Path(self.validation_path)
            self._train = names
            self._validation, _ = _scan(self._validation_folder, self.require_conditioning_latent)
            self._num_validation_videos = 0
        else:
            self._validation_folder = self._folder
            held_out = _held_out_videos(sorted(set(videos.values())), self.validation_fraction, self.seed)
            self._train = [name for name in names if videos[name] not in held_out]
            self._validation = [name for name in names if videos[name] in held_out]
            self._num_validation_videos = len(held_out)
        identity = json.dumps([[name, videos[name]] for name in self._train] + [self._shape])
        self._fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.num_bad_samples = 0

    @property
    def sample_shape(self) -> List[int]:
        """Shape [C, t, h, w] of a latent, known after `setup`."""
        return self._shape

    @property
    def num_train_samples(self) -> int:
        return len(self._train)

    @property
    def tokenizer(self) -> Optional[str]:
        """Name of the video tokenizer that made the latents, None where dataset.json does not say."""
        return self._facts.get("tokenizer")

    def close(self) -> None:
        """Stop the workers of `train_batches`."""
        if self._batches is not None:
            self._batches.close()

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

    def train_batches(self, dp_rank: int, dp_size: int, consumed_samples: int) -> Iterator[Dict[str, Any]]:
        """Return an endless iterator over the micro batches of one data-parallel rank.

        It starts right after `consumed_samples` global samples. Raises ConfigError when the batch sizes do not fit,
        and DataError when a sample cannot be used.
        """
        check_batch_sizes(len(self._train), self.micro_batch_size, self.global_batch_size, dp_size, self.repeat)
        positions = micro_batch_positions(
            consumed_samples, self.micro_batch_size, self.global_batch_size, dp_rank, dp_size
        )
        loaded = load_batches(positions, self._load_training, self.num_workers, self.prefetch_factor)
        self._batches = loaded
        return self._checked(loaded)

    def validation_batches(
        self, dp_rank: int, dp_size: int, num_batches: Optional[int] = None
    ) -> Iterator[Dict[str, Any]]:
        """Return at most `num_batches` batches of the held-out samples, always the same, equally many on each rank."""
        if not self._validation:
            return iter(())
        positions = held_out_positions(len(self._validation), self.micro_batch_size, dp_rank, dp_size, num_batches)
        return self._checked(load_batches(positions, self._load_validation, self.num_workers, self.prefetch_factor))

    def state_dict(self, consumed_samples: int) -> Dict[str, Any]:
        """Return what a later run needs to continue with exactly the next sample."""
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "consumed_samples": consumed_samples,
            "fingerprint": self._fingerprint,
            "num_samples": len(self._train),
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Check that the state belongs to this dataset and order. Raises ConfigError naming both values if not."""
        check_same_order(self.path, state, self.state_dict(0))

    def rank_state_dict(self) -> Optional[Dict[str, Any]]:
        """Return None: the global sample position is all the state there is."""
        return None

    def load_rank_state_dict(self, state: Optional[Dict[str, Any]]) -> None:
        """Accept what `rank_state_dict` returned."""
        if state is not None:
            raise ConfigError(f"resuming {self.path}: the checkpoint's data state is of another kind of data module.")

    def _load_training(self, positions: List[int]) -> Dict[str, Any]:
        """Load and stack the samples at these positions; runs in a worker."""
        failures: List[str] = []
        samples = []
        for position in positions:
            for attempt in range(self.max_bad_samples + 1):
                place = position + attempt
                _, index = sample_of_position(place, len(self._train), self.seed, self.shuffle)
                try:
                    samples.append(self._load(self._folder, self._train[index], position))
                    break
                except DataError as error:
                    if attempt == self.max_bad_samples:
                        raise
                    failures.append(str(error))
        return {**stack_samples(samples), "_failures": failures}

    def _load_validation(self, indices: List[int]) -> Dict[str, Any]:
        return stack_samples([self._load(self._validation_folder, self._validation[index], index) for index in indices])

    def _load(self, folder: Path, name: str, position: int) -> Dict[str, Any]:
        first = f"sample {self._train[0]}" if self.latent_shape is None else "data.latent_shape"
        return load_folder_sample(folder, name, position, self.require_conditioning_latent, self._shape, first)

    def _checked(self, batches: Iterator[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
        """Count the samples that workers had to replace; stop at the limit."""
        for batch in batches:
            for failure in batch.pop("_failures", []):
                self.num_bad_samples += 1
                logger.warning("bad sample %d of %d: %s", self.num_bad_samples, self.max_bad_samples, failure)
                if self.num_bad_samples > self.max_bad_samples:
                    raise DataError(
                        f"{self.num_bad_samples} bad samples, data.max_bad_samples={self.max_bad_samples} are allowed. "
                        f"The last one: {failure}"
                    )
            yield batch


def _scan(folder: Path, require_conditioning: bool) -> "tuple[List[str], int]":
    """Return the names of finished samples in numeric order, and how many are unfinished."""
    if not folder.is_dir():
        raise DataError(f"data.path={folder}: there is no such folder. Prepare one with data_prep/prepare_dataset.py.")
    parts: Dict[str, set] = {}
    for entry in os.scandir(folder):
        name, _, part = entry.name.partition(".")
        if name and (part in REQUIRED_PARTS or part == CONDITIONING_PART):
            parts.setdefault(name, set()).add(part)
    finished = [name for name in parts if "info.json" in parts[name]]
    if not finished:
        raise DataError(
            f"data.path={folder}: no sample found: a sample is a set of files [i].info.json, [i].video_latent.pth, "
            f"[i].t5_text_embeddings.pth, [i].t5_text_mask.pth. Prepare one with data_prep/prepare_dataset.py."
        )
    needed = [*REQUIRED_PARTS, CONDITIONING_PART] if require_conditioning else REQUIRED_PARTS
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


def _read_dataset_facts(folder: Path) -> Dict[str, Any]:
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text())
        return facts if isinstance(facts, dict) else {}
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Delete it or prepare the folder again.") from error


def _held_out_videos(videos: List[str], fraction: float, seed: int) -> "set[str]":
    """Draw which source videos are held out: at least one of two or more, never all."""
    if not 0 <= fraction < 1:
        raise ConfigError(f"data.validation_fraction={fraction} is outside 0..1 (1 excluded). The usual value is 0.1.")
    if fraction == 0 or len(videos) < 2:
        return set()
    count = min(max(round(fraction * len(videos)), 1), len(videos) - 1)
    order = np.random.RandomState([seed % 2**32, len(videos)]).permutation(len(videos))
    return {videos[index] for index in order[:count]}
