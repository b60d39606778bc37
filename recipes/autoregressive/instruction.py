# SPDX-License-Identifier: Apache-2.0
"""Instruction control: continue a robot's video as the text says.

    torchrun --nproc_per_node=8 recipes/autoregressive/instruction.py --yes \
        --factory cosmos_autoregressive_5b_video2world_instruction_finetune \
        data.path=$TOKENS resume.restore_config.path=nvidia/Cosmos-1.0-Autoregressive-5B-Video2World

``data.path`` is a folder written by ``data_prep/autoregressive_video2world_dataset.py`` from pairs of instruction and video.
Docs: docs/autoregressive_controls.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.launch.autoregressive_recipes import autoregressive_recipe
from cosmos1.launch.cli import main
from cosmos1.training.train import train


def instruction(size: Literal["5b", "13b", "tiny_video2world"]) -> run.Partial:
    """Video2World on pairs of instruction and episode; the first latent frame, which no text tells, is not scored."""
    recipe = autoregressive_recipe(size)
    recipe.data.path = "demo_output/instruction_tokens" if size.startswith("tiny") else "instruction_tokens"
    recipe.model.objective.num_unscored_frames = 1
    return recipe


@run.cli.factory(target=train)
def cosmos_autoregressive_5b_video2world_instruction_finetune() -> run.Partial:
    """5B Video2World that follows instructions, fully sharded over 8 GPUs."""
    return instruction("5b")


@run.cli.factory(target=train)
def cosmos_autoregressive_13b_video2world_instruction_finetune() -> run.Partial:
    """13B Video2World that follows instructions, fully sharded over 8 GPUs."""
    return instruction("13b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_video2world_instruction_finetune() -> run.Partial:
    """A small network that learns instructions of the demo world from scratch on two CPU processes."""
    return instruction("tiny_video2world")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_5b_video2world_instruction_finetune)
