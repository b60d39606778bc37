# SPDX-License-Identifier: Apache-2.0
"""The parallel layout, as plain values, and what is refused before anything is allocated."""

from dataclasses import dataclass
from typing import Optional

from cosmos1.errors import ConfigError, check_positive


@dataclass
class DistributedDataParallelConfig:
    """How replicas exchange gradients and parameters (Megatron-core DDP with the distributed optimizer)."""

    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True
    grad_reduce_in_fp32: bool = True


@dataclass
class MegatronStrategy:
    """How one run is spread over its ranks; the remaining factor of the world size is data parallelism.

    ``fsdp`` shards parameters, gradients and optimizer states over the data-parallel and context-parallel ranks
    (PyTorch FSDP2); otherwise Megatron-core's DDP with the distributed optimizer is used.
    """

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: Optional[int] = None
    """Chunks of layers per pipeline stage (interleaved 1F1B)."""
    context_parallel_size: int = 1
    sequence_parallel: bool = False
    fsdp: bool = False
    ddp: Optional[DistributedDataParallelConfig] = None

    @property
    def model_parallel_size(self) -> int:
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size

    def data_parallel_size(self, world_size: int) -> int:
        return world_size // self.model_parallel_size

    def validate(self, world_size: int, num_layers: int, num_attention_heads: int) -> None:
        """Raise :class:`ConfigError`, naming the settings that disagree and the remedy."""
        sizes = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        check_positive(self, "trainer.strategy", *sizes)
        if world_size % self.model_parallel_size:
            raise ConfigError(
                f"{world_size} processes cannot be divided into groups of tensor_model_parallel_size="
                f"{self.tensor_model_parallel_size} x pipeline_model_parallel_size={self.pipeline_model_parallel_size} x "
                f"context_parallel_size={self.context_parallel_size} = {self.model_parallel_size}; start torchrun with "
                f"--nproc_per_node={self.model_parallel_size} (or a multiple) or lower one of the three"
            )
        if num_attention_heads % self.tensor_model_parallel_size:
            divisors = [n for n in range(1, num_attention_heads + 1) if num_attention_heads % n == 0]
            raise ConfigError(
                f"trainer.strategy.tensor_model_parallel_size={self.tensor_model_parallel_size} does not divide the "
                f"{num_attention_heads} attention heads of the network; use one of {divisors}"
            )
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise ConfigError(
                "trainer.strategy.sequence_parallel=true needs trainer.strategy.tensor_model_parallel_size > 1; "
                "set sequence_parallel=false (context_parallel_size splits the sequence without tensor parallelism)"
            )
        self._validate_pipeline(num_layers)

    def _validate_pipeline(self, num_layers: int) -> None:
        pipeline, virtual = self.pipeline_model_parallel_size, self.virtual_pipeline_model_parallel_size
        if self.fsdp and pipeline > 1:
            raise ConfigError(
                f"trainer.strategy.fsdp=true and trainer.strategy.pipeline_model_parallel_size={pipeline} do not go "
                "together (a stage would gather its shards once per micro batch); set pipeline_model_parallel_size=1 or "
                "fsdp=false"
            )
        if virtual is not None and (pipeline == 1 or virtual < 2):
            raise ConfigError(
                f"trainer.strategy.virtual_pipeline_model_parallel_size={virtual} needs at least 2 chunks and "
                f"pipeline_model_parallel_size > 1 (it is {pipeline}); set it to None"
            )
        num_chunks = pipeline * (virtual or 1)
        if num_layers % num_chunks:
            raise ConfigError(
                f"{num_layers} layers cannot be divided into pipeline_model_parallel_size={pipeline} x "
                f"virtual_pipeline_model_parallel_size={virtual or 1} = {num_chunks} equal chunks; choose a divisor of "
                f"{num_layers}"
            )

    def validate_tokens(self, num_tokens: int) -> None:
        """Raise :class:`ConfigError` if the tokens of a sample cannot be split evenly over context and sequence
        parallelism."""
        split = self.context_parallel_size
        split *= self.tensor_model_parallel_size if self.sequence_parallel else 1
        if num_tokens % split:
            raise ConfigError(
                f"a sample has {num_tokens} tokens, which do not divide by context_parallel_size="
                f"{self.context_parallel_size} x tensor_model_parallel_size={self.tensor_model_parallel_size} "
                "(sequence_parallel); choose sizes whose product divides it, or sequence_parallel=false"
            )

    def describe(self, world_size: int) -> str:
        parts = [
            f"TP={self.tensor_model_parallel_size}" + (" + SP" if self.sequence_parallel else ""),
            f"PP={self.pipeline_model_parallel_size}",
            f"CP={self.context_parallel_size}",
            f"DP={self.data_parallel_size(world_size)}",
        ]
        if self.fsdp:
            num_shards = self.data_parallel_size(world_size) * self.context_parallel_size
            parts.append(f"fully sharded over {num_shards} ranks")
        return ", ".join(parts)


def micro_batches_per_step(data, strategy: MegatronStrategy, data_parallel_size: int) -> int:
    """Micro batches that each replica runs per step.

    Raises:
        ConfigError: the batch sizes do not divide, naming the three numbers.
    """
    check_positive(data, "data", "micro_batch_size", "global_batch_size")
    per_round = data.micro_batch_size * data_parallel_size
    if data.global_batch_size % per_round:
        raise ConfigError(
            f"data.global_batch_size={data.global_batch_size} is not divisible by data.micro_batch_size="
            f"{data.micro_batch_size} x {data_parallel_size} data-parallel replicas; use a multiple of {per_round}"
        )
    count, pipeline = data.global_batch_size // per_round, strategy.pipeline_model_parallel_size
    if strategy.virtual_pipeline_model_parallel_size and count % pipeline:
        raise ConfigError(
            f"the interleaved schedule needs micro batches per step ({count}) in multiples of "
            f"trainer.strategy.pipeline_model_parallel_size={pipeline}; use data.global_batch_size="
            f"{per_round * pipeline} or a multiple, or virtual_pipeline_model_parallel_size=None"
        )
    return count


def choose_cp_mode(requested: str, heads_per_rank: int, cp_size: int) -> str:
    """The mode that is used: ``auto`` is Ulysses where the key and value heads divide, otherwise all-gather."""
    if requested == "auto":
        return "ulysses" if heads_per_rank % cp_size == 0 else "allgather"
    if requested == "ulysses" and heads_per_rank % cp_size:
        raise ConfigError(
            f"context_parallel_mode=ulysses needs the attention heads of a tensor-parallel rank ({heads_per_rank}) to be "
            f"divisible by context_parallel_size ({cp_size}); use context_parallel_mode=allgather or =ring"
        )
    return requested
