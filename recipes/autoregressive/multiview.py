# SPDX-License-Identifier: Apache-2.0
"""Multi-view driving: continue the videos of all cameras of a vehicle at once, with or without its trajectory.

    torchrun --nproc_per_node=8 recipes/autoregressive/multiview.py --yes \
        --factory cosmos_autoregressive_5b_multicamera_finetune \
        data.path=$MULTIVIEW_TOKENS resume.restore_config.path=nvidia/Cosmos-1.0-Autoregressive-5B-Video2World

``data.path`` is a folder written by ``data_prep/multiview.py --tokenizer cosmos_dv --shared_text`` (or ``dct_fsq``). Without
``--shared_text`` add ``model.config.views.shared_text=false``. Docs: docs/autoregressive_controls.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.conditioning.token_settings import TrajectoryRows, ViewTokens
from cosmos1.data.modules.token_folder import MultiviewTokensDataModule
from cosmos1.launch.autoregressive_recipes import autoregressive_recipe
from cosmos1.launch.cli import main
from cosmos1.launch.recipes import with_data, with_new_layers
from cosmos1.training.train import train

Size = Literal["5b", "13b", "tiny_video2world"]


def multiview(size: Size) -> run.Partial:
    """Six views of 33 frames of 320 x 512: 19,200 tokens, shared by two GPUs (tiny: three of 9 frames of 64 x 96).

    The embedding of the views starts at zero; 5B and 13B train it at 5e-4, the rest of the network at 5e-5.
    """
    recipe, tiny = autoregressive_recipe(size), size.startswith("tiny")
    recipe.model.config.views = run.Config(ViewTokens, num_views=3 if tiny else 6, shared_text=True)
    recipe.model.config.latent_shape = [2, 4, 6] if tiny else [5, 20, 32]
    recipe.model.objective.num_unscored_frames = 1
    with_data(recipe, size, MultiviewTokensDataModule, "multiview_tokens")
    with_new_layers(recipe, size, ["views."], lr_multiplier=10.0)
    if not tiny:
        recipe.trainer.strategy.context_parallel_size = 2
    return recipe


def with_trajectory(size: Size) -> run.Partial:
    """Also the path of the vehicle over the next 6.4 s, hidden in a fifth of the samples."""
    recipe = multiview(size)
    recipe.model.config.trajectory = run.Config(TrajectoryRows)
    recipe.model.objective.trajectory_dropout = 0.2
    recipe.data.with_trajectory = True
    with_new_layers(recipe, size, ["views.", "trajectory."], lr_multiplier=10.0)
    return recipe


@run.cli.factory(target=train)
def cosmos_autoregressive_5b_multicamera_finetune() -> run.Partial:
    """5B, six views, fully sharded over 8 GPUs."""
    return multiview("5b")


@run.cli.factory(target=train)
def cosmos_autoregressive_13b_multicamera_finetune() -> run.Partial:
    """13B, six views, fully sharded over 8 GPUs."""
    return multiview("13b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_multicamera_finetune() -> run.Partial:
    """A small network that learns three views of the demo world from scratch on two CPU processes."""
    return multiview("tiny_video2world")


@run.cli.factory(target=train)
def cosmos_autoregressive_5b_multicamera_finetune_w_traj() -> run.Partial:
    """5B, six views that follow a trajectory, fully sharded over 8 GPUs."""
    return with_trajectory("5b")


@run.cli.factory(target=train)
def cosmos_autoregressive_13b_multicamera_finetune_w_traj() -> run.Partial:
    """13B, six views that follow a trajectory, fully sharded over 8 GPUs."""
    return with_trajectory("13b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_multicamera_finetune_w_traj() -> run.Partial:
    """A small network that learns three views and their trajectory from scratch on two CPU processes."""
    return with_trajectory("tiny_video2world")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_5b_multicamera_finetune)
