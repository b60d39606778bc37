# SPDX-License-Identifier: Apache-2.0
"""Rig files and the six-camera preset."""

import json

import numpy as np
import pytest

from cosmos1.data.geometry.rigs import load_rig, pose_in_rig, read_rig, rig_json, six_camera_rig
from cosmos1.errors import ConfigError, DataError

FORWARD, LEFT, UP = np.eye(3)


def test_six_cameras_have_the_training_order_and_face_where_their_names_say():
    rig = load_rig("six_cameras")
    assert rig.names == [
        "camera_front_wide_120fov", "camera_cross_left_120fov", "camera_cross_right_120fov",
        "camera_rear_tele_30fov", "camera_rear_left_70fov", "camera_rear_right_70fov",
    ]  # fmt: skip
    sight = [camera.rig_from_camera[:3, 2] for camera in rig.cameras]
    assert sight[0] == pytest.approx(FORWARD) and sight[3] == pytest.approx(-FORWARD)
    assert sight[1] @ LEFT > 0.9 and sight[2] @ LEFT < -0.9
    assert sight[4] @ LEFT > 0.5 > 0 > sight[4] @ FORWARD and sight[5] @ LEFT < -0.5
    for camera in rig.cameras:
        assert camera.rig_from_camera[:3, 1] == pytest.approx(-UP)  # y points down
        field_of_view = 2 * np.degrees(np.arctan(camera.width / 2 / camera.intrinsics[0]))
        assert camera.name.endswith(f"{round(field_of_view)}fov")
    assert rig.cameras[0].intrinsics_for(540, 480)[1] == pytest.approx(rig.cameras[0].intrinsics[1] / 2)


def test_roll_pitch_yaw():
    # Pitch turns the nose down (z into x), roll lifts the left side.
    assert pose_in_rig((1, 2, 3), (0, 90, 0))[:3, 2] == pytest.approx(-UP)
    assert pose_in_rig((1, 2, 3), (90, 0, 0))[:3, 0] == pytest.approx(-UP)
    assert pose_in_rig((1, 2, 3), (0, 0, 90))[:3, 2] == pytest.approx(LEFT)
    assert pose_in_rig((1, 2, 3), (10, 20, 30))[:3, 3].tolist() == [1, 2, 3]


def test_a_rig_file_gives_the_same_rig(tmp_path):
    rig = six_camera_rig()
    (tmp_path / "rig.json").write_text(json.dumps(rig_json(rig)))
    found = load_rig(str(tmp_path / "rig.json"))
    assert found.names == rig.names and found.preview == rig.preview
    for mine, theirs in zip(found.cameras, rig.cameras):
        assert mine.rig_from_camera == pytest.approx(theirs.rig_from_camera, abs=1e-9)
        assert mine.intrinsics == pytest.approx(theirs.intrinsics) and mine.description == theirs.description


def test_a_rig_of_names_alone(tmp_path):
    (tmp_path / "rig.json").write_text('{"cameras": [{"name": "a"}, {"name": "b"}]}')
    rig = read_rig(tmp_path / "rig.json")
    assert rig.names == ["a", "b"] and rig.preview == [["a", "b"]] and rig.cameras[0].rig_from_camera is None
    with pytest.raises(DataError, match="rig camera a: the rig file states no fx"):
        rig.cameras[0].intrinsics_for(1, 1)


def test_preview_arranges_views_by_name():
    frames = np.stack([np.full((2, 4, 6, 3), view, np.uint8) for view in range(6)])
    picture = six_camera_rig().preview_picture(frames)
    assert picture.shape == (2, 8, 18, 3) and picture[1, ::4, ::6, 0].tolist() == [[1, 0, 2], [4, 3, 5]]


@pytest.mark.parametrize(
    "content, words",
    [
        ("nonsense", "is not a rig"),
        ('{"cameras": [{}]}', "is not a rig .KeyError..name"),
        ('{"cameras": [{"name": "a"}, {"name": "a"}]}', r"cameras \['a', 'a'\]: at least one camera.*each name once"),
        ('{"cameras": [{"name": "a"}], "preview": [["b"]]}', r'"preview" names \[.b.\], the cameras are \[.a.\]'),
        ('{"cameras": [{"name": "a", "position": [0, 0, 0]}]}', "roll_pitch_yaw_degrees"),
    ],
)
def test_bad_rig_files(tmp_path, content, words):
    (tmp_path / "rig.json").write_text(content)
    with pytest.raises(DataError, match=f"rig.json: .*{words}"):
        read_rig(tmp_path / "rig.json")
    with pytest.raises(ConfigError, match="no such file. Give a rig file, or six_cameras"):
        load_rig(str(tmp_path / "nowhere.json"))
