# SPDX-License-Identifier: Apache-2.0
"""Camera paths of the generation command are those of the training data, and what does not go together is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cosmos1.data.geometry.cameras import CameraPath, named_path
from cosmos1.data.modules.camera_folder import CameraFolderDataModule
from cosmos1.data.sources.camera_files import read_camera_path, write_camera_path
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation import camera_control
from cosmos1.generation.generator import VideoShape
from cosmos1.generation.requests import read_requests
from data_prep import camera_control as preparation
from tests.data.posed import png, scene_files, write_zip

SHAPE = VideoShape(num_frames=9, height=32, width=64, fps=7)
LATENT_SHAPE = [2, 4, 8]
FRAMES = np.zeros((9, 32, 64, 3), np.uint8)


def shot(*options, metres_per_unit=None, alignment="latent"):
    """The first of the videos that a command line asks for."""
    options = camera_control.parser("").parse_args(["--prompt", "A room.", *(str(option) for option in options)])
    (request,) = read_requests(options, camera_control.PER_VIDEO)
    return camera_control.read_shot(options, request, SHAPE, LATENT_SHAPE, metres_per_unit, alignment)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Ten pictures of 20 x 32 along an orbit; at 32 x 64 they are padded at the sides."""
    poses = named_path("orbit", 10, 25)
    return write_zip(tmp_path_factory.mktemp("scene") / "orbit.zip", scene_files(10, poses=poses))


@pytest.mark.parametrize("settings", [{}, {"metres_per_unit": 0.5}, {"frame_alignment": "first"}])
def test_rays_and_padding_are_those_of_the_training_data(scene, tmp_path, settings):
    size = ["--num_frames", "9", "--height", "32", "--width", "64"]
    paths = ["--dataset_path", str(scene.parent), "--output_path", str(tmp_path / "cached")]
    preparation.main(preparation.build_parser().parse_args([*paths, *size]))
    data = CameraFolderDataModule(path=str(tmp_path / "cached"), validation_fraction=0, num_workers=0, **settings)
    data.micro_batch_size = data.global_batch_size = 1
    data.setup()
    trained = next(iter(data.train_batches(0, 1, 0)))
    start = json.loads((tmp_path / "cached" / "0.info.json").read_text())["start_frame"]
    whole = read_camera_path(scene)
    write_camera_path(tmp_path / "path.json", whole.of_frames(slice(start, start + 9)))
    (tmp_path / "start.png").write_bytes(png())
    given = ("--camera_extrinsics_path", tmp_path / "path.json", "--conditioned_image_or_video_path")
    names = {"frame_alignment": "alignment"}
    made = shot(*given, tmp_path / "start.png", **{names.get(key, key): value for key, value in settings.items()})
    assert torch.equal(made.controls["plucker_embeddings"], trained["plucker_embeddings"])
    assert torch.equal(made.padding_mask, trained["padding_mask"]) and made.padding_mask.mean() > 0
    assert made.given_frames.shape == (1, 32, 64, 3)


def test_a_scene_brings_its_own_first_picture(scene):
    made = shot("--camera_extrinsics_path", scene)
    assert made.given_frames.shape == (1, 32, 64, 3) and int(made.given_frames[0, 16, 32, 0]) == 1


def test_a_named_path_has_the_field_of_view_of_the_picture(tmp_path):
    (tmp_path / "start.png").write_bytes(png(height=16, width=32))
    options = ("--conditioned_image_or_video_path", tmp_path / "start.png", "--field_of_view", 90)
    made = shot(*options, "--camera_path", "pan", "--camera_path_amount", -20)
    assert np.allclose(made.cameras.intrinsics, [16, 16, 16, 8])  # half the width of 32 pixels: 45 degrees
    assert np.allclose(made.cameras.poses, named_path("pan", 9, -20))
    directions = made.controls["plucker_embeddings"][0, :, 3:, 2, 4]
    assert directions[1, 0] < directions[0, 0] - 0.2  # to the left


