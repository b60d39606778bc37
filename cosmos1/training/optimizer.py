# SPDX-License-Identifier: Apache-2.0
"""The optimizer, and a view of its fp32 master weights that is the same for DDP and FSDP."""

import torch
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from cosmos1.parallel.device import is_cuda
from cosmos1.parallel.master_weight import MasterWeight
from cosmos1.parallel.megatron import optimizer_construction
from cosmos1.training.config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, chunks: list[torch.nn.Module], bf16: bool, fsdp: bool):
    """Megatron-core's AdamW over the wrapped pipeline chunks; distributed over the replicas unless FSDP shards."""
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
        optimizer = get_megatron_optimizer(megatron, chunks)
    assert len(optimizer.chained_optimizers) == 1
    if is_cuda():
        for group in torch_optimizer(optimizer).param_groups:
            group["fused"], group["foreach"] = True, False
    return optimizer


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


def set_learning_rate(optimizer, config: OptimizerConfig, lr: float) -> None:
    for group in torch_optimizer(optimizer).param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = config.weight_decay * group.get("wd_mult", 1.0)


@torch.no_grad()
def publish_master_weights(optimizer, chunks: list[torch.nn.Module]) -> None:
    """After the master weights were changed from outside: bring the model's parameters in line on every replica."""
    inner = optimizer.chained_optimizers[0]
    if isinstance(inner, DistributedOptimizer):
        inner._copy_main_params_to_model_params()
        for chunk in chunks:
            chunk.start_param_sync(force_sync=True)
