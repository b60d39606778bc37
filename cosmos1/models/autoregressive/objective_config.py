# SPDX-License-Identifier: Apache-2.0
"""What the autoregressive loss counts, as plain values."""

from dataclasses import dataclass

from cosmos1.errors import ConfigError


@dataclass
class NextTokenObjective:
    """Cross entropy of every next token: averaged over the scored tokens of a sample, then over samples."""

    num_unscored_frames: int = 0
    """Tokens of the first n latent frames are not scored (the published recipes score all; predict1 leaves out one)."""
    text_dropout: float = 0.0
    """Video2World: probability that a sample's text is replaced by zeros."""
    camera_dropout: float = 0.0
    """Probability that a sample's camera rays are replaced by zeros."""
    trajectory_dropout: float = 0.0
    """Probability that a sample's trajectory is hidden."""
    token_corruption: float = 0.0
    """Mean share of the video tokens after the unscored frames that the network reads wrong: each is replaced by another one
    of its sample. A network that generates reads its own mistakes; one that never saw any follows them rather than its
    control signals. The share of a sample is uniform from 0 to twice the mean. Unscored frames, which are given, stay true."""

    def validate(self, num_latent_frames: int) -> None:
        """Raise :class:`ConfigError` for an objective that scores nothing or is no probability."""
        if not 0 <= self.num_unscored_frames < num_latent_frames:
            raise ConfigError(
                f"model.objective.num_unscored_frames={self.num_unscored_frames}; it must be 0 or more and below the "
                f"{num_latent_frames} latent frames of model.config.latent_shape"
            )
        for name in ("text_dropout", "camera_dropout", "trajectory_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.objective.{name}={getattr(self, name)}; it must be from 0 to below 1")
        if not 0 <= self.token_corruption <= 0.5:
            raise ConfigError(f"model.objective.token_corruption={self.token_corruption}; it must be from 0 to 0.5")
