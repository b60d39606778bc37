# SPDX-License-Identifier: Apache-2.0
"""Flat ranges of a tensor as rectangles of it."""

import random

import pytest
import torch

from cosmos1.checkpoint.shards import rectangles


def reassemble(shape, cuts: list[int]) -> torch.Tensor:
    """Cut the flattened tensor at ``cuts``, and put the rectangles of all ranges where they say they belong."""
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape)
    result = torch.full(shape, -1)
    for start, stop in zip(cuts, cuts[1:]):
        flat, covered = whole.flatten()[start:stop], 0
        for part, size, offset in rectangles(shape, start, stop):
            target = tuple(slice(begin, begin + length) for begin, length in zip(offset, size))
            assert (result[target] == -1).all(), "rectangles overlap"
            result[target] = flat[part].view(size)
            covered += flat[part].numel()
        assert covered == stop - start
    return result


@pytest.mark.parametrize("seed", range(40))
def test_random_ranges_reassemble_the_tensor(seed):
    draw = random.Random(seed)
    shape = (draw.randint(1, 9), draw.randint(1, 9)) if seed % 4 else (draw.randint(1, 60),)
    total = torch.Size(shape).numel()
    cuts = sorted({0, total, *(draw.randint(0, total) for _ in range(draw.randint(0, 5)))})
    expected = torch.arange(total).reshape(shape)
    assert torch.equal(reassemble(shape, cuts), expected)


@pytest.mark.parametrize(
    "start, stop, expected",
    [
        (0, 20, [((4, 5), (0, 0))]),
        (5, 15, [((2, 5), (1, 0))]),
        (6, 8, [((1, 2), (1, 1))]),
        (3, 17, [((1, 2), (0, 3)), ((2, 5), (1, 0)), ((1, 2), (3, 0))]),
        (3, 7, [((1, 2), (0, 3)), ((1, 2), (1, 0))]),
        (7, 7, []),
    ],
)
def test_at_most_three_rectangles(start, stop, expected):
    assert [(size, offset) for _, size, offset in rectangles((4, 5), start, stop)] == expected
