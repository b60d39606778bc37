# SPDX-License-Identifier: Apache-2.0
"""Sampling a latent video: the denoiser of one prompt, with guidance and given first frames.

Every rank calls this with the same arguments and gets the same result. Formulas: cosmos-predict1,
``diffusion/model/model_t2w.py`` and ``model_v2w.py``.
"""

from dataclasses import dataclass
from typing import Callable

import torch

from cosmos1.conditioning.controls import num_views, unconditional
from cosmos1.models.diffusion.objective import NoisySample, Preconditioning, first_frames
from cosmos1.models.diffusion.samplers import guided, initial_noise, sample

# Noise level at which the given frames are shown to the network.
AUGMENT_SIGMA = 0.001


@dataclass
class GenerationSettings:
    """``guidance`` g means ``cond + g * (cond - uncond)``; the usual scale is ``1 + g``."""

    num_steps: int = 35
    guidance: float = 7.0
    sampler: str = "res"
    seed: int = 1


@dataclass
class GivenFrames:
    """Video2World: latents ``[1, C, T, H, W]`` (times ``sigma_data``) whose first ``count`` frames, of every view, are
    given."""

    latent: torch.Tensor
    count: int


@torch.no_grad()
def generate_latent(
    predict: Callable[[NoisySample], torch.Tensor],
    latent_shape: list[int],
    text: torch.Tensor,
    negative_text: torch.Tensor | None,
    fps: float,
    settings: GenerationSettings,
    sigma_data: float,
    given: GivenFrames | None = None,
    condition_mask: bool = False,
    progress: Callable[[int, int], None] | None = None,
    controls: dict[str, torch.Tensor] | None = None,
    padding_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sample one latent ``[1, C, T, H, W]`` as a tokenizer decodes it (divided by ``sigma_data``), fp32.

    Args:
        predict: the network's raw prediction F for a prepared sample.
        latent_shape: ``[C, T, H, W]``.
        text: ``[1, M, E]``; ``negative_text`` of the same shape, or None for zeros.
        condition_mask: whether the network has the condition-mask channel.
        controls: the control signals of a batch of one, by batch key; guidance leads away from the text (and from the
            trajectory), not from the others.
        padding_mask: ``[1, 1, H, W]``, 1 on cells that a letterbox fills; None: no such cells.
    """
    noise = initial_noise((1, *latent_shape), settings.seed).to(text.device)
    controls = controls or {}
    padding_mask = torch.zeros(1, 1, *latent_shape[2:]) if padding_mask is None else padding_mask
    negative_text = torch.zeros_like(text) if negative_text is None else negative_text
    # The same noise on the given frames at every step and in both branches.
    given_noise = initial_noise((1, *latent_shape), settings.seed + 1).to(text.device) if given is not None else None

    def denoiser(prompt: torch.Tensor, signals: dict[str, torch.Tensor]):
        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            coefficients = Preconditioning(torch.full((1, 1, 1, 1, 1), sigma, device=x.device), sigma_data)
            noisy = _noisy_sample(
                x.float(),
                coefficients,
                prompt,
                signals,
                fps,
                padding_mask.to(x.device),
                condition_mask,
                given,
                given_noise,
            )
            denoised = coefficients.c_skip * noisy.network_input + coefficients.c_out * predict(noisy)
            if noisy.given is not None:
                denoised = noisy.given * given.latent + (1 - noisy.given) * denoised
            return denoised.to(x.dtype)

        return denoise

    denoise = guided(denoiser(text, controls), denoiser(negative_text, unconditional(controls)), settings.guidance)
    latent = sample(denoise, noise, settings.sampler, settings.num_steps, progress=progress)
    return latent.float() / sigma_data


def _noisy_sample(
    x, coefficients, prompt, controls, fps, padding_mask, condition_mask, given, given_noise
) -> NoisySample:
    """The network's inputs at one noise level, with the given frames put in."""
    _, _, frames, height, width = x.shape
    count = torch.tensor([0 if given is None else given.count])
    indicator = first_frames(count, frames, num_views(controls)).to(x.device)
    network_input, shown = x, None
    if given is not None:
        # Below the augmentation noise the given frames would be noisier than the state: generate everywhere.
        shown = indicator if coefficients.sigma.item() > AUGMENT_SIGMA else torch.zeros_like(indicator)
        augment = Preconditioning(torch.full_like(coefficients.sigma, AUGMENT_SIGMA), coefficients.sigma_data)
        given_latent = (given.latent + AUGMENT_SIGMA * given_noise) * augment.c_in / coefficients.c_in
        network_input = shown * given_latent + (1 - shown) * x
    return NoisySample(
        clean=x,
        network_input=network_input,
        coefficients=coefficients,
        text=prompt,
        fps=torch.tensor([fps]),
        padding_mask=padding_mask,
        given=shown,
        condition_mask=indicator.expand(-1, -1, -1, height, width) if condition_mask else None,
        loss_mask=None,
        controls=controls,
    )
