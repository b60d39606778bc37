# SPDX-License-Identifier: Apache-2.0
"""The path of the vehicle, as the commands of both kinds of networks take it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.conditioning.settings import TRAJECTORY_VALUES
from cosmos1.data.geometry.trajectories import PRESETS, preset_trajectory, read_trajectory
from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

NO_TRAJECTORY = "none"


def add_trajectory_options(p) -> None:
    """The path of the vehicle, for a parser or a group of its options."""
    p.add_argument("--trajectory_path", help="an ego track, or 64 positions")
    p.add_argument("--trajectory", choices=(*PRESETS, NO_TRAJECTORY), help="instead of a file")
    p.add_argument("--trajectory_speed", type=float, default=6.0, help="of --trajectory: metres per second")


def chosen_trajectory(options: argparse.Namespace) -> "np.ndarray":
    """The 192 numbers of the path of the vehicle; zeros for "none"."""
    import numpy as np

    if (options.trajectory_path is None) == (options.trajectory is None):
        raise ConfigError(
            f"the network takes a trajectory: give either --trajectory_path FILE or --trajectory "
            f"{{{','.join((*PRESETS, NO_TRAJECTORY))}}}"
        )
    if options.trajectory_path is not None:
        return read_trajectory(Path(options.trajectory_path))
    if options.trajectory == NO_TRAJECTORY:
        return np.zeros(TRAJECTORY_VALUES, np.float32)
    return preset_trajectory(options.trajectory, options.trajectory_speed)
