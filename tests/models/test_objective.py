# SPDX-License-Identifier: Apache-2.0
"""The EDM objective against its formulas, and what Video2World gives to the network."""

import math

import pytest
import torch

from cosmos1.models.diffusion.objective import (
    Preconditioning,
    edm_loss,
    make_noisy_sample,
    metric_sums,
    summarize,
)
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from cosmos1.parallel.randomness import SampleRandomness

CPU = torch.device("cpu")


def batch_of(positions, frames: int = 4, **extra) -> dict:
    generator = torch.Generator().manual_seed(5)
    size = len(positions)
    return {
        "video": torch.randn(size, 16, frames, 4, 6, generator=generator).bfloat16(),
        "t5_text_embeddings": torch.randn(size, 8, 32, generator=generator),
        "fps": torch.full((size,), 24.0),
        "padding_mask": torch.zeros(size, 1, 4, 6),
        "sample_position": torch.tensor(positions),
        **extra,
    }


def ideal_prediction(sample) -> torch.Tensor:
    c = sample.coefficients
    return (sample.clean - c.c_skip * sample.network_input) / c.c_out


@pytest.mark.parametrize(
    "sigma, c_skip, c_out, c_in, c_noise, weight",
    [
        (0.002, 0.999984, 0.002000, 1.999984, -1.553652, 250004),
        (0.5, 0.5, 0.353553, 1.414214, -0.173287, 8),
        (1.0, 0.2, 0.447214, 0.894427, 0.0, 5),
        (80.0, 3.9061e-5, 0.499990, 0.0124998, 1.095507, 4.000156),
    ],
)
def test_coefficients(sigma, c_skip, c_out, c_in, c_noise, weight):
    c = Preconditioning(torch.full((1, 1, 1, 1, 1), sigma), 0.5)
    found = [c.c_skip.item(), c.c_out.item(), c.c_in.item(), c.c_noise.item(), c.loss_weight.item()]
    assert found == pytest.approx([c_skip, c_out, c_in, c_noise, weight], rel=5e-5, abs=1e-6)
    assert (c.loss_weight * c.c_out**2).item() == pytest.approx(1, rel=1e-5)


def test_network_input_is_clean_plus_noise():
    objective = EDMObjective(p_mean=0.3, p_std=0.7, sigma_multiplier=4.0, text_dropout=0.0)
    batch = batch_of([11, 12])
    sample = make_noisy_sample(objective, batch, 3, CPU, conditioned=False)
    random = SampleRandomness(3, batch["sample_position"])
    sigma = 4.0 * torch.exp(0.3 + 0.7 * random.normal("sigma"))
    torch.testing.assert_close(sample.coefficients.sigma.flatten(), sigma)
    clean = batch["video"].float() * 0.5
    noise = random.normal("noise", 16, 4, 4, 6)
    torch.testing.assert_close(sample.network_input, clean + sigma[:, None, None, None, None] * noise)
    assert sample.given is None and sample.condition_mask is None


def test_noise_levels_follow_the_log_normal():
    sample = make_noisy_sample(EDMObjective(p_mean=-0.5, p_std=1.2), batch_of(range(3000), 1), 0, CPU, False)
    log_sigma = sample.coefficients.sigma.log()
    assert log_sigma.mean().item() == pytest.approx(-0.5, abs=0.07)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize("conditioned", [False, True])
def test_the_ideal_prediction_has_no_loss(conditioned):
    sample = make_noisy_sample(EDMObjective(), batch_of([0, 1, 2]), 0, CPU, conditioned)
    assert edm_loss(sample, ideal_prediction(sample)).abs().max() < 1e-8


def test_the_loss_on_the_prediction_has_unit_weight():
    sample = make_noisy_sample(EDMObjective(), batch_of([0, 1, 2]), 0, CPU, False)
    error = torch.randn(sample.clean.shape, generator=torch.Generator().manual_seed(0))
    loss = edm_loss(sample, ideal_prediction(sample) + error)
    torch.testing.assert_close(loss, error.square().mean(dim=(1, 2, 3, 4)), rtol=1e-4, atol=1e-6)


def test_the_loss_mask_counts_valid_positions_only():
    mask = torch.zeros(2, 1, 4, 4, 6)
    mask[:, :, :3, :, :2] = 1
    sample = make_noisy_sample(EDMObjective(), batch_of([0, 1], loss_mask=mask), 0, CPU, False)
    error = torch.randn(sample.clean.shape, generator=torch.Generator().manual_seed(0))
    loss = edm_loss(sample, ideal_prediction(sample) + error)
    expected = error[:, :, :3, :, :2].square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    outside = ideal_prediction(sample) + 100 * (1 - mask)
    assert edm_loss(sample, outside).max() < 1e-6


def test_text_dropout_hides_whole_samples_at_its_rate():
    batch = batch_of(range(2000), 1)
    text = make_noisy_sample(EDMObjective(text_dropout=0.2), batch, 0, CPU, False).text
    dropped = (text == 0).all(dim=(1, 2))
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(text[~dropped], batch["t5_text_embeddings"][~dropped])
    for objective, training in ((EDMObjective(text_dropout=0.0), True), (EDMObjective(text_dropout=1.0), False)):
        kept = make_noisy_sample(objective, batch, 0, CPU, False, training).text
        assert torch.equal(kept, batch["t5_text_embeddings"])


