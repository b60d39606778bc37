# SPDX-License-Identifier: Apache-2.0
"""bf16 parameters and their fp32 master weights."""

import torch

from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import MegatronOptimizer
from cosmos1.training.parallel_model import ParallelModel
from tests.checkpoint.conversion import small_config


def masters_of(precision: str) -> tuple[ParallelModel, dict[str, torch.Tensor]]:
    model = ParallelModel(DiffusionModel(small_config(2.0, False)), MegatronStrategy(), precision, seed=3)
    model.add_optimizer(MegatronOptimizer(ema_widths=[0.1]), precision)
    model.start_untrained()
    names = {id(parameter): name for name, parameter in model.networks[0].named_parameters()}
    return model, {names[id(master.parameter)]: master.local for master in model.masters}


def test_untrained_master_weights_are_not_rounded():
    """From rounded ones the first updates of a bf16 run vanish, and it starts more slowly than one in fp32."""
    process_groups.initialize(MegatronStrategy())
    _, whole = masters_of("fp32")
    model, masters = masters_of("bf16")
    assert masters.keys() == whole.keys()
    for name, master in masters.items():
        assert torch.equal(master, whole[name]), name
    for master, average in zip(model.masters, model.ema.copies[0]):
        assert torch.equal(master.local, average)
        assert master.parameter.dtype == torch.bfloat16
        assert torch.equal(master.parameter.detach().flatten(), master.local.bfloat16())
    assert any(not torch.equal(master, master.bfloat16().float()) for master in masters.values())
