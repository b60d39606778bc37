# SPDX-License-Identifier: Apache-2.0
"""The order of training samples, as pure functions of the global sample position.

The position counts every sample that training has ever asked for, over all ranks and epochs. It is the only state:
data-parallel size and micro-batch size decide who reads a position, never which sample it is.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from cosmos1.errors import ConfigError


def sample_of_position(position: int, num_samples: int, seed: int, shuffle: bool = True) -> tuple[int, int]:
    """Return (epoch, index) of the sample at a global position; index is in 0..num_samples-1.

    Every epoch visits each sample once, in a permutation drawn from (seed, epoch), or in order without shuffling.
    """
    epoch, offset = divmod(position, num_samples)
    return epoch, int(_permutation(num_samples, seed, epoch)[offset]) if shuffle else offset


def micro_batch_positions(
    consumed_samples: int, micro_batch_size: int, global_batch_size: int, dp_rank: int, dp_size: int
) -> Iterator[list[int]]:
    """Yield, without end, the positions of each micro batch of one data-parallel rank.

    Micro batch m of global batch k on rank r holds consumed + k*G + (m*dp_size + r)*mbs + j for j in 0..mbs-1.
    """
    stride = micro_batch_size * dp_size
    start = consumed_samples + dp_rank * micro_batch_size
    while True:
        for offset in range(0, global_batch_size, stride):
            yield list(range(start + offset, start + offset + micro_batch_size))
        start += global_batch_size


def held_out_positions(
    num_samples: int, micro_batch_size: int, dp_rank: int, dp_size: int, num_batches: int | None
) -> list[list[int]]:
    """Return the positions of each validation micro batch of one rank: in order, as many batches on every rank.

    At most `num_batches` are returned (None: enough to see every sample once). Positions from `num_samples` on stand for
    samples from the beginning again, which only fill up the last batch.
    """
    samples_per_step = micro_batch_size * dp_size
    available = -(-num_samples // samples_per_step)
    count = available if num_batches is None else min(num_batches, available)
    first = dp_rank * micro_batch_size
    return [
        list(range(start, start + micro_batch_size))
        for start in range(first, count * samples_per_step, samples_per_step)
    ]


def held_out_names(names: list[str], fraction: float, seed: int) -> set[str]:
    """Draw which of these source videos or episodes are held out: at least one of two or more, never all.

    Raises ConfigError for a fraction outside 0..1.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"data.validation_fraction={fraction} is outside 0..1 (1 excluded). The usual value is 0.1.")
    if fraction == 0 or len(names) < 2:
        return set()
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    order = np.random.RandomState([seed % 2**32, len(names)]).permutation(len(names))
    return {names[index] for index in order[:count]}


def check_batch_sizes(
    num_samples: int, micro_batch_size: int, global_batch_size: int, dp_size: int, repeat: bool = False
) -> None:
    """Raise ConfigError when the global batch cannot be split evenly, or is larger than the dataset.

    `repeat` allows a global batch that holds samples more than once.
    """
    if global_batch_size < 1 or global_batch_size % (micro_batch_size * dp_size):
        raise ConfigError(
            f"data.global_batch_size={global_batch_size} is not a multiple of data.micro_batch_size="
            f"{micro_batch_size} times the data-parallel size {dp_size}. Use a multiple of "
            f"{micro_batch_size * dp_size}."
        )
    if num_samples < global_batch_size and not repeat:
        raise ConfigError(
            f"the dataset has {num_samples} training samples, fewer than data.global_batch_size={global_batch_size}. "
            f"Lower data.global_batch_size, prepare more samples, or set data.repeat=True to use samples repeatedly."
        )


def check_same_order(path: str, saved: dict, now: dict) -> None:
    """Raise ConfigError, naming both values, if a saved data state is not of this dataset and order."""
    for key, value in now.items():
        if key != "consumed_samples" and saved.get(key) != value:
            raise ConfigError(
                f"resuming {path}: {key} was {saved.get(key)} in the checkpoint and is {value} now, so the order of samples "
                "would change. Restore the data and data.* settings of that run, or start a new run from its weights."
            )


@lru_cache(maxsize=4)
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState's stream is frozen: the order stays the same with every version of numpy.
    return np.random.RandomState([seed % 2**32, epoch]).permutation(num_samples)
