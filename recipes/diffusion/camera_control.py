# SPDX-License-Identifier: Apache-2.0
"""Camera control: a video from one picture, along a given path of the camera.

    torchrun --nproc_per_node=8 recipes/diffusion/camera_control.py --yes \
        --factory cosmos_diffusion_7b_cameractrl_finetune \
        data.path=$CACHED_DATA resume.restore_config.path=nvidia/Cosmos-1.0-Diffusion-7B-Video2World

``data.path`` is a folder written by ``data_prep/camera_control.py``. Docs: docs/camera_control.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.conditioning.settings import CameraConditioning
from cosmos1.data.modules.camera_folder import CameraFolderDataModule
from cosmos1.launch.cli import main
from cosmos1.launch.recipes import diffusion_recipe, with_data, with_new_layers
from cosmos1.models.diffusion.objective_config import VideoConditioning
from cosmos1.training.train import train


def camera_control(size: Literal["7b", "14b", "tiny"]) -> run.Partial:
    """Six channels of camera rays beside the latent of each patch; 57 frames, one or two latent frames given.

    The columns of the patch matrix that the rays enter by start at zero; 7B and 14B train that matrix at 1e-5.
    """
    recipe = diffusion_recipe(size, video2world=True)
    recipe.model.config.camera = run.Config(CameraConditioning)
    recipe.model.objective.conditioning = run.Config(
        VideoConditioning, min_frames=1, max_frames=2, augment_sigma_mean=-3.0, augment_sigma_std=2.0
    )
    if size == "tiny":
        recipe.model.objective.conditioning.max_frames = 1
    with_data(recipe, size, CameraFolderDataModule, "camera_latents")
    with_new_layers(recipe, size, ["x_embedder."], lr_multiplier=10.0)
    return recipe


@run.cli.factory(target=train)
def cosmos_diffusion_7b_cameractrl_finetune() -> run.Partial:
    """7B camera control, fully sharded over 8 GPUs."""
    return camera_control("7b")


@run.cli.factory(target=train)
def cosmos_diffusion_14b_cameractrl_finetune() -> run.Partial:
    """14B camera control, fully sharded over 8 GPUs."""
    return camera_control("14b")


@run.cli.factory(target=train)
def cosmos_diffusion_tiny_cameractrl_finetune() -> run.Partial:
    """A small network that learns camera paths through the demo world from scratch on two CPU processes."""
    return camera_control("tiny")


if __name__ == "__main__":
    main(train, default_factory=cosmos_diffusion_7b_cameractrl_finetune)
