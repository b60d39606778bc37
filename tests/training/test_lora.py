# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters on the command line, and what is refused before anything is allocated."""

import fiddle as fdl
import nemo_run as run
import pytest

from cosmos1.errors import ConfigError
from cosmos1.launch import transforms  # noqa: F401  (model_transform=lora)
from cosmos1.launch.overrides import apply_override
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.training.lora import LoRA
from cosmos1.training.train import train


def test_a_command_line_asks_for_adapters():
    recipe = run.Partial(train)
    for setting in ("model_transform=lora", "model_transform.rank=32", "model_transform.targets=['*.mlp.*']"):
        apply_override(recipe, setting)
    assert fdl.build(recipe).keywords["model_transform"] == LoRA(rank=32, alpha=32.0, targets=["*.mlp.*"])
    apply_override(recipe, "model_transform=None")
    assert fdl.build(recipe).keywords["model_transform"] is None


@pytest.mark.parametrize(
    "setting, message",
    [
        ("model_transform.rank=32", "put model_transform=lora before it"),
        ("model_transform=lroa", 'did you mean "lora"?'),
    ],
)
def test_a_wrong_command_line_says_what_to_type(setting, message):
    with pytest.raises(ConfigError) as caught:
        apply_override(run.Partial(train), setting)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rank": 0}, "model_transform.rank=0"),
        ({"alpha": 0.0}, "model_transform.alpha=0.0"),
        ({"dropout": 1.0}, "model_transform.dropout=1.0"),
        ({"targets": []}, "model_transform.targets=[]"),
    ],
)
def test_values_that_train_nothing_are_refused(settings, message):
    LoRA().validate(AutoregressiveModel())
    with pytest.raises(ConfigError) as caught:
        LoRA(**settings).validate(DiffusionModel())
    assert message in str(caught.value)


def test_other_linear_layers_are_refused():
    with pytest.raises(ConfigError, match="model.config.transformer_impl=local"):
        LoRA().validate(DiffusionModel(DiTConfig(transformer_impl="transformer_engine")))
