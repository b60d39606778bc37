# SPDX-License-Identifier: Apache-2.0
"""The EDM training objective and Video2World conditioning.

Formulas: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"; cosmos-predict1,
``diffusion/training/models/model_image.py`` and ``extend_model.py``. Everything here is fp32.
"""

from dataclasses import dataclass, field

import torch

from cosmos1.conditioning.controls import num_views
from cosmos1.errors import DataError
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from cosmos1.parallel.randomness import SampleRandomness

# Held-out losses are reported between these noise levels; about equal shares of the default distribution.
SIGMA_BIN_EDGES = (0.3, 1.0, 3.0)


@dataclass
class Preconditioning:
    """EDM coefficients of noise levels ``sigma``, shaped to multiply ``[B, C, T, H, W]``."""

    sigma: torch.Tensor
    sigma_data: float

    @property
    def c_skip(self):
        return self.sigma_data**2 / (self.sigma**2 + self.sigma_data**2)

    @property
    def c_out(self):
        return self.sigma * self.sigma_data / (self.sigma**2 + self.sigma_data**2).sqrt()

    @property
    def c_in(self):
        return 1.0 / (self.sigma**2 + self.sigma_data**2).sqrt()

    @property
    def c_noise(self):
        """``[B]``: what the network gets as timestep."""
        return 0.25 * self.sigma.flatten().log()

    @property
    def loss_weight(self):
        return (self.sigma**2 + self.sigma_data**2) / (self.sigma * self.sigma_data) ** 2


@dataclass
class NoisySample:
    """One micro batch, ready for the network. ``B`` samples; latents are ``[B, C, T, H, W]``."""

    clean: torch.Tensor
    """Latents times ``sigma_data``."""
    network_input: torch.Tensor
    """Noisy latents (given frames put in) before ``c_in``."""
    coefficients: Preconditioning
    text: torch.Tensor
    fps: torch.Tensor
    padding_mask: torch.Tensor
    given: torch.Tensor | None
    """``[B, 1, T, 1, 1]``: 1 on given latent frames (Video2World)."""
    condition_mask: torch.Tensor | None
    """``[B, 1, T, H, W]``: the network's mask channel; 0 where conditioning was dropped."""
    loss_mask: torch.Tensor | None
    """``[B, 1, T, H, W]``; all positions count where it is missing."""
    controls: dict[str, torch.Tensor] = field(default_factory=dict)
    """The control signals, by batch key."""
    counted: torch.Tensor | None = None
    """``[B]``: 0 for samples that metrics leave out; all count where it is missing."""


def _column(values_B: torch.Tensor) -> torch.Tensor:
    return values_B[:, None, None, None, None]


def make_noisy_sample(
    objective: EDMObjective,
    batch: dict,
    seed: int,
    device: torch.device,
    conditioned: bool,
    training: bool = True,
    controls: dict[str, torch.Tensor] | None = None,
) -> NoisySample:
    """Draw noise level, noise, dropout and given frames for a collated batch (see ``data/modules/latent_folder.py``).

    Held-out batches (``training=False``) get evenly spread noise levels and no dropout, the same in every validation.
    """
    _check_equal_fps(batch)
    random = SampleRandomness(seed, batch["sample_position"])
    clean = batch["video"].to(device, torch.float32) * objective.sigma_data
    shape = clean.shape[1:]
    if training:
        z = random.normal("sigma")
    else:
        # Golden-ratio steps over the quantiles: any number of held-out samples covers all noise levels.
        quantiles = (batch["sample_position"].double() * 0.6180339887498949 + 0.5) % 1.0
        z = torch.special.ndtri(quantiles.clamp(1e-3, 1 - 1e-3)).float()
    sigma = _column(torch.exp(objective.p_mean + objective.p_std * z) * objective.sigma_multiplier).to(device)
    coefficients = Preconditioning(sigma, objective.sigma_data)
    noise = random.normal("noise", *shape).to(device)
    text, controls = batch["t5_text_embeddings"].to(device), dict(controls or {})
    if training:
        text = _dropped(text, "text_dropout", objective.text_dropout, random)
        if "trajectory" in controls:
            rate = objective.trajectory_dropout
            controls["trajectory"] = _dropped(controls["trajectory"], "trajectory_dropout", rate, random)
    sample = NoisySample(
        clean=clean,
        network_input=clean + sigma * noise,
        coefficients=coefficients,
        text=text,
        fps=batch["fps"],
        padding_mask=batch["padding_mask"].to(device),
        given=None,
        condition_mask=None,
        loss_mask=batch["loss_mask"].to(device) if "loss_mask" in batch else None,
        controls=controls,
        counted=batch["counted"].to(device) if "counted" in batch else None,
    )
    if conditioned:
        _give_first_frames(sample, objective.conditioning, random, device, training)
    return sample


