# SPDX-License-Identifier: Apache-2.0
"""Sampling a latent video: the denoiser of one prompt, with guidance and given first frames.

Every rank calls this with the same arguments and gets the same result. Formulas: cosmos-predict1,
``diffusion/model/model_t2w.py`` and ``model_v2w.py``.
"""

from dataclasses import dataclass, field, replace
from functools import partial
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


@dataclass
class Prompt:
    """What one video is to show."""

    text: torch.Tensor
    """``[1, M, E]``."""
    fps: float
    negative_text: torch.Tensor | None = None
    """What guidance leads away from, in the shape of ``text``; None: no text, zeros."""
    controls: dict[str, torch.Tensor] = field(default_factory=dict)
    """The control signals of a batch of one, by batch key."""
    padding_mask: torch.Tensor | None = None
    """``[1, 1, H, W]``, 1 on cells that a letterbox fills; None: no such cells."""
    given: GivenFrames | None = None

    def to(self, device: torch.device) -> "Prompt":
        text, negative, mask = (
            value if value is None else value.to(device) for value in (self.text, self.negative_text, self.padding_mask)
        )
        controls = {name: value.to(device) for name, value in self.controls.items()}
        return replace(self, text=text, negative_text=negative, padding_mask=mask, controls=controls)

    def opposite(self) -> "Prompt":
        """What guidance leads away from: another text, and no trajectory. The other signals stay."""
        text = torch.zeros_like(self.text) if self.negative_text is None else self.negative_text
        return replace(self, text=text, controls=unconditional(self.controls))


@dataclass
class Predictor:
    """A network as sampling sees it."""

    predict: Callable[[NoisySample], torch.Tensor]
    """The raw prediction F for a prepared sample."""
    sigma_data: float
    condition_mask: bool = False
    """Whether the network has the condition-mask channel."""


@torch.no_grad()
def generate_latent(
    predictor: Predictor,
    latent_shape: list[int],
    prompt: Prompt,
    settings: GenerationSettings,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Sample one latent ``[1, C, T, H, W]`` as a tokenizer decodes it (divided by ``sigma_data``), fp32, where the text is.

    ``latent_shape`` is ``[C, T, H, W]``.
    """
    device = prompt.text.device
    prompt, noise = prompt.to(device), initial_noise((1, *latent_shape), settings.seed).to(device)
    # The same noise on the given frames at every step and in both branches.
    given_noise = None if prompt.given is None else initial_noise((1, *latent_shape), settings.seed + 1).to(device)
    branches = (partial(_denoise, predictor, each, given_noise) for each in (prompt, prompt.opposite()))
    denoise = guided(*branches, settings.guidance)
    latent = sample(denoise, noise, settings.sampler, settings.num_steps, progress=progress)
    return latent.float() / predictor.sigma_data


def _denoise(
    predictor: Predictor, prompt: Prompt, given_noise: torch.Tensor | None, x: torch.Tensor, sigma: float
) -> torch.Tensor:
    coefficients = Preconditioning(torch.full((1, 1, 1, 1, 1), sigma, device=x.device), predictor.sigma_data)
    noisy = _noisy_sample(x.float(), coefficients, prompt, given_noise, predictor.condition_mask)
    denoised = coefficients.c_skip * noisy.network_input + coefficients.c_out * predictor.predict(noisy)
    if noisy.given is not None:
        denoised = noisy.given * prompt.given.latent + (1 - noisy.given) * denoised
    return denoised.to(x.dtype)


def _noisy_sample(
    x: torch.Tensor,
    coefficients: Preconditioning,
    prompt: Prompt,
    given_noise: torch.Tensor | None,
    condition_mask: bool,
) -> NoisySample:
    """The network's inputs at one noise level, with the given frames put in."""
    (_, _, frames, height, width), given, padding = x.shape, prompt.given, prompt.padding_mask
    count = torch.tensor([0 if given is None else given.count])
    indicator = first_frames(count, frames, num_views(prompt.controls)).to(x.device)
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
        text=prompt.text,
        fps=torch.tensor([prompt.fps]),
        padding_mask=x.new_zeros(1, 1, height, width) if padding is None else padding,
        given=shown,
        condition_mask=indicator.expand(-1, -1, -1, height, width) if condition_mask else None,
        loss_mask=None,
        controls=prompt.controls,
    )
