# SPDX-License-Identifier: Apache-2.0
"""Flat ranges of a tensor as rectangles of it."""

import random

import pytest
import torch

from cosmos1.checkpoint.shards import Placement, _pieces, rectangles


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


@pytest.mark.parametrize("seed", range(10))
def test_parts_of_stacked_matrices_lie_where_the_whole_has_them(seed):
    """Two ranks hold half of each of two matrices; the flat range of a replica is cut at the edge between them."""
    draw = random.Random(seed)
    rows, columns = 4 * draw.randint(1, 4), draw.randint(1, 5)
    whole = torch.arange(rows * columns).view(rows, columns)
    result = torch.full_like(whole, -1)
    for rank in range(2):
        local = torch.cat([matrix.chunk(2)[rank] for matrix in whole.chunk(2)])
        placement = Placement(
            "fc1", tuple(local.shape), tuple(whole.shape), (rank * len(local), 0), True, num_stacked=2
        )
        cut = draw.randint(0, local.numel())
        for start, stop in ((0, cut), (cut, local.numel())):
            for part, shape, offset in rectangles(tuple(local.shape), start, stop):
                data = local.flatten()[start:stop][part].view(shape)
                for piece, (row, column) in _pieces(placement, data, offset):
                    result[row : row + piece.shape[0], column : column + piece.shape[1]] = piece
    assert torch.equal(result, whole)
