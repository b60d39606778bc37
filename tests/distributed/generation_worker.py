# SPDX-License-Identifier: Apache-2.0
"""One latent from a fixed network and prompt, under the layout of the command line; rank 0 writes it."""

import sys

import torch

from cosmos1.generation.generator import VideoGenerator, network_of_size
from cosmos1.models.diffusion.generation import GenerationSettings, Prompt, generate_latent
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.sampling import predictor


def main(path: str, tp_size: str, cp_size: str) -> None:
    strategy = MegatronStrategy(tensor_model_parallel_size=int(tp_size), context_parallel_size=int(cp_size))
    generator = VideoGenerator(network_of_size("tiny", video2world=False), strategy, checkpoint=None)
    with generator.model.evaluating():
        prompt = Prompt(generator.embed(["A red ball."]), fps=24.0)
        settings = GenerationSettings(num_steps=4, guidance=2.0, seed=7)
        latent = generate_latent(predictor(generator.model), [16, 2, 8, 12], prompt, settings)
    if process_groups.is_main_rank():
        torch.save(latent, path)
    process_groups.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
