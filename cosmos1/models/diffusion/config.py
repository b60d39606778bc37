# SPDX-License-Identifier: Apache-2.0
"""The sizes and settings of the diffusion transformer (DiT), as plain values."""

from dataclasses import dataclass
from typing import Dict, List, Literal, Optional

from cosmos1.conditioning.settings import (
    PLUCKER_CHANNELS,
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
    signals,
)
from cosmos1.errors import ConfigError, check_positive
from cosmos1.models.network_rules import check_network

PUBLISHED_FACTOR = 8
"""Pixel frames per latent frame, and pixels per latent cell, of the tokenizer of the published networks."""

BASE_CHANNELS = ("latent", "condition_mask", "padding_mask")
"""What enters a patch in networks without control signals."""


@dataclass
class DiTConfig:
    """Architecture of the video DiT (Cosmos-1.0 / Predict1 diffusion world models).

    The defaults are the 7B Text2World network. Two fields separate the published base networks from one another: the
    size (:func:`dit_config`) and ``condition_mask`` (Video2World has one more input channel). The control tasks set
    one or more of ``action``, ``camera``, ``views`` and ``trajectory``.
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
    sinusoidal_positions: bool = False
    """A fixed embedding in its place: the released multi-view networks."""
    temporal_factor: int = PUBLISHED_FACTOR
    spatial_factor: int = PUBLISHED_FACTOR
    """Pixel frames per latent frame, and pixels per latent cell, of the tokenizer. Positions are counted in the units of
    the published networks (8 frames, 8 pixels), so that with another tokenizer a token keeps its place in time and space.
    """
    action: Optional[ActionConditioning] = None
    camera: Optional[CameraConditioning] = None
    views: Optional[ViewConditioning] = None
    trajectory: Optional[TrajectoryConditioning] = None
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
    def patch_channels(self) -> Dict[str, int]:
        """What enters a patch, in order, with its number of channels; in a patch the channel varies slowest."""
        channels = {"latent": self.latent_channels}
        if self.condition_mask:
            channels["condition_mask"] = 1
        if self.camera is not None:
            channels["camera"] = PLUCKER_CHANNELS
        channels["padding_mask"] = 1
        if self.views is not None:
            channels["views"] = self.views.view_dim
        if self.trajectory is not None:
            channels["trajectory"] = self.trajectory.trajectory_dim
        return channels

    @property
    def patch_input_channels(self) -> int:
        return sum(self.patch_channels.values())

    @property
    def patch_columns(self) -> Dict[str, range]:
        """Columns of the patch matrix that each entry of ``patch_channels`` takes."""
        result, start = {}, 0
        for name, num_channels in self.patch_channels.items():
            stop = start + num_channels * self.patch_spatial**2
            result[name], start = range(start, stop), stop
        return result

    @property
    def base_patch_columns(self) -> List[int]:
        """Columns of the patch matrix that the network without control signals has too, in its order."""
        return [column for name, columns in self.patch_columns.items() if name in BASE_CHANNELS for column in columns]

    @property
    def controls(self) -> List[str]:
        """Batch keys of the control signals that every sample must bring."""
        return [settings.batch_key for settings in signals(self)]

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens of a latent of ``[frames, height, width]``."""
        return frames * (height // self.patch_spatial) * (width // self.patch_spatial)

    def validate(self) -> None:
        """Raise :class:`ConfigError` for sizes that no network can have."""
        sizes = ("hidden_size", "num_layers", "num_attention_heads", "mlp_ratio", "adaln_lora_dim", "latent_channels")
        sizes += ("text_embedding_dim", "patch_spatial", "max_frames", "max_height", "max_width")
        check_positive(self, "model.config", *sizes, "temporal_factor", "spatial_factor")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"model.config.hidden_size={self.hidden_size} is not divisible by "
                f"model.config.num_attention_heads={self.num_attention_heads}"
            )
        check_network(self)
        if self.learnable_positions and self.sinusoidal_positions:
            raise ConfigError(
                "model.config.learnable_positions and model.config.sinusoidal_positions are both true; a network has one "
                "of the two: set learnable_positions=false for the released multi-view networks"
            )

    def validate_latent(self, frames: int, height: int, width: int) -> None:
        """Raise :class:`ConfigError` if a latent of this size, that of one view, does not fit the network."""
        if height % self.patch_spatial or width % self.patch_spatial:
            raise ConfigError(
                f"latent height x width {height} x {width} is not divisible by the patch size {self.patch_spatial}; use "
                "videos whose height and width are multiples of 16"
            )
        time, space = self.temporal_factor / PUBLISHED_FACTOR, self.spatial_factor / PUBLISHED_FACTOR
        if (frames - 1) * time > self.max_frames - 1 or max(
            height / self.max_height, width / self.max_width
        ) > 1 / space:
            raise ConfigError(
                f"latent frames x height x width {frames} x {height} x {width} exceeds the largest that this network has "
                f"positions for, {int((self.max_frames - 1) / time) + 1} x {int(self.max_height / space)} x "
                f"{int(self.max_width / space)}"
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
