# SPDX-License-Identifier: Apache-2.0
"""Multi-view driving: the videos of all cameras of a vehicle at once, with or without its trajectory.

    torchrun --nproc_per_node=8 recipes/diffusion/multiview.py --yes \
        --factory cosmos_multicamera_diffusion_7b_text2world_finetune \
        data.path=$CACHED_DATA resume.restore_config.path=nvidia/Cosmos-1.0-Diffusion-7B-Text2World

``data.path`` is a folder written by ``data_prep/multiview.py``. The base networks keep their learned positions, anew in
each view. The released multi-view networks have fixed ones instead; to start from those add
``model.config.learnable_positions=false model.config.sinusoidal_positions=true``. Docs: docs/multiview.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.conditioning.settings import TrajectoryConditioning, ViewConditioning
from cosmos1.data.modules.multiview_folder import MultiviewFolderDataModule
from cosmos1.launch.cli import main
from cosmos1.launch.recipes import diffusion_recipe, with_data, with_new_layers
from cosmos1.models.diffusion.objective_config import VideoConditioning
from cosmos1.training.config import LRScheduler
from cosmos1.training.train import train

Size = Literal["7b", "14b", "tiny"]


def multiview(size: Size, image2world: bool) -> run.Partial:
    """Six views of 57 frames of 480 x 848, each with its own text. image2world gives the first frames of every view.

    7B and 14B: learning rate 1e-4, decay 0.3, 1000 steps of warm-up, 30,000 steps; tokens shared by two GPUs.
    """
    recipe = diffusion_recipe(size, video2world=image2world)
    recipe.model.config.views = run.Config(ViewConditioning, num_views=6, view_dim=6, repeat_frame=True)
    recipe.model.objective.conditioning = run.Config(
        VideoConditioning,
        min_frames=0,
        max_frames=1 if size == "tiny" else 2,
        augment_sigma_mean=-3.0,
        augment_sigma_std=2.0,
    )
    with_data(recipe, size, MultiviewFolderDataModule, "multiview_latents")
    with_new_layers(recipe, size, ["x_embedder.", "views."], lr_multiplier=1.0)
    if size != "tiny":
        recipe.trainer.strategy.context_parallel_size = 2
        recipe.trainer.max_steps = 30_000
        recipe.optim.config.lr, recipe.optim.config.weight_decay = 1e-4, 0.3
        recipe.optim.lr_scheduler = run.Config(LRScheduler, policy="warmup_hold", warmup_steps=1000, warmup_ratio=1e-2)
    return recipe


def with_trajectory(size: Size, image2world: bool, trajectory_dim: int) -> run.Partial:
    """Also the path of the vehicle over the next 6.4 s, hidden in a fifth of the samples."""
    recipe = multiview(size, image2world)
    recipe.model.config.trajectory = run.Config(TrajectoryConditioning, trajectory_dim=trajectory_dim)
    recipe.model.objective.trajectory_dropout = 0.2
    recipe.data.with_trajectory = True
    with_new_layers(recipe, size, ["x_embedder.", "views.", "trajectory."], lr_multiplier=1.0)
    return recipe


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_7b_text2world_finetune() -> run.Partial:
    """7B, six views from text."""
    return multiview("7b", image2world=False)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_14b_text2world_finetune() -> run.Partial:
    """14B, six views from text."""
    return multiview("14b", image2world=False)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_tiny_text2world_finetune() -> run.Partial:
    """A small network, six views of the demo world from text, from scratch on two CPU processes."""
    return multiview("tiny", image2world=False)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_7b_image2world_finetune() -> run.Partial:
    """7B, six views from their first frames."""
    return multiview("7b", image2world=True)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_14b_image2world_finetune() -> run.Partial:
    """14B, six views from their first frames."""
    return multiview("14b", image2world=True)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_tiny_image2world_finetune() -> run.Partial:
    """A small network, six views of the demo world from their first frames, on two CPU processes."""
    return multiview("tiny", image2world=True)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_7b_text2world_finetune_w_traj() -> run.Partial:
    """7B, six views from text and trajectory."""
    return with_trajectory("7b", image2world=False, trajectory_dim=12)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_14b_text2world_finetune_w_traj() -> run.Partial:
    """14B, six views from text and trajectory."""
    return with_trajectory("14b", image2world=False, trajectory_dim=12)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_tiny_text2world_finetune_w_traj() -> run.Partial:
    """A small network, six views of the demo world from text and trajectory, on two CPU processes."""
    return with_trajectory("tiny", image2world=False, trajectory_dim=12)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_7b_image2world_finetune_w_traj() -> run.Partial:
    """7B, six views from their first frames and the trajectory."""
    return with_trajectory("7b", image2world=True, trajectory_dim=32)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_14b_image2world_finetune_w_traj() -> run.Partial:
    """14B, six views from their first frames and the trajectory."""
    return with_trajectory("14b", image2world=True, trajectory_dim=32)


@run.cli.factory(target=train)
def cosmos_multicamera_diffusion_tiny_image2world_finetune_w_traj() -> run.Partial:
    """A small network, six views from their first frames and the trajectory, on two CPU processes."""
    return with_trajectory("tiny", image2world=True, trajectory_dim=32)


if __name__ == "__main__":
    main(train, default_factory=cosmos_multicamera_diffusion_7b_text2world_finetune)
