# SPDX-License-Identifier: Apache-2.0
"""The network of this rank with everything that training adds: replicas, optimizer, EMA, and the state to save."""

from collections.abc import Collection
from contextlib import ExitStack, contextmanager

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads

from cosmos1.checkpoint.adapters import SUFFIXES
from cosmos1.checkpoint.shards import Placement, optimizer_tensor, placements, replicated_tensor
from cosmos1.models.lora import LowRankAdapter
from cosmos1.parallel import data_parallel
from cosmos1.parallel.device import device
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training import optimizer as optimizers
from cosmos1.training.config import MegatronOptimizer
from cosmos1.training.ema import PowerEMA


class ParallelModel:
    """One task model under one parallel layout.

    Attributes:
        networks: the pipeline chunks of this rank (one unless stages are interleaved).
        chunks: the same, wrapped for data parallelism if they are trained; what the schedule runs.
    """

    def __init__(
        self, task, strategy: MegatronStrategy, precision: str, seed: int, trainable: bool = True, transform=None
    ):
        """``transform`` changes the networks (a list) in place before they are sharded."""
        self.task, self.strategy, self.seed = task, strategy, seed
        compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        # FSDP keeps fp32 parameters and casts each block as it gathers it.
        params_dtype = torch.float32 if strategy.fsdp else compute_dtype
        self.config = task.megatron_config(strategy, params_dtype, device())
        self.config.pipeline_dtype = compute_dtype
        self.networks = [self._build(stage) for stage in range(strategy.virtual_pipeline_model_parallel_size or 1)]
        if transform is not None:
            transform(self.networks)
        self.placements = placements(self.networks)
        self.chunks = data_parallel.wrap(self.networks, strategy, compute_dtype) if trainable else self.networks
        # FSDP swaps the gathered parameters in and out of the modules; these are the ones that last.
        self.tensors = list(self._named_tensors())
        self.optimizer, self.masters, self.ema = None, [], None

    def _build(self, vp_stage: int) -> torch.nn.Module:
        virtual = self.strategy.virtual_pipeline_model_parallel_size
        stage = vp_stage if virtual else None
        first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage)
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage)
        return self.task.build(self.config, first, last, stage, self.seed)

    def add_optimizer(self, optim: MegatronOptimizer, precision: str) -> None:
        self.optimizer = optimizers.build_optimizer(optim, self.chunks, precision == "bf16", self.strategy.fsdp)
        self.masters = optimizers.master_weights(self.optimizer)
        self.ema = PowerEMA(optim.ema_widths, [master.local for master in self.masters])
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.config.finalize_model_grads_func = finalize_model_grads
        if not self.strategy.fsdp and self.chunks[0].ddp_config.overlap_grad_reduce:
            no_sync = [chunk.no_sync for chunk in self.chunks]
            self.config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]

    def start_untrained(self) -> None:
        """Begin with the initial values of all weights."""
        self.draw_masters({placement.name for placement, _ in self.tensors})
        self.publish()
        self.ema.restart()

    @torch.no_grad()
    def draw_masters(self, kept: Collection[str]) -> None:
        """Give the fp32 master weights of adapters, and of parameters whose names in the whole network are in ``kept``, their
        initial values as they are drawn. As copies of rounded bf16 parameters they would all stand on bf16 values, from
        which the first small updates are rounded back. Call ``publish`` after it."""
        if self.strategy.fsdp or self.config.params_dtype == torch.float32:
            return
        masters = {id(master.parameter): master for master in self.masters}
        trained = {placement.name for placement, tensor in self.tensors if id(tensor) in masters}
        names = {name for name in trained.intersection(kept) if not name.endswith(SUFFIXES)}
        for network in self.networks:
            for tensor, value in self._drawn(network, names):
                if master := masters.get(id(tensor)):
                    master.local.copy_(value.flatten()[master.start : master.start + master.local.numel()])

    def _drawn(self, network: torch.nn.Module, names: Collection[str]):
        """``(parameter, fp32 initial value)`` of those with ``names``, and of all adapters, whose ``b`` is zero."""
        for _, tensor, value, _ in self.task.initial_values(network, self.seed, names):
            yield tensor, value
        for module in network.modules():
            if isinstance(module, LowRankAdapter):
                yield module.a, module.initial_a(self.seed)

    @contextmanager
    def evaluating(self):
        """Evaluation mode with complete parameters on every rank."""
        with ExitStack() as stack:
            for chunk in self.chunks:
                chunk.eval()
                stack.callback(chunk.train)
                if self.strategy.fsdp:
                    stack.callback(unwrap(chunk).reshard)
                if not self.strategy.fsdp and self.optimizer is not None and chunk.ddp_config.overlap_param_gather:
                    # The gather of updated parameters otherwise happens piece by piece in the next training forward.
                    chunk.disable_forward_pre_hook()
                    stack.callback(chunk.enable_forward_pre_hook)
            stack.enter_context(torch.no_grad())
            yield

    # ---- state ----

    def _named_tensors(self):
        """``(placement, tensor)`` of every parameter and buffer on this rank."""
        for index, network in enumerate(self.networks):
            for local_name, tensor in [*network.named_parameters(), *network.named_buffers()]:
                yield self.placements[f"{index}.{local_name}"], tensor

    def weights_state(self) -> dict[str, list]:
        """Shards of all weights, by name in the whole network; fp32 master weights where there is an optimizer."""
        by_parameter = {id(master.parameter): master for master in self.masters}
        state: dict[str, list] = {}
        for placement, tensor in self.tensors:
            master = by_parameter.get(id(tensor))
            if master is not None:
                shards = optimizer_tensor(placement, placement.name, master, master.weight)
            elif self._is_updated_elsewhere(tensor):
                continue
            else:
                shards = replicated_tensor(placement, placement.name, tensor)
            state.setdefault(placement.name, []).extend(shards)
        return state

    def _is_updated_elsewhere(self, tensor: torch.Tensor) -> bool:
        """Whether other replicas hold the whole of this parameter's fp32 weights (distributed optimizer)."""
        return self.optimizer is not None and isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad

    def optimizer_state(self) -> dict[str, list]:
        """Shards of the Adam moments and EMA copies: ``optimizer.exp_avg.<name>``, ``ema.<copy>.<name>``, ..."""
        optimizers.ensure_state(self.optimizer)
        placement_of = {id(tensor): placement for placement, tensor in self.tensors}
        moments = optimizers.torch_optimizer(self.optimizer).state
        state: dict[str, list] = {}
        for index, master in enumerate(self.masters):
            placement: Placement = placement_of[id(master.parameter)]
            tensors = {f"optimizer.{kind}.": moments[master.weight][kind] for kind in ("exp_avg", "exp_avg_sq")}
            tensors |= {f"ema.{number}.": copy[index] for number, copy in enumerate(self.ema.copies)}
            for prefix, tensor in tensors.items():
                key = prefix + placement.name
                state.setdefault(key, []).extend(optimizer_tensor(placement, key, master, tensor))
        return state

    def publish(self) -> None:
        """After weights were loaded: bring parameters in line with the master weights on every replica."""
        if self.optimizer is not None:
            optimizers.publish_master_weights(self.optimizer, self.chunks)


def unwrap(chunk: torch.nn.Module) -> torch.nn.Module:
    """The network inside its data-parallel wrapper."""
    return chunk.module if hasattr(chunk, "ddp_config") else chunk
