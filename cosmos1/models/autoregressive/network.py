# SPDX-License-Identifier: Apache-2.0
"""The autoregressive video GPT: one network for every size and task, for training and for generation.

Every rank gets the whole sequence and returns the score of every token; context, sequence and tensor parallelism split
tokens, channels and vocabulary inside. Formulas: the released implementation, ``autoregressive/networks/transformer.py``.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.tensor_parallel import ColumnParallelLinear, vocab_parallel_cross_entropy
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from megatron.core.transformer.spec_utils import ModuleSpec

from cosmos1.conditioning.token_modules import control_modules
from cosmos1.models.autoregressive.cache import KeyValueCache
from cosmos1.models.autoregressive.conditions import conditions_of
from cosmos1.models.autoregressive.layer import GPTLayer, GPTStack, RMSNorm, TokenContext
from cosmos1.models.autoregressive.megatron_config import MegatronGPTConfig
from cosmos1.models.autoregressive.positions import absolute_positions, rotary_angles
from cosmos1.models.pipeline_stage import PipelineStage
from cosmos1.parallel.token_ranges import token_ranges


class TokenScores(NamedTuple):
    """How well each next token was predicted."""

    loss_BS: torch.Tensor
    """Cross entropy in nats, fp32."""
    correct_BS: torch.Tensor
    """Whether the token was the most probable one."""


def _sum(x_sbD: torch.Tensor | None, added_sbD: torch.Tensor | None) -> torch.Tensor | None:
    return x_sbD if added_sbD is None else x_sbD + added_sbD


class GPT(PipelineStage):
    """The network, or one pipeline stage of it."""

    config: MegatronGPTConfig

    def add_layers(self) -> None:
        config, gpt = self.config, self.config.gpt
        if self.pre_process:
            self.embedding = LanguageModelEmbedding(
                config, gpt.embedding_rows, gpt.sequence_length, position_embedding_type="rope", tp_group=self.tp_group
            )
        options = {"dtype": config.params_dtype, "device": config.device}
        for name, module in control_modules(gpt, self.pre_process, options).items():
            self.add_module(name, module)
        self.decoder = self.stack(GPTStack, ModuleSpec(module=GPTLayer), final_norm=RMSNorm)
        if self.post_process:
            self.output_layer = ColumnParallelLinear(
                gpt.hidden_size,
                gpt.vocab_size,
                config=config,
                init_method=config.init_method,
                bias=False,
                gather_output=False,
                tp_group=self.tp_group,
            )

    def forward(
        self,
        tokens_BS: torch.Tensor,
        text_BME: torch.Tensor | None = None,
        labels_BS: torch.Tensor | None = None,
        controls: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor | TokenScores:
        """Predict the token after each token.

        Args:
            tokens_BS: ``[B, S]`` int64, from the beginning of the sequence.
            text_BME: ``[B, M, text_embedding_dim]`` with zero rows after the text; exactly for networks that read text.
            labels_BS: ``[B, S]`` int64, the tokens to predict; ids outside the vocabulary count as mistakes.
            controls: the control signals of ``config.controls``, by batch key.

        Returns:
            :class:`TokenScores` of the labels, or without labels the logits ``[B, S, vocab_size]`` in fp32; on pipeline
            stages before the last the hidden states ``[s, B, D]``.
        """
        gpt = self.config.gpt
        cp_range, local_range = token_ranges(
            tokens_BS.shape[1], self.tp_group, self.cp_group, self.config.sequence_parallel
        )
        # In the order of the modules: so Megatron-core gathers parameters ahead of their use.
        hidden_states = self.embedding(tokens_BS[:, slice(*cp_range)], None) if self.pre_process else None
        conditions = conditions_of(self, text_BME, controls or {}, local_range, cp_range)
        hidden_states = _sum(hidden_states, conditions.added)
        # Attention sees all tokens of the context-parallel rank, also under sequence parallelism.
        angles = rotary_angles(gpt, *cp_range, tokens_BS.device)
        dtype, positions = self.config.pipeline_dtype, None
        if gpt.video2world:
            positions = absolute_positions(gpt, *local_range, dtype, tokens_BS.device)
        context = TokenContext(angles.cos(), angles.sin(), positions, conditions.rows, conditions.mask)
        x_sbD = self.decoder(hidden_states, context)
        if not self.post_process:
            return x_sbD
        logits_sbV, _ = self.output_layer(x_sbD)
        if labels_BS is None:
            return self._whole(self._all_columns(logits_sbV))
        return self._scores(logits_sbV, labels_BS[:, slice(*cp_range)].T.contiguous())

    @torch.no_grad()
    def next_logits(
        self,
        tokens_BS: torch.Tensor,
        cache: KeyValueCache,
        text_BME: torch.Tensor | None = None,
        controls: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Logits ``[B, vocab_size]`` in fp32 of the token after the last of ``tokens``, and their keys and values kept.

        The first call gives the whole prompt, and text and control signals of the whole clip; each later one a single
        token. The caller moves ``cache.position`` on. Tokens must not be split over ranks, nor layers over stages.
        """
        assert (
            self.cp_group.size() == 1 and not self.config.sequence_parallel and self.pre_process and self.post_process
        )
        if cache.conditions is None:
            whole = (0, self.config.gpt.sequence_length)
            cache.conditions = conditions_of(self, text_BME, controls or {}, whole, whole)
        num_tokens, (added, rows, mask) = tokens_BS.shape[1], cache.conditions
        context = TokenContext(*cache.tables(num_tokens), rows, cache.rows(mask, num_tokens, axis=2), cache)
        x_sbD = self.decoder(_sum(self.embedding(tokens_BS, None), cache.rows(added, num_tokens)), context)
        logits_sbV, _ = self.output_layer(x_sbD[-1:])
        return self._all_columns(logits_sbV)[0]

    def _all_columns(self, logits_sbV: torch.Tensor) -> torch.Tensor:
        return gather_from_tensor_model_parallel_region(logits_sbV, group=self.tp_group).float()

    def _whole(self, values_sb: torch.Tensor) -> torch.Tensor:
        """``[s, b, ...]`` of the tokens of this context-parallel rank to ``[b, S, ...]``.

        Each rank computes the whole (cheap) loss and back-propagates through its own tokens.
        """
        if self.cp_group.size() > 1:
            values_sb = gather_from_sequence_parallel_region(values_sb.contiguous(), False, group=self.cp_group)
        return values_sb.transpose(0, 1)

    def _scores(self, logits_sbV: torch.Tensor, labels_sb: torch.Tensor) -> TokenScores:
        correct = self._correct(logits_sbV, labels_sb)
        # This may overwrite the logits.
        loss = vocab_parallel_cross_entropy(logits_sbV, labels_sb)
        return TokenScores(self._whole(loss), self._whole(correct))

    @torch.no_grad()
    def _correct(self, logits_sbV: torch.Tensor, labels_sb: torch.Tensor) -> torch.Tensor:
        """1 where the label has the largest logit of the whole vocabulary, otherwise 0; fp32. Logits that are equally large,
        as they often are in bf16, share the 1."""
        best = logits_sbV.amax(-1)
        dist.all_reduce(best, op=dist.ReduceOp.MAX, group=self.tp_group)
        num_columns = logits_sbV.shape[-1]
        column = labels_sb - self.tp_group.rank() * num_columns
        here = (column >= 0) & (column < num_columns)
        of_label = logits_sbV.gather(-1, column.clamp(0, num_columns - 1)[..., None])[..., 0]
        num_best = (logits_sbV == best[..., None]).sum(-1)
        counts = torch.stack([(here & (of_label == best)).float(), num_best.float()])
        dist.all_reduce(counts, group=self.tp_group)
        return counts[0] / counts[1].clamp(min=1)  # none is the largest where they are NaN
