# SPDX-License-Identifier: Apache-2.0
"""The recipes of the control tasks build, fit their layouts, and name exactly the layers that their networks add."""

import importlib.util

import fiddle as fdl
import pytest
import torch

from cosmos1.models.diffusion.config import DiTConfig
from tests.models.test_network import build_meta_network
from tests.processes import ROOT

SIZES = ("7b", "14b", "tiny")
FACTORIES = {
    "instruction": ["cosmos_diffusion_{}_video2world_instruction_finetune"],
    "action_control": [
        "cosmos_diffusion_{}_video2world_action_ctrl_finetune",
        "video2world_action_bridge_2frames",
        "video2world_action_bridge_2frames_tiny",
    ],
    "tokenizer": ["cosmos_diffusion_{}_tokenizer_finetune"],
    "camera_control": ["cosmos_diffusion_{}_cameractrl_finetune"],
    "multiview": [
        f"cosmos_multicamera_diffusion_{{}}_{task}_finetune{trajectory}"
        for task in ("text2world", "image2world")
        for trajectory in ("", "_w_traj")
    ],
}
RECIPES = {name.format(size): file for file, names in FACTORIES.items() for name in names for size in SIZES}
LATENTS = {
    "tokenizer": [16, 16, 88, 160],
    "instruction": [16, 16, 88, 160],
    "action_control": [16, 2, 60, 80],
    "camera_control": [16, 8, 88, 160],
}


def load_recipe(name: str):
    path = ROOT / "recipes" / "diffusion" / f"{RECIPES[name]}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return fdl.build(getattr(module, name)()).keywords


def parameters(config: DiTConfig) -> dict:
    config.num_layers = 1
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in build_meta_network(config).named_parameters()}


@pytest.mark.parametrize("name", RECIPES)
def test_builds_and_fits(name):
    recipe = load_recipe(name)
    model, trainer = recipe["model"], recipe["trainer"]
    model.validate(trainer.strategy, trainer.devices * trainer.num_nodes)
    for part in (trainer, recipe["optim"], recipe["log"].ckpt):
        part.validate()
    if "tiny" not in name:
        model.validate_sample(trainer.strategy, LATENTS.get(RECIPES[name], [16, 48, 60, 106]))
    base = DiTConfig(**{field: getattr(model.config, field) for field in ("condition_mask", *BASE_SIZES)})
    found, known = parameters(model.config), parameters(base)
    new = {parameter for parameter, shape in found.items() if known.get(parameter) != shape}
    assert set(known) <= set(found)
    allowed = tuple(recipe["resume"].restore_config.allow_missing)
    assert all(parameter.startswith(allowed) for parameter in new) if new else not allowed
    assert all(any(parameter.startswith(prefix) for parameter in new) for prefix in allowed)


BASE_SIZES = ("hidden_size", "num_attention_heads", "adaln_lora_dim")
