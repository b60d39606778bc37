# SPDX-License-Identifier: Apache-2.0
"""Texts, views and trajectories of the multi-view command, and what does not fit rig or network."""

import json

import numpy as np
import pytest
import torch

from cosmos1.checkpoint.folders import folder_name
from cosmos1.conditioning.settings import TrajectoryConditioning, ViewConditioning
from cosmos1.data.geometry.rigs import read_rig
from cosmos1.data.geometry.trajectories import preset_trajectory
from cosmos1.data.preparing.view_text import multiview_text, view_descriptions
from cosmos1.data.video import write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation import multiview
from cosmos1.generation.generator import network_of_size
from cosmos1.generation.view_options import view_rows
from cosmos1.models.tokenizers.text import build_text_encoder
from tests.data.posed import png

NAMES = ["front", "left", "rear"]


@pytest.fixture
def rig(tmp_path, monkeypatch):
    """Three cameras, and a picture of each in the working directory."""
    monkeypatch.chdir(tmp_path)
    cameras = [{"name": name, "description": f"Camera {name}."} for name in NAMES]
    (tmp_path / "rig.json").write_text(json.dumps({"cameras": cameras}))
    for value, name in enumerate(NAMES):
        (tmp_path / f"{name}.png").write_bytes(png(value=value))
    write_video(tmp_path / "long.mp4", np.zeros((12, 20, 32, 3), np.uint8), 10)
    (tmp_path / "wrong.json").write_text(json.dumps({"top": "A roof."}))
    (tmp_path / "texts.json").write_text(json.dumps({"rear": "A road behind."}))
    return read_rig(tmp_path / "rig.json")


def network(images=True, trajectory=True, num_views=3):
    task = network_of_size("tiny", video2world=images)
    task.config.views = ViewConditioning(num_views=num_views)
    task.config.trajectory = TrajectoryConditioning() if trajectory else None
    return task


def drive(rig, task, *options):
    options = multiview.parser("").parse_args(["--rig", "rig.json", *options])
    (request,) = multiview._requests(options)
    return multiview.read_drive(options, request, task, rig, view_rows(options, task.config.views.num_views, rig))


PICTURES = ("--conditioned_images", "{camera}.png")
UNEQUAL = ("--conditioned_images", "front.png", "long.mp4", "rear.png", "--num_input_frames", "9")
TEXT = ("--prompt", "A town.")


def test_a_drive_has_a_caption_a_picture_and_a_row_for_each_view(rig):
    made = drive(
        rig, network(), "--prompt_path", "texts.json", *PICTURES, "--trajectory", "left", "--trajectory_speed", "5"
    )
    assert made.captions == ["", "", "A road behind."]
    assert [int(frames[0, 0, 0, 0]) for frames in made.given_frames] == [0, 1, 2]
    assert made.controls["view_indices"].tolist() == [[0, 1, 2]] and made.controls["frame_repeat"].shape == (1, 3)
    assert np.array_equal(made.controls["trajectory"][0], preset_trajectory("left", 5))


def test_no_trajectory_is_zeros_and_must_be_said(rig):
    made = drive(rig, network(), *TEXT, *PICTURES, "--trajectory", "none")
    assert made.controls["trajectory"].abs().sum() == 0
    assert "trajectory" not in drive(rig, network(trajectory=False), *TEXT, *PICTURES).controls


@pytest.mark.parametrize(
    "task, options, error, words",
    [
        ({}, (*TEXT, "--trajectory", "left"), ConfigError, ["--conditioned_images", "--num_input_frames 0"]),
        ({}, (*TEXT, "--trajectory", "left", "--conditioned_images", "a.png", "b.png"), ConfigError, ["2 for 3 views"]),
        ({}, (*TEXT, *PICTURES), ConfigError, ["--trajectory_path", "straight,left,right,stop,none"]),
        ({"trajectory": False}, (*TEXT, *PICTURES, "--trajectory", "left"), ConfigError, ["takes no trajectory"]),
        ({"images": False}, (*TEXT, *PICTURES, "--trajectory", "left"), ConfigError, ["image2world"]),
        ({"num_views": 6}, TEXT, ConfigError, ["3 cameras", "6 views"]),
        (
            {},
            ("--prompt_path", "wrong.json", *PICTURES, "--trajectory", "stop"),
            DataError,
            ["top", "front, left, rear"],
        ),
        ({}, (*TEXT, "--trajectory", "stop", *UNEQUAL), ConfigError, ["[1, 9, 1] frames"]),
        ({}, (*TEXT, *PICTURES, "--trajectory", "none", "--trajectory_speed", "5"), ConfigError, ["leave it out"]),
        ({}, (*TEXT, "--prompt_path", "texts.json"), ConfigError, ["one of --prompt"]),
        ({}, PICTURES, ConfigError, ["one of --prompt"]),
    ],
)
def test_what_does_not_fit_rig_or_network_is_refused(rig, task, options, error, words):
    with pytest.raises(error) as caught:
        drive(rig, network(**task), *options)
    assert all(word in str(caught.value) for word in words)


def test_repeated_frames_of_each_view(tmp_path):
    """The last two of six views of weights that no run of this suite wrote repeat ten frames."""
    (tmp_path / "weights.safetensors").touch()

    def repeats(num_views, *options):
        return multiview.frame_repeats(multiview.parser("").parse_args([str(option) for option in options]), num_views)

    published = ("--checkpoint", tmp_path / "weights.safetensors")
    assert repeats(6, *published) == [0, 0, 0, 0, 10, 10] and repeats(3, *published) == [0, 0, 0]
    assert repeats(6) == [0] * 6
    assert repeats(3, *published, "--frame_repeat", "1", "0", "2.5") == [1, 0, 2.5]
    for wrong in (("1", "0"), ("0", "0", "-1")):
        with pytest.raises(ConfigError, match="give 3 numbers"):
            repeats(3, "--frame_repeat", *wrong)
    context = tmp_path / "own" / "checkpoints" / folder_name(0, 1) / "context"
    for folder in (context, context.parent / "weights"):
        folder.mkdir(parents=True)
    (context / "checksums.json").write_text("{}")
    torch.save({}, context.parent / "weights" / "common.pt")
    (context / "recipe.yaml").write_text("data: {path: drives}")
    assert repeats(6, "--checkpoint", tmp_path / "own") == [0] * 6


class Encoder:
    """The part of a generator that makes texts."""

    def __init__(self, task):
        self.task, self.encoder = task, build_text_encoder("hashed")

    def embed(self, prompts):
        return self.encoder.encode(prompts)[0]


def test_texts_are_those_of_the_training_data(rig):
    task = network()
    captions = [["A road.", "", "A wall."], ["A road."] * 3]
    encoder = build_text_encoder("hashed", dtype=torch.bfloat16)

    def encode(text):
        embeddings, lengths = encoder.encode([text])
        return embeddings[0], int(lengths[0])

    made = multiview.drive_texts(Encoder(task), rig, captions)
    for sample, text in zip(captions, made):
        trained, _ = multiview_text(view_descriptions(rig, encode), [caption or None for caption in sample], encode)
        assert torch.equal(text[0], trained.float())
    task.config.views.shared_text = True
    assert [text.shape for text in multiview.drive_texts(Encoder(task), rig, captions)] == [(1, 512, 1024)] * 2
