# SPDX-License-Identifier: Apache-2.0
"""Latents of fixed prompts ``[N, C, T, H, W]``, under the layout of the command line; rank 0 writes them.

Of a checkpoint, where one is named with a file of its latent shape and prompts; else of an untrained Text2World network.
"""

import sys
from pathlib import Path

import torch

from cosmos1.generation.generator import VideoGenerator, network_of_checkpoint, network_of_size
from cosmos1.models.diffusion.generation import GenerationSettings, Prompt
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy


def main(path: str, tp_size: str, cp_size: str, checkpoint: str | None = None, prompts: str | None = None) -> None:
    strategy = MegatronStrategy(tensor_model_parallel_size=int(tp_size), context_parallel_size=int(cp_size))
    if checkpoint is None:
        generator = VideoGenerator(network_of_size("tiny", video2world=False), strategy, checkpoint=None)
        latent_shape, requests = [16, 2, 8, 12], [Prompt(generator.embed(["A red ball."]), fps=24.0)]
    else:
        generator = VideoGenerator(network_of_checkpoint(Path(checkpoint)), strategy, Path(checkpoint))
        latent_shape, requests = torch.load(prompts, weights_only=False)
    settings = GenerationSettings(num_steps=4, guidance=2.0, seed=7)
    latents = [generator.sample_latent(latent_shape, prompt, settings) for prompt in requests]
    if process_groups.is_main_rank():
        torch.save(torch.cat(latents), path)
    process_groups.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
