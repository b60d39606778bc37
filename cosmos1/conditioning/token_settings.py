# SPDX-License-Identifier: Apache-2.0
"""The control signals of an autoregressive network, as plain values. The modules that obey them: ``token_modules.py``.

Each signal has a field of its own in ``model.config``, None where the task does not use it. All of them belong to
Video2World networks.
"""

from dataclasses import dataclass
from typing import ClassVar

from cosmos1.conditioning.settings import PLUCKER_CHANNELS
from cosmos1.errors import check_positive


@dataclass
class ActionRows:
    """Robot actions ``[B, num_actions, action_dim]`` take the place of the text: one context row per action.

    The published network repeats its one row seven times, which attention cannot tell from once.
    """

    batch_key: ClassVar[str] = "action"
    action_dim: int = 7
    num_actions: int = 1
    """Actions per sample: one for a pair of frames, ``F - 1`` for ``F`` frames. Several rows are told apart by a learned
    vector each."""
    hidden_size: int = 256

    def validate(self) -> None:
        check_positive(self, "model.config.action", "action_dim", "num_actions", "hidden_size")


@dataclass
class CameraRays:
    """Camera rays: the Pluecker coordinates of the pixel frames of a token, added to the token before it."""

    batch_key: ClassVar[str] = "plucker_tokens"
    frames_per_token: int = 8
    """Pixel frames of a token, as the tokenizer joins them; the first latent frame repeats its one frame as often."""

    @property
    def num_channels(self) -> int:
        return self.frames_per_token * PLUCKER_CHANNELS

    def validate(self) -> None:
        check_positive(self, "model.config.camera", "frames_per_token")


@dataclass
class ViewTokens:
    """Several cameras in one sequence, ordered by time, view, row, column: every view sees the past of all views.

    ``model.config.latent_shape`` is the grid of one view; positions are the same in each.
    """

    batch_key: ClassVar[str] = "view_indices"
    num_views: int = 6
    shared_text: bool = True
    """One text for all views (``[B, 512, 1024]``), or one for each (``[B, V * 512, 1024]``) that only its view reads."""

    def validate(self) -> None:
        check_positive(self, "model.config.views", "num_views")


@dataclass
class TrajectoryRows:
    """The path of the vehicle: 64 positions become 64 rows after the text. A trajectory of zeros is none: it is hidden."""

    batch_key: ClassVar[str] = "trajectory"
    hidden_size: int = 256

    def validate(self) -> None:
        check_positive(self, "model.config.trajectory", "hidden_size")
