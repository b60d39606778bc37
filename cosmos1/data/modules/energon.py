# SPDX-License-Identifier: Apache-2.0
"""Data module for webdataset shards, read by Megatron-Energon; the same batches as the folder module gives.

Training order, shuffling and the loader's state are energon's; the global sample position is counted here. Validation
reads the held-out shards directly, in order, so that every rank gets equally many batches.
"""

import logging
import pickle
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

from cosmos1.data.batches.data_module import DataModule
from cosmos1.data.batches.loader import stack_samples, termination_blocked
from cosmos1.data.files import read_facts
from cosmos1.errors import CheckpointError, ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass
class EnergonDataModule(DataModule):
    """Feeds shards written by data_prep/shard.py, or by others and prepared with `energon prepare`.

    Shards of the part "val" are held out. Resuming is exact, also in the middle of an epoch, for the same data-parallel
    size and number of workers. A sample that cannot be used stops the run unless `max_bad_samples` allows some.
    """

    shuffle_buffer_size: int = 100
    latent_shape: Optional[List[int]] = None
    require_conditioning_latent: bool = False

    def setup(self) -> None:
        """Read the metadata and the first sample. Raises DataError when the shards are not prepared."""
        from cosmos1.data.formats.energon_samples import decode_sample, read_shard_sample, shape_of_samples

        self._folder = Path(self.path)
        counts = _shard_counts(self._folder)
        parts, excluded = _split_parts(self._folder, counts)
        self._train_shards, self._validation_shards = parts["train"], parts["val"]
        places = {
            shard: _places_of_samples(self._folder, shard, counts[shard], excluded)
            for shard in self._train_shards + self._validation_shards
        }
        num_train = sum(len(places[shard]) for shard in self._train_shards)
        self._held_out = [(shard, index) for shard in self._validation_shards for index in places[shard]]
        self._num_excluded = sum(counts[shard] for shard in excluded if shard in counts)
        self._num_excluded += sum(counts[shard] - len(kept) for shard, kept in places.items())
        if num_train == 0:
            raise DataError(
                f"{self._folder}: the part train has no samples (split.yaml lists {len(self._train_shards)} shards for "
                f"it). Split by shard needs more shards than parts: run data_prep/shard.py with a smaller "
                f"--shard_megabytes, or energon prepare with another --split-ratio."
            )
        first, place = next((shard, index) for shard in self._train_shards for index in places[shard])
        parts_of_first = read_shard_sample(self._folder / first, place)
        sample = decode_sample(parts_of_first, f"{first}/{place}", 0, False, self.latent_shape)
        self._facts = read_facts(self._folder, "Write the shards again.")
        self.sample_shape, self.tokenizer = shape_of_samples(sample, self._facts), self._facts.get("tokenizer")
        self._rank_state: Optional[Dict[str, Any]] = None
        identity = [dict(sorted(counts.items())), parts, self.sample_shape, *sorted(excluded)]
        self._begin(num_train, len(self._held_out), identity)

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        held_out = f"in {len(self._validation_shards)} held-out shards" if self._held_out else "(no part val)"
        return [
            f"data: {self.path}: {self.num_train_samples} training samples in {len(self._train_shards)} shards",
            f"data: {len(self._held_out)} validation samples {held_out}",
            *([f"data: {self._num_excluded} samples are excluded by split.yaml"] if self._num_excluded else []),
            f"data: shape of a sample {tuple(self.sample_shape)}",
            f"data: tokenizer {self._facts.get('tokenizer', 'not recorded')}, text encoder "
            f"{self._facts.get('text_encoder', 'not recorded')}",
        ]

    def train_batches(self, dp_rank: int, dp_size: int, consumed_samples: int) -> Iterator[Dict[str, Any]]:
        """Return an endless iterator over the micro batches of one data-parallel rank.

        After `load_rank_state_dict` it continues there. Raises ConfigError when the batch sizes do not fit, when there are
        fewer samples than workers, when the data-parallel size or the number of workers changed, or when
        `consumed_samples` has no loader state to it.
        """
        positions = self._training_positions(dp_rank, dp_size, consumed_samples)
        self._check_number_of_workers(dp_size)
        self._layout = {"dp_rank": dp_rank, "dp_size": dp_size, "num_workers": self.num_workers}
        self._loader = self._build_loader(dp_rank, dp_size)
        # A worker ends only after its command thread; without this, the end of the process waits 5 s per worker.
        weakref.finalize(self, _stop_command_threads, self._loader.cmd_queues)
        if self._rank_state is not None:
            self._restore(self._rank_state)
        elif consumed_samples:
            raise ConfigError(
                f"resuming {self.path} after {consumed_samples} samples, but the checkpoint holds no loader state of "
                f"data-parallel rank {dp_rank}. Resume with the data-parallel size of that run, or use a latent folder."
            )
        with termination_blocked():
            samples = iter(self._loader)
        return self._micro_batches(samples, positions)

    def state_dict(self, consumed_samples: int) -> Dict[str, Any]:
        """Return the part of the state that all ranks share."""
        return {**super().state_dict(consumed_samples), "shuffle_buffer_size": self.shuffle_buffer_size}

    def rank_state_dict(self) -> Optional[Dict[str, Any]]:
        """Return the loader state of this data-parallel rank (every rank must save its own), or None before training.

        It belongs to the batch that was taken last from `train_batches`.
        """
        import megatron.energon

        if self._loader is None:
            return None
        state = pickle.dumps(self._loader.save_state_rank())
        return {**self._layout, "energon_version": megatron.energon.__version__, "loader": state}

    def load_rank_state_dict(self, state: Optional[Dict[str, Any]]) -> None:
        """Keep what `rank_state_dict` returned; the next `train_batches` continues from it."""
        self._rank_state = state

    def close(self) -> None:
        """Stop the workers now instead of at the end of the process; `rank_state_dict` is None afterwards."""
        if self._loader is not None and self.num_workers:
            _stop_command_threads(self._loader.cmd_queues)
            if self._loader._iterator is not None:
                self._loader._iterator._shutdown_workers()
        self._loader = None

    def _check_number_of_workers(self, dp_size: int) -> None:
        """Raise ConfigError, on every rank, when a worker of some rank would get no sample: energon deals them out."""
        num_loaders = dp_size * max(self.num_workers, 1)
        if self.num_train_samples < num_loaders:
            raise ConfigError(
                f"{self.path} has {self.num_train_samples} training samples, data-parallel size {dp_size} with "
                f"data.num_workers={self.num_workers} needs one for each of {num_loaders} loaders. Lower data.num_workers "
                f"or the data-parallel size, prepare more samples, or use a latent folder."
            )

    def _build_loader(self, dp_rank: int, dp_size: int):
        from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset
        from megatron.energon.errors import reraise_exception

        from cosmos1.data.formats.energon_samples import LatentTaskEncoder

        dataset = get_train_dataset(
            self._folder,
            worker_config=WorkerConfig(
                rank=dp_rank,
                world_size=dp_size,
                num_workers=self.num_workers,
                seed_offset=self.seed,
                # A shard that cannot be read stops the run; energon would log it and go on.
                global_error_handler=reraise_exception,
            ),
            # Single samples: the micro-batch size may then change between a run and its resumption.
            batch_size=None,
            shuffle_buffer_size=self.shuffle_buffer_size if self.shuffle else None,
            shuffle_over_epochs_multiplier=1 if self.shuffle else None,
            parallel_shard_iters=None if self.shuffle else 1,
            max_samples_per_sequence=None,
            task_encoder=LatentTaskEncoder(self.require_conditioning_latent, self.sample_shape),
        )
        return get_savable_loader(dataset, prefetch_factor=self.prefetch_factor, watchdog_timeout_seconds=None)

    def _restore(self, state: Dict[str, Any]) -> None:
        import megatron.energon

        for key, now in {**self._layout, "energon_version": megatron.energon.__version__}.items():
            if state.get(key) != now:
                raise ConfigError(
                    f"resuming {self.path}: {key} was {state.get(key)} in the checkpoint and is {now} now; the state "
                    f"of an energon loader fits one layout only. Use the same value, or train from a latent folder, "
                    f"which resumes with any layout."
                )
        try:
            self._loader.restore_state_rank(pickle.loads(state["loader"]))
        except (KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"resuming {self.path}: the loader state cannot be read ({error}).") from error

    def _micro_batches(self, samples: Iterator[Any], positions: Iterator[List[int]]) -> Iterator[Dict[str, Any]]:
        """Stack samples to micro batches; count the bad ones and stop at the limit."""
        import torch

        for micro_batch in positions:
            batch: List[Dict[str, Any]] = []
            while len(batch) < len(micro_batch):
                sample = next(samples)
                if sample.error is None:
                    position = torch.tensor(micro_batch[len(batch)], dtype=torch.int64)
                    batch.append({**sample.tensors, "sample_position": position})
                    continue
                self.num_bad_samples += 1
                if self.num_bad_samples > self.max_bad_samples:
                    raise DataError(f"{self._folder}: {sample.error}")
                logger.warning("bad sample %d of %d: %s", self.num_bad_samples, self.max_bad_samples, sample.error)
            stacked = stack_samples(batch)
            yield {k: v.pin_memory() for k, v in stacked.items()} if torch.cuda.is_available() else stacked

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        """Load a held-out sample; those of training come from energon's loader."""
        from cosmos1.data.formats.energon_samples import decode_sample, read_shard_sample

        shard, place = self._held_out[index]
        parts = read_shard_sample(self._folder / shard, place)
        where = f"{self._folder / shard}/{place}"
        return decode_sample(parts, where, position, self.require_conditioning_latent, self.sample_shape)


