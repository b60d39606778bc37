# SPDX-License-Identifier: Apache-2.0
"""The transformer layers of the GPT: causal self-attention, cross-attention to the text (Video2World), gated MLP.

Built from Megatron-core's parallel linear layers, MLP and TransformerBlock, under Megatron-core's names. Tensors are
``[s, b, D]``: ``s`` tokens of this rank, ``b`` batch. Own attention layers, because Megatron-core's cross-attention takes
neither grouped heads nor a context of another width, and shares its cache with self-attention.
"""

import copy
from functools import partial
from typing import NamedTuple

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_layer import BaseTransformerLayer, get_transformer_layer_offset
from torch import nn

from cosmos1.models.autoregressive.cache import KeyValueCache
from cosmos1.models.elementwise import fused, rms_norm, rms_norm_rotate
from cosmos1.models.recompute import run_layers
from cosmos1.parallel.attention import CoreAttention


class TokenContext(NamedTuple):
    """What every layer receives besides the hidden states; the same on each pipeline stage."""

    cos: torch.Tensor
    sin: torch.Tensor
    """``[s_cp, d / 2]``: rotary tables of the tokens of this context-parallel rank, fp32."""
    positions: torch.Tensor | None
    """``[s, D]``: what Video2World adds to the hidden states of this rank's tokens before every layer."""
    text: torch.Tensor | None
    """``[M, b, text_embedding_dim]``; None without cross-attention, and once the cache holds its keys and values."""
    text_mask: torch.Tensor | None = None
    """``[1 or b, 1, 1 or s_cp, M]`` bool: the text rows that a token sees; None: all."""
    cache: KeyValueCache | None = None
    """Keys and values of the tokens so far, in generation."""


class RMSNorm(nn.Module):
    """RMS normalisation with a learned weight, under the constructor that Megatron-core calls."""

    def __init__(self, config, hidden_size: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype, device=config.device))
        self.epsilon = eps
        self.normalise = fused(rms_norm, config.gpt.compile)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalise(x, self.weight, self.epsilon)


def _column_linear(config, input_size: int, output_size: int, tp_group) -> ColumnParallelLinear:
    """Output channels split over the tensor-parallel ranks; no bias. Weights are set by ``initialization.py``."""
    options = {"init_method": config.init_method, "bias": False, "gather_output": False, "tp_group": tp_group}
    return ColumnParallelLinear(input_size, output_size, config=config, **options)


def _row_linear(config, input_size: int, output_size: int, tp_group) -> RowParallelLinear:
    """Input channels split over the tensor-parallel ranks; no bias."""
    options = {"bias": False, "input_is_parallel": True, "skip_bias_add": True, "tp_group": tp_group}
    return RowParallelLinear(input_size, output_size, config=config, init_method=config.init_method, **options)


class GPTSelfAttention(MegatronModule):
    """Causal attention with grouped key and value heads, per-head QK normalisation and rotary positions."""

    def __init__(self, config, layer_number: int, pg_collection):
        super().__init__(config=config)
        gpt, tp_group = config.gpt, pg_collection.tp
        self.layer_number = layer_number
        self.heads_per_group = gpt.num_attention_heads // gpt.num_query_groups
        # Rows are ordered group by group: its query heads, its key head, its value head.
        num_rows = gpt.num_query_groups * (self.heads_per_group + 2) * gpt.head_dim
        self.linear_qkv = _column_linear(config, gpt.hidden_size, num_rows, tp_group)
        self.linear_proj = _row_linear(config, gpt.num_attention_heads * gpt.head_dim, gpt.hidden_size, tp_group)
        self.q_layernorm = RMSNorm(config, gpt.head_dim)
        self.k_layernorm = RMSNorm(config, gpt.head_dim)
        self.core_attention = CoreAttention(config, layer_number, AttnMaskType.causal, "self", pg_collection)
        self.normalise_and_rotate = fused(rms_norm_rotate, gpt.compile)

    def forward(self, x_sbD: torch.Tensor, context: TokenContext) -> torch.Tensor:
        qkv, _ = self.linear_qkv(x_sbD)
        qkv = qkv.unflatten(-1, (-1, self.heads_per_group + 2, self.config.kv_channels))
        q, k, v = qkv.split([self.heads_per_group, 1, 1], dim=-2)
        tables = (context.cos, context.sin, self.config.layernorm_epsilon)
        q = self.normalise_and_rotate(q.flatten(2, 3), self.q_layernorm.weight, *tables)
        k = self.normalise_and_rotate(k.squeeze(3), self.k_layernorm.weight, *tables)
        if context.cache is None:
            out = self.core_attention(q, k, v.squeeze(3))
        else:
            out = context.cache.attend(self.layer_number, q, k, v.squeeze(3))
        return self.linear_proj(out)[0]


