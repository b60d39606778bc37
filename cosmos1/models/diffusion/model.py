# SPDX-License-Identifier: Apache-2.0
"""What the trainer needs to know of a diffusion world model: how to build it, feed it, and score it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, Optional

from cosmos1.conditioning.settings import signals
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.objective_config import EDMObjective
from cosmos1.parallel.strategy import choose_cp_mode


@dataclass
class DiffusionModel:
    """A video diffusion world model and its training objective, as plain values.

    ``tokenizer`` names what the latents were made with; videos are decoded with it.
    """

    config: DiTConfig = field(default_factory=DiTConfig)
    objective: EDMObjective = field(default_factory=EDMObjective)
    tokenizer: Literal["dct", "dct4x8x8", "cosmos_cv8x8x8", "cosmos_cv4x8x8"] = "cosmos_cv8x8x8"
    tokenizer_path: Optional[str] = None
    single_frames: bool = False
    """Each latent frame is one image, encoded and decoded alone (action control); otherwise the first frame of a video
    stands alone and groups of frames follow it."""

    def validate(self, strategy, world_size: int) -> None:
        """Raise :class:`ConfigError` for what can be refused before anything is allocated."""
        self.config.validate()
        self._validate_tokenizer()
        strategy.validate(world_size, self.config.num_layers, self.config.num_attention_heads)
        self.objective.validate(None, self.config.condition_mask)
        choose_cp_mode(
            self.config.context_parallel_mode,
            self.config.num_attention_heads // strategy.tensor_model_parallel_size,
            strategy.context_parallel_size,
        )

    def _validate_tokenizer(self) -> None:
        from cosmos1.models.tokenizers.video import TEMPORAL_FACTORS

        factor = TEMPORAL_FACTORS.get(self.tokenizer)
        if factor is not None and factor != self.config.temporal_factor and not self.single_frames:
            raise ConfigError(
                f"model.tokenizer={self.tokenizer} makes one latent frame of {factor} frames, "
                f"model.config.temporal_factor={self.config.temporal_factor}; set temporal_factor={factor} (and use "
                "recipes/diffusion/tokenizer.py to change the tokenizer of a trained network)"
            )

    def validate_sample(self, strategy, latent_shape: list[int], num_views: int = 1) -> None:
        """Raise :class:`ConfigError` if samples of latent shape ``[C, V * T, H, W]`` do not fit network or layout."""
        channels, frames, height, width = latent_shape
        if channels != self.config.latent_channels:
            raise DataError(
                f"the latents have {channels} channels, the network takes {self.config.latent_channels}; prepare the data "
                f"with a tokenizer of {self.config.latent_channels} channels or set model.config.latent_channels"
            )
        self.config.validate_latent(frames // num_views, height, width)
        self.objective.validate(frames // num_views, self.config.condition_mask)
        strategy.validate_tokens(self.config.num_tokens(frames, height, width))

    def describe(self) -> list[str]:
        """Facts for the log, with the ranges that are really used."""
        c, o = self.config, self.objective
        task = "Video2World" if c.condition_mask else "Text2World"
        lines = [
            f"network: {task} DiT, {c.num_layers} blocks, width {c.hidden_size}, {c.num_attention_heads} heads",
            f"noise level: sigma = {o.sigma_multiplier:g} * exp({o.p_mean:g} + {o.p_std:g} z); text dropout {o.text_dropout:g}",
        ]
        if c.condition_mask:
            v = o.conditioning
            lines.append(
                f"given latent frames: {v.min_frames} to {v.max_frames} per sample, augment sigma = "
                f"{v.augment_sigma_multiplier:g} * exp({v.augment_sigma_mean:g} + {v.augment_sigma_std:g} z), "
                f"dropout {v.dropout:g}"
            )
        return lines + [f"control signal: {settings}" for settings in signals(c)]

    def megatron_config(self, strategy, params_dtype, device):
        from cosmos1.models.diffusion.megatron_config import megatron_config

        return megatron_config(self.config, strategy, params_dtype, device)

    def build(self, megatron_config, pre_process: bool, post_process: bool, vp_stage: Optional[int], seed: int):
        """One pipeline chunk of the network with its initial weights."""
        from megatron.core.process_groups_config import ProcessGroupCollection

        from cosmos1.models.diffusion.initialization import initialize
        from cosmos1.models.diffusion.network import DiT

        groups = ProcessGroupCollection.use_mpu_process_groups()
        network = DiT(megatron_config, groups, pre_process, post_process, vp_stage)
        initialize(network, seed)
        if post_process:
            network.logvar.requires_grad_(self.objective.loss_add_logvar)
        return network

    def initial_values(self, network, seed: int, names: Optional[Collection[str]] = None):
        """``(local name, tensor, fp32 value, axis)`` of the parameters and buffers of a pipeline chunk: of all, or of those
        with ``names`` in the whole network."""
        from cosmos1.models.diffusion.initialization import initial_values

        return initial_values(network, seed, names)

    def prepare(self, batch: dict, seed: int, device, training: bool):
        """A collated batch to a :class:`~cosmos1.models.diffusion.objective.NoisySample` on ``device``."""
        from cosmos1.conditioning.controls import take_controls
        from cosmos1.models.diffusion.objective import make_noisy_sample

        batch = self.with_latents(batch, device)
        controls = take_controls(self.config, batch, batch["video"].shape, device)
        return make_noisy_sample(self.objective, batch, seed, device, self.config.condition_mask, training, controls)

    def with_latents(self, batch: dict, device) -> dict:
        """The batch with its latents under ``video``: as they come, or encoded from ``pixels`` ``[B, 3, F, H, W]``."""
        if "video" in batch:
            return batch
        from cosmos1.models.diffusion.pixels import pixels_to_latents

        pixels = batch["pixels"]
        return batch | {
            "video": pixels_to_latents(pixels, self.tokenizer, self.tokenizer_path, self.single_frames, device)
        }

    def forward(self, network, sample):
        """The network's prediction F, or hidden states on pipeline stages before the last."""
        return network(
            sample.network_input * sample.coefficients.c_in,
            sample.coefficients.c_noise,
            sample.text,
            sample.fps,
            sample.padding_mask,
            sample.condition_mask,
            sample.controls,
        )

    def loss(self, network, sample, prediction):
        """``(scalar loss, {"sums": metrics to add up})`` on the last pipeline stage."""
        from cosmos1.models.diffusion.objective import edm_loss, metric_sums

        per_sample = edm_loss(sample, prediction)
        sums = metric_sums(per_sample, sample.coefficients.sigma.flatten(), sample.counted)
        if self.objective.loss_add_logvar:
            log_variance = _share_of_gradient(network.logvar(sample.coefficients.c_noise), network.cp_group.size())
            per_sample = per_sample * (-log_variance).exp() + log_variance
        return per_sample.mean(), {"sums": sums}

    @property
    def num_sums(self) -> int:
        from cosmos1.models.diffusion.objective import SIGMA_BIN_EDGES

        return 4 + 2 * len(SIGMA_BIN_EDGES)

    def summarize(self, sums: list[float]) -> dict[str, float]:
        """Named means of summed metrics: ``loss`` and ``loss_sigma_<low>_<high>``."""
        from cosmos1.models.diffusion.objective import summarize

        return summarize(sums)

    def batch_size(self, batch) -> int:
        """Samples of a collated batch or of a prepared one."""
        return len(batch["sample_position"]) if isinstance(batch, dict) else len(batch.network_input)

    def num_tokens(self, batch: dict) -> int:
        """Tokens of one sample of the batch."""
        if "video" in batch:
            return self.config.num_tokens(*batch["video"].shape[2:])
        frames, height, width = batch["pixels"].shape[2:]
        if not self.single_frames:
            frames = (frames - 1) // self.config.temporal_factor + 1
        space = self.config.spatial_factor
        return self.config.num_tokens(frames, height // space, width // space)

    def training_flops(self, batch: dict, frozen: bool) -> float:
        """Model FLOPs of one training step of one sample; of a ``frozen`` network without gradients of weights."""
        from cosmos1.conditioning.controls import num_views
        from cosmos1.models.diffusion.flops import training_flops

        num_texts = 1 if self.config.views is None or self.config.views.shared_text else num_views(batch)
        num_rows = batch["t5_text_embeddings"].shape[1]
        return training_flops(self.config, self.num_tokens(batch), num_rows, num_texts, frozen)


def _share_of_gradient(value, num_ranks: int):
    """``value``, through which each of ``num_ranks`` ranks that compute all of it sends back its share of the gradient."""
    return value / num_ranks + (value - value / num_ranks).detach()
