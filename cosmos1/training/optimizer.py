# SPDX-License-Identifier: Apache-2.0
"""The optimizer, and a view of its fp32 master weights that is the same for DDP and FSDP."""

import torch
import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer_config import ParamKey

from cosmos1.errors import ConfigError
from cosmos1.parallel.device import is_cuda
from cosmos1.parallel.master_weight import MasterWeight
from cosmos1.parallel.megatron import optimizer_construction
from cosmos1.training.config import MegatronOptimizer, NewLayers

# Groups of parameters that belong to new layers carry this.
_NEW = "new_layers"


def build_optimizer(optim: MegatronOptimizer, chunks: list[torch.nn.Module], bf16: bool, fsdp: bool):
    """Megatron-core's AdamW over the wrapped pipeline chunks; distributed over the replicas unless FSDP shards.

    Raises:
        ConfigError: ``optim.new_layers`` names layers that the network does not have.
    """
    config, new = optim.config, optim.new_layers
    _check_names(new, chunks)
    megatron = MegatronOptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        min_lr=0.0,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_eps=config.adam_eps,
        clip_grad=config.clip_grad,
        bf16=bf16 and not fsdp,
        use_distributed_optimizer=not fsdp,
    )
    with optimizer_construction():
        overrides = get_standard_config_overrides(megatron)
        if new.names:
            # Wrapped chunks put "module." in front of the names.
            overrides[ParamKey(name=tuple(f"module.{name}*" for name in new.names))] = {_NEW: True}
        optimizer = get_megatron_optimizer(megatron, chunks, config_overrides=overrides, use_gloo_process_groups=False)
    assert len(optimizer.chained_optimizers) == 1
    if is_cuda():
        for group in torch_optimizer(optimizer).param_groups:
            group["fused"], group["foreach"] = True, False
    return optimizer


def _check_names(new: NewLayers, chunks: list[torch.nn.Module]) -> None:
    found = [None] * dist.get_world_size()
    parameters = [name.removeprefix("module.") for chunk in chunks for name, _ in chunk.named_parameters()]
    dist.all_gather_object(found, [name for name in new.names if any(p.startswith(name) for p in parameters)])
    unknown = set(new.names).difference(*found)
    if unknown:
        raise ConfigError(
            f"optim.new_layers.names has {sorted(unknown)[0]!r}, with which no weight of this network begins; take the names "
            'from "weights: missing ..." in the log of a run, or leave it out'
        )


def torch_optimizer(optimizer) -> torch.optim.Optimizer:
    return optimizer.chained_optimizers[0].optimizer


def master_weights(optimizer) -> list[MasterWeight]:
    """Every fp32 tensor that the optimizer updates on this rank, with the parameter it belongs to."""
    inner = optimizer.chained_optimizers[0]
    if not isinstance(inner, DistributedOptimizer):
        parameters = [p for group in inner.optimizer.param_groups for p in group["params"]]
        return [MasterWeight(parameter, parameter, None) for parameter in parameters]
    masters = []
    for model_groups, shard_groups in (
        (inner.model_float16_groups, inner.shard_fp32_from_float16_groups),
        (inner.model_fp32_groups, inner.shard_fp32_groups),
    ):
        for parameters, shards in zip(model_groups, shard_groups):
            for parameter, shard in zip(parameters, shards):
                start = inner._get_model_param_range_map(parameter)["param"].start
                masters.append(MasterWeight(parameter, shard, start))
    return masters


def ensure_state(optimizer) -> None:
    """Allocate the Adam moments of parameters that have not been stepped yet."""
    inner = torch_optimizer(optimizer)
    for group in inner.param_groups:
        for parameter in group["params"]:
            state = inner.state[parameter]
            if "step" not in state:
                on_device = group.get("fused") or group.get("capturable")
                state["step"] = torch.zeros((), device=parameter.device if on_device else "cpu")
                state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32).detach()
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32).detach()


@torch.no_grad()
def set_step_count(optimizer, count: int) -> None:
    for state in torch_optimizer(optimizer).state.values():
        state["step"].fill_(count)


def step_count(optimizer) -> int:
    """Updates applied so far; skipped steps do not count."""
    states = torch_optimizer(optimizer).state.values()
    return int(next(iter(states))["step"]) if states else 0


def set_learning_rate(optimizer, optim: MegatronOptimizer, lr: float, step: int) -> None:
    """Set what every group of parameters gets in ``step`` (from 0), where the schedule says ``lr``."""
    new = optim.new_layers
    for group in torch_optimizer(optimizer).param_groups:
        others = 0.0 if step < new.alone_steps else 1.0
        group["lr"] = lr * (new.lr_multiplier if group.get(_NEW) else others)
        group["weight_decay"] = optim.config.weight_decay * group.get("wd_mult", 1.0)


@torch.no_grad()
def publish_master_weights(optimizer, chunks: list[torch.nn.Module]) -> None:
    """After the master weights were changed from outside: bring the model's parameters in line on every replica."""
    inner = optimizer.chained_optimizers[0]
    if isinstance(inner, DistributedOptimizer):
        inner._copy_main_params_to_model_params()
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)
