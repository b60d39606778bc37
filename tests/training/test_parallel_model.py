# SPDX-License-Identifier: Apache-2.0
"""bf16 parameters and their fp32 master weights."""

from dataclasses import replace

import pytest
import torch

from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training import adapters
from cosmos1.training.config import AutoResume, MegatronOptimizer, RestoreConfig
from cosmos1.training.lora import LoRA
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from tests.checkpoint.conversion import native_values, save_official, small_config

MISSING, REINITIALIZED = "decoder.layers.2.", "x_embedder."
TASK = DiffusionModel(small_config(2.0, False))


class RecordingModel(DiffusionModel):
    """Writes down whose initial values are drawn after the network was built."""

    def initial_values(self, network, seed, names=None):
        for entry in super().initial_values(network, seed, names):
            self.drawn.append(entry[0])
            yield entry


@pytest.fixture(scope="module", autouse=True)
def groups():
    process_groups.initialize(MegatronStrategy())


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """Weights of a network that has no third block."""
    path = tmp_path_factory.mktemp("base") / "model.pt"
    save_official(path, replace(TASK.config, num_layers=2))
    return str(path)


def start(precision: str, restore: RestoreConfig, lora: LoRA | None = None, task=TASK) -> ParallelModel:
    """A model at step 0, from ``restore.path`` if there is one."""
    optim = MegatronOptimizer(ema_widths=[0.1])
    transform = adapters.transform(lora, optim, AutoResume(restore_config=restore), seed=3)
    model = ParallelModel(task, MegatronStrategy(), precision, seed=3, transform=transform)
    model.add_optimizer(optim, precision)
    load_weights(model, restore) if restore.path else model.start_untrained()
    return model


def masters_of(model: ParallelModel) -> dict[str, torch.Tensor]:
    names = {id(parameter): name for name, parameter in model.networks[0].named_parameters()}
    return {names[id(master.parameter)]: master.local for master in model.masters}


def assert_masters_of_fp32(restore: RestoreConfig, lora: LoRA | None = None) -> dict[str, torch.Tensor]:
    """A bf16 run has the master weights of one in fp32, bit for bit; returns them."""
    whole = masters_of(start("fp32", restore, lora))
    model = start("bf16", restore, lora)
    masters = masters_of(model)
    assert masters.keys() == whole.keys()
    for name, master in masters.items():
        assert torch.equal(master, whole[name]), name
    for master, average in zip(model.masters, model.ema.copies[0], strict=True):
        assert torch.equal(master.local, average)
        assert master.parameter.dtype == torch.bfloat16
        assert torch.equal(master.parameter.detach().flatten(), master.local.bfloat16())
    return masters


def is_rounded(tensor: torch.Tensor) -> bool:
    return torch.equal(tensor, tensor.bfloat16().float())


def test_untrained_master_weights_are_not_rounded():
    """From rounded ones the first updates of a bf16 run vanish, and it starts more slowly than one in fp32."""
    masters = assert_masters_of_fp32(RestoreConfig())
    assert any(not is_rounded(master) for master in masters.values())


@pytest.mark.parametrize("lora", [None, LoRA(rank=4, targets=["linear_qkv", "linear_fc2"])])
def test_layers_that_keep_initial_values_do_not_have_them_rounded(lora, base):
    """Layers that the checkpoint lacks or that are made anew; all others have the values of the checkpoint."""
    restore = RestoreConfig(path=base, allow_missing=[MISSING], reinitialize=[REINITIALIZED])
    masters = assert_masters_of_fp32(restore, lora)
    stored = native_values(base)
    loaded = {name for name in masters if name in stored and not name.startswith(REINITIALIZED)}
    assert all(torch.equal(masters[name], stored[name].float().flatten()) for name in loaded)
    kept = [f"{MISSING}mlp.linear_fc1.weight", f"{REINITIALIZED}weight"]
    kept += ["decoder.layers.1.mlp.linear_fc2.lora.a"] if lora else []
    assert not any(is_rounded(masters[name]) for name in kept)


def test_adapters_of_an_untrained_network_are_not_rounded():
    masters = assert_masters_of_fp32(RestoreConfig(), LoRA(rank=4))
    assert not any(is_rounded(master) for name, master in masters.items() if name.endswith(".lora.a"))
    assert not any(master.any() for name, master in masters.items() if name.endswith(".lora.b"))


def test_only_weights_that_keep_initial_values_are_drawn_again(base):
    """A large network takes long to draw."""
    task = RecordingModel(TASK.config)
    task.drawn = []
    start("bf16", RestoreConfig(path=base, allow_missing=[MISSING]), task=task)
    assert task.drawn and all(name.startswith(MISSING) for name in task.drawn)
