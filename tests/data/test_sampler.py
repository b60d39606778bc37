# SPDX-License-Identifier: Apache-2.0
"""The order of samples is a function of the global position and of nothing else."""

from itertools import islice

import pytest

from cosmos1.data.batches.sampler import (
    check_batch_sizes,
    held_out_positions,
    micro_batch_positions,
    sample_of_position,
)
from cosmos1.errors import ConfigError


def positions_of_steps(consumed, micro, total, dp_size, num_steps):
    """All positions that num_steps global batches ask for, over all ranks, in order."""
    ranks = [micro_batch_positions(consumed, micro, total, rank, dp_size) for rank in range(dp_size)]
    per_step = total // (micro * dp_size)
    found = []
    for _ in range(num_steps):
        step = [position for rank in ranks for batch in islice(rank, per_step) for position in batch]
        found.append(sorted(step))
    return found


def test_every_epoch_visits_each_sample_once_in_another_order():
    epochs = [[sample_of_position(epoch * 10 + k, 10, seed=1) for k in range(10)] for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert {found for found, _ in epoch} == {number}
        assert sorted(index for _, index in epoch) == list(range(10))
    assert epochs[0] != [(0, index) for _, index in epochs[1]]
    assert [index for _, index in epochs[0]] != list(range(10))


def test_seed_changes_the_order_and_no_shuffle_keeps_it():
    order = [[sample_of_position(k, 50, seed)[1] for k in range(50)] for seed in (0, 1)]
    assert order[0] != order[1]
    assert [sample_of_position(k, 5, 0, shuffle=False) for k in (3, 4, 5)] == [(0, 3), (0, 4), (1, 0)]


def test_the_permutation_never_changes():
    # A resumed run on another machine or numpy must see this order.
    assert [sample_of_position(k, 6, seed=7)[1] for k in range(6)] == [1, 4, 5, 3, 2, 0]


@pytest.mark.parametrize("micro, dp_size", [(1, 1), (2, 1), (1, 4), (2, 4), (8, 1)])
def test_any_layout_reads_the_same_global_batches(micro, dp_size):
    expected = [list(range(24 + 8 * step, 32 + 8 * step)) for step in range(5)]
    assert positions_of_steps(24, micro, 8, dp_size, 5) == expected


def test_ranks_and_micro_batches_are_laid_out_as_documented():
    batches = list(islice(micro_batch_positions(100, 2, 8, dp_rank=1, dp_size=2), 3))
    assert batches == [[102, 103], [106, 107], [110, 111]]


def test_held_out_batches_are_equal_in_number_and_cover_everything():
    per_rank = [held_out_positions(7, 2, rank, 2, None) for rank in range(2)]
    assert [len(batches) for batches in per_rank] == [2, 2]
    assert sorted(sum(per_rank[0] + per_rank[1], [])) == list(range(8))
    assert held_out_positions(7, 2, 0, 2, 1) == [[0, 1]]
    assert held_out_positions(1, 2, 1, 2, 5) == [[2, 3]]


def test_batch_sizes_that_do_not_fit_name_the_numbers():
    with pytest.raises(ConfigError, match="global_batch_size=6 .*micro_batch_size=2 .*data-parallel size 2"):
        check_batch_sizes(100, 2, 6, 2)
    with pytest.raises(ConfigError, match="3 training samples.*global_batch_size=4"):
        check_batch_sizes(3, 1, 4, 2)
    check_batch_sizes(3, 1, 4, 2, repeat=True)
