# SPDX-License-Identifier: Apache-2.0
"""Process groups of one run: started by torchrun (also under srun), or as a single process."""

import os
from datetime import timedelta
from typing import Any, Callable

import torch.distributed as dist

from cosmos1.errors import ConfigError, UserError
from cosmos1.parallel import device as devices
from cosmos1.parallel import megatron
from cosmos1.parallel.rendezvous import fresh_store
from cosmos1.parallel.strategy import MegatronStrategy


def world_size() -> int:
    """Number of processes of this run, known before any of them has met the others.

    Raises:
        ConfigError: srun started several processes that do not know of one another.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "RANK" not in os.environ:
        raise ConfigError(
            f"srun started {os.environ['SLURM_STEP_NUM_TASKS']} separate processes; start one task per node with "
            "srun --ntasks-per-node=1 torchrun --nnodes=... --nproc_per_node=... (docs/general.md)"
        )
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def initialize(strategy: MegatronStrategy, seed: int = 0, timeout_minutes: float = 30.0) -> None:
    """Join the other processes and create Megatron-core's groups. A second call replaces the groups."""
    devices.activate()
    megatron.prepare()
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    if parallel_state.model_parallel_is_initialized():
        _leave_groups()
    if not dist.is_initialized():
        timeout = timedelta(minutes=timeout_minutes)
        store, rank, size = fresh_store(timeout) if "RANK" in os.environ else (dist.HashStore(), 0, 1)
        dist.init_process_group(devices.backend(), timeout=timeout, store=store, rank=rank, world_size=size)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=strategy.tensor_model_parallel_size,
        pipeline_model_parallel_size=strategy.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=strategy.virtual_pipeline_model_parallel_size,
        context_parallel_size=strategy.context_parallel_size,
        distributed_timeout_minutes=int(timeout_minutes),
        # Second copies of some groups, for a checkpoint format that is not used here.
        create_gloo_process_groups=False,
    )
    model_parallel_cuda_manual_seed(seed)


def on_main_rank(compute: Callable[[], Any]) -> Any:
    """What ``compute`` returns on the main rank, given to every rank. What it raises there is raised on all of them, so that
    none waits for one that has stopped. Joins the other processes first, where that has not happened."""
    if world_size() == 1:
        return compute()
    if not dist.is_initialized():
        initialize(MegatronStrategy())
    outcome: list[Any] = [None, None]
    if is_main_rank():
        try:
            outcome[0] = compute()
        except Exception as error:
            dist.broadcast_object_list(
                [None, error if isinstance(error, UserError) else RuntimeError(repr(error))], src=0
            )
            raise
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _leave_groups() -> None:
    """Leave the groups of an earlier call. A single process also leaves the world: each group keeps threads of its own
    until that is gone, and a test session would gather thousands. Several processes could not meet again as simply.
    """
    from megatron.core import parallel_state

    if dist.get_world_size() == 1:
        shutdown()
    else:
        parallel_state.destroy_model_parallel()


def shutdown() -> None:
    """Leave the groups, so that the process ends without NCCL warnings."""
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
