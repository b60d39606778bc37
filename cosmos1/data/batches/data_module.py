# SPDX-License-Identifier: Apache-2.0
"""What all data modules share: their settings, batches of held-out samples, and what a checkpoint says of the data."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional

from cosmos1.data.batches.loader import load_batches, stack_samples
from cosmos1.data.batches.sampler import (
    check_batch_sizes,
    check_same_order,
    held_out_positions,
    micro_batch_positions,
)

STATE_VERSION = 1


@dataclass
class DataModule:
    """Feeds a training run.

    A subclass implements `setup`, which ends with `_begin`, and `_load_sample`, which runs in a worker; `train_batches`
    with `close`, and the part of the state that each rank has for itself. `max_bad_samples` training samples that cannot
    be used are replaced; one more stops the run. `repeat` allows fewer samples than a global batch.

    After `setup` there are `num_train_samples`, `num_validation_samples`, and two facts that `setup` of each subclass
    states: `sample_shape`, [C, t, h, w] of a latent or [t, h, w] of a token grid, and `tokenizer`, the name of the video
    tokenizer that made the samples, None where the data do not say.
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
        self._loader = None
        self.num_bad_samples = 0

    @property
    def num_views(self) -> int:
        """Camera views in one sample."""
        return 1

    def validation_batches(
        self, dp_rank: int, dp_size: int, num_batches: Optional[int] = None
    ) -> Iterator[Dict[str, Any]]:
        """Return at most `num_batches` batches of the held-out samples, always the same, equally many on each rank.

        Beside what training batches have there is `counted` [B] float32: 0 for samples that were there before and only
        fill up the last batch, so that means over the others depend neither on the layout nor on the micro batch.
        """
        if not self.num_validation_samples:
            return iter(())
        positions = held_out_positions(
            self.num_validation_samples, self.micro_batch_size, dp_rank, dp_size, num_batches
        )
        return load_batches(positions, self._load_held_out, self.num_workers, self.prefetch_factor)

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

    def _training_positions(self, dp_rank: int, dp_size: int, consumed_samples: int) -> Iterator[List[int]]:
        """Positions of this rank's micro batches, without end. Raises ConfigError when the batch sizes do not fit."""
        check_batch_sizes(self.num_train_samples, self.micro_batch_size, self.global_batch_size, dp_size, self.repeat)
        return micro_batch_positions(consumed_samples, self.micro_batch_size, self.global_batch_size, dp_rank, dp_size)

    def _load_held_out(self, positions: List[int]) -> Dict[str, Any]:
        import torch

        count = self.num_validation_samples
        samples = [self._load_sample(False, position % count, position % count) for position in positions]
        counted = torch.tensor([float(position < count) for position in positions])
        return {**stack_samples(samples), "counted": counted}
