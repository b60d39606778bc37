# SPDX-License-Identifier: Apache-2.0
"""From noise to a clean latent: the two solvers that the Cosmos diffusion models are sampled with.

Both integrate dx/dsigma = (x - D(x, sigma)) / sigma over falling noise levels sigma, where D(x, sigma) predicts the
clean latent x0. They take D as a function, the denoiser:

    denoise(x, sigma) -> x0        x, x0: tensors of one shape, any axes; x in fp32; sigma: a Python float

Guidance (`guided`) and the frames that Video2World keeps are the business of the denoiser: it returns the kept frames
as they are, and because guidance adds a multiple of a difference that is zero there, they stay.

    start = initial_noise((1, 16, 16, 88, 160), seed=1)
    latent = sample(guided(conditional, unconditional, guidance=7.0), start, sampler="res", num_steps=35)
"""

import math
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence

from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    Denoiser = Callable[[Tensor, float], Tensor]
    Progress = Callable[[int, int], None]

SMALLEST_STEP = 1e-6  # noise levels closer than this make the multistep coefficients meaningless


def res_sigmas(num_steps: int = 35, sigma_max: float = 80.0, sigma_min: float = 0.002, rho: float = 7.0) -> List[float]:
    """The num_steps + 1 noise levels of `sample_res`, from sigma_max down to sigma_min inclusive.

    sigma_i = (sigma_max^(1/rho) + i/num_steps * (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, the schedule of EDM.
    Raises ConfigError if a step would be too small to compute.
    """
    return _power_ramp(num_steps + 1, sigma_max, sigma_min, rho)


def euler_sigmas(
    num_steps: int = 35, sigma_max: float = 80.0, sigma_min: float = 0.0002, rho: float = 7.0
) -> List[float]:
    """The num_steps + 1 noise levels of `sample_euler`: num_steps of the same ramp, then 0."""
    return [*_power_ramp(num_steps, sigma_max, sigma_min, rho), 0.0]


def diffusers_sigmas(
    num_steps: int = 36, sigma_max: float = 80.0, sigma_min: float = 0.002, rho: float = 7.0
) -> List[float]:
    """The num_steps noise levels of diffusers' Cosmos pipelines, which stop at sigma_min instead of 0.

    Their last step goes from sigma_min to sigma_min and changes nothing, so it is left out here.
    """
    return _power_ramp(num_steps, sigma_max, sigma_min, rho)


def sample_res(
    denoise: "Denoiser", start: "Tensor", sigmas: Sequence[float], progress: Optional["Progress"] = None
) -> "Tensor":
    """Second-order exponential multistep solver (RES 2ab) with a last clean prediction.

    One step from s to t < s, with d = D(x, s) and the previous d', s':

        first step:  x <- (s - t)/s * d + t/s * x
        others:      h = ln(s/t),  c2 = ln(s/s')/h  (negative: the second point lies behind)
                     phi1 = (1 - exp(-h))/h,  phi2 = (1 - phi1)/h,  b2 = phi2/c2,  b1 = phi1 - b2
                     x <- exp(-h)*x + h*(b1*d + b2*d')

    The result is D(x, last sigma), so len(sigmas) denoiser calls are made.

    Args:
        denoise: the denoiser of this module's description; called with fp32 tensors, the state is kept in fp64.
        start: noise of standard deviation sigmas[0], any shape.
        sigmas: falling noise levels, from `res_sigmas`.
        progress: called with (calls made, calls in all) after each denoiser call.

    Returns: the clean latent, fp32, shape of `start`.
    """
    state, previous, before = start.double(), None, None
    for index, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        clean = _evaluate(denoise, state, sigma, index, len(sigmas), progress)
        if previous is None:
            state = (sigma - following) / sigma * clean + following / sigma * state
        else:
            step = math.log(sigma / following)
            phi1 = -math.expm1(-step) / step
            weight_previous = (1 - phi1) / math.log(sigma / before)  # phi2 / c2
            state = math.exp(-step) * state + step * ((phi1 - weight_previous) * clean + weight_previous * previous)
        previous, before = clean, sigma
    return _evaluate(denoise, state, sigmas[-1], len(sigmas) - 1, len(sigmas), progress).float()


