# SPDX-License-Identifier: Apache-2.0
"""Each formula against a value that is known without it."""

import math

import numpy
import pytest
import torch

from cosmos1.data.video import frames_to_tensor
from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.metrics import frechet_distance, latent_distance, latent_l2, psnr, ssim
from cosmos1.models.tokenizers.dct import DctTokenizer


def grey(value, num_frames=2, height=16, width=24):
    return numpy.full((num_frames, height, width, 3), value, "uint8")


def test_psnr_of_a_constant_shift():
    score = psnr(grey(10), grey(30))
    assert score.value == pytest.approx(20 * math.log10(255 / 20), rel=1e-12)
    assert score.per_frame == pytest.approx([score.value] * 2)
    assert psnr(grey(30), grey(10)).value == score.value


def test_psnr_of_a_video_takes_the_mean_squared_error_of_all_frames():
    generated = numpy.concatenate([grey(0, 1), grey(30, 1)])
    score = psnr(generated, grey(0))
    assert score.per_frame == [math.inf, pytest.approx(20 * math.log10(255 / 30))]
    assert score.value == pytest.approx(10 * math.log10(255**2 / (30**2 / 2)))
    assert psnr(grey(7), grey(7)).value == math.inf


@pytest.mark.parametrize("first, second", [(100, 100), (100, 130), (0, 255)])
def test_ssim_of_constant_pictures_is_the_luminance_term(first, second):
    c1 = (0.01 * 255) ** 2
    expected = (2 * first * second + c1) / (first**2 + second**2 + c1)
    assert ssim(grey(first), grey(second)).value == pytest.approx(expected, abs=1e-12)


def naive_ssim(first, second):
    """The definition, window by window, for one channel (H, W)."""
    offsets = numpy.arange(-5, 6)
    line = numpy.exp(-(offsets**2) / (2 * 1.5**2))
    window = numpy.outer(line, line) / line.sum() ** 2
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for y in range(first.shape[0] - 10):
        for x in range(first.shape[1] - 10):
            a, b = (picture[y : y + 11, x : x + 11].astype(float) for picture in (first, second))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variances = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (variances + c2))
    return numpy.mean(values)


def test_ssim_is_the_published_definition():
    first, second = numpy.random.RandomState(0).randint(0, 256, (2, 1, 14, 17, 3)).astype("uint8")
    expected = numpy.mean([naive_ssim(first[0, ..., channel], second[0, ..., channel]) for channel in range(3)])
    assert ssim(first, second).value == pytest.approx(expected, rel=1e-9)


def test_ssim_refuses_pictures_below_its_window():
    with pytest.raises(DataError, match="at least 11 x 11, these are 10 x 24"):
        ssim(grey(0, height=10), grey(0, height=10))


def test_latent_distance_of_a_known_difference():
    latent = torch.randn(1, 16, 2, 4, 4)
    assert latent_distance(latent + 0.5, latent) == pytest.approx(0.5, rel=1e-6)
    assert latent_distance(latent, latent) == 0.0


def test_latent_l2_encodes_both_videos(moving_waves):
    tokenizer = DctTokenizer()
    frames = moving_waves()
    brighter = frames + numpy.uint8(20)
    latents = [tokenizer.encode(frames_to_tensor(video)) for video in (brighter, frames)]
    # Brightness moves one channel of sixteen: luma, constant in time.
    shift = (latents[0] - latents[1])[:, 0]
    assert latent_l2(tokenizer, brighter, frames).value == pytest.approx(float(shift.mean()) / 4, rel=1e-3)
    with pytest.raises(ConfigError, match="8 frames, but 1 \\+ a multiple of 8"):
        latent_l2(tokenizer, brighter[:8], frames[:8])


def gaussian_like(mean, deviations):
    """Points whose mean and (diagonal) covariance are exactly the given ones: two per axis, N = 2 D."""
    num_points = 2 * len(deviations)
    axes = numpy.diag(deviations) * math.sqrt((num_points - 1) / 2)
    return numpy.concatenate([axes, -axes]) + numpy.asarray(mean)


def test_frechet_distance_of_diagonal_gaussians():
    first = gaussian_like([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    second = gaussian_like([3.0, 4.0, 0.0], [2.0, 2.0, 0.5])
    assert frechet_distance(first, second) == pytest.approx(3**2 + 4**2 + (1 - 2) ** 2 + (3 - 0.5) ** 2, rel=1e-12)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("sizes", [(40, 50), (5, 40), (4, 6)])
def test_frechet_distance_equals_the_matrix_root(sizes):
    """Also with fewer samples than features, where the covariances are singular."""
    rng = numpy.random.RandomState(1)
    first, second = (rng.randn(size, 12) @ rng.randn(12, 12) + rng.randn(12) for size in sizes)
    s1, s2 = (numpy.cov(features, rowvar=False) for features in (first, second))
    root_trace = numpy.sqrt(numpy.linalg.eigvals(s1 @ s2).real.clip(0)).sum()
    shift = numpy.square(first.mean(0) - second.mean(0)).sum()
    expected = shift + numpy.trace(s1) + numpy.trace(s2) - 2 * root_trace
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_refuses_what_has_no_covariance():
    features = numpy.zeros((3, 2))
    with pytest.raises(DataError, match="at least 2 samples in each set; found 1"):
        frechet_distance(features, features[:1])
    with pytest.raises(DataError, match="NaN or infinity"):
        frechet_distance(features, features * numpy.nan)
