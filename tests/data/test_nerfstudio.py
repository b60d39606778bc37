# SPDX-License-Identifier: Apache-2.0
"""Scenes as folders and zips, and the answer to each defect."""

import json
import zipfile

import numpy as np
import pytest

from cosmos1.data.geometry.cameras import opencv_from_opengl
from cosmos1.data.sources.nerfstudio import find_scenes, read_scene
from cosmos1.errors import DataError
from tests.data.posed import png, scene_files, transforms, write_zip


def poses(count):
    found = np.tile(np.eye(4), (count, 1, 1))
    found[:, 0, 3] = np.arange(count)
    return found


@pytest.mark.parametrize("prefix", ["", "abc123/"])
def test_a_zip_at_either_depth(tmp_path, prefix):
    scene = read_scene(write_zip(tmp_path / "abc123.zip", scene_files(3, prefix, poses=poses(3))))
    assert scene.name == "abc123" and (scene.height, scene.width) == (20, 32)
    assert scene.cameras.poses == pytest.approx(opencv_from_opengl(poses(3)))
    assert scene.cameras.intrinsics[1].tolist() == [25, 25, 16, 10]
    assert scene.read_frames(1, 2)[:, 0, 0, 0].tolist() == [2, 3]


def test_poses_follow_file_path_not_place(tmp_path):
    """Entries in any order, names that sort wrongly as text, and a folder instead of a zip."""
    order = [2, 11, 1]
    names = [f"images/frame_{number}.png" for number in order]
    (tmp_path / "images").mkdir()
    for number in order:
        (tmp_path / f"images/frame_{number}.png").write_bytes(png(value=number))
    content = transforms(3, poses=poses(12)[order], names=names)
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    scene = read_scene(tmp_path)
    assert scene.read_frames(0, 3)[:, 0, 0, 0].tolist() == [1, 2, 11]
    assert scene.cameras.poses[:, 0, 3].tolist() == [1, 2, 11]


def test_smaller_pictures_of_the_same_scene_and_alpha_over_white(tmp_path):
    files = scene_files(2)
    files = {name.replace("images/", "images_4/"): content for name, content in files.items()}
    files["images_4/frame_00001.png"] = png(10, 16, value=0, mode="RGBA")
    files["images_4/frame_00002.png"] = png(10, 16, value=40)
    scene = read_scene(write_zip(tmp_path / "a.zip", files))
    assert (scene.height, scene.width, scene.cameras.height) == (10, 16, 20)
    assert scene.read_frames(0, 2)[:, 0, 0, 0].tolist() == [255, 40]


