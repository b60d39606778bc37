# SPDX-License-Identifier: Apache-2.0
"""Held-out samples of a run, scored and generated under the control that each carries, for both families of networks."""

import argparse
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from cosmos1 import hub
from cosmos1.checkpoint import formats
from cosmos1.conditioning.controls import num_views
from cosmos1.conditioning.token_controls import take_token_controls
from cosmos1.errors import ConfigError
from cosmos1.evaluation.held_out import read_samples
from cosmos1.evaluation.metrics import latent_distance
from cosmos1.generation.autoregressive import AutoregressiveGenerator, task_of_checkpoint
from cosmos1.generation.generator import VideoGenerator, network_of_checkpoint
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.autoregressive.generation import generate_tokens
from cosmos1.models.autoregressive.objective_config import NextTokenObjective
from cosmos1.models.autoregressive.sampling import SamplingSettings
from cosmos1.models.diffusion.generation import GenerationSettings
from cosmos1.models.diffusion.objective import edm_loss
from cosmos1.models.diffusion.objective_config import VideoConditioning
from cosmos1.parallel import process_groups
from cosmos1.parallel.device import device
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.sampling import build_tokenizer, generate_held_out, latents_to_frames
from cosmos1.training.schedule_runner import predict

GIVEN_SIGMA_LOG = -6.9
"""The given frames are shown with noise of 0.001, as generation shows them."""
Sample = dict[str, torch.Tensor]


class ControlledSamples(Protocol):
    """What both families offer. Frames are ``[T, H, W, 3]`` uint8, views side by side."""

    options: argparse.Namespace
    model: Any
    num_given_frames: int
    """Pixel frames of each view that are given, known after `read`."""

    def read(self) -> list[Sample]: ...

    def loss(self, index: int, sample: Sample) -> float: ...

    def generate(self, index: int, sample: Sample) -> tuple[np.ndarray, np.ndarray, float | None]:
        """Generated and real frames, and the distance of their latents where there are such."""


def build_samples(options: argparse.Namespace) -> ControlledSamples:
    """The network of ``--checkpoint`` with its samples.

    Raises:
        ConfigError, CheckpointError: for options or weights that do not fit.
    """
    config = formats.open_weights(hub.locate(str(options.checkpoint.expanduser()))).config
    autoregressive = isinstance(config, GPTConfig)
    _check_processes(options, autoregressive)
    return (TokenSamples if autoregressive else LatentSamples)(options)


def _check_processes(options: argparse.Namespace, autoregressive: bool) -> None:
    tp_size, cp_size, num_processes = options.tp_size, options.cp_size, process_groups.world_size()
    if autoregressive and cp_size != 1:
        raise ConfigError(
            f"--cp_size {cp_size}: the processes of an autoregressive network share each layer; use --tp_size alone"
        )
    if tp_size * cp_size != num_processes:
        raise ConfigError(
            f"--tp_size {tp_size} x --cp_size {cp_size} = {tp_size * cp_size}, but {num_processes} processes run; start "
            f"torchrun with --nproc_per_node={tp_size * cp_size}, or give sizes whose product is {num_processes}"
        )


def num_given_frames(count: int, num_latent_frames: int, per_latent: int) -> int:
    """Pixel frames that the first ``count`` of ``num_latent_frames`` show, all but the first of which are ``per_latent`` each.

    Raises:
        ConfigError: no latent frame is left to be generated.
    """
    if not 0 <= count < num_latent_frames:
        raise ConfigError(
            f"--num_given_latent_frames {count}: each view of a sample has {num_latent_frames} latent frames; give 0 or more, "
            f"and at most {num_latent_frames - 1}, so that one is left to be generated"
        )
    return (count - 1) * per_latent + 1 if count else 0


