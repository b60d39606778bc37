# SPDX-License-Identifier: Apache-2.0
"""The transformer blocks of the DiT: self-attention, cross-attention and MLP, each modulated by the noise level.

Built from Megatron-core's parallel linear layers, MLP and TransformerBlock. Tensors are ``[s, b, D]``: ``s`` tokens of
this rank, ``b`` batch. Formulas: cosmos-predict1, ``diffusion/module/blocks.py`` and ``attention.py``.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_layer import BaseTransformerLayer, get_transformer_layer_offset
from torch import nn

from cosmos1.models.diffusion.elementwise import gated_residual, modulated_layer_norm
from cosmos1.models.diffusion.megatron_config import is_row_parallel
from cosmos1.models.elementwise import fused, rms_norm, rms_norm_rotate
from cosmos1.models.recompute import run_layers
from cosmos1.parallel.attention import CoreAttention


class Conditioning(NamedTuple):
    """What every block receives besides the hidden states; the same on each pipeline stage."""

    embedding: torch.Tensor
    """``[b, D]``: the normalised timestep embedding."""
    shared_modulation: torch.Tensor
    """``[b, 3 D]``: shift, scale, gate that all sub-blocks share."""
    text: torch.Tensor
    """``[m, V * b, text_embedding_dim]``: the text rows of each of ``V`` texts, view by view (one text for networks of
    one view), with or without the zero rows that follow them."""
    num_text_tokens: int
    """``M``, the zero rows included."""
    tokens_per_text: list[int]
    """How many of the tokens of this context-parallel rank attend to each text, in order; ``V`` numbers."""
    positions: torch.Tensor | None
    """``[s, D]``: the embedding of the places of this rank's tokens, added before every block."""
    cos: torch.Tensor
    sin: torch.Tensor
    """``[s_cp, d / 2]``: rotary tables of the tokens of this context-parallel rank, fp32."""


@dataclass
class DiTLayerSubmodules:
    """The parallel linear layers of a block: Megatron-core's own, or Transformer Engine's."""

    column_linear: ModuleSpec | type
    row_linear: ModuleSpec | type


class Modulation(nn.Module):
    """AdaLN-LoRA: ``(shift, scale, gate) = A2(A1(SiLU(embedding))) + shared``, ``A1`` to a low rank. No biases."""

    def __init__(self, config, num_outputs: int):
        super().__init__()
        options = {"bias": False, "dtype": config.params_dtype, "device": config.device}
        self.linear_1 = nn.Linear(config.hidden_size, config.dit.adaln_lora_dim, **options)
        self.linear_2 = nn.Linear(config.dit.adaln_lora_dim, num_outputs * config.hidden_size, **options)
        self.num_outputs = num_outputs

    def forward(self, embedding, shared_modulation):
        low_rank = self.linear_2(self.linear_1(F.silu(embedding)))
        return (low_rank + shared_modulation[:, : low_rank.shape[1]]).chunk(self.num_outputs, dim=-1)


