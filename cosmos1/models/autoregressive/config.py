# SPDX-License-Identifier: Apache-2.0
"""The sizes and settings of the autoregressive video GPT, as plain values."""

import math
from dataclasses import dataclass, field
from typing import List, Literal, Optional

from cosmos1.conditioning.settings import signals
from cosmos1.conditioning.token_settings import ActionRows, CameraRays, TrajectoryRows, ViewTokens
from cosmos1.errors import ConfigError, check_positive
from cosmos1.models.network_rules import check_network


@dataclass
class GPTConfig:
    """Architecture of the video GPT (Cosmos-1.0 autoregressive world models); the defaults are the 4B network.

    Two fields separate the published networks from one another: the size (:func:`gpt_config`) and ``video2world``.
    The last four fields add control signals, each None where the task has no such signal.
    A head is ``head_dim`` wide whatever ``hidden_size`` is: the 12B has 32 heads of 128 at a width of 5120.
    """

    hidden_size: int = 4096
    num_layers: int = 16
    num_attention_heads: int = 32
    num_query_groups: int = 8
    """Key and value heads; query heads ``g * n`` to ``g * n + n - 1`` share group ``g``."""
    head_dim: int = 128
    ffn_hidden_size: int = 14336
    vocab_size: int = 64000
    """Codes of the video tokenizer: the rows of the output layer."""
    video2world: bool = False
    """Text context by cross-attention in every layer, absolute positions in every layer, and a token that begins a video."""
    num_special_tokens: int = 64
    """Video2World: rows of the input embedding after the codes (begin of video, end of video, padding, unused)."""
    text_embedding_dim: int = 1024
    latent_shape: List[int] = field(default_factory=lambda: [5, 40, 64])
    """Token grid of a clip: latent frames, rows, columns; with several views that of one view."""
    pad_to_multiple_of: int = 64
    """Video2World: sequences are padded to a multiple of this."""
    rope_theta: float = 500000.0
    yarn_scale: Optional[float] = None
    """YaRN: how much longer the grid is than the one before context extension; None: off."""
    yarn_beta_fast: float = 4.0
    yarn_beta_slow: float = 1.0
    yarn_original_latent_shape: List[int] = field(default_factory=lambda: [3, 40, 64])
    norm_epsilon: float = 1e-5
    recompute_granularity: Optional[Literal["full", "selective"]] = None
    """``full`` keeps only the input of each layer; ``selective`` also keeps the attention outputs."""
    recompute_num_layers: Optional[int] = None
    """How many layers of each pipeline stage recompute (the first ones); all if not given."""
    context_parallel_mode: Literal["auto", "ulysses", "allgather"] = "auto"
    compile: bool = True
    """On a GPU, fuse the element-wise parts of each layer with torch.compile; the CPU always runs eagerly."""
    action: Optional[ActionRows] = None
    camera: Optional[CameraRays] = None
    views: Optional[ViewTokens] = None
    trajectory: Optional[TrajectoryRows] = None

    @property
    def controls(self) -> List[str]:
        """Batch keys of the control signals."""
        return [settings.batch_key for settings in signals(self)]

    @property
    def reads_text(self) -> bool:
        """Actions take the place of the text."""
        return self.video2world and self.action is None

    @property
    def num_views(self) -> int:
        return 1 if self.views is None else self.views.num_views

    @property
    def token_grid(self) -> List[int]:
        """Axes of the video tokens of a sample, in the order of the sequence: time, view (with several), row, column."""
        frames, rows, columns = self.latent_shape
        return [frames, rows, columns] if self.views is None else [frames, self.num_views, rows, columns]

    @property
    def embedding_rows(self) -> int:
        return self.vocab_size + (self.num_special_tokens if self.video2world else 0)

    @property
    def begin_of_video(self) -> int:
        return self.vocab_size

    @property
    def padding_token(self) -> int:
        return self.vocab_size + 2

    @property
    def num_video_tokens(self) -> int:
        return math.prod(self.token_grid)

    @property
    def sequence_length(self) -> int:
        """Positions of a training sample: the video tokens; Video2World adds one that begins the video, and padding."""
        if not self.video2world:
            return self.num_video_tokens
        return -(-(self.num_video_tokens + 1) // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def validate(self) -> None:
        """Raise :class:`ConfigError` for sizes that no network can have."""
        sizes = ("hidden_size", "num_layers", "num_attention_heads", "num_query_groups", "head_dim", "ffn_hidden_size")
        check_positive(self, "model.config", *sizes, "vocab_size", "text_embedding_dim", "pad_to_multiple_of")
        if len(self.latent_shape) != 3 or min(self.latent_shape) < 1:
            raise ConfigError(
                f"model.config.latent_shape={self.latent_shape}; give latent frames, rows, columns, each 1 or more"
            )
        if self.num_attention_heads % self.num_query_groups:
            raise ConfigError(
                f"model.config.num_attention_heads={self.num_attention_heads} is not divisible by "
                f"model.config.num_query_groups={self.num_query_groups}"
            )
        check_network(self)
        if self.video2world and self.num_special_tokens < 3:
            raise ConfigError(
                f"model.config.num_special_tokens={self.num_special_tokens}; Video2World needs at least 3 "
                "(begin of video, end of video, padding)"
            )
        if self.controls and not self.video2world:
            raise ConfigError(
                f"the control signal {self.controls[0]} needs a Video2World network; set model.config.video2world=true"
            )


_LARGE = {"hidden_size": 5120, "num_layers": 40, "yarn_scale": 2.0}
_TINY = {
    "hidden_size": 192,
    "num_layers": 4,
    "num_attention_heads": 6,
    "num_query_groups": 2,
    "head_dim": 32,
    "ffn_hidden_size": 512,
    "latent_shape": [3, 8, 12],
}
SIZES = {
    "4b": {},
    "12b": _LARGE,
    "5b": {"video2world": True},
    "13b": {"video2world": True, **_LARGE},
    "tiny": _TINY,
    "tiny_video2world": {"video2world": True, **_TINY},
}


def gpt_config(size: Literal["4b", "12b", "5b", "13b", "tiny", "tiny_video2world"]) -> GPTConfig:
    """The network of one size; 5B and 13B are the 4B and 12B with Video2World. ``tiny`` trains in minutes on a CPU."""
    return GPTConfig(**SIZES[size])