def test_rays_are_those_of_the_frames_of_the_tokenizer(scene):
    """Four frames for each latent one in place of eight."""
    options = camera_control.parser("").parse_args(["--prompt", "", "--camera_extrinsics_path", str(scene)])
    (request,) = read_requests(options, camera_control.PER_VIDEO)
    coarse, fine = (
        camera_control.read_shot(options, request, SHAPE, [frames, 4, 8], 1.0, "latent").controls["plucker_embeddings"]
        for frames in (2, 3)
    )
    assert fine.shape == (1, 3, 6, 4, 8) and torch.equal(fine[:, ::2], coarse)


def write_path(tmp_path, num_frames, height, width):
    intrinsics = np.tile([30.0, 30.0, width / 2, height / 2], (num_frames, 1))
    write_camera_path(tmp_path / "path.json", CameraPath(named_path("dolly", num_frames), intrinsics, height, width))


PICTURE = ("--conditioned_image_or_video_path", "start.png")


@pytest.mark.parametrize(
    "options, path, error, words",
    [
        (PICTURE, None, ConfigError, ["--camera_extrinsics_path", "orbit,dolly,pan"]),
        (
            (*PICTURE, "--camera_extrinsics_path", "path.json", "--camera_path", "pan"),
            (9, 20, 32),
            ConfigError,
            ["either"],
        ),
        ((*PICTURE, "--camera_extrinsics_path", "path.json"), (5, 20, 32), DataError, ["5 poses", "9 frames"]),
        ((*PICTURE, "--camera_extrinsics_path", "path.json"), (9, 20, 20), ConfigError, ["20 x 20", "20 x 32"]),
        ((*PICTURE, "--camera_path", "pan", "--field_of_view", "200"), None, ConfigError, ["200", "1 to 170"]),
        (
            (*PICTURE, "--camera_extrinsics_path", "path.json", "--field_of_view", "50"),
            (9, 20, 32),
            ConfigError,
            ["--field_of_view", "leave it out"],
        ),
        (("--camera_extrinsics_path", "path.json"), (9, 20, 32), ConfigError, ["--conditioned_image_or_video_path"]),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch, options, path, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.png").write_bytes(png())
    if path:
        write_path(tmp_path, *path)
    with pytest.raises(error) as caught:
        shot(*options)
    assert all(word in str(caught.value) for word in words)


def test_lines_of_a_batch_set_their_own_cameras_and_nothing_else(tmp_path):
    (tmp_path / "start.png").write_bytes(png())
    lines = [
        {"prompt": "a", "name": "left", "visual_input": "start.png", "camera_path": "pan", "camera_path_amount": -9},
        {"prompt": "b", "visual_input": "start.png", "camera_path": "pan", "camera_way": "pan"},
    ]
    (tmp_path / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = camera_control.parser("").parse_args(["--batch_input_path", str(tmp_path / "batch.jsonl")])
    with pytest.raises(DataError, match="line 2.*camera_way"):
        read_requests(options, camera_control.PER_VIDEO)
    (tmp_path / "batch.jsonl").write_text(json.dumps(lines[0]))
    (first,) = read_requests(options, camera_control.PER_VIDEO)
    made = camera_control.read_shot(options, first, SHAPE, LATENT_SHAPE, None, "latent")
    assert first.save_path.name == "left.mp4" and np.allclose(made.cameras.poses, named_path("pan", 9, -9))


def test_the_cameras_that_are_written_are_read_again_for_the_same_picture(tmp_path):
    """Also where the picture, of another shape than the video, was letterboxed."""
    (tmp_path / "start.png").write_bytes(png(height=20, width=20))
    picture = ("--conditioned_image_or_video_path", tmp_path / "start.png")
    first = shot(*picture, "--camera_path", "orbit")
    camera_control.save(replace(first, request=replace(first.request, save_path=tmp_path / "a.mp4")), "", FRAMES, {})
    again = shot(*picture, "--camera_extrinsics_path", tmp_path / "cameras" / "a.json")
    assert torch.equal(again.controls["plucker_embeddings"], first.controls["plucker_embeddings"])
