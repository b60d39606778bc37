# SPDX-License-Identifier: Apache-2.0
"""Robot actions: relative motion between poses, and the two conventions in which Bridge actions are used.

A state row is (x, y, z, roll, pitch, yaw, gripper): metres in the robot's base frame, radians with
R = Rz(yaw) Ry(pitch) Rx(roll), and a gripper bit, 1 = open. Arrays are float64. The formulas are those of the Bridge
annotations as the IRASim authors published them: they reproduce these to 1e-12.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List

if TYPE_CHECKING:
    import numpy as np

BRIDGE_ACTION_DIM = 7


@dataclass(frozen=True)
class ActionConvention:
    """What the numbers of an action mean. `recomputed`: from the states, between any two frames of a window."""

    scale: List[float]
    recomputed: bool
    continuous_gripper: bool
    meaning: str


ACTION_CONVENTIONS: Dict[str, ActionConvention] = {
    "json": ActionConvention(
        [1.0] * 7,
        recomputed=False,
        continuous_gripper=False,
        meaning="the annotation's row as it is, unscaled; gripper bit of the next frame, 1 = open (NeMo)",
    ),
    "scaled": ActionConvention(
        [20.0] * 6 + [1.0],
        recomputed=True,
        continuous_gripper=True,
        meaning="motion from the states times 20; gripper 0 = open .. 1 = closed at the next frame (predict1, predict2)",
    ),
    "scaled_binary": ActionConvention(
        [20.0] * 6 + [1.0],
        recomputed=True,
        continuous_gripper=False,
        meaning="motion from the states times 20; gripper bit of the next frame, 1 = open",
    ),
}


def relative_motions(poses_T6: "np.ndarray", from_first: bool = False) -> "np.ndarray":
    """Motions (T-1, 6) between consecutive poses (T, 6), seen in the frame of the earlier one.

    Translation R_k^T (p_{k+1} - p_k) in metres, then the angles of R_k^T R_{k+1} in radians. With `from_first` every
    pose is compared with the first one instead of the one before it.
    """
    import numpy as np

    from cosmos1.data.geometry.rotations import euler_angles, rotation_matrices

    poses = np.asarray(poses_T6, np.float64)
    positions, rotations = poses[:, :3], rotation_matrices(poses[:, 3:6])
    if from_first:
        earlier_p, earlier_r = positions[:1], rotations[:1]
    else:
        earlier_p, earlier_r = positions[:-1], rotations[:-1]
    inverse = np.swapaxes(earlier_r, 1, 2)
    translation = (inverse @ (positions[1:] - earlier_p)[..., None])[..., 0]
    return np.concatenate([translation, euler_angles(inverse @ rotations[1:])], axis=1)


def bridge_actions(states_T7: "np.ndarray", gripper_T: "np.ndarray", from_first: bool = False) -> "np.ndarray":
    """Unscaled actions (T-1, 7) between consecutive states: relative motion, then `gripper_T` of the later state."""
    import numpy as np

    motions = relative_motions(states_T7[:, :6], from_first)
    return np.concatenate([motions, np.asarray(gripper_T, np.float64)[1:, None]], axis=1)


def moved_pose(pose_6: "np.ndarray", motion_6: "np.ndarray") -> "np.ndarray":
    """The pose (6,) that `motion_6`, given in the frame of `pose_6`, leads to: undoes :func:`relative_motions`."""
    import numpy as np

    from cosmos1.data.geometry.rotations import euler_angles, rotation_matrices

    angles = np.stack([pose_6[3:6], motion_6[3:6]])
    first, turn = rotation_matrices(angles)
    return np.concatenate([pose_6[:3] + first @ motion_6[:3], euler_angles((first @ turn)[None])[0]])
