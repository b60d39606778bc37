# SPDX-License-Identifier: Apache-2.0
"""Data modules with numbered samples: any sample can be loaded at any time, so the position is all the state."""

import logging
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional

from cosmos1.data.batches.data_module import DataModule
from cosmos1.data.batches.loader import load_batches, stack_samples
from cosmos1.data.batches.sampler import sample_of_position
from cosmos1.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass
class OrderedDataModule(DataModule):
    """Feeds samples 0..N-1, shuffled per epoch and resumable at any sample.

    A training sample that cannot be used stops the run, unless `max_bad_samples` allows some: then the next sample of
    the epoch takes its place and a warning counts it.
    """

    def close(self) -> None:
        """Stop the workers of `train_batches`."""
        if self._loader is not None:
            self._loader.close()

    def train_batches(self, dp_rank: int, dp_size: int, consumed_samples: int) -> Iterator[Dict[str, Any]]:
        """Return an endless iterator over the micro batches of one data-parallel rank.

        It starts right after `consumed_samples` global samples. Raises ConfigError when the batch sizes do not fit,
        and DataError when a sample cannot be used.
        """
        positions = self._training_positions(dp_rank, dp_size, consumed_samples)
        self._loader = load_batches(positions, self._load_training, self.num_workers, self.prefetch_factor)
        return self._checked(self._loader)

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
