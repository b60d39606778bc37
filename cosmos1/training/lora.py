# SPDX-License-Identifier: Apache-2.0
"""The value behind ``model_transform=lora``: which layers get low-rank adapters, and of what size."""

from dataclasses import dataclass, field
from typing import Any, List

from cosmos1.errors import ConfigError


@dataclass
class LoRA:
    """Train small matrices beside the linear layers of a frozen network: ``y = W x + (alpha / rank) * B (A x)``.

    Layers that the task adds to the network (``optim.new_layers.names``, ``resume.restore_config.allow_missing`` and
    ``reinitialize``) are trained in full beside the adapters.
    """

    rank: int = 16
    alpha: float = 32.0
    """An adapter's output is multiplied by ``alpha / rank``."""
    dropout: float = 0.0
    """Share of the input channels that each adapter leaves out, drawn anew in every step."""
    targets: List[str] = field(default_factory=lambda: ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"])
    """Layers that get an adapter: patterns of their own names (``linear_*``), or of whole ones (``*.cross_attention.*``)."""

    def validate(self, model: Any) -> None:
        if self.rank < 1:
            raise ConfigError(f"model_transform.rank={self.rank}; it must be 1 or more (16 is usual)")
        if self.alpha <= 0:
            raise ConfigError(f"model_transform.alpha={self.alpha}; it must be positive (2 x rank is usual)")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model_transform.dropout={self.dropout}; it must be 0 or more and less than 1")
        if not self.targets:
            raise ConfigError("model_transform.targets=[] would train nothing; give names such as ['linear_qkv']")
        if getattr(model.config, "transformer_impl", "local") != "local":
            raise ConfigError(
                f"model_transform=lora has no adapters for model.config.transformer_impl={model.config.transformer_impl}; "
                "use model.config.transformer_impl=local"
            )
