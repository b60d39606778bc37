# SPDX-License-Identifier: Apache-2.0
"""The settings of the EDM objective, as plain values (the arithmetic is in ``objective.py``)."""

from dataclasses import dataclass, field
from typing import Optional

from cosmos1.errors import ConfigError


@dataclass
class VideoConditioning:
    """Video2World: the first latent frames of each sample are given, lightly noised, and not predicted."""

    min_frames: int = 0
    max_frames: int = 2
    """Range of the number of given latent frames, drawn uniformly per sample, both ends included."""
    augment_sigma_mean: float = -3.0
    augment_sigma_std: float = 2.0
    augment_sigma_multiplier: float = 1.0
    """The given frames get noise of ``multiplier * exp(mean + std * z)``."""
    dropout: float = 0.0
    """Share of samples whose given frames are hidden (zeros, mask 0)."""


@dataclass
class EDMObjective:
    """Noise distribution, weighting and dropout. Defaults: the published post-training recipes."""

    sigma_data: float = 0.5
    p_mean: float = 0.0
    p_std: float = 1.0
    sigma_multiplier: float = 1.0
    text_dropout: float = 0.2
    trajectory_dropout: float = 0.2
    """Share of samples whose text, or trajectory, is replaced by zeros."""
    loss_add_logvar: bool = False
    """Weight each sample by a learned uncertainty: ``loss * exp(-u) + u``."""
    conditioning: VideoConditioning = field(default_factory=VideoConditioning)

    def validate(self, latent_frames: Optional[int], conditioned: bool) -> None:
        given = self.conditioning
        for name in ("sigma_data", "p_std", "sigma_multiplier"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"model.objective.{name}={getattr(self, name)}; it must be positive")
        if not all(0 <= share <= 1 for share in (self.text_dropout, self.trajectory_dropout, given.dropout)):
            raise ConfigError(
                "model.objective.text_dropout, trajectory_dropout and conditioning.dropout are shares between 0 and 1"
            )
        if not conditioned:
            return
        if not 0 <= given.min_frames <= given.max_frames:
            raise ConfigError(
                f"model.objective.conditioning.min_frames={given.min_frames}, max_frames={given.max_frames}; the range "
                "must be ordered and not negative"
            )
        if latent_frames is not None and given.max_frames >= latent_frames:
            raise ConfigError(
                f"model.objective.conditioning.max_frames={given.max_frames} leaves nothing to predict in samples of "
                f"{latent_frames} latent frames; use at most {latent_frames - 1}"
            )
