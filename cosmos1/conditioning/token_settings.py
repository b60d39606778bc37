# SPDX-License-Identifier: Apache-2.0
"""The control signals of an autoregressive network, as plain values. The modules that obey them: ``token_modules.py``.

Each signal has a field of its own in ``model.config``, None where the task does not use it. All of them belong to
Video2World networks.
"""

from dataclasses import dataclass

from cosmos1.conditioning.settings import PLUCKER_CHANNELS, TRAJECTORY_VALUES
from cosmos1.errors import ConfigError

POINT_VALUES = 3
NUM_POINTS = TRAJECTORY_VALUES // POINT_VALUES
"""Positions of a trajectory."""


def _check_positive(settings, field: str, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"model.config.{field}.{name}={getattr(settings, name)}; it must be 1 or more")


@dataclass
class ActionRows:
    """Robot actions ``[B, num_actions, action_dim]`` take the place of the text: one context row per action.

    The published network repeats its one row seven times, which attention cannot tell from once.
    """

    action_dim: int = 7
    num_actions: int = 1
    """Actions per sample: one for a pair of frames, ``F - 1`` for ``F`` frames. Several rows are told apart by a learned
    vector each."""
    hidden_size: int = 256

    def validate(self) -> None:
        _check_positive(self, "action", "action_dim", "num_actions", "hidden_size")


@dataclass
class CameraRays:
    """Camera rays: the Pluecker coordinates of the pixel frames of a token, added to the token before it."""

    frames_per_token: int = 8
    """Pixel frames of a token, as the tokenizer joins them; the first latent frame repeats its one frame as often."""

    @property
    def num_channels(self) -> int:
        return self.frames_per_token * PLUCKER_CHANNELS

    def validate(self) -> None:
        _check_positive(self, "camera", "frames_per_token")


@dataclass
class ViewTokens:
    """Several cameras in one sequence, ordered by time, view, row, column: every view sees the past of all views.

    ``model.config.latent_shape`` is the grid of one view; positions are the same in each.
    """

    num_views: int = 6
    shared_text: bool = True
    """One text for all views (``[B, 512, 1024]``), or one for each (``[B, V * 512, 1024]``) that only its view reads."""

    def validate(self) -> None:
        _check_positive(self, "views", "num_views")


@dataclass
class TrajectoryRows:
    """The path of the vehicle: 64 positions become 64 rows after the text. A trajectory of zeros is none: it is hidden."""

    hidden_size: int = 256

    def validate(self) -> None:
        _check_positive(self, "trajectory", "hidden_size")
