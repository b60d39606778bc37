# SPDX-License-Identifier: Apache-2.0
"""The formulas: how far generated frames are from reference frames, and one set of features from another.

Frames are numpy arrays (T, H, W, 3), uint8, RGB; both of a pair have one shape.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional

from cosmos1.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.models.tokenizers.protocol import VideoTokenizer

PEAK = 255.0
SSIM_WINDOW = 11
MOST_THREADS = 8  # each holds about 0.2 GB for pictures of 704 x 1280


@dataclass(frozen=True)
class Score:
    """One number for a video and, where the metric looks at frames one by one, one number for each frame."""

    value: float
    per_frame: Optional[List[float]] = None


def json_value(value: float, where: str, higher_is_better: bool) -> Optional[float]:
    """A score as JSON can hold it: None for the one infinity that has a meaning, that of a perfect match.

    Raises DataError, which begins with `where`, for NaN and for every other infinity, which None would hide.
    """
    if math.isfinite(value):
        return value
    if higher_is_better and value > 0:
        return None
    raise DataError(
        f"{where} is {value}, a finite number is needed. Check the weights through which it was computed, and this "
        f"video."
    )


def psnr(generated: "np.ndarray", reference: "np.ndarray") -> Score:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), float64.

    The video's value takes the mean squared error over all its pixels (not the mean of the frames' values, which one
    identical frame would make infinite). Identical frames give infinity.
    """
    import numpy as np

    errors = [np.mean(np.square(np.subtract(a, b, dtype=np.float64))) for a, b in zip(generated, reference)]
    return Score(_decibels(float(np.mean(errors))), [_decibels(float(error)) for error in errors])


def _decibels(mean_squared_error: float) -> float:
    return 10.0 * math.log10(PEAK**2 / mean_squared_error) if mean_squared_error > 0 else math.inf


def ssim(generated: "np.ndarray", reference: "np.ndarray") -> Score:
    """Structural similarity after Wang et al. 2004, mean over frames, colour channels and pixels; at most 1.

    Gaussian window of 11 x 11 with deviation 1.5, K1 = 0.01, K2 = 0.03, population covariance, float64, without the
    5 pixels along the border. Raises DataError for pictures smaller than the window.
    """
    import numpy as np
    from skimage.metrics import structural_similarity

    height, width = generated.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise DataError(f"SSIM needs pictures of at least {SSIM_WINDOW} x {SSIM_WINDOW}, these are {height} x {width}")
    options = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": 2, "data_range": PEAK}

    def of_frame(first: "np.ndarray", second: "np.ndarray") -> float:
        return float(structural_similarity(first.astype(np.float64), second.astype(np.float64), **options))

    # The filters run outside Python's lock, so threads share the cores.
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST_THREADS)) as pool:
        values = list(pool.map(of_frame, generated, reference))
    return Score(sum(values) / len(values), values)


def latent_l2(tokenizer: "VideoTokenizer", generated: "np.ndarray", reference: "np.ndarray") -> Score:
    """Distance of the two videos in the tokenizer's latent space; see :func:`latent_distance`.

    Raises ConfigError when the tokenizer does not take videos of this size.
    """
    from cosmos1.data.video import frames_to_tensor

    first, second = (tokenizer.encode(frames_to_tensor(frames)) for frames in (generated, reference))
    return Score(latent_distance(first, second))


def latent_distance(first: "torch.Tensor", second: "torch.Tensor") -> float:
    """Root mean square difference of two latents of one shape, in float64.

    Latents have about unit variance, so 0 is identical and about 1.41 is two unrelated videos.
    """
    return float((first.double() - second.double()).square().mean().sqrt())


def frechet_distance(first: "np.ndarray", second: "np.ndarray") -> float:
    """Frechet distance of two Gaussians fitted to features (N, D) and (M, D), in float64.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with means m and covariances S (divided by N - 1). With centred
    features X and Y, S1 S2 has the eigenvalues of (X Y^T)(X Y^T)^T / ((N-1)(M-1)), so the trace of its root is the sum
    of the singular values of X Y^T over sqrt((N-1)(M-1)): no root of a nearly singular matrix is taken. A triangular
    factor stands for X, so that at most D x D numbers are decomposed.

    Raises DataError when a set has fewer than two rows or values that are not finite.
    """
    import numpy as np

    sets = [np.asarray(features, dtype=np.float64) for features in (first, second)]
    for features in sets:
        if len(features) < 2:
            raise DataError(f"a Frechet distance needs at least 2 samples in each set; found {len(features)}")
        if not np.isfinite(features).all():
            raise DataError("a Frechet distance needs finite features; the feature network gave NaN or infinity")
    means = [features.mean(axis=0) for features in sets]
    scaled = [(features - mean) / math.sqrt(len(features) - 1) for features, mean in zip(sets, means)]
    factors = [np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows for rows in scaled]
    traces = sum(float(np.square(factor).sum()) for factor in factors)
    root_trace = float(np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())
    # Rounding can take the sum of identical sets a little below zero.
    return max(float(np.square(means[0] - means[1]).sum()) + traces - 2.0 * root_trace, 0.0)
