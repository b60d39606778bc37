# SPDX-License-Identifier: Apache-2.0
"""Camera control: continue a video or a picture along a given path of the camera.

    torchrun --nproc_per_node=8 recipes/autoregressive/camera_control.py --yes \
        --factory cosmos_autoregressive_5b_video2world_cameractrl_finetune \
        data.path=$CAMERA_TOKENS resume.restore_config.path=nvidia/Cosmos-1.0-Autoregressive-5B-Video2World

``data.path`` is a folder written by ``data_prep/camera_control.py --tokenizer cosmos_dv`` (or ``dct_fsq``).
Docs: docs/autoregressive_controls.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.conditioning.token_settings import CameraRays
from cosmos1.data.modules.token_folder import CameraTokensDataModule
from cosmos1.launch.autoregressive_recipes import autoregressive_recipe
from cosmos1.launch.cli import main
from cosmos1.launch.recipes import with_data, with_new_layers
from cosmos1.training.train import train


def camera_control(size: Literal["5b", "13b", "tiny_video2world"]) -> run.Partial:
    """33 frames of 640 x 1024 (tiny: 17 of 128 x 192); the rays of the 8 frames of each token, hidden in a tenth of the
    samples.

    The layer of the rays starts at zero; 5B and 13B train it at 5e-4, the rest of the network at 5e-5.
    """
    recipe = autoregressive_recipe(size)
    recipe.model.config.camera = run.Config(CameraRays, frames_per_token=8)
    recipe.model.objective.num_unscored_frames = 1
    recipe.model.objective.camera_dropout = 0.1
    with_data(recipe, size, CameraTokensDataModule, "camera_tokens")
    with_new_layers(recipe, size, ["camera."], lr_multiplier=10.0)
    return recipe


@run.cli.factory(target=train)
def cosmos_autoregressive_5b_video2world_cameractrl_finetune() -> run.Partial:
    """5B camera control, fully sharded over 8 GPUs."""
    return camera_control("5b")


@run.cli.factory(target=train)
def cosmos_autoregressive_13b_video2world_cameractrl_finetune() -> run.Partial:
    """13B camera control, fully sharded over 8 GPUs."""
    return camera_control("13b")


@run.cli.factory(target=train)
def cosmos_autoregressive_tiny_video2world_cameractrl_finetune() -> run.Partial:
    """A small network that learns camera paths through the demo world from scratch on two CPU processes."""
    return camera_control("tiny_video2world")


if __name__ == "__main__":
    main(train, default_factory=cosmos_autoregressive_5b_video2world_cameractrl_finetune)