def test_scenes_are_found_at_any_depth_and_named_by_their_paths(tmp_path):
    for folder in ("b/nerfstudio", "scene.v1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "transforms.json").write_text("{}")
    write_zip(tmp_path / "b" / "z.v2.zip", scene_files(1))
    found = find_scenes(tmp_path)
    assert list(found) == ["b/nerfstudio", "b/z.v2", "scene.v1"] and found["b/z.v2"].name == "z.v2.zip"
    assert list(find_scenes(tmp_path / "scene.v1")) == ["scene.v1"]
    assert read_scene(found["b/z.v2"]).name == "z.v2" and read_scene(found["b/z.v2"], name="b/z.v2").name == "b/z.v2"
    with pytest.raises(DataError, match="scene scene.v1: .*has no pictures|scene scene.v1: transforms.json"):
        read_scene(found["scene.v1"])
    write_zip(tmp_path / "scene.v1.zip", scene_files(1))
    with pytest.raises(DataError, match="scene.v1 and .*scene.v1.zip are both the scene scene.v1"):
        find_scenes(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no .*zip and no transforms.json"):
        find_scenes(tmp_path / "empty")


def write_scene(folder, images):
    """A scene of one picture, which lies in the folder `images`."""
    folder.mkdir(parents=True)
    images.mkdir(parents=True, exist_ok=True)
    (images / "frame_00001.png").write_bytes(png(value=7))
    (folder / "transforms.json").write_text(json.dumps(transforms(1)))
    return folder


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    write_scene(tmp_path / "scenes/a", tmp_path / "store/pictures")
    (tmp_path / "scenes/a/images").symlink_to(tmp_path / "store/pictures")
    (tmp_path / "scenes/b").symlink_to(write_scene(tmp_path / "store/b", tmp_path / "store/b/images"))
    (tmp_path / "store/b/all").symlink_to(tmp_path / "scenes")
    write_zip(tmp_path / "scenes/C.ZIP", scene_files(1))
    found = find_scenes(tmp_path / "scenes")
    assert sorted(found) == ["C", "a", "b"]
    assert [read_scene(found[name]).read_frames(0, 1)[0, 0, 0, 0] for name in "Cab"] == [1, 7, 7]
    (tmp_path / "scenes/me").symlink_to("me")
    with pytest.raises(DataError, match="scenes/me: cannot be listed .Too many levels of symbolic links"):
        find_scenes(tmp_path / "scenes")


def without(files, name):
    return {key: value for key, value in files.items() if key != name}


FIRST = "images/frame_00001.png"
DEFECTS = [
    ({**scene_files(2), "../evil.png": b""}, r"member '../evil.png' points outside"),
    (without(scene_files(2), "transforms.json"), "holds no transforms.json"),
    ({"transforms.json": transforms(2)}, "has no pictures in images/"),
    ({"transforms.json": b"[1, 2", FIRST: png()}, 'not a JSON object with a list "frames"'),
    (
        scene_files(2) | {"images/frame_00003.png": png()},
        "3 images but 2 poses; 1 images have no entry.*frame_00003.png",
    ),
    (without(scene_files(3), FIRST), "2 images but 3 poses.*1 entries have no file .first: images/frame_00001.png"),
    (scene_files(2, w=None, h=None), "has no w, h. Add the size"),
    (scene_files(2, fl_y=None), "has no fl_y"),
    (scene_files(2, w=64), "w, h = 64, 20, but the pictures are 32 wide and 20 high"),
    (scene_files(2, fl_x=0.78), "fl_x = 0.78 for pictures 32 wide.*in pixels of w x h, not divided"),
    (scene_files(2, fl_y="a"), "fl_y is 'a', a number is needed"),
    (scene_files(2, w="wide"), "w is 'wide', a number is needed"),
    (scene_files(2, h=0), "w, h = 32, 0; the size of the pictures"),
    (scene_files(2, k1=[0.1]), r"k1 is \[0.1\], a number is needed"),
    (scene_files(2, frames=[1, 2]), 'not a JSON object with a list "frames"'),
    (scene_files(2, camera_model="OPENCV_FISHEYE"), "camera_model OPENCV_FISHEYE.*Undistort"),
    (scene_files(2, poses=[np.eye(3), np.eye(3)]), r"transform_matrix of images/frame_00001.png has shape \(3, 3\)"),
    (scene_files(2, poses=[np.eye(4), np.full((4, 4), np.inf)]), "pose of frame 1 is not finite"),
    (scene_files(2, poses=[np.eye(4), np.diag([2.0, 1, 1, 1])]), "pose of frame 1 is not a rotation"),
    (scene_files(2) | {FIRST: b"no picture"}, "frame_00001.png: cannot be read as a picture"),
    (scene_files(2) | {FIRST: png(mode="I;16")}, r"frame_00001.png: is grey of more than 8 bits \(mode I"),
    (scene_files(2, names=[FIRST, FIRST]), "2 images but 2 poses; some poses name the same file_path"),
]


@pytest.mark.parametrize("files, words", DEFECTS, ids=[words[:24] for _, words in DEFECTS])
def test_defects_are_named(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        read_scene(write_zip(tmp_path / "scene.zip", files))


def test_unreadable_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="a.zip: cannot be read as a zip file"):
        read_scene(tmp_path / "a.zip")


def test_a_damaged_member_of_a_compressed_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("transforms.json", json.dumps(transforms(50)))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:90] = bytes(30)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="a.zip: transforms.json cannot be read .Error -3 while decompressing"):
        read_scene(tmp_path / "a.zip")


def test_unposed_pictures_can_be_dropped(tmp_path):
    files = without(scene_files(4, poses=poses(4)), FIRST) | {"images/frame_00009.png": png(value=9)}
    scene = read_scene(write_zip(tmp_path / "a.zip", files), allow_unposed=True)
    assert scene.cameras.poses[:, 0, 3].tolist() == [1, 2, 3]
    assert scene.read_frames(0, 3)[:, 0, 0, 0].tolist() == [2, 3, 4]


def test_pictures_of_another_size_and_large_distortion(tmp_path):
    files = scene_files(2, k1=0.3) | {"images/frame_00002.png": png(40, 64)}
    scene = read_scene(write_zip(tmp_path / "a.zip", files))
    assert "k1 = 0.3 is a large distortion" in scene.warnings[0]
    with pytest.raises(DataError, match="frame_00002.png is 40 x 64, the first picture of the scene is 20 x 32"):
        scene.read_frames(0, 2)


def test_distortion_of_single_frames_is_seen(tmp_path):
    content = transforms(2)
    content["frames"][1]["k1"] = -0.4
    scene = read_scene(write_zip(tmp_path / "a.zip", scene_files(2) | {"transforms.json": content}))
    assert "k1 = -0.4 is a large distortion" in scene.warnings[0]