class HeadNorm(nn.Module):
    """The learned weight ``[d]`` of a per-head RMS norm; the arithmetic is fused with what follows it."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.kv_channels, dtype=config.params_dtype, device=config.device))


class DiTSelfAttention(MegatronModule):
    """Attention over all video tokens with per-head QK normalisation and rotary positions."""

    def __init__(self, config, submodules: DiTLayerSubmodules, layer_number: int, pg_collection):
        super().__init__(config=config)
        linear = partial(_parallel_linear, config=config, tp_group=pg_collection.tp)
        # Rows are ordered head by head: q, k, v of head 0, then of head 1, ...
        self.linear_qkv = linear(submodules.column_linear, config.hidden_size, 3 * config.hidden_size)
        self.linear_proj = linear(submodules.row_linear, config.hidden_size, config.hidden_size)
        self.q_layernorm, self.k_layernorm = HeadNorm(config), HeadNorm(config)
        self.core_attention = CoreAttention(config, layer_number, None, "self", pg_collection)
        self.normalise_and_rotate = fused(rms_norm_rotate, config.dit.compile)

    def forward(self, x_sbD, cos, sin):
        qkv, _ = self.linear_qkv(x_sbD)
        q, k, v = qkv.unflatten(-1, (-1, 3, self.config.kv_channels)).unbind(-2)
        q = self.normalise_and_rotate(q, self.q_layernorm.weight, cos, sin)
        k = self.normalise_and_rotate(k, self.k_layernorm.weight, cos, sin)
        return self.linear_proj(self.core_attention(q, k, v))[0]


class DiTCrossAttention(MegatronModule):
    """Attention of video tokens to text tokens of another width. The zero rows after the text take part, unmasked.

    With several views, the tokens of a view attend to the text of that view alone.
    """

    def __init__(self, config, submodules: DiTLayerSubmodules, layer_number: int, pg_collection):
        super().__init__(config=config)
        linear = partial(_parallel_linear, tp_group=pg_collection.tp)
        # The text is whole on every tensor-parallel rank, also when the video tokens are split by sequence parallelism.
        text_config = copy.copy(config)
        text_config.sequence_parallel = False
        self.linear_q = linear(submodules.column_linear, config.hidden_size, config.hidden_size, config=config)
        self.linear_kv = linear(
            submodules.column_linear, config.dit.text_embedding_dim, 2 * config.hidden_size, config=text_config
        )
        self.linear_proj = linear(submodules.row_linear, config.hidden_size, config.hidden_size, config=config)
        self.q_layernorm, self.k_layernorm = HeadNorm(config), HeadNorm(config)
        self.core_attention = CoreAttention(config, layer_number, None, "cross", pg_collection)
        self.normalise = fused(rms_norm, config.dit.compile)

    def forward(self, x_sbD, text_mbE, num_text_tokens: int, tokens_per_text: list[int]):
        q = self.linear_q(x_sbD)[0].unflatten(-1, (-1, self.config.kv_channels))
        # Without biases, keys and values of zero rows are zero: they need no multiplication.
        kv = F.pad(self.linear_kv(text_mbE)[0], (0, 0, 0, 0, 0, num_text_tokens - len(text_mbE)))
        k, v = kv.unflatten(-1, (-1, 2, self.config.kv_channels)).unbind(-2)
        q = self.normalise(q, self.q_layernorm.weight)
        k = self.normalise(k, self.k_layernorm.weight)
        texts = zip(q.split(tokens_per_text), *(x.chunk(len(tokens_per_text), dim=1) for x in (k, v)))
        outputs = [self.core_attention(*text) for text in texts if len(text[0])]
        return self.linear_proj(outputs[0] if len(outputs) == 1 else torch.cat(outputs))[0]


def _parallel_linear(spec, input_size: int, output_size: int, *, config, tp_group):
    """A tensor-parallel linear layer without bias; its weights are set by ``initialization.py``."""
    row_parallel = is_row_parallel(spec)
    layout = {"input_is_parallel": True} if row_parallel else {"gather_output": False}
    return build_module(
        spec,
        input_size,
        output_size,
        config=config,
        init_method=config.init_method,
        bias=False,
        skip_bias_add=row_parallel,
        is_expert=False,
        tp_group=tp_group,
        **layout,
    )


class DiTLayer(MegatronModule, BaseTransformerLayer):
    """One block: ``x += gate * f(LN(x) * (1 + scale) + shift)`` for f = self-attention, cross-attention, MLP."""

    def __init__(self, config, submodules: DiTLayerSubmodules, layer_number, pg_collection, vp_stage=None):
        super().__init__(config=config)
        self.layer_number = layer_number + get_transformer_layer_offset(config, vp_stage, pg_collection.pp.rank())
        self.full_self_attention = DiTSelfAttention(config, submodules, self.layer_number, pg_collection)
        self.cross_attention = DiTCrossAttention(config, submodules, self.layer_number, pg_collection)
        self.mlp = MLP(
            config,
            MLPSubmodules(linear_fc1=submodules.column_linear, linear_fc2=submodules.row_linear),
            ffn_hidden_size=config.ffn_hidden_size,
            tp_group=pg_collection.tp,
        )
        self.adaln_self_attention = Modulation(config, num_outputs=3)
        self.adaln_cross_attention = Modulation(config, num_outputs=3)
        self.adaln_mlp = Modulation(config, num_outputs=3)
        self.modulated_norm = fused(modulated_layer_norm, config.dit.compile)
        self.gated_residual = fused(gated_residual, config.dit.compile)

    def _modulated(self, x, modulation: Modulation, conditioning: Conditioning, sub_block):
        shift, scale, gate = modulation(conditioning.embedding, conditioning.shared_modulation)
        return self.gated_residual(
            x, gate, sub_block(self.modulated_norm(x, shift, scale, self.config.layernorm_epsilon))
        )

    def forward(self, x_sbD: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        c = conditioning
        if c.positions is not None:
            x_sbD = x_sbD + c.positions[:, None, :]
        x_sbD = self._modulated(
            x_sbD, self.adaln_self_attention, c, lambda y: self.full_self_attention(y, c.cos, c.sin)
        )
        x_sbD = self._modulated(
            x_sbD,
            self.adaln_cross_attention,
            c,
            lambda y: self.cross_attention(y, c.text, c.num_text_tokens, c.tokens_per_text),
        )
        return self._modulated(x_sbD, self.adaln_mlp, c, lambda y: self.mlp(y)[0])


class DiTStack(TransformerBlock):
    """The blocks of one pipeline stage. Megatron-core builds and names them; recomputation is decided here."""

    def forward(self, hidden_states: torch.Tensor | None, conditioning: Conditioning) -> torch.Tensor:
        """``[s, b, D]`` to ``[s, b, D]``; stages after the first take what the schedule has received."""
        x_sbD = hidden_states if self.pre_process else self.input_tensor
        dit = self.config.dit
        return run_layers(self.layers, x_sbD, dit.recompute_granularity, dit.recompute_num_layers, conditioning)
