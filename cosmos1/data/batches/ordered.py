# SPDX-License-Identifier: Apache-2.0
"""What data modules with numbered samples share: batches, order, resume, and the answer to bad samples."""

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional

from cosmos1.data.batches.loader import load_batches, stack_samples
from cosmos1.data.batches.sampler import (
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
class OrderedDataModule:
    """Feeds samples 0..N-1, shuffled per epoch and resumable at any sample.

    A subclass implements `setup`, which ends with `_begin`, and `_load_sample`, which runs in a worker. A training
    sample that cannot be used stops the run, unless `max_bad_samples` allows some: then the next sample of the epoch
    takes its place and a warning counts it. `repeat` allows fewer samples than a global batch.
    """

    path: str
    micro_batch_size: int = 1
    global_batch_size: int = 1
    num_workers: int = 2
    prefetch_factor: int = 2
    seed: int = 0
    shuffle: bool = True
    max_bad_samples: int = 0
    repeat: bool = False

    def setup(self) -> None:
        """Find the samples. Raises DataError or ConfigError."""
        raise NotImplementedError

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        """Load sample `index` of the training or of the held-out list, without the batch axis. Raises DataError."""
        raise NotImplementedError

    def _begin(self, num_training: int, num_held_out: int, identity: Any) -> None:
        """Note how many samples there are; `identity` is a JSON value that changes when the training samples do."""
        self.num_train_samples, self.num_validation_samples = num_training, num_held_out
        self._fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self._batches = None
        self.num_bad_samples = 0

    @property
    def num_views(self) -> int:
        """Camera views in one sample."""
        return 1

    def close(self) -> None:
        """Stop the workers of `train_batches`."""
        if self._batches is not None:
            self._batches.close()

    def train_batches(self, dp_rank: int, dp_size: int, consumed_samples: int) -> Iterator[Dict[str, Any]]:
        """Return an endless iterator over the micro batches of one data-parallel rank.

        It starts right after `consumed_samples` global samples. Raises ConfigError when the batch sizes do not fit,
        and DataError when a sample cannot be used.
        """
        check_batch_sizes(self.num_train_samples, self.micro_batch_size, self.global_batch_size, dp_size, self.repeat)
        positions = micro_batch_positions(
            consumed_samples, self.micro_batch_size, self.global_batch_size, dp_rank, dp_size
        )
        self._batches = load_batches(positions, self._load_training, self.num_workers, self.prefetch_factor)
        return self._checked(self._batches)

    def validation_batches(
        self, dp_rank: int, dp_size: int, num_batches: Optional[int] = None
    ) -> Iterator[Dict[str, Any]]:
        """Return at most `num_batches` batches of the held-out samples, always the same, equally many on each rank."""
        if not self.num_validation_samples:
            return iter(())
        count = self.num_validation_samples
        positions = held_out_positions(count, self.micro_batch_size, dp_rank, dp_size, num_batches)
        return self._checked(load_batches(positions, self._load_held_out, self.num_workers, self.prefetch_factor))

    def state_dict(self, consumed_samples: int) -> Dict[str, Any]:
        """Return what a later run needs to continue with exactly the next sample."""
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "consumed_samples": consumed_samples,
            "fingerprint": self._fingerprint,
            "num_samples": self.num_train_samples,
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
        failures: List[str] = []
        samples = []
        for position in positions:
            for attempt in range(self.max_bad_samples + 1):
                place = position + attempt
                _, index = sample_of_position(place, self.num_train_samples, self.seed, self.shuffle)
                try:
                    samples.append(self._load_sample(True, index, position))
                    break
                except DataError as error:
                    if attempt == self.max_bad_samples:
                        raise
                    failures.append(str(error))
        return {**stack_samples(samples), "_failures": failures}

    def _load_held_out(self, indices: List[int]) -> Dict[str, Any]:
        return stack_samples([self._load_sample(False, index, index) for index in indices])

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
