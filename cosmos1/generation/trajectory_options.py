# SPDX-License-Identifier: Apache-2.0
"""The path of the vehicle, as the commands of both kinds of networks take it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.conditioning.settings import TRAJECTORY_VALUES
from cosmos1.data.geometry.trajectories import PRESETS, preset_trajectory, read_trajectory
from cosmos1.errors import ConfigError
from cosmos1.option_types import positive_number

if TYPE_CHECKING:
    import numpy as np

NO_TRAJECTORY = "none"
DEFAULT_SPEED = 6.0  # metres per second


def add_trajectory_options(p) -> None:
    """The path of the vehicle, for a parser or a group of its options."""
    p.add_argument("--trajectory_path", help="an ego track, or 64 positions")
    p.add_argument("--trajectory", choices=(*PRESETS, NO_TRAJECTORY), help="instead of a file")
    p.add_argument(
        "--trajectory_speed",
        type=positive_number,
        help=f"of --trajectory: metres per second; default {DEFAULT_SPEED:g}",
    )


def chosen_trajectory(options: argparse.Namespace) -> "np.ndarray":
    """The 192 numbers of the path of the vehicle; zeros for "none"."""
    import numpy as np

    if (options.trajectory_path is None) == (options.trajectory is None):
        raise ConfigError(
            f"the network takes a trajectory: give either --trajectory_path FILE or --trajectory "
            f"{{{','.join((*PRESETS, NO_TRAJECTORY))}}}"
        )
    if options.trajectory_speed is not None and options.trajectory in (None, NO_TRAJECTORY):
        raise ConfigError("--trajectory_speed goes with the named trajectories; leave it out")
    if options.trajectory_path is not None:
        return read_trajectory(Path(options.trajectory_path))
    if options.trajectory == NO_TRAJECTORY:
        return np.zeros(TRAJECTORY_VALUES, np.float32)
    return preset_trajectory(options.trajectory, options.trajectory_speed or DEFAULT_SPEED)
