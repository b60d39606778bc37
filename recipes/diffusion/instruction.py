# SPDX-License-Identifier: Apache-2.0
"""Instruction control: the robot does what the text says, from the first frame on.

    torchrun --nproc_per_node=8 recipes/diffusion/instruction.py --yes \
        --factory cosmos_diffusion_7b_video2world_instruction_finetune \
        data.path=$CACHED_DATA resume.restore_config.path=nvidia/Cosmos-1.0-Diffusion-7B-Video2World

``data.path`` is a folder written by ``data_prep/prepare_instruction_dataset.py``. Docs: docs/instruction.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.launch.cli import main
from cosmos1.launch.recipes import diffusion_recipe, energon_shards  # noqa: F401  (data=energon_shards)
from cosmos1.models.diffusion.objective_config import VideoConditioning
from cosmos1.training.train import train


def instruction(size: Literal["7b", "14b", "tiny"]) -> run.Partial:
    """Video2World from exactly one given latent frame, so that the text alone says what happens next."""
    recipe = diffusion_recipe(size, video2world=True)
    recipe.data.path = "demo_output/instruction" if size == "tiny" else "instruction_dataset"
    recipe.model.objective.text_dropout = 0.2
    recipe.model.objective.conditioning = run.Config(
        VideoConditioning, min_frames=1, max_frames=1, augment_sigma_mean=-3.0, augment_sigma_std=2.0
    )
    return recipe


@run.cli.factory(target=train)
def cosmos_diffusion_7b_video2world_instruction_finetune() -> run.Partial:
    """7B Video2World that follows instructions, fully sharded over 8 GPUs."""
    return instruction("7b")


@run.cli.factory(target=train)
def cosmos_diffusion_14b_video2world_instruction_finetune() -> run.Partial:
    """14B Video2World that follows instructions, fully sharded over 8 GPUs."""
    return instruction("14b")


@run.cli.factory(target=train)
def cosmos_diffusion_tiny_video2world_instruction_finetune() -> run.Partial:
    """A small network that learns instructions of the demo world from scratch on two CPU processes."""
    return instruction("tiny")


if __name__ == "__main__":
    main(train, default_factory=cosmos_diffusion_7b_video2world_instruction_finetune)
