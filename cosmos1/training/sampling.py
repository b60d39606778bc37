# SPDX-License-Identifier: Apache-2.0
"""Generating held-out samples in the middle of a run, for callbacks. Every rank generates; the main rank decodes."""

from functools import partial
from typing import Iterator, Optional

import numpy as np
import torch
import torch.distributed as dist

from cosmos1.conditioning.controls import take_controls
from cosmos1.data.video import tensor_to_frames
from cosmos1.errors import UserError
from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, Predictor, Prompt, generate_latent
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.pixels import latents_to_pixels
from cosmos1.models.tokenizers.protocol import VideoTokenizer
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.parallel.device import device
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.schedule_runner import predict


def build_tokenizer(task: DiffusionModel, num_latent_frames: int) -> VideoTokenizer:
    """The tokenizer of ``task`` for clips (views, or where they are encoded alone: frames) of so many latent frames."""
    num_latents = 1 if task.single_frames else num_latent_frames
    num_frames = (num_latents - 1) * task.config.temporal_factor + 1
    return build_video_tokenizer(task.tokenizer, task.tokenizer_path, num_frames, device())


def latents_to_frames(
    tokenizer: VideoTokenizer, latent_1CTHW: torch.Tensor, num_views: int, single_frames: bool
) -> np.ndarray:
    """Frames ``[F, H, W, 3]`` uint8 of one sample, views side by side."""
    video = latents_to_pixels(tokenizer, latent_1CTHW, latent_1CTHW.shape[2] if single_frames else num_views)
    return tensor_to_frames(torch.cat(video.chunk(num_views, dim=2), dim=-1))


class LatentDecoder:
    """The tokenizer of the run's data, on the main rank alone.

    A run must not end because it cannot draw: where the tokenizer cannot be had or memory runs out, the run says so once
    and ``available`` is False, on all ranks alike.
    """

    def __init__(self, run, purpose: str):
        self.run, self.purpose, self.tokenizer = run, purpose, None
        problem: list[Optional[str]] = [None]
        if run.metrics.is_main:
            try:
                self.tokenizer = build_tokenizer(run.task, run.data.sample_shape[1] // run.data.num_views)
            except UserError as error:
                problem = [str(error)]
                run.metrics.message(f"no {purpose}: {error}")
        dist.broadcast_object_list(problem, src=0)
        self.available = problem[0] is None

    def decode(self, latent: torch.Tensor, num_views: int = 1) -> Optional[np.ndarray]:
        """Frames ``[T, H, W, 3]`` uint8 on the main rank, views side by side; None on others or when memory is short."""
        if self.tokenizer is None:
            return None
        try:
            return latents_to_frames(self.tokenizer, latent.to(device()), num_views, self.run.task.single_frames)
        except torch.OutOfMemoryError:
            self.run.metrics.message(f"no {self.purpose}: not enough memory to decode beside the training state")
            return None


def held_out_samples(data, count: int) -> Iterator[dict]:
    """Yield the first ``count`` held-out samples, fewer where there are fewer, each as a batch of one.

    They are the same on every rank, as generation over several ranks needs.
    """
    seen: set[int] = set()
    # Replica 0 of 1: whatever the number of data-parallel replicas.
    for batch in data.validation_batches(0, 1, -(-count // data.micro_batch_size)):
        for row, position in enumerate(batch["sample_position"].tolist()):
            # The last batch of a short list is filled up from its beginning.
            if position in seen or len(seen) == count:
                return
            seen.add(position)
            yield {name: value[row : row + 1] for name, value in batch.items()}


def generate_held_out(run, sample: dict, settings: GenerationSettings, num_given_latent_frames: int) -> torch.Tensor:
    """The latent ``[1, C, T, H, W]`` generated for the text and control signals of a held-out sample; the same on every
    rank.

    A Video2World network gets the first ``num_given_latent_frames`` (of every view) of the sample's own latent. Call it
    in ``run.model.evaluating()``.
    """
    sample = run.task.with_latents(sample, device())
    prompt = Prompt(
        text=sample["t5_text_embeddings"].to(device()).float(),
        fps=float(sample["fps"][0]),
        controls=take_controls(run.task.config, sample, sample["video"].shape, device()),
        padding_mask=sample["padding_mask"].float(),
    )
    if run.task.config.condition_mask and num_given_latent_frames:
        clean = sample["video"].to(device()).float() * run.task.objective.sigma_data
        prompt.given = GivenFrames(clean, num_given_latent_frames)
    return generate_latent(predictor(run.model), list(sample["video"].shape[1:]), prompt, settings)


def predictor(model: ParallelModel) -> Predictor:
    """The network as sampling sees it; every rank calls it alike."""
    task = model.task
    return Predictor(partial(predict, model), task.objective.sigma_data, task.config.condition_mask)
