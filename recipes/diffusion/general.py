# SPDX-License-Identifier: Apache-2.0
"""General post-training of Text2World: teach the video diffusion model your own domain from captioned videos.

    torchrun --nproc_per_node=8 recipes/diffusion/general.py --yes \
        --factory cosmos_diffusion_7b_text2world_finetune \
        data.path=$CACHED_DATA trainer.max_steps=1000 optim.config.lr=1e-6

``data.path`` is a folder written by ``data_prep/prepare_dataset.py``. Docs: docs/general.md.
"""

import nemo_run as run

from cosmos1.launch.cli import main
from cosmos1.launch.recipes import diffusion_recipe, energon_shards  # noqa: F401  (data=energon_shards)
from cosmos1.training.train import train


@run.cli.factory(target=train)
def cosmos_diffusion_7b_text2world_finetune() -> run.Partial:
    """7B Text2World, fully sharded over 8 GPUs."""
    return diffusion_recipe("7b", video2world=False)


@run.cli.factory(target=train)
def cosmos_diffusion_14b_text2world_finetune() -> run.Partial:
    """14B Text2World, fully sharded over 8 GPUs."""
    return diffusion_recipe("14b", video2world=False)


@run.cli.factory(target=train)
def cosmos_diffusion_tiny_text2world_finetune() -> run.Partial:
    """A small network that learns the demo world from scratch on two CPU processes."""
    return diffusion_recipe("tiny", video2world=False)


if __name__ == "__main__":
    main(train, default_factory=cosmos_diffusion_7b_text2world_finetune)
