# SPDX-License-Identifier: Apache-2.0
"""The autoregressive recipes: every factory builds, fits its layout, and has the numbers that were published."""

import importlib.util
from pathlib import Path

import fiddle as fdl
import pytest

ROOT = Path(__file__).parents[2]
SIZES = {"general": ("4b", "12b", "tiny"), "tokenizer": ("4b", "12b", "tiny"), "video2world": ("5b", "13b", "tiny")}
SUFFIX = {"general": "", "tokenizer": "_tokenizer", "video2world": "_video2world"}


def build(file: str, size: str) -> dict:
    path = ROOT / "recipes" / "autoregressive" / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{file}_{size}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return fdl.build(getattr(module, f"cosmos_autoregressive_{size}{SUFFIX[file]}_finetune")()).keywords


@pytest.mark.parametrize("file, size", [(file, size) for file, sizes in SIZES.items() for size in sizes])
def test_every_recipe_builds_and_fits_its_layout(file, size):
    arguments = build(file, size)
    model, data, trainer, optim = (arguments[name] for name in ("model", "data", "trainer", "optim"))
    model.validate(trainer.strategy, trainer.devices * trainer.num_nodes)
    trainer.validate()
    optim.validate()
    arguments["log"].ckpt.validate()
    assert data.global_batch_size % (data.micro_batch_size * trainer.devices) == 0
    assert model.config.num_layers == {"4b": 16, "5b": 16, "12b": 40, "13b": 40, "tiny": 4}[size]
    assert model.config.video2world == (file == "video2world") == (type(data).__name__ == "TokenClipsDataModule")
    model.validate_sample(trainer.strategy, model.config.latent_shape)
    if size != "tiny":
        assert model.config.latent_shape == [5, 40, 64]
        assert (optim.config.lr, optim.config.weight_decay) == (1e-4 if file == "tokenizer" else 5e-5, 0.01)
        assert optim.lr_scheduler.policy == "constant" and trainer.precision == "bf16"
        assert trainer.strategy.fsdp and (model.config.yarn_scale == 2.0) == (size in ("12b", "13b"))
    assert model.compression_factor == ([4, 8, 8] if file == "tokenizer" else [8, 16, 16])
    assert model.tokenizer == ("dct_fsq" if size == "tiny" else "cosmos_dv")