def _stop_command_threads(command_queues: List[Any]) -> None:
    for commands in command_queues:
        commands.put((None,))


def _shard_counts(folder: Path) -> Dict[str, int]:
    """Return the number of samples per shard. Raises DataError when the folder is not prepared."""
    import yaml

    metadata = folder / ".nv-meta"
    info = next((metadata / name for name in (".info.json", ".info.yaml") if (metadata / name).exists()), None)
    missing = [name for name in ("split.yaml", "dataset.yaml", "index.sqlite") if not (metadata / name).exists()]
    if info is None or missing:
        raise DataError(
            f"data.path={folder}: {metadata} lacks {', '.join(missing or ['.info.json'])}, so these are not shards "
            f"that energon can read. Write them with data_prep/shard.py, or run: energon prepare --non-interactive "
            f"--split-ratio 8,1,1 --sample-type CrudeWebdataset {folder}"
        )
    counts = yaml.safe_load(info.read_text())["shard_counts"]
    for shard in counts:
        for name in (shard, f"{shard}.idx"):
            if not (folder / name).exists():
                raise DataError(f"{folder}: {info.name} lists {name}, which does not exist. Get it, or prepare again.")
    return counts


def _split_parts(folder: Path, counts: Dict[str, int]) -> "tuple[Dict[str, List[str]], Set[str]]":
    """Return the shards of the parts train and val, and what is excluded: `SHARD` or `SHARD/KEY`.

    Brace patterns are expanded. Raises DataError for an exclusion of a shard that does not exist.
    """
    import braceexpand
    import yaml

    written = yaml.safe_load((folder / ".nv-meta" / "split.yaml").read_text())

    def names(patterns: Optional[List[str]]) -> List[str]:
        return [name for pattern in patterns or [] for name in braceexpand.braceexpand(pattern)]

    excluded = set(names(written.get("exclude")))
    for name in sorted(excluded):
        if name not in counts and not any(name.startswith(f"{shard}/") for shard in counts):
            raise DataError(
                f"{folder}: split.yaml excludes {name}, but there is no such shard. Correct it or remove it."
            )
    parts = {
        part: [name for name in names(written["split_parts"].get(part)) if name in counts and name not in excluded]
        for part in ("train", "val")
    }
    return parts, excluded


def _places_of_samples(folder: Path, shard: str, count: int, excluded: Set[str]) -> List[int]:
    """Places of the samples of a shard that are not excluded. Raises DataError for keys that it does not have."""
    from cosmos1.data.formats.energon_samples import shard_keys

    keys_excluded = {name[len(shard) + 1 :] for name in excluded if name.startswith(f"{shard}/")}
    if not keys_excluded:
        return list(range(count))
    keys = shard_keys(folder / shard)
    if unknown := sorted(keys_excluded - set(keys)):
        raise DataError(
            f"{folder}: split.yaml excludes {shard}/{unknown[0]}, but the shard has no such sample: its keys are {keys[0]} "
            f"to {keys[-1]}. Correct it or remove it."
        )
    return [place for place, key in enumerate(keys) if key not in keys_excluded]
