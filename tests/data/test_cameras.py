# SPDX-License-Identifier: Apache-2.0
"""Rays, poses, padding: numbers worked out independently, and named paths that do what they say."""

import numpy as np
import pytest

from cosmos1.data.geometry.cameras import (
    CameraPath,
    check_poses,
    latent_frames,
    named_path,
    opencv_from_opengl,
    plucker_embeddings,
    relative_to_first,
    scaled_translations,
)
from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras, letterbox_frames, padding_mask
from cosmos1.data.sources.camera_files import cameras_for_video, read_camera_path, write_camera_path
from cosmos1.errors import ConfigError, DataError
from tests.data.posed import scene_files, transforms, write_zip


def shifted(*positions):
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    return poses


def hd_path(poses, focal=1000.0):
    return CameraPath(poses, np.tile([focal, focal, 640.0, 360.0], (len(poses), 1)), 720, 1280)


def test_rays_have_the_reference_values():
    """720 x 1280 pictures in 704 x 1280 with 14 padded columns on each side, rays on a grid of 88 x 160."""
    poses = opencv_from_opengl(shifted((0, 0, 0), (0.5, 0, 0), (1, 0, -2)))
    cameras = letterbox_cameras(hd_path(poses), letterbox(720, 1280, 704, 1280))
    assert cameras.intrinsics[0] / 8 == pytest.approx([122.265625, 122.222222, 80, 44])
    rays = plucker_embeddings(cameras, 88, 160)
    assert rays.shape == (3, 6, 88, 160) and rays.dtype == np.float32
    for frame in range(3):
        assert rays[frame, 3:, 44, 80] == pytest.approx([0.004089, 0.004091, 0.999983], abs=1e-6)
    assert rays[0, :3, 44, 80] == pytest.approx([0, 0, 0], abs=1e-9)
    assert rays[1, :3, 44, 80] == pytest.approx([0, -0.223603, 0.000915], abs=1e-6)
    assert rays[2, :3, 44, 80] == pytest.approx([-0.003659, -0.443548, 0.001829], abs=1e-6)
    assert rays[2, :, 0, 0] == pytest.approx([0.255737, -0.826488, -0.127869, -0.522363, -0.285923, 0.803359], abs=1e-6)


def test_a_static_camera_has_zero_moments_and_no_nan():
    poses = np.tile(shifted((3, 1, 2)), (4, 1, 1))
    poses[:, :3, :3] = named_path("pan", 4)[:, :3, :3]
    rays = plucker_embeddings(hd_path(poses), 4, 6)
    assert np.isfinite(rays).all() and np.abs(rays[:, :3]).max() == 0
    assert np.linalg.norm(rays[:, 3:], axis=1) == pytest.approx(np.ones((4, 4, 6)), abs=1e-6)


def test_scale_is_that_of_the_two_farthest_cameras_or_the_one_given():
    poses = relative_to_first(shifted((1, 0, 0), (1, 0, 3), (1, 4, 0)))
    assert scaled_translations(poses)[1:, :3, 3] == pytest.approx(np.array([[0, 0, 3], [0, 4, 0]]) / 5)
    assert scaled_translations(poses, 2.0)[2, 1, 3] == 2


def test_relative_poses_do_not_depend_on_the_world():
    path = named_path("orbit", 5)
    world = named_path("pan", 2, 70)[1] @ shifted((4, -2, 9))[0]
    assert relative_to_first(world @ path) == pytest.approx(path)


def test_latent_frames_are_the_last_of_each_group():
    assert latent_frames(57).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]


def test_both_sides_are_masked_as_padding():
    mask = padding_mask(letterbox(720, 1280, 704, 1280), 88, 160)
    assert mask.shape == (1, 88, 160) and np.flatnonzero(mask[0, 0]).tolist() == [0, 1, 159]
    pixels = padding_mask(letterbox(720, 1280, 704, 1280), 704, 1280)
    assert np.flatnonzero(pixels[0, 0] == 0).tolist() == list(range(14, 14 + 1252))


@pytest.mark.parametrize("width, left", [(40, 4), (24, -4), (200, 84)])
def test_content_lies_where_the_cameras_say(width, left):
    """A bright column of the source is found again at the place to which the principal point moves."""
    frames = np.zeros((2, 16, 32, 3), np.uint8)
    frames[:, :, 15:17] = 255
    box = letterbox(16, 32, 16, width)
    out = letterbox_frames(frames, box)
    cameras = letterbox_cameras(CameraPath(np.eye(4)[None], np.array([[20.0, 20, 16, 8]]), 16, 32), box)
    assert out.shape == (2, 16, width, 3) and box.left == left and cameras.intrinsics[0, 2] == 16 + left
    content = out[0, 0, max(left, 0) : max(left, 0) + min(32, width), 0]
    centre = np.average(np.arange(len(content)) + 0.5, weights=content) + max(left, 0)
    assert centre == pytest.approx(cameras.intrinsics[0, 2])
    assert box.image_size == [16, width, 16, min(32, width)]


