# SPDX-License-Identifier: Apache-2.0
"""Action control: the next frame of a robot's camera from the current one and the action in between.

    torchrun --nproc_per_node=8 recipes/diffusion/action_control.py --yes \
        --factory cosmos_diffusion_7b_video2world_action_ctrl_finetune \
        data.path=$CACHED_ACTIONS resume.restore_config.path=nvidia/Cosmos-1.0-Diffusion-7B-Video2World

``data.path`` is a folder written by ``data_prep/prepare_action_dataset.py``, or for the factories
``video2world_action_bridge_2frames`` and ``..._tiny`` the Bridge tree itself. Docs: docs/action_control.md.
"""

from typing import Literal

import nemo_run as run

from cosmos1.checkpoint.export_callback import ExportPt
from cosmos1.conditioning.settings import ActionConditioning
from cosmos1.data.modules.action_pairs import ActionPairsDataModule
from cosmos1.data.modules.bridge_pixels import BridgePixelsDataModule
from cosmos1.launch.cli import main
from cosmos1.launch.recipes import diffusion_recipe, with_data, with_new_layers
from cosmos1.models.diffusion.objective_config import VideoConditioning
from cosmos1.training.config import LRScheduler, OptimizerConfig
from cosmos1.training.train import train


def action_control(size: Literal["7b", "14b", "tiny"]) -> run.Partial:
    """Pairs of frames, each its own latent; the first is given. Both branches of the action shift the modulation.

    7B and 14B: 10,000 steps; the action layers learn at 1e-4, a hundred times as fast as the trained network, which would
    otherwise ignore them for long.
    """
    recipe = diffusion_recipe(size, video2world=True)
    recipe.model.config.action = run.Config(ActionConditioning, action_dim=7, num_actions=1)
    recipe.model.single_frames = True
    recipe.model.objective.text_dropout = 0.0
    recipe.model.objective.conditioning = run.Config(
        VideoConditioning, min_frames=1, max_frames=1, augment_sigma_mean=-6.9, augment_sigma_std=0.0
    )
    with_data(recipe, size, ActionPairsDataModule, "action_pairs")
    if size == "tiny":
        _for_the_arm_world(recipe)
    with_new_layers(recipe, size, ["action."], lr_multiplier=100.0)
    if size != "tiny":
        recipe.trainer.max_steps = 10_000
        recipe.optim.config.weight_decay = 0.1
        recipe.optim.lr_scheduler = run.Config(LRScheduler, policy="annealing", warmup_steps=2600, min_lr=4e-10)
        recipe.log.ckpt.every_n_train_steps = 250
    return recipe


def _for_the_arm_world(recipe: run.Partial) -> None:
    """From scratch. A wider range of noise than in post-training: where the arm will be is decided at high noise levels. One
    row of text, which is zeros, costs less than 512."""
    recipe.model.objective.p_std = 1.5
    recipe.data.num_text_tokens = 1
    recipe.data.micro_batch_size, recipe.data.global_batch_size = 16, 32


@run.cli.factory(target=train)
def cosmos_diffusion_7b_video2world_action_ctrl_finetune() -> run.Partial:
    """7B action control from cached latents, fully sharded over 8 GPUs."""
    return action_control("7b")


@run.cli.factory(target=train)
def cosmos_diffusion_14b_video2world_action_ctrl_finetune() -> run.Partial:
    """14B action control from cached latents, fully sharded over 8 GPUs."""
    return action_control("14b")


@run.cli.factory(target=train)
def cosmos_diffusion_tiny_video2world_action_ctrl_finetune() -> run.Partial:
    """A small network that learns the robot arm of the demo world from scratch on two CPU processes."""
    return action_control("tiny")


def bridge_2frames(size: Literal["7b", "tiny"]) -> run.Partial:
    """Pairs of frames straight from the videos and annotations of Bridge; the tokenizer runs in the step.

    Action layers and their scale are those of cosmos-predict1, so that weights go to its .pt files, with three EMA copies.
    """
    recipe = action_control(size)
    recipe.model.config.action = run.Config(
        ActionConditioning, action_dim=7, num_actions=1, hidden_width="4D", gelu="tanh", use_d_branch=False
    )
    bridge = {"num_frames": 2, "action_convention": "scaled", "fps": 4.0}
    if size == "tiny":
        bridge |= {"video_size": [96, 128], "num_text_tokens": 1, "micro_batch_size": 4, "global_batch_size": 8}
        with_data(recipe, size, BridgePixelsDataModule, "arm", **bridge)
        recipe.trainer.max_steps = 2000
    else:
        bridge |= {"video_size": [256, 320], "micro_batch_size": 8, "global_batch_size": 64}
        with_data(recipe, size, BridgePixelsDataModule, "datasets/bridge", **bridge)
        _as_cosmos_predict1(recipe)
    name = "video2world_action_bridge_2frames" + ("_tiny" if size == "tiny" else "")
    recipe.trainer.callbacks.append(run.Config(ExportPt, every_n_steps=500, folder=PT_FOLDER.format(name=name)))
    recipe.optim.ema_widths = [0.1, 0.05, 0.025]
    recipe.log.ckpt.every_n_train_steps = 500
    return recipe


PT_FOLDER = "${{OUTPUT_ROOT}}/posttraining/diffusion_video2world_action/{name}/checkpoints"


def _as_cosmos_predict1(recipe: run.Partial) -> None:
    """Noise on the given frame, optimizer and schedule. The noise has a median of 4, the latents a deviation of 0.5: a network
    from scratch would hardly ever see the picture that it has to carry along."""
    recipe.model.objective.conditioning = run.Config(
        VideoConditioning,
        min_frames=1,
        max_frames=1,
        augment_sigma_mean=0.0,
        augment_sigma_std=1.0,
        augment_sigma_multiplier=4.0,
        dropout=0.2,
    )
    recipe.trainer.max_steps = 2000
    recipe.optim.config = run.Config(
        OptimizerConfig, lr=4e-4, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.99, adam_eps=1e-10, clip_grad=1.0
    )
    recipe.optim.lr_scheduler = run.Config(LRScheduler, policy="constant", warmup_steps=2500, warmup_ratio=1e-6)
    recipe.optim.new_layers.lr_multiplier = 1.0


@run.cli.factory(target=train)
def video2world_action_bridge_2frames() -> run.Partial:
    """7B action control from raw Bridge pixels, as cosmos-predict1 trains it."""
    return bridge_2frames("7b")


@run.cli.factory(target=train)
def video2world_action_bridge_2frames_tiny() -> run.Partial:
    """A small network that learns from raw Bridge pixels, or from the arm of the demo world, on two CPU processes."""
    return bridge_2frames("tiny")


if __name__ == "__main__":
    main(train, default_factory=cosmos_diffusion_7b_video2world_action_ctrl_finetune)
