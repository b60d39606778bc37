# SPDX-License-Identifier: Apache-2.0
"""Changing the video tokenizer of a trained network: from 8x8x8 compression to 4x8x8 (twice the latent frames).

    torchrun --nproc_per_node=8 recipes/diffusion/tokenizer.py --yes \
        --factory cosmos_diffusion_7b_tokenizer_finetune \
        data.path=$CACHED_DATA resume.restore_config.path=nvidia/Cosmos-1.0-Diffusion-7B-Text2World

``data.path`` is a folder written by ``data_prep/prepare_dataset.py --tokenizer cosmos_cv4x8x8 --num_frames 61``. Another
tokenizer is another ``model.tokenizer``, ``model.config.temporal_factor`` and ``model.config.latent_channels``. Docs:
docs/tokenizer_change.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.launch.cli import main
from cosmos1.launch.recipes import diffusion_recipe, energon_shards  # noqa: F401  (data=energon_shards)
from cosmos1.training.config import LRScheduler, NewLayers
from cosmos1.training.train import train


def tokenizer_change(size: Literal["7b", "14b", "tiny"]) -> run.Partial:
    """The layers that read and write latents begin anew and train alone at first; then everything trains.

    A latent frame keeps its place in time: positions advance by half a step. 7B and 14B: the two layers alone for 1000
    steps at 1e-4, then all of the network for 9000 steps at 1e-5 (the two layers at 1e-4).
    """
    tiny = size == "tiny"
    recipe = diffusion_recipe(size, video2world=False)
    recipe.model.tokenizer = "dct4x8x8" if tiny else "cosmos_cv4x8x8"
    recipe.model.config.temporal_factor = 4
    recipe.data.path = "demo_output/latents_4x8x8" if tiny else "cached_dataset_4x8x8"
    latent_layers = ["x_embedder.", "final_layer.linear."]
    recipe.resume.restore_config.reinitialize = list(latent_layers)
    recipe.optim.new_layers = run.Config(
        NewLayers, names=latent_layers, lr_multiplier=1.0 if tiny else 10.0, alone_steps=50 if tiny else 1000
    )
    if not tiny:
        recipe.trainer.max_steps = 10_000
        recipe.optim.config.lr = 1e-5
        recipe.optim.lr_scheduler = run.Config(LRScheduler, policy="warmup_hold", warmup_steps=100)
    return recipe


@run.cli.factory(target=train)
def cosmos_diffusion_7b_tokenizer_finetune() -> run.Partial:
    """7B Text2World with another tokenizer, fully sharded over 8 GPUs."""
    return tokenizer_change("7b")


@run.cli.factory(target=train)
def cosmos_diffusion_14b_tokenizer_finetune() -> run.Partial:
    """14B Text2World with another tokenizer, fully sharded over 8 GPUs."""
    return tokenizer_change("14b")


@run.cli.factory(target=train)
def cosmos_diffusion_tiny_tokenizer_finetune() -> run.Partial:
    """The small network of recipes/diffusion/general.py with another tokenizer, on two CPU processes."""
    return tokenizer_change("tiny")


if __name__ == "__main__":
    main(train, default_factory=cosmos_diffusion_7b_tokenizer_finetune)
