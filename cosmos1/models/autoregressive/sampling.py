# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token from the logits. All shapes are fixed, so that it can be part of a CUDA graph.

Shapes: B batch, V codes of the vocabulary.
"""

from dataclasses import dataclass
from typing import Optional

import torch

from cosmos1.errors import ConfigError

SMALLEST_TEMPERATURE = 1e-3  # logits divided by much less are no numbers any more


@dataclass
class SamplingSettings:
    """Temperature 0 takes the most probable token. Of ``top_p`` and ``top_k`` at most one may be set."""

    temperature: float = 1.0
    top_p: Optional[float] = 0.8
    """Keep the most probable tokens until those before them have more than this share of the probability."""
    top_k: Optional[int] = None
    """Keep this many of the most probable tokens (and those equal to the last of them)."""
    seed: int = 0

    def validate(self, vocab_size: int) -> None:
        """Raise :class:`ConfigError` for settings that choose nothing."""
        if self.temperature != 0 and not SMALLEST_TEMPERATURE <= self.temperature < float("inf"):
            raise ConfigError(
                f"--temperature {self.temperature}: use 0 (most probable token), or {SMALLEST_TEMPERATURE} or more; 1 is usual"
            )
        if self.top_p is not None and self.top_k is not None:
            raise ConfigError(f"--top_p {self.top_p} and --top_k {self.top_k} exclude each other; give one of them")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"--top_p {self.top_p}: use more than 0 and at most 1 (1 keeps all tokens)")
        if self.top_k is not None and not 1 <= self.top_k <= vocab_size:
            raise ConfigError(f"--top_k {self.top_k}: use 1 to {vocab_size}, the codes of the tokenizer")


def choose_token(logits_BV: torch.Tensor, uniform: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """``[B]`` int64: the token at the quantile ``uniform`` (in [0, 1), one number) of what the settings keep, in fp32."""
    if settings.temperature == 0:
        return logits_BV.argmax(-1)
    probability, token = (logits_BV.float() / settings.temperature).softmax(-1).sort(dim=-1, descending=True)
    if settings.top_k is not None:
        probability = probability * (probability >= probability[:, settings.top_k - 1 : settings.top_k])
    if settings.top_p is not None:
        # A token stays if those before it have at most this share: the first one always does.
        probability = probability * (probability.cumsum(-1) - probability <= settings.top_p)
    cumulative = probability.cumsum(-1)
    place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    # Rounding may carry the quantile past the last token that is kept.
    place = torch.minimum(place, (probability > 0).sum(-1, keepdim=True) - 1)
    return token.gather(-1, place)[:, 0]
