# SPDX-License-Identifier: Apache-2.0
"""The sizes and settings of the diffusion transformer (DiT), as plain values."""

from dataclasses import dataclass
from typing import Literal, Optional

from cosmos1.errors import ConfigError


@dataclass
class DiTConfig:
    """Architecture of the video DiT (Cosmos-1.0 / Predict1 diffusion world models).

    The defaults are the 7B Text2World network. Two fields separate the published networks from one another: the size
    (:func:`dit_config`) and ``condition_mask`` (Video2World has one more input channel).
    """

    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    mlp_ratio: int = 4
    adaln_lora_dim: int = 256
    text_embedding_dim: int = 1024
    latent_channels: int = 16
    patch_spatial: int = 2
    condition_mask: bool = False
    """Video2World: one input channel marks the latent frames that are given."""
    max_frames: int = 128
    max_height: int = 240
    max_width: int = 240
    """Largest latent size (frames, rows, columns) that the learnable positions cover."""
    rope_t_extrapolation_ratio: float = 2.0
    rope_h_extrapolation_ratio: float = 1.0
    rope_w_extrapolation_ratio: float = 1.0
    rope_table_dtype: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` reproduces the rounding of the official inference code, ``fp32`` is exact."""
    learnable_positions: bool = True
    """A learnable embedding, normalised to RMS 1, added before every block."""
    layernorm_epsilon: float = 1e-6
    recompute_granularity: Optional[Literal["full", "selective"]] = None
    """``full`` keeps only the input of each block; ``selective`` also keeps the attention outputs."""
    recompute_num_layers: Optional[int] = None
    """How many blocks of each pipeline stage recompute (the first ones); all if not given."""
    context_parallel_mode: Literal["auto", "ulysses", "allgather", "ring"] = "auto"
    transformer_impl: Literal["local", "transformer_engine"] = "local"
    compile: bool = True
    """On a GPU, fuse the element-wise parts of each block with torch.compile; the CPU always runs eagerly."""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_input_channels(self) -> int:
        """Channels that enter a patch: latent, then the condition mask where there is one, then the padding mask."""
        return self.latent_channels + int(self.condition_mask) + 1

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of a latent of ``[frames, height, width]``."""
        return frames * (height // self.patch_spatial) * (width // self.patch_spatial)

    def validate(self) -> None:
        """Raise :class:`ConfigError` for sizes that no network can have."""
        sizes = ("hidden_size", "num_layers", "num_attention_heads", "mlp_ratio", "adaln_lora_dim", "latent_channels")
        for name in (*sizes, "text_embedding_dim", "patch_spatial", "max_frames", "max_height", "max_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.config.{name}={getattr(self, name)}; it must be 1 or more")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"model.config.hidden_size={self.hidden_size} is not divisible by "
                f"model.config.num_attention_heads={self.num_attention_heads}"
            )
        if self.head_dim % 2 or self.head_dim < 12:
            raise ConfigError(
                f"model.config gives heads of width {self.head_dim}; 3-D rotary positions need an even width of 12 or more"
            )
        if self.recompute_num_layers is not None and self.recompute_num_layers < 0:
            raise ConfigError(
                f"model.config.recompute_num_layers={self.recompute_num_layers}; use 0 or more, or None for all"
            )

    def validate_latent(self, frames: int, height: int, width: int) -> None:
        """Raise :class:`ConfigError` if a latent of this size does not fit the network."""
        if height % self.patch_spatial or width % self.patch_spatial:
            raise ConfigError(
                f"latent height x width {height} x {width} is not divisible by the patch size {self.patch_spatial}; use "
                "videos whose height and width are multiples of 16"
            )
        if frames > self.max_frames or height > self.max_height or width > self.max_width:
            raise ConfigError(
                f"latent frames x height x width {frames} x {height} x {width} exceeds the largest that this network has "
                f"positions for, {self.max_frames} x {self.max_height} x {self.max_width}"
            )


SIZES = {
    "7b": {},
    "14b": {
        "hidden_size": 5120,
        "num_layers": 36,
        "num_attention_heads": 40,
        "rope_h_extrapolation_ratio": 2.0,
        "rope_w_extrapolation_ratio": 2.0,
    },
    "tiny": {"hidden_size": 256, "num_layers": 4, "num_attention_heads": 4, "adaln_lora_dim": 64},
}


def dit_config(size: Literal["7b", "14b", "tiny"], condition_mask: bool) -> DiTConfig:
    """The network of one size; ``condition_mask`` selects Video2World. ``tiny`` trains in minutes on a CPU."""
    return DiTConfig(condition_mask=condition_mask, **SIZES[size])
