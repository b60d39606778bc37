# SPDX-License-Identifier: Apache-2.0
"""Power-function EMA against its closed form and a float64 loop."""

import pytest
import torch

from cosmos1.training.ema import PowerEMA, power_beta, power_exponent


@pytest.mark.parametrize("width, exponent", [(0.1, 6.9372), (0.05, 16.9722), (0.025, 36.9868)])
def test_exponent_of_a_relative_width(width, exponent):
    assert power_exponent(width) == pytest.approx(exponent, abs=1e-4)
    # Standard deviation of the profile t^g on [0, 1], which is what the width means.
    g = exponent
    assert ((g + 1) / ((g + 2) ** 2 * (g + 3))) ** 0.5 == pytest.approx(width, rel=1e-4)


def test_beta_is_the_ratio_of_powers():
    assert power_beta(6.94, 0) == 0.0
    for step in (1, 10, 1000):
        assert power_beta(6.94, step) == pytest.approx((step / (step + 1)) ** 7.94, rel=1e-12)


def test_the_first_update_takes_the_weights():
    weight = torch.zeros(3)
    ema = PowerEMA([0.1], [weight])
    weight.fill_(5.0)
    ema.update(0)
    assert torch.equal(ema.copies[0][0], torch.full((3,), 5.0))


@pytest.mark.parametrize("widths", [[], [0.1], [0.1, 0.05, 0.025]])
def test_against_a_float64_loop(widths):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator), torch.empty(0)]
    ema = PowerEMA(widths, tensors)
    expected = [[torch.zeros_like(tensor, dtype=torch.float64) for tensor in tensors] for _ in widths]
    for step in range(30):
        for tensor in tensors:
            tensor.add_(torch.randn(tensor.shape, generator=generator))
        ema.update(step)
        for width, copies in zip(widths, expected):
            beta = (1 - 1 / (step + 1)) ** (power_exponent(width) + 1)
            for copy, tensor in zip(copies, tensors):
                copy.mul_(beta).add_(tensor.double(), alpha=1 - beta)
    assert len(ema.copies) == len(widths)
    for copies, references in zip(ema.copies, expected):
        for copy, reference in zip(copies, references):
            torch.testing.assert_close(copy.double(), reference, rtol=1e-5, atol=1e-5)


def test_a_constant_weight_is_its_own_average():
    """Weights of all steps add up to one."""
    ema = PowerEMA([0.05], [torch.full((2,), 3.0)])
    for step in range(100):
        ema.update(step)
    torch.testing.assert_close(ema.copies[0][0], torch.full((2,), 3.0))


def test_copies_share_no_memory_with_the_weights():
    weight = torch.ones(2)
    ema = PowerEMA([0.1, 0.05], [weight])
    weight.zero_()
    assert ema.copies[0][0].sum() == ema.copies[1][0].sum() == 2
