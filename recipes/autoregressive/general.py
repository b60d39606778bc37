# SPDX-License-Identifier: Apache-2.0
"""General post-training of the autoregressive world models: teach them your own domain from videos alone.

    torchrun --nproc_per_node=8 recipes/autoregressive/general.py --yes \
        --factory cosmos_autoregressive_4b_finetune \
        data.path=$TOKENS trainer.max_steps=1000 optim.config.lr=5e-5

``data.path`` is a folder written by ``data_prep/autoregressive_dataset.py``. Docs: docs/autoregressive.md.
"""

import nemo_run as run

from cosmos1.launch.autoregressive_recipes import autoregressive_recipe
from cosmos1.launch.cli import main
from cosmos1.training.train import train


@run.cli.factory(target=train)
def cosmos_autoregressive_4b_finetune() -> run.Partial:
    """4B, fully sharded over 8 GPUs."""
    return autoregressive_recipe("4b")


@run.cli.factory(target=train)
def cosmos_autoregressive_12b_finetune() -> run.Partial:
    """12B, fully sharded over 8 GPUs."""
    return autoregressive_recipe("12b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_finetune() -> run.Partial:
    """A small network that learns the demo world from scratch on two CPU processes."""
    return autoregressive_recipe("tiny")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_4b_finetune)
