# SPDX-License-Identifier: Apache-2.0
"""Changing the video tokenizer: teach a base network the tokens of 4 x 8 x 8 (or any other compression).

    torchrun --nproc_per_node=8 recipes/autoregressive/tokenizer.py --yes \
        --factory cosmos_autoregressive_4b_tokenizer_finetune data.path=$TOKENS

``data.path`` is a folder written by ``data_prep/autoregressive_dataset.py`` with ``--tokenizer_compression_factor 4,8,8
--num_context_frames 17 --height 320 --width 512``. Another grid: ``model.config.latent_shape=[5,24,40]``.
Docs: docs/autoregressive.md.
"""

import nemo_run as run

from cosmos1.launch.autoregressive_recipes import tokenizer_recipe
from cosmos1.launch.cli import main
from cosmos1.training.train import train


@run.cli.factory(target=train)
def cosmos_autoregressive_4b_tokenizer_finetune() -> run.Partial:
    """4B, fully sharded over 8 GPUs."""
    return tokenizer_recipe("4b")


@run.cli.factory(target=train)
def cosmos_autoregressive_12b_tokenizer_finetune() -> run.Partial:
    """12B, fully sharded over 8 GPUs."""
    return tokenizer_recipe("12b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_tokenizer_finetune() -> run.Partial:
    """A small network that learns the demo world from scratch on two CPU processes."""
    return tokenizer_recipe("tiny")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_4b_tokenizer_finetune)
