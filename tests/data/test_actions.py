# SPDX-License-Identifier: Apache-2.0
"""Relative motion, against numbers of a published annotation (Bridge episode 346) and against itself."""

import numpy as np
import pytest

from cosmos1.data.geometry.actions import bridge_actions, moved_pose, relative_motions
from cosmos1.data.geometry.rotations import euler_angles, rotation_matrices
from cosmos1.data.sources.bridge import Episode, actions_between, check_convention
from cosmos1.errors import ConfigError

STATES = np.array(
    [
        [
            0.25642186403274536,
            -0.003085855394601822,
            0.08004199713468552,
            -2.9066125770383557,
            -0.08274048566818239,
            0.27030512690544134,
            1,
        ],
        [
            0.25635820627212524,
            -0.0032836843747645617,
            0.07999096065759659,
            -2.907811002927371,
            -0.08218566328287126,
            0.2711904048919678,
            1,
        ],
        [
            0.25293341279029846,
            -0.0037886379286646843,
            0.07464350759983063,
            -2.905734511213847,
            -0.0534898266196251,
            0.25586068630218506,
            1,
        ],
    ]
)
RECORDED = np.array(
    [
        [
            -0.00011799907518038634,
            0.00017852040799841174,
            -1.4162521192420834e-07,
            -0.001125234354924498,
            -0.0007449618380323638,
            -0.0007288755714804661,
            1,
        ],
        [
            -0.003862288184764138,
            0.0007500682019763629,
            0.005009947141436263,
            0.0007748246765351693,
            -0.0243584071258082,
            0.021543328775349323,
            1,
        ],
    ]
)
STATES_12 = np.array(
    [
        [
            0.3547748327255249,
            0.06620009988546371,
            0.0030901655554771423,
            -2.9840937723689756,
            -0.04720940813422204,
            -0.08546996116638184,
            1,
        ],
        [
            0.3556578755378723,
            0.06727182865142822,
            0.0011402055388316512,
            -3.0111675580316266,
            -0.07147869467735289,
            -0.08129163831472397,
            1,
        ],
    ]
)


def episode(states, gripper):
    action = bridge_actions(states, states[:, 6])
    return Episode("346", None, ("put banana in pot",), (), states, action, np.array(gripper))


def test_recorded_actions_are_reproduced():
    assert np.abs(bridge_actions(STATES, STATES[:, 6]) - RECORDED).max() < 1e-12
    # The displacement in the frame of the base is another one.
    assert np.abs((STATES[1, :3] - STATES[0, :3]) - RECORDED[0, :3]).max() > 1e-4


def test_both_conventions():
    gripper = [0.012049198150634766, 0.012049198150634766, 0.011358082294464111]
    first = episode(STATES, gripper)
    assert np.abs(actions_between(first, [0, 1, 2], "json") - RECORDED).max() < 1e-12
    scaled = [-2.35998e-03, 3.57041e-03, -2.83250e-06, -2.25047e-02, -1.48992e-02, -1.45775e-02, 1.20492e-02]
    assert actions_between(first, [0, 1], "scaled")[0] == pytest.approx(scaled, rel=1e-5)
    accumulated = [-0.0796693, 0.0187409, 0.100122, -0.00733110, -0.501579, 0.416845, 0.0113581]
    assert actions_between(first, [0, 1, 2], "scaled", True)[1] == pytest.approx(accumulated, rel=1e-5)
    # The two grippers point in opposite directions: open is 1 in one and 0 in the other.
    later = episode(STATES_12, [0.06485205888748169, 0.3208107352256775])
    scaled = [0.0139086, -0.0163541, 0.0427946, -0.538367, 0.466307, -0.158492, 0.320811]
    assert actions_between(later, [0, 1], "scaled")[0] == pytest.approx(scaled, rel=1e-5)
    assert actions_between(later, [0, 1], "scaled_binary")[0, 6] == 1.0
    assert actions_between(later, [0, 1], "json")[0, 6] == 1.0


def test_a_wider_interval_is_recomputed_over_the_frames_between():
    long = episode(STATES, [0.0, 0.0, 0.0])
    expected = relative_motions(STATES[[0, 2], :6])[0] * 20
    assert actions_between(long, [0, 2], "scaled")[0, :6] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("jsn", 7), "no action convention"),
        (("scaled", 10), "action_dim=10 needs the recorded actions"),
        (("json", 7, 2), "sequence_interval=2.*must be recomputed"),
        (("json", 7, 1, True), "accumulate_action=True.*must be recomputed"),
    ],
)
def test_conventions_that_cannot_be(arguments, words):
    with pytest.raises(ConfigError, match=words):
        check_convention(*arguments)


def test_angles_undo_matrices_also_where_pitch_is_a_right_angle():
    angles = np.random.RandomState(0).uniform([-3.1, -1.5, -3.1], [3.1, 1.5, 3.1], (50, 3))
    assert euler_angles(rotation_matrices(angles)) == pytest.approx(angles, abs=1e-9)
    upright = np.array([[0.4, np.pi / 2, 0.3]])
    again = euler_angles(rotation_matrices(upright))
    assert again[0, 2] == 0 and rotation_matrices(again) == pytest.approx(rotation_matrices(upright), abs=1e-6)
    half_turn = rotation_matrices(np.array([[-np.pi, 0.0, -np.pi]]))
    assert (euler_angles(half_turn) > -np.pi).all()


def test_motions_lead_from_pose_to_pose():
    poses = np.random.RandomState(1).uniform(-1, 1, (6, 6))
    pose = poses[0]
    for motion in relative_motions(poses):
        pose = moved_pose(pose, motion)
    assert pose == pytest.approx(poses[-1], abs=1e-12)
