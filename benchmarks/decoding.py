# SPDX-License-Identifier: Apache-2.0
"""Time the decoding of an untrained video GPT, token by token, beside the floor that memory bandwidth sets.

    torchrun --standalone --nproc_per_node=1 benchmarks/decoding.py --size 4b

Each token reads every weight but the input embedding once, and the keys and values of all positions so far.
"""

import argparse
import math

import torch

from cosmos1.models.autoregressive.config import gpt_config
from cosmos1.models.autoregressive.generation import generate_tokens
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.autoregressive.sampling import SamplingSettings
from cosmos1.parallel import device as devices
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.parallel_model import ParallelModel

H200_BYTES_PER_S = 4.8e12


def bytes_per_token(network, num_positions: float) -> float:
    """Bytes that one rank reads for one token after ``num_positions`` others."""
    gpt, size = network.config.gpt, 2
    weights = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("embedding."))
    groups = gpt.num_query_groups // network.tp_group.size()
    return size * (weights + 2 * gpt.num_layers * groups * gpt.head_dim * num_positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("4b", "12b", "tiny"), default="4b")
    parser.add_argument("--num_frames", type=int, default=5, help="latent frames of the clip, two of which are given")
    parser.add_argument("--tp_size", type=int, default=1)
    parser.add_argument("--no_cuda_graph", action="store_true")
    options = parser.parse_args()
    strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size)
    task = AutoregressiveModel(config=gpt_config(options.size))
    task.config.latent_shape[0] = options.num_frames
    process_groups.initialize(strategy)
    model = ParallelModel(task, strategy, "bf16" if devices.is_cuda() else "fp32", seed=1, trainable=False)
    network, config = model.networks[0], task.config
    torch.manual_seed(0)
    given = torch.randint(0, config.vocab_size, (1, 2 * math.prod(config.latent_shape[1:])), device=devices.device())
    with model.evaluating():
        _, rate = generate_tokens(network, given, None, SamplingSettings(), cuda_graph=not options.no_cuda_graph)
    if process_groups.is_main_rank():
        floor = bytes_per_token(network, (given.shape[1] + config.num_video_tokens) / 2) / H200_BYTES_PER_S
        print(
            "| network | TP | CUDA graph | tokens/s | ms/token | floor ms/token (H200) | peak GiB |\n"
            + "|---" * 7
            + "|"
        )
        print(
            f"| {options.size} | {options.tp_size} | {'no' if options.no_cuda_graph else 'yes'} | {rate:.1f} | "
            f"{1000 / rate:.2f} | {1000 * floor:.2f} | {devices.peak_memory_gib():.1f} |"
        )
    process_groups.shutdown()


if __name__ == "__main__":
    main()
