# SPDX-License-Identifier: Apache-2.0
"""The autoregressive recipes of the control tasks build, fit their layouts, and name exactly the layers that they add."""

import importlib.util
import math

import fiddle as fdl
import pytest

from cosmos1.checkpoint.families.autoregressive import expected_shapes
from cosmos1.models.autoregressive.config import gpt_config
from tests.processes import ROOT

FACTORIES = {
    "cosmos_autoregressive_{}_video2world_instruction_finetune": "instruction",
    "cosmos_autoregressive_{}_video2world_action_ctrl_finetune": "action_control",
    "cosmos_autoregressive_{}_video2world_cameractrl_finetune": "camera_control",
    "cosmos_autoregressive_{}_multicamera_finetune": "multiview",
    "cosmos_autoregressive_{}_multicamera_finetune_w_traj": "multiview",
}
RECIPES = [(name, size) for name in FACTORIES for size in ("5b", "13b", "tiny")]
TRAJECTORY = 3 * 256 + 256 + 256 * 1024 + 1024 + 64 * 1024
# Parameters that each task adds to a network of a width.
ADDED = {
    "instruction": lambda width: 0,
    "action_ctrl": lambda width: 7 * 256 + 256 + 256 * 1024 + 1024,
    "cameractrl": lambda width: 48 * width,
    "w_traj": lambda width: 6 * width + TRAJECTORY,
    "multicamera": lambda width: 6 * width,
}
PARAMETERS = {"5b": 4_584_845_312, "13b": 13_323_125_760}


def load_recipe(name: str, size: str) -> dict:
    path = ROOT / "recipes" / "autoregressive" / f"{FACTORIES[name]}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{FACTORIES[name]}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return fdl.build(getattr(module, name.format(size))()).keywords


@pytest.mark.parametrize("name, size", RECIPES)
def test_builds_and_fits(name, size):
    recipe = load_recipe(name, size)
    model, trainer, data = recipe["model"], recipe["trainer"], recipe["data"]
    model.validate(trainer.strategy, trainer.devices * trainer.num_nodes)
    for part in (trainer, recipe["optim"], recipe["log"].ckpt):
        part.validate()
    model.validate_sample(trainer.strategy, model.config.token_grid)
    replicas = trainer.devices // trainer.strategy.context_parallel_size
    assert data.global_batch_size % (data.micro_batch_size * replicas) == 0
    assert getattr(data, "pad_to_multiple_of", 128) == model.config.pad_to_multiple_of

    base = gpt_config("tiny_video2world" if size == "tiny" else size)
    found, known = expected_shapes(model.config), expected_shapes(base)
    assert known.items() <= found.items()
    new, allowed = found.keys() - known.keys(), tuple(recipe["resume"].restore_config.allow_missing)
    assert all(parameter.startswith(allowed) for parameter in new) if new else not allowed
    assert all(any(parameter.startswith(prefix) for parameter in new) for prefix in allowed)
    if size != "tiny":
        task = next(task for task in ADDED if task in name)
        count = sum(math.prod(shape) for shape in found.values())
        assert count == PARAMETERS[size] + ADDED[task](model.config.hidden_size)