class GPTCrossAttention(MegatronModule):
    """Attention of video tokens to all text rows, the zero rows after the text included; no positions. A mask hides
    what control signals want hidden."""

    def __init__(self, config, layer_number: int, pg_collection):
        super().__init__(config=config)
        gpt, tp_group = config.gpt, pg_collection.tp
        self.layer_number = layer_number
        # The text is whole on every tensor-parallel rank, also when the video tokens are split by sequence parallelism.
        text_config = copy.copy(config)
        text_config.sequence_parallel = False
        width = gpt.num_attention_heads * gpt.head_dim
        self.linear_q = _column_linear(config, gpt.hidden_size, width, tp_group)
        # Rows are ordered group by group: its key head, its value head.
        num_rows = 2 * gpt.num_query_groups * gpt.head_dim
        self.linear_kv = _column_linear(text_config, gpt.text_embedding_dim, num_rows, tp_group)
        self.linear_proj = _row_linear(config, width, gpt.hidden_size, tp_group)
        self.q_layernorm = RMSNorm(config, gpt.head_dim, gpt.norm_epsilon)
        self.k_layernorm = RMSNorm(config, gpt.head_dim, gpt.norm_epsilon)
        self.core_attention = CoreAttention(config, layer_number, None, "cross", pg_collection)

    def _keys_and_values(self, text_mbE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kv, _ = self.linear_kv(text_mbE)
        k, v = kv.unflatten(-1, (-1, 2, self.config.kv_channels)).unbind(-2)
        return self.k_layernorm(k), v

    def forward(self, x_sbD: torch.Tensor, context: TokenContext) -> torch.Tensor:
        q = self.linear_q(x_sbD)[0].unflatten(-1, (-1, self.config.kv_channels))
        if context.cache is None:
            k, v = self._keys_and_values(context.text)
        else:
            k, v = context.cache.text(self.layer_number, lambda: self._keys_and_values(context.text))
        return self.linear_proj(self.core_attention(self.q_layernorm(q), k, v, context.text_mask))[0]


class GPTLayer(MegatronModule, BaseTransformerLayer):
    """``x += f(norm(x))`` for f = self-attention, cross-attention, MLP, after the absolute positions were added."""

    def __init__(self, config, layer_number, pg_collection, vp_stage=None):
        super().__init__(config=config)
        gpt = config.gpt
        self.layer_number = layer_number + get_transformer_layer_offset(config, vp_stage, pg_collection.pp.rank())
        norm = partial(RMSNorm, config, gpt.hidden_size, gpt.norm_epsilon)
        self.input_layernorm = norm()
        self.self_attention = GPTSelfAttention(config, self.layer_number, pg_collection)
        if gpt.video2world:
            self.pre_cross_attn_layernorm = norm()
            self.cross_attention = GPTCrossAttention(config, self.layer_number, pg_collection)
        self.pre_mlp_layernorm = norm()
        self.mlp = MLP(
            config,
            MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
            ffn_hidden_size=gpt.ffn_hidden_size,
            tp_group=pg_collection.tp,
        )

    def forward(self, x_sbD: torch.Tensor, context: TokenContext) -> torch.Tensor:
        if context.positions is not None:
            x_sbD = x_sbD + context.positions[:, None, :]
        x_sbD = x_sbD + self.self_attention(self.input_layernorm(x_sbD), context)
        if self.config.gpt.video2world:
            x_sbD = x_sbD + self.cross_attention(self.pre_cross_attn_layernorm(x_sbD), context)
        return x_sbD + self.mlp(self.pre_mlp_layernorm(x_sbD))[0]


class GPTStack(TransformerBlock):
    """The layers of one pipeline stage, and after the last one the final norm. Megatron-core builds and names them."""

    def forward(self, hidden_states: torch.Tensor | None, context: TokenContext) -> torch.Tensor:
        """``[s, b, D]`` to ``[s, b, D]``; stages after the first take what the schedule has received."""
        x_sbD = hidden_states if self.pre_process else self.input_tensor
        gpt = self.config.gpt
        x_sbD = run_layers(self.layers, x_sbD, gpt.recompute_granularity, gpt.recompute_num_layers, context)
        return x_sbD if self.final_layernorm is None else self.final_layernorm(x_sbD)