def test_held_out_noise_is_spread_and_repeats():
    objective, batch = EDMObjective(), batch_of(range(16))
    first, second = (make_noisy_sample(objective, batch, 0, CPU, True, training=False) for _ in range(2))
    assert torch.equal(first.network_input, second.network_input)
    quantiles = torch.special.ndtr(first.coefficients.sigma.flatten().log()).sort().values
    torch.testing.assert_close(quantiles, (torch.arange(16) + 0.5) / 16, rtol=0, atol=0.06)


# ---- Video2World ----


def conditioned_sample(positions=range(40), training=True, **changes):
    conditioning = VideoConditioning(min_frames=1, max_frames=3, **changes)
    return make_noisy_sample(EDMObjective(conditioning=conditioning), batch_of(positions), 0, CPU, True, training)


def test_every_number_of_given_frames_occurs_first_frames_first():
    sample = conditioned_sample()
    given = sample.given[:, 0, :, 0, 0]
    assert given.sum(dim=1).unique().tolist() == [1, 2, 3]
    assert (given[:, 1:] <= given[:, :-1]).all()


def test_the_network_sees_lightly_noised_clean_latents():
    """After c_in the given frames are ``c_in(s) * (x0 + s * n)`` with the augmentation level s, whatever sigma is."""
    sample = conditioned_sample(augment_sigma_mean=-1.0, augment_sigma_std=0.5, augment_sigma_multiplier=2.0)
    random = SampleRandomness(0, torch.arange(40))
    s = (2.0 * torch.exp(-1.0 + 0.5 * random.normal("augment_sigma")))[:, None, None, None, None]
    noised = (sample.clean + s * random.normal("augment_noise", 16, 4, 4, 6)) / (s**2 + 0.25).sqrt()
    seen = sample.network_input * sample.coefficients.c_in
    given = sample.given.expand_as(seen).bool()
    torch.testing.assert_close(seen[given], noised[given], rtol=1e-5, atol=1e-5)
    free = make_noisy_sample(EDMObjective(), batch_of(range(40)), 0, CPU, False)
    assert torch.equal(sample.network_input[~given], free.network_input[~given])


def test_the_mask_channel_marks_given_frames():
    sample = conditioned_sample()
    assert sample.condition_mask.shape == (40, 1, 4, 4, 6)
    assert torch.equal(sample.condition_mask, sample.given.expand(-1, -1, -1, 4, 6))


def test_given_frames_have_no_loss_but_count_in_the_mean():
    sample = conditioned_sample()
    loss = edm_loss(sample, ideal_prediction(sample) + 1.0)
    expected = 1 - sample.given.flatten(1).sum(1) / 4
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_dropped_conditioning_is_zero_with_mask_zero():
    sample = conditioned_sample(positions=range(1000), dropout=0.25)
    dropped = sample.condition_mask.sum(dim=(1, 2, 3, 4)) == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.04)
    given = sample.given.expand_as(sample.network_input).bool()
    assert (sample.network_input[dropped][given[dropped]] == 0).all()
    assert (sample.network_input[~dropped][given[~dropped]] != 0).all()
    assert conditioned_sample(dropout=1.0, training=False).condition_mask.any()


# ---- what training adds up ----


def test_sums_by_noise_level():
    sigma = torch.tensor([0.1, 0.5, 0.9, 2.0, 50.0])
    loss = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    named = summarize(metric_sums(loss, sigma).tolist())
    assert named == {
        "loss": pytest.approx(31 / 5),
        "loss_sigma_0_0.3": 1.0,
        "loss_sigma_0.3_1": 3.0,
        "loss_sigma_1_3": 8.0,
        "loss_sigma_3_inf": 16.0,
    }


def test_samples_that_do_not_count():
    counted = torch.tensor([1.0, 0.0, 1.0])
    named = summarize(metric_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.5, 5.0]), counted).tolist())
    assert named == {"loss": 2.5, "loss_sigma_0_0.3": 1.0, "loss_sigma_3_inf": 4.0}
    assert summarize(metric_sums(torch.ones(2), torch.ones(2), torch.zeros(2)).tolist()) == {}


def test_noise_levels_without_a_sample_are_left_out():
    named = summarize(metric_sums(torch.tensor([2.0]), torch.tensor([5.0])).tolist())
    assert named == {"loss": 2.0, "loss_sigma_3_inf": 2.0}


def test_sums_of_many_small_losses_keep_their_digits():
    """A million fp32 losses add up in fp64, so the mean is right to 1e-9; an fp32 sum would drift."""
    losses = torch.full((1000,), 0.1)
    sums = sum(metric_sums(losses, torch.ones(1000)) for _ in range(1000))
    assert sums.dtype == torch.float64
    assert summarize(sums.tolist())["loss"] == pytest.approx(float(losses[0]), rel=1e-9)
    assert math.isclose(sums[1].item(), 1e6)
