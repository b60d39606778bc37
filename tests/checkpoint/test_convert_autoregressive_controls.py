# SPDX-License-Identifier: Apache-2.0
"""Weights of autoregressive networks with control signals: names, sizes, and a base checkpoint as their beginning."""

import importlib
from dataclasses import replace

import fiddle as fdl
import pytest
import torch

from cosmos1.checkpoint.convert import ConvertOptions, convert
from cosmos1.checkpoint.formats import open_weights
from cosmos1.conditioning.token_settings import ActionRows, CameraRays, TrajectoryRows, ViewTokens
from cosmos1.errors import CheckpointError
from cosmos1.generation.autoregressive import task_of_checkpoint
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from tests.checkpoint.conversion import assert_same, converted, save_official, small_gpt

VARIANTS = {
    "action": {"action": ActionRows(7, 1, 16)},
    "actions": {"action": ActionRows(5, 3, 16)},
    "camera": {"camera": CameraRays(4)},
    "trajectory": {"views": ViewTokens(6), "trajectory": TrajectoryRows(16)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_pt_through_dist_and_back(tmp_path, variant):
    config = replace(small_gpt(True), **VARIANTS[variant])
    weights = save_official(tmp_path / "model.pt", config)
    found = open_weights(tmp_path / "model.pt").config
    assert all(getattr(found, name) == getattr(config, name) for name in ("action", "camera", "views", "trajectory"))
    folder = converted(tmp_path / "model.pt", tmp_path / "dist", "dist", config)
    expected = config
    if config.action is not None:
        grid = [config.action.num_actions + 1, *config.latent_shape[1:]]
        expected = replace(config, latent_shape=grid, pad_to_multiple_of=128)
    assert task_of_checkpoint(folder, 48, 64).config == expected
    assert_same(torch.load(converted(folder, tmp_path / "back.pt", "pt", config), weights_only=True), weights)
    if variant == "action":
        nemo = converted(folder, tmp_path / "nemo", "nemo", config)
        assert_same(torch.load(converted(nemo, tmp_path / "nemo.pt", "pt", config), weights_only=True), weights)
    else:
        with pytest.raises(CheckpointError, match="NeMo does not know"):
            convert(folder, tmp_path / "nemo", "nemo", ConvertOptions())


ACTION = ["action.linear_1.bias", "action.linear_1.weight", "action.linear_2.bias", "action.linear_2.weight"]
TRAJECTORY = ["trajectory.index.weight", *(name.replace("action", "trajectory") for name in ACTION)]
FACTORIES = [
    ("action_control", "cosmos_autoregressive_5b_video2world_action_ctrl_finetune", ACTION),
    ("camera_control", "cosmos_autoregressive_5b_video2world_cameractrl_finetune", ["camera.weight"]),
    ("instruction", "cosmos_autoregressive_5b_video2world_instruction_finetune", []),
    ("multiview", "cosmos_autoregressive_5b_multicamera_finetune", ["views.weight"]),
    ("multiview", "cosmos_autoregressive_5b_multicamera_finetune_w_traj", [*TRAJECTORY, "views.weight"]),
]


@pytest.mark.parametrize("recipe, factory, new_layers", FACTORIES)
def test_exactly_the_new_layers_of_a_recipe_are_missing(tmp_path, recipe, factory, new_layers):
    partial = getattr(importlib.import_module(f"recipes.autoregressive.{recipe}"), factory)()
    base, model_config = small_gpt(True), fdl.build(partial.model.config)
    signals = {name: getattr(model_config, name) for name in ("action", "camera", "views", "trajectory")}
    allowed = fdl.build(partial.resume.restore_config).allow_missing
    save_official(tmp_path / "model.pt", base)
    process_groups.initialize(MegatronStrategy())
    task = AutoregressiveModel(replace(base, **signals))
    model = ParallelModel(task, MegatronStrategy(), "fp32", seed=5, trainable=False)
    report = load_weights(model, RestoreConfig(path=str(tmp_path / "model.pt"), allow_missing=allowed))
    assert report[0].endswith(f"{len(new_layers)} missing and kept at their initial values, 0 unexpected")
    assert report[1:] == [f"weights: missing {name}" for name in new_layers]
    if new_layers:
        with pytest.raises(CheckpointError, match=f"{len(new_layers)} weights missing"):
            load_weights(model, RestoreConfig(path=str(tmp_path / "model.pt")))
