# SPDX-License-Identifier: Apache-2.0
"""From our plain values to Megatron-core's TransformerConfig and module classes."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from cosmos1.errors import ConfigError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.megatron_settings import MegatronNetworkConfig, megatron_settings
from cosmos1.parallel.strategy import MegatronStrategy


@dataclass
class MegatronDiTConfig(MegatronNetworkConfig):
    """Megatron-core's configuration with the DiT's own values beside it."""

    dit: DiTConfig = field(default_factory=DiTConfig)


def megatron_config(
    dit: DiTConfig, strategy: MegatronStrategy, params_dtype: torch.dtype, device: torch.device
) -> MegatronDiTConfig:
    """The Megatron-core configuration of one network under one parallel layout."""
    return MegatronDiTConfig(
        dit=dit,
        ffn_hidden_size=dit.mlp_ratio * dit.hidden_size,
        layernorm_epsilon=dit.layernorm_epsilon,
        activation_func=F.gelu,
        **megatron_settings(dit, strategy, params_dtype, device),
    )


def parallel_linears(transformer_impl: str) -> tuple[type, type]:
    """The column-parallel and row-parallel linear classes."""
    if transformer_impl == "local":
        return ColumnParallelLinear, RowParallelLinear
    from megatron.core.extensions import transformer_engine

    if not transformer_engine.HAVE_TE:
        raise ConfigError(
            "model.config.transformer_impl=transformer_engine, but transformer-engine cannot be imported; install it "
            "(pip install -e .[te]) or use model.config.transformer_impl=local"
        )
    return transformer_engine.TEColumnParallelLinear, transformer_engine.TERowParallelLinear


def is_row_parallel(linear_class: type) -> bool:
    return "RowParallel" in linear_class.__name__