def _dropped(value: torch.Tensor, purpose: str, rate: float, random: SampleRandomness) -> torch.Tensor:
    """``value`` with zeros in a share of the samples."""
    if rate == 0:
        return value
    keep = (random.uniform(purpose) >= rate).to(value.device, value.dtype)
    return value * keep.reshape(-1, *[1] * (value.dim() - 1))


def first_frames(count_B: torch.Tensor, frames: int, views: int = 1) -> torch.Tensor:
    """``[B, 1, T, 1, 1]``: 1 on the first ``count`` latent frames of every view, ``frames`` counting those of all."""
    first_BT = (torch.arange(frames // views)[None, :] < count_B[:, None]).float().repeat(1, views)
    return first_BT[:, None, :, None, None]


def _check_equal_fps(batch: dict) -> None:
    """The rotary positions of a micro batch take one frame rate; single frames have no use for it."""
    if batch["video"].shape[2] > 1 and len(set(batch["fps"].tolist())) > 1:
        raise DataError(
            f"a micro batch holds videos of different frame rates ({sorted(set(batch['fps'].tolist()))} fps); use "
            "data.micro_batch_size=1, or prepare all videos with the same rate"
        )


def _give_first_frames(
    sample: NoisySample, conditioning: VideoConditioning, random: SampleRandomness, device, training: bool
) -> None:
    """Replace the first latent frames (of every view) of the network input by lightly noised clean ones, per sample."""
    count = random.integers("given_frames", conditioning.min_frames, conditioning.max_frames)
    sample.given = first_frames(count, sample.clean.shape[2], num_views(sample.controls)).to(device)
    kept = torch.ones(len(count))
    if training and conditioning.dropout > 0:
        kept = (random.uniform("given_dropout") >= conditioning.dropout).float()
    kept = _column(kept).to(device)
    z = random.normal("augment_sigma")
    sigma = conditioning.augment_sigma_multiplier * torch.exp(
        conditioning.augment_sigma_mean + conditioning.augment_sigma_std * z
    )
    sigma = _column(sigma).to(device)
    noisy = sample.clean + sigma * random.normal("augment_noise", *sample.clean.shape[1:]).to(device)
    # The network sees c_in(augment sigma) * noisy once its own c_in has been applied.
    augment = Preconditioning(sigma, sample.coefficients.sigma_data)
    given_latents = kept * noisy * augment.c_in / sample.coefficients.c_in
    sample.network_input = sample.given * given_latents + (1 - sample.given) * sample.network_input
    sample.condition_mask = (sample.given * kept).expand(-1, -1, -1, *sample.clean.shape[3:])


def edm_loss(sample: NoisySample, prediction: torch.Tensor) -> torch.Tensor:
    """Per-sample loss ``[B]``: ``weight * (x0 - D)^2`` averaged over channels and (unmasked) positions.

    ``D = c_skip * x + c_out * F``. Given frames are predicted exactly by definition: their loss is 0, and they count in
    the mean.
    """
    c = sample.coefficients
    denoised = c.c_skip * sample.network_input + c.c_out * prediction
    error = c.loss_weight * (sample.clean - denoised).square()
    if sample.given is not None:
        error = error * (1 - sample.given)
    error = error.mean(dim=1, keepdim=True)
    if sample.loss_mask is None:
        return error.mean(dim=(1, 2, 3, 4))
    mask = sample.loss_mask.to(error.dtype)
    return (error * mask).sum(dim=(1, 2, 3, 4)) / mask.sum(dim=(1, 2, 3, 4)).clamp(min=1)


def metric_sums(loss_B: torch.Tensor, sigma_B: torch.Tensor, counted_B: torch.Tensor | None = None) -> torch.Tensor:
    """What training adds up over samples, fp64: loss and count, over all noise levels and then between the bin edges.

    ``[2 + 2 * bins]``: all loss, all count, loss of each bin, count of each bin. Samples whose ``counted_B`` is 0 are left out.
    """
    edges = torch.tensor(SIGMA_BIN_EDGES, device=sigma_B.device)
    bins = torch.bucketize(sigma_B, edges)
    count = torch.ones_like(loss_B, dtype=torch.float64) if counted_B is None else counted_B.double()
    loss = loss_B.detach().double() * count
    zeros = torch.zeros(len(edges) + 1, dtype=torch.float64, device=loss.device)
    totals = torch.stack([loss.sum(), count.sum()])
    return torch.cat([totals, zeros.index_add(0, bins, loss), zeros.index_add(0, bins, count)])


def summarize(sums: list[float]) -> dict[str, float]:
    """Named means from summed :func:`metric_sums`; noise levels without a sample are left out, all without samples."""
    if not sums[1]:
        return {}
    num_bins = len(SIGMA_BIN_EDGES) + 1
    bounds = [0.0, *SIGMA_BIN_EDGES, float("inf")]
    named = {"loss": sums[0] / sums[1]}
    for low, high, loss, count in zip(bounds, bounds[1:], sums[2 : 2 + num_bins], sums[2 + num_bins :]):
        if count:
            named[f"loss_sigma_{low:g}_{high:g}"] = loss / count
    return named
