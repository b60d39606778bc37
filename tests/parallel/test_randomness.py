# SPDX-License-Identifier: Apache-2.0
"""Draws depend on seed, purpose and sample alone."""

import pytest
import torch

from cosmos1.parallel.randomness import SampleRandomness, named_generator


def test_a_sample_draws_the_same_in_any_micro_batch():
    together = SampleRandomness(7, torch.tensor([10, 11, 12])).normal("noise", 2, 3)
    alone = SampleRandomness(7, torch.tensor([12])).normal("noise", 2, 3)
    assert together.shape == (3, 2, 3)
    assert torch.equal(together[2], alone[0])
    assert not torch.equal(together[0], together[1])


def test_order_of_draws_does_not_matter():
    first, second = (SampleRandomness(7, torch.tensor([3])) for _ in range(2))
    noise, sigma = first.normal("noise", 4), first.normal("sigma")
    assert torch.equal(second.normal("sigma"), sigma)
    assert torch.equal(second.normal("noise", 4), noise)


def test_seed_and_purpose_change_the_draw():
    draws = [
        SampleRandomness(seed, torch.tensor([3])).uniform(purpose).item()
        for seed in (0, 1)
        for purpose in ("text_dropout", "given_dropout")
    ]
    assert len(set(draws)) == 4


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random = SampleRandomness(0, torch.arange(4))
    random.normal("a", 8), random.uniform("b"), random.integers("c", 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_distributions():
    random = SampleRandomness(0, torch.arange(4000))
    normal, uniform, integers = random.normal("n"), random.uniform("u"), random.integers("i", 1, 3)
    assert normal.mean().item() == pytest.approx(0, abs=0.06)
    assert normal.std().item() == pytest.approx(1, abs=0.05)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert integers.unique().tolist() == [1, 2, 3]
    assert (integers == 1).float().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_draws_stay_the_same_in_every_release():
    """A run that is resumed with a later version must draw what it would have drawn."""
    assert named_generator(1234, "noise/0").initial_seed() == 9051748808628047086