@dataclass
class LatentSamples:
    """Of a diffusion network."""

    options: argparse.Namespace

    def __post_init__(self):
        options = self.options
        task = network_of_checkpoint(options.checkpoint.expanduser())
        strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size, context_parallel_size=options.cp_size)
        self.generator = VideoGenerator(task, strategy, options.checkpoint, options.ema)
        self.model, self.task = self.generator.model, task
        self.num_given = options.num_given_latent_frames if task.config.condition_mask else 0

    def read(self) -> list[Sample]:
        task, count = self.task, self.num_given
        samples = [task.with_latents(sample, device()) for sample in read_samples(self.options, task)]
        num_latent_frames = samples[0]["video"].shape[2] // num_views(samples[0])
        self.tokenizer = build_tokenizer(task, num_latent_frames)
        per_latent = 1 if task.single_frames else task.config.temporal_factor
        self.num_given_frames = num_given_frames(count, num_latent_frames, per_latent)
        task.objective.conditioning = VideoConditioning(count, count, GIVEN_SIGMA_LOG, augment_sigma_std=0.0)
        return samples

    def loss(self, index: int, sample: Sample) -> float:
        """The training loss, averaged over noise levels and noises that depend on ``index`` alone."""
        total, count = 0.0, self.options.num_noises
        for draw in range(count):
            placed = sample | {"sample_position": torch.tensor([index * count + draw])}
            noisy = self.task.prepare(placed, self.options.seed, device(), training=False)
            total += edm_loss(noisy, predict(self.model, noisy)).item()
        return total / count

    def generate(self, index: int, sample: Sample) -> tuple[np.ndarray, np.ndarray, float]:
        options, views = self.options, num_views(sample)
        settings = GenerationSettings(options.num_steps, options.guidance, seed=options.seed + index)
        latent = generate_held_out(self.generator, sample, settings, self.num_given)
        real = sample["video"].to(latent)
        frames = [latents_to_frames(self.tokenizer, each, views, self.task.single_frames) for each in (latent, real)]
        scored = [each.unflatten(2, (views, -1))[:, :, :, self.num_given :] for each in (latent, real)]
        return *frames, latent_distance(*(each.flatten(2, 3) for each in scored))


@dataclass
class TokenSamples:
    """Of an autoregressive Video2World network."""

    options: argparse.Namespace

    def __post_init__(self):
        options, count = self.options, self.options.num_given_latent_frames
        task = task_of_checkpoint(options.checkpoint.expanduser())
        if not task.config.video2world:
            raise ConfigError(f"--checkpoint {options.checkpoint} is a base network, which no control steers")
        per_latent = 1 if task.single_frames else task.compression_factor[0]
        self.num_given_frames = num_given_frames(count, task.config.latent_shape[0], per_latent)
        task.objective = NextTokenObjective(num_unscored_frames=count)
        self.generator = AutoregressiveGenerator(task, options.checkpoint, options.ema)
        self.model, self.task = self.generator.model, task

    def read(self) -> list[Sample]:
        return read_samples(self.options, self.task)

    def loss(self, index: int, sample: Sample) -> float:
        """Cross entropy of the tokens after the given frames, nats."""
        prepared = self.task.prepare(sample, self.options.seed, device(), training=False)
        scores = self.task.forward(self.model.chunks[0], prepared)
        return self.task.loss(self.model.networks[0], prepared, scores)[0].item()

    def generate(self, index: int, sample: Sample) -> tuple[np.ndarray, np.ndarray, None]:
        options, config = self.options, self.task.config
        _, rows, columns = config.latent_shape
        tokens = sample["labels"][:, : config.num_video_tokens].to(device())
        given = tokens[:, : options.num_given_latent_frames * config.num_views * rows * columns]
        text = sample["t5_text_embeddings"].to(device()).float() if config.reads_text else None
        settings = SamplingSettings(options.temperature, seed=options.seed + index)
        controls = take_token_controls(config, sample, device())
        generated, _ = generate_tokens(self.model.networks[0], given, text, settings, controls=controls)
        return self.generator.frames_of_tokens(generated), self.generator.frames_of_tokens(tokens), None
