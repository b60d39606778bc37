# SPDX-License-Identifier: Apache-2.0
"""The two ways in which replicas share the work: Megatron-core's DDP, or fully sharded parameters (PyTorch FSDP2)."""

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.distributed import DistributedDataParallelConfig as MegatronDDPConfig
from megatron.core.distributed.data_parallel_base import _BaseDataParallel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from cosmos1.parallel.device import device
from cosmos1.parallel.strategy import DistributedDataParallelConfig, MegatronStrategy


class FullyShardedDataParallel(_BaseDataParallel):
    """Parameters, gradients and optimizer states sharded over the data- and context-parallel ranks.

    Parameters stay in fp32 (they are the master weights); each block is gathered in ``compute_dtype`` just before it
    runs, and gradients are reduced in fp32.
    """

    def __init__(self, config, module: nn.Module, blocks: list[nn.Module], compute_dtype: torch.dtype):
        super().__init__(config=config, module=module)
        # Megatron-core reads these two from whatever wraps the model.
        self.ddp_config = MegatronDDPConfig(use_distributed_optimizer=False)
        self.process_group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        options = {
            "mesh": DeviceMesh.from_group(self.process_group, device().type),
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
        }
        # FSDP replaces the parameter objects and forgets the marks on them.
        marks = {name: dict(vars(parameter)) for name, parameter in module.named_parameters()}
        for block in blocks:
            fully_shard(block, reshard_after_forward=True, **options)
        fully_shard(module, reshard_after_forward=False, **options)
        for name, parameter in module.named_parameters():
            vars(parameter).update(marks[name])

    def start_grad_sync(self, *unused, **also_unused):
        """FSDP reduces gradients by itself."""

    def finish_grad_sync(self, *unused, **also_unused):
        """FSDP reduces gradients by itself."""

    def scale_gradients(self, scaling_factor: float):
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scaling_factor)

    def zero_grad_buffer(self):
        for parameter in self.module.parameters():
            parameter.grad = None

    def broadcast_params(self):
        """Every rank has drawn the same initial weights."""


def wrap(networks: list[nn.Module], strategy: MegatronStrategy, compute_dtype: torch.dtype) -> list[nn.Module]:
    """Wrap the pipeline chunks of this rank for data parallelism."""
    if strategy.fsdp:
        return [
            FullyShardedDataParallel(network.config, network, list(network.decoder.layers), compute_dtype)
            for network in networks
        ]
    ddp = strategy.ddp or DistributedDataParallelConfig()
    config = MegatronDDPConfig(
        use_distributed_optimizer=True,
        overlap_grad_reduce=ddp.overlap_grad_reduce,
        overlap_param_gather=ddp.overlap_param_gather,
        grad_reduce_in_fp32=ddp.grad_reduce_in_fp32,
        # With pipeline stages, smaller buckets finish at other moments on other stages: one bucket per chunk.
        bucket_size=None if strategy.pipeline_model_parallel_size > 1 or not ddp.overlap_grad_reduce else 40_000_000,
    )
    return [
        DistributedDataParallel(network.config, config, network, disable_bucketing=index > 0)
        for index, network in enumerate(networks)
    ]