def test_padding_is_a_reflection_and_scaling_keeps_the_aspect():
    frames = np.random.RandomState(0).randint(0, 255, (1, 20, 30, 3)).astype(np.uint8)
    box = letterbox(20, 30, 40, 80)
    out = letterbox_frames(frames, box)[0]
    assert (box.content_height, box.content_width, box.left, box.right) == (40, 60, 10, 10)
    assert np.array_equal(out[:, 9], out[:, 11]) and np.array_equal(out[:, 70], out[:, 68])


def test_named_paths_go_where_their_names_say():
    dolly, pan, orbit = (named_path(name, 9) for name in ("dolly", "pan", "orbit"))
    for path in (dolly, pan, orbit):
        check_poses(path, "path")
        assert path[0] == pytest.approx(np.eye(4))
    assert dolly[-1, :3, 3] == pytest.approx([0, 0, 1])
    assert pan[-1, 0, 2] == pytest.approx(0.5) and np.abs(pan[:, :3, 3]).max() == 0
    assert orbit[-1, 0, 3] == pytest.approx(0.5)
    # The circled point, one unit ahead of the first camera, stays on the optical axis.
    for pose in orbit:
        assert (np.linalg.inv(pose) @ [0, 0, 1, 1])[:3] == pytest.approx([0, 0, 1])
    with pytest.raises(ConfigError, match='no camera path "spiral"; known: orbit, dolly, pan'):
        named_path("spiral", 9)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda poses: poses[:, :3], "have shape .2, 3, 4., .frames, 4, 4. is needed"),
        (lambda poses: poses * np.nan, "pose of frame 0 is not finite"),
        (lambda poses: poses * 1.01, "pose of frame 0 is not a rotation"),
        (lambda poses: poses * [-1, 1, 1, 1], "not a rotation"),
    ],
)
def test_poses_that_are_no_rigid_motion(change, words):
    with pytest.raises(DataError, match=f"here: .*{words}"):
        check_poses(change(shifted((0, 0, 0), (1, 0, 0))), "here")


def test_camera_files_of_every_convention_give_one_path(tmp_path):
    import json

    opencv = named_path("orbit", 3)
    cameras = CameraPath(opencv, np.tile([25.0, 25, 16, 10], (3, 1)), 20, 32)
    write_camera_path(tmp_path / "own.json", cameras)
    base = json.loads((tmp_path / "own.json").read_text()) | {"intrinsics": [25.0, 25, 16, 10]}
    for convention, poses in (
        ("opengl_camera_to_world", opencv_from_opengl(opencv)),
        ("opencv_world_to_camera", np.linalg.inv(opencv)),
    ):
        content = base | {"convention": convention, "poses": poses.tolist()}
        (tmp_path / f"{convention}.json").write_text(json.dumps(content))
    opengl = opencv_from_opengl(opencv)
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(3, poses=opengl)))
    write_zip(tmp_path / "scene.zip", scene_files(3, poses=opengl))
    paths = sorted([*tmp_path.glob("*.json"), *tmp_path.glob("*.zip")])
    assert len(paths) == 5
    for path in paths:
        found = read_camera_path(path)
        assert found.poses == pytest.approx(opencv) and found.intrinsics == pytest.approx(cameras.intrinsics)
        assert (found.height, found.width) == (20, 32)
    (tmp_path / "bad.json").write_text(json.dumps(base | {"convention": "mine"}))
    with pytest.raises(DataError, match='convention "mine"; known: opencv_camera_to_world'):
        read_camera_path(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps(base | {"intrinsics": [[1, 1, 1, 1]] * 2}))
    with pytest.raises(DataError, match="one row fx, fy, cx, cy"):
        read_camera_path(tmp_path / "bad.json")
    with pytest.raises(DataError, match="3 poses, a video of 9 frames needs one for each"):
        cameras_for_video(cameras, 9, 32, 64, "x")
    assert cameras_for_video(cameras, 2, 40, 80, "x").intrinsics[0] == pytest.approx([50, 50, 40, 20])
