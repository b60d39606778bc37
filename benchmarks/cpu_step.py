# SPDX-License-Identifier: Apache-2.0
"""One training step of the tiny network on a CPU, against the same network in plain PyTorch (diffusers).

    OMP_NUM_THREADS=2 python benchmarks/cpu_step.py

Both take the same batch (8 samples of 16 x 3 x 12 x 16, 512 text rows), compute the mean square of the output and its
gradients in fp32. Prints the median seconds of each and their ratio.
"""

import argparse
import statistics
import time

import torch
from diffusers.models.transformers import transformer_cosmos

from cosmos1.models.diffusion.config import dit_config
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy


def plain_network(config) -> torch.nn.Module:
    """diffusers' network of the same size; the padding mask is left out, which saves it one of 68 input columns."""
    return transformer_cosmos.CosmosTransformer3DModel(
        in_channels=config.latent_channels,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.num_layers,
        text_embed_dim=config.text_embedding_dim,
        adaln_lora_dim=config.adaln_lora_dim,
        concat_padding_mask=False,
        extra_pos_embed_type="learnable",
    )


def median_seconds(step, repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    strategy, config = MegatronStrategy(), dit_config("tiny", condition_mask=False)
    process_groups.initialize(strategy)
    task = DiffusionModel(config)
    network = task.build(task.megatron_config(strategy, torch.float32, torch.device("cpu")), True, True, None, seed=0)
    plain = plain_network(config)
    x, timesteps, fps = torch.randn(8, 16, 3, 12, 16), torch.full((8,), 0.3), torch.full((8,), 24.0)
    text = torch.zeros(8, 512, 1024)
    text[:, :20] = torch.randn(8, 20, 1024)
    padding_mask = torch.zeros(8, 1, 12, 16)

    def ours():
        network.zero_grad()
        network(x, timesteps, text, fps, padding_mask).square().mean().backward()

    def theirs():
        plain.zero_grad()
        plain(x, timesteps, text, fps=24, return_dict=False)[0].square().mean().backward()

    seconds = {"this suite": median_seconds(ours, repeats), "plain PyTorch": median_seconds(theirs, repeats)}
    for name, value in seconds.items():
        print(f"{name}: {value:.3f} s")
    print(f"ratio: {seconds['this suite'] / seconds['plain PyTorch']:.2f}")
    process_groups.shutdown()


if __name__ == "__main__":
    main()
