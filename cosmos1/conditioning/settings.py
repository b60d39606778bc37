# SPDX-License-Identifier: Apache-2.0
"""The control signals of a network, as plain values. The modules that obey them are beside this file.

Each signal has a field of its own in ``model.config``, None where the task does not use it. A new signal leaves the
network's output as it was until training changes it. ``batch_key`` is where the batches carry it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, List, Literal

from cosmos1.errors import check_positive

NUM_TEXT_TOKENS = 512
TEXT_WIDTH = 1024
"""Rows and width of the embedding of one text (T5-11B)."""

PLUCKER_CHANNELS = 6
"""Moment ``o x d`` and direction ``d`` of the ray through a latent cell."""

NUM_POINTS = 64
POINT_VALUES = 3
TRAJECTORY_VALUES = NUM_POINTS * POINT_VALUES
"""A trajectory: future positions of the vehicle, ``(x, y, z)`` each."""


def signals(config: Any) -> List[Any]:
    """The settings of the control signals that the network of ``config`` takes."""
    found = (config.action, config.camera, config.views, config.trajectory)
    return [settings for settings in found if settings is not None]


@dataclass
class ActionConditioning:
    """Robot actions ``[B, num_actions, action_dim]``, which shift the timestep embedding and the shared modulation.

    The defaults are NeMo's wiring. A checkpoint of cosmos-predict1 needs ``hidden_width="4D"``, ``gelu="tanh"`` and
    ``use_d_branch=False`` (there the shift of the embedding is computed and not used).
    """

    batch_key: ClassVar[str] = "action"
    action_dim: int = 7
    num_actions: int = 1
    """Actions per sample: one for a pair of frames, ``F - 1`` for ``F`` frames."""
    hidden_width: Literal["D", "4D"] = "D"
    """Hidden width of the MLP that shifts the timestep embedding, in model widths."""
    gelu: Literal["erf", "tanh"] = "erf"
    use_d_branch: bool = True
    """Whether the timestep embedding is shifted; the shared modulation always is."""

    def validate(self) -> None:
        check_positive(self, "model.config.action", "action_dim", "num_actions")


@dataclass
class CameraConditioning:
    """Camera rays: Pluecker coordinates ``[B, T, 6, h, w]`` enter as six channels of each patch."""

    batch_key: ClassVar[str] = "plucker_embeddings"

    def validate(self) -> None:
        """There is nothing to choose."""


@dataclass
class ViewConditioning:
    """Several cameras in one sample, one after another in time: ``[B, C, V * T, H, W]``.

    Each view has its own text, and its positions start at time 0. A sample may carry any of the ``num_views`` views.
    """

    batch_key: ClassVar[str] = "view_indices"
    num_views: int = 6
    """Rows of the table of view embeddings."""
    view_dim: int = 6
    """Channels that the embedding of a view adds to each patch."""
    repeat_frame: bool = True
    """Also embed how many frames of a view repeat the one before."""
    shared_text: bool = False
    """One text for all views (``[B, 512, 1024]``) instead of one for each (``[B, V * 512, 1024]``)."""

    def validate(self) -> None:
        check_positive(self, "model.config.views", "num_views", "view_dim")


@dataclass
class TrajectoryConditioning:
    """The path of the vehicle: 192 numbers (64 positions of x, y, z, scaled) become channels of every patch."""

    batch_key: ClassVar[str] = "trajectory"
    trajectory_dim: int = 12
    """Channels that the trajectory adds to each patch."""

    def validate(self) -> None:
        check_positive(self, "model.config.trajectory", "trajectory_dim")