def sample_euler(
    denoise: "Denoiser", start: "Tensor", sigmas: Sequence[float], progress: Optional["Progress"] = None
) -> "Tensor":
    """First-order solver (EDM-Euler): x <- x + (x - D(x, s))/s * (t - s), for each step from s to t.

    Arguments as `sample_res`, with sigmas from `euler_sigmas`; at a last noise level of 0, x is the prediction
    itself; len(sigmas) - 1 denoiser calls are made. Combining guidance in the predictions, as here, equals combining
    it in the network outputs: D is affine in the output, with the same input term in both branches.

    Returns: the clean latent, fp32, shape of `start`.
    """
    state = start.double()
    for index, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        clean = _evaluate(denoise, state, sigma, index, len(sigmas) - 1, progress)
        state = state + (state - clean) / sigma * (following - sigma)
    return state.float()


SAMPLERS: Dict[str, tuple] = {
    "res": (sample_res, res_sigmas),
    "euler": (sample_euler, euler_sigmas),
    "euler_diffusers": (sample_euler, diffusers_sigmas),
}


def sample(
    denoise: "Denoiser",
    noise: "Tensor",
    sampler: str = "res",
    num_steps: int = 35,
    sigma_max: float = 80.0,
    progress: Optional["Progress"] = None,
) -> "Tensor":
    """Draw a clean latent with a solver by name; `noise` has unit variance and is scaled here.

    Args:
        noise: unit normal noise, e.g. from `initial_noise`; any shape.
        sampler: "res" (35 steps are 36 denoiser calls), "euler" (35 calls), or "euler_diffusers" (34 calls).

    Raises ConfigError for an unknown sampler or too few or too many steps.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f'sampler is "{sampler}"; choose one of {", ".join(SAMPLERS)}')
    solve, make_sigmas = SAMPLERS[sampler]
    # The Euler scheduler starts from noise plus unit-variance data, a difference of 1 in 12,800.
    scale = math.sqrt(sigma_max**2 + 1) if sampler == "euler" else sigma_max
    return solve(denoise, noise * scale, make_sigmas(num_steps, sigma_max), progress)


def initial_noise(shape: Sequence[int], seed: int) -> "Tensor":
    """Unit normal noise, fp32 on the CPU, the same on every machine and rank for one seed.

    It comes from NumPy's RandomState, as in the released programs, so their seeds give the same start. With context
    parallelism draw the full shape on each rank and slice it.
    """
    import numpy
    import torch

    return torch.from_numpy(numpy.random.RandomState(seed).standard_normal(tuple(shape)).astype(numpy.float32))


def guided(conditional: "Denoiser", unconditional: "Denoiser", guidance: float) -> "Denoiser":
    """Classifier-free guidance: cond + guidance * (cond - uncond). The usual scale "s" is 1 + guidance.

    With guidance 0 the unconditional denoiser is never called.
    """
    if guidance == 0:
        return conditional

    def denoise(x: "Tensor", sigma: float) -> "Tensor":
        with_condition = conditional(x, sigma)
        return with_condition + guidance * (with_condition - unconditional(x, sigma))

    return denoise


def _power_ramp(num_levels: int, sigma_max: float, sigma_min: float, rho: float) -> List[float]:
    if num_levels < 2:
        raise ConfigError(f"too few sampling steps: {num_levels} noise levels, 2 needed; give a larger num_steps")
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(f"sigma_min {sigma_min} and sigma_max {sigma_max} must satisfy 0 < sigma_min < sigma_max")
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = [(first + index / (num_levels - 1) * (last - first)) ** rho for index in range(num_levels)]
    smallest = min(high - low for high, low in zip(sigmas, sigmas[1:]))
    if smallest < SMALLEST_STEP:
        raise ConfigError(
            f"{num_levels} noise levels lie {smallest:.1e} apart, {SMALLEST_STEP} needed; use fewer steps"
        )
    return sigmas


def _evaluate(
    denoise: "Denoiser", state: "Tensor", sigma: float, index: int, total: int, progress: Optional["Progress"]
) -> "Tensor":
    """One denoiser call at the network's precision; the prediction in fp64."""
    clean = denoise(state.float(), sigma).double()
    if progress is not None:
        progress(index + 1, total)
    return clean
