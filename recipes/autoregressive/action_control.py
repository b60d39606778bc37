# SPDX-License-Identifier: Apache-2.0
"""Action control: the next frame of a robot's camera from the current one and the action in between.

    torchrun --nproc_per_node=8 recipes/autoregressive/action_control.py --yes \
        --factory cosmos_autoregressive_5b_video2world_action_ctrl_finetune \
        data.path=$ACTION_TOKENS resume.restore_config.path=nvidia/Cosmos-1.0-Autoregressive-5B-Video2World

``data.path`` is a folder written by ``data_prep/prepare_action_dataset.py --tokenizer cosmos_dv`` (or ``dct_fsq``).
Docs: docs/autoregressive_controls.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.conditioning.token_settings import ActionRows
from cosmos1.data.modules.action_pairs import ActionTokensDataModule
from cosmos1.launch.autoregressive_recipes import autoregressive_recipe
from cosmos1.launch.cli import main
from cosmos1.launch.recipes import with_data, with_new_layers
from cosmos1.training.train import train


def action_control(size: Literal["5b", "13b", "tiny_video2world"]) -> run.Partial:
    """Pairs of frames of 480 x 640 (tiny: 96 x 128), each 1,200 tokens; the action takes the place of the text.

    Only the second frame is scored. Its layers start at random, as published; 5B and 13B train them at 5e-4, the rest of
    the network at 5e-5.
    """
    recipe = autoregressive_recipe(size)
    recipe.model.config.action = run.Config(ActionRows, action_dim=7, num_actions=1)
    recipe.model.config.latent_shape = [2, 6, 8] if size.startswith("tiny") else [2, 30, 40]
    recipe.model.config.pad_to_multiple_of = 128
    recipe.model.single_frames = True
    with_data(recipe, size, ActionTokensDataModule, "action_tokens")
    with_new_layers(recipe, size, ["action."], lr_multiplier=10.0)
    return recipe


@run.cli.factory(target=train)
def cosmos_autoregressive_5b_video2world_action_ctrl_finetune() -> run.Partial:
    """5B action control, fully sharded over 8 GPUs."""
    return action_control("5b")


@run.cli.factory(target=train)
def cosmos_autoregressive_13b_video2world_action_ctrl_finetune() -> run.Partial:
    """13B action control, fully sharded over 8 GPUs."""
    return action_control("13b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_video2world_action_ctrl_finetune() -> run.Partial:
    """A small network that learns the robot arm of the demo world from scratch on two CPU processes."""
    return action_control("tiny_video2world")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_5b_video2world_action_ctrl_finetune)
