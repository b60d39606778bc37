# SPDX-License-Identifier: Apache-2.0
"""Post-training of the autoregressive Video2World models: continue a video (or an image), following a prompt.

    torchrun --nproc_per_node=8 recipes/autoregressive/video2world.py --yes \
        --factory cosmos_autoregressive_5b_video2world_finetune \
        data.path=$TOKENS trainer.max_steps=1000 optim.config.lr=5e-5

``data.path`` is a folder written by ``data_prep/autoregressive_video2world_dataset.py``. Docs: docs/autoregressive.md.
"""

import nemo_run as run

from cosmos1.launch.autoregressive_recipes import autoregressive_recipe
from cosmos1.launch.cli import main
from cosmos1.training.train import train


@run.cli.factory(target=train)
def cosmos_autoregressive_5b_video2world_finetune() -> run.Partial:
    """5B Video2World, fully sharded over 8 GPUs."""
    return autoregressive_recipe("5b")


@run.cli.factory(target=train)
def cosmos_autoregressive_13b_video2world_finetune() -> run.Partial:
    """13B Video2World, fully sharded over 8 GPUs."""
    return autoregressive_recipe("13b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_video2world_finetune() -> run.Partial:
    """A small network that learns the demo world from scratch on two CPU processes."""
    return autoregressive_recipe("tiny_video2world")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_5b_video2world_finetune)
