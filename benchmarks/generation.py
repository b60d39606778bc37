# SPDX-License-Identifier: Apache-2.0
"""Time the sampling of one latent video by an untrained network: seconds per denoising step, TFLOP/s, memory.

    torchrun --standalone --nproc_per_node=8 benchmarks/generation.py --size 7b --cp_size 8

Weights do not change the time, so none are needed. A step evaluates the network twice, with and without the prompt.
Text encoder and tokenizer are not part of the measurement.
"""

import argparse
import time

import torch

from cosmos1.generation.generator import VideoGenerator, network_of_size
from cosmos1.models.diffusion.flops import forward_flops
from cosmos1.models.diffusion.generation import GenerationSettings, Prompt, generate_latent
from cosmos1.parallel import device as devices
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.sampling import predictor

NUM_WARM_UP_STEPS = 2


def sample_seconds(generator: VideoGenerator, latent_shape: list[int], num_steps: int) -> float:
    """Seconds that ``num_steps`` denoising steps of one latent ``[C, T, H, W]`` take."""
    torch.manual_seed(0)  # every rank shows the network the same text
    text = torch.randn(1, 512, generator.task.config.text_embedding_dim, device=devices.device())
    devices.synchronize()
    started = time.perf_counter()
    settings = GenerationSettings(num_steps=num_steps)
    generate_latent(predictor(generator.model), latent_shape, Prompt(text, fps=24.0), settings)
    devices.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("7b", "14b", "tiny"), default="7b")
    parser.add_argument("--latent_shape", type=int, nargs=4, default=[16, 16, 88, 160], metavar=("C", "T", "H", "W"))
    parser.add_argument("--num_steps", type=int, default=35)
    parser.add_argument("--cp_size", type=int, default=1)
    parser.add_argument("--tp_size", type=int, default=1)
    options = parser.parse_args()
    strategy = MegatronStrategy(
        context_parallel_size=options.cp_size,
        tensor_model_parallel_size=options.tp_size,
        sequence_parallel=options.tp_size > 1,
    )
    generator = VideoGenerator(network_of_size(options.size, video2world=False), strategy, checkpoint=None)
    with generator.model.evaluating():
        sample_seconds(generator, options.latent_shape, NUM_WARM_UP_STEPS)
        devices.reset_peak_memory()
        seconds = sample_seconds(generator, options.latent_shape, options.num_steps)
    if process_groups.is_main_rank():
        config, num_ranks = generator.task.config, process_groups.world_size()
        flops = 2 * options.num_steps * forward_flops(config, config.num_tokens(*options.latent_shape[1:]), 512)
        print("| network | GPUs | CP | TP | s/step | steps | total s | TFLOP/s/GPU | peak GiB |\n" + "|---" * 9 + "|")
        print(
            f"| {options.size} | {num_ranks} | {options.cp_size} | {options.tp_size} | {seconds / options.num_steps:.3f} | "
            f"{options.num_steps} | {seconds:.1f} | {flops / seconds / num_ranks / 1e12:.0f} | {devices.peak_memory_gib():.1f} |"
        )
    process_groups.shutdown()


if __name__ == "__main__":
    main()
