# SPDX-License-Identifier: Apache-2.0
"""The solvers against values computed with the reference solvers on two denoisers of known form."""

import numpy
import pytest
import torch

from cosmos1.errors import ConfigError
from cosmos1.models.diffusion.samplers import (
    euler_sigmas,
    guided,
    initial_noise,
    res_sigmas,
    sample,
    sample_euler,
    sample_res,
)

START = torch.tensor([80.0, -40.0, 8.0], dtype=torch.float64)


def gaussian(x, sigma):
    """The exact denoiser of normal data with standard deviation 0.5."""
    return 0.25 * x / (sigma**2 + 0.25)


def saturating(x, sigma):
    return 0.5 * torch.tanh(x / (1 + sigma))


@pytest.mark.parametrize(
    ("denoise", "num_steps", "expected"),
    [
        (gaussian, 35, [0.5096775, -0.2548387, 0.0509677]),
        (gaussian, 10, [0.6541302, -0.3270651, 0.0654130]),
        (saturating, 35, [0.0182669, -0.0099231, 0.0020549]),
        (saturating, 10, [-0.0016848, 0.0019707, -0.0004959]),
    ],
)
def test_res_matches_the_reference(denoise, num_steps, expected):
    result = sample_res(denoise, START, res_sigmas(num_steps))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.tensor(expected), rtol=0, atol=4e-7)


@pytest.mark.parametrize(
    ("denoise", "expected"),
    [(gaussian, [0.4568692, -0.2284346, 0.0456869]), (saturating, [0.0112069, -0.0061776, 0.0012874])],
)
def test_euler_matches_the_reference(denoise, expected):
    result = sample_euler(denoise, START, euler_sigmas(35))
    torch.testing.assert_close(result, torch.tensor(expected), rtol=0, atol=4e-7)


def test_noise_levels():
    sigmas = res_sigmas(35)
    assert len(sigmas) == 36
    assert sigmas[:3] == pytest.approx([80, 68.3251, 58.1421], abs=1e-4)
    assert sigmas[-3:] == pytest.approx([0.0073, 0.0039, 0.0020], abs=5e-5)
    sigmas = euler_sigmas(35)
    assert len(sigmas) == 36 and sigmas[-1] == 0
    assert sigmas[:3] == pytest.approx([80, 67.126, 56.070], abs=1e-3)
    assert sigmas[-4:-1] == pytest.approx([0.00134, 0.00055, 0.0002], abs=5e-6)


def test_both_solvers_approach_the_exact_solution():
    """For normal data the trajectory is x * sqrt((t^2 + 0.25)/(s^2 + 0.25)); more steps come closer to its end."""
    exact = START * (0.25 / (80**2 + 0.25)) ** 0.5
    errors = {
        (name, steps): (solve(gaussian, START, levels(steps)) - exact).abs().max().item()
        for name, solve, levels in [("res", sample_res, res_sigmas), ("euler", sample_euler, euler_sigmas)]
        for steps in (50, 400)
    }
    assert errors["res", 400] < 0.05 * errors["res", 50]
    assert errors["euler", 400] < 0.2 * errors["euler", 50]
    assert errors["res", 400] < errors["euler", 400]


def test_denoiser_sees_fp32_and_progress_counts_its_calls():
    seen, ticks = [], []

    def denoise(x, sigma):
        seen.append((x.dtype, sigma))
        return gaussian(x, sigma)

    sample(denoise, START / 80, num_steps=4, progress=lambda step, total: ticks.append((step, total)))
    assert [sigma for _, sigma in seen] == res_sigmas(4)
    assert {dtype for dtype, _ in seen} == {torch.float32}
    assert ticks == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("sampler", ["res", "euler"])
def test_kept_frames_stay_exact_under_guidance(sampler):
    kept = torch.tensor([1.0, 0.0, 0.0])
    frames = torch.tensor([0.7, 0.0, 0.0])

    def branch(scale):
        return lambda x, sigma: kept * frames + (1 - kept) * scale * gaussian(x, sigma)

    result = sample(guided(branch(1.0), branch(0.9), guidance=7.0), START / 80, sampler)
    assert result[0].item() == pytest.approx(0.7, abs=1e-6)
    assert not torch.equal(result[1:], sample(branch(1.0), START / 80, sampler)[1:])


def test_guidance_formula():
    x = torch.tensor([2.0])
    assert guided(lambda x, s: 3 * x, lambda x, s: x, 7.0)(x, 1.0).item() == 6 + 7 * (6 - 2)
    assert guided(lambda x, s: 3 * x, lambda x, s: 1 / 0, 0.0)(x, 1.0).item() == 6


def test_initial_noise_is_numpys():
    expected = numpy.random.RandomState(7).standard_normal((2, 3)).astype("float32")
    assert (initial_noise((2, 3), seed=7).numpy() == expected).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "heun"}, "choose one of res, euler"),
        ({"num_steps": 0}, "too few sampling steps"),
        ({"num_steps": 100_000}, "use fewer steps"),
        ({"sigma_max": 0.001}, "0 < sigma_min < sigma_max"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        sample(gaussian, START, **arguments)
