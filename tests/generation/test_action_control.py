# SPDX-License-Identifier: Apache-2.0
"""Roll-outs: which samples they are made of, that each goes on from the one before, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos1.conditioning.settings import ActionConditioning
from cosmos1.data.formats.action_frames import ActionFrames
from cosmos1.data.sources.bridge import read_episode, read_episodes
from cosmos1.data.video import read_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation.action_command import first_picture, parser, read_roll_outs
from cosmos1.generation.action_control import agreed_frames, roll_out, steps_of, windows
from cosmos1.generation.generator import VideoGenerator
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.generation import GenerationSettings
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from cosmos1.parallel.strategy import MegatronStrategy
from tests.data.arm_tree import arm_tree

RECORDED = ActionFrames("scaled", 32, 48, 5.0)
NOTHING_GIVEN = dict.fromkeys(("action_convention", "height", "width", "fps"))
SIZES = {"hidden_size": 48, "num_layers": 1, "num_attention_heads": 4, "adaln_lora_dim": 16}


@pytest.mark.parametrize(
    "num_steps, num_actions, expected",
    [
        (4, 1, [(0, 1), (1, 1), (2, 1)]),
        (5, 2, [(0, 2), (2, 2)]),
        (6, 2, [(0, 2), (2, 2), (3, 1)]),
        (4, 3, [(0, 3)]),
    ],
)
def test_windows_make_every_frame_once(num_steps, num_actions, expected):
    assert list(windows(num_steps, num_actions)) == expected


def test_what_is_recorded_needs_no_option_and_bears_no_other():
    assert agreed_frames(RECORDED, NOTHING_GIVEN) == RECORDED
    assert agreed_frames(RECORDED, NOTHING_GIVEN | {"height": 32, "fps": 5.0}) == RECORDED
    for option, value in {"height": 64, "width": 32, "fps": 4.0, "action_convention": "json"}.items():
        with pytest.raises(ConfigError, match=f"--{option} {value}: the network was trained with"):
            agreed_frames(RECORDED, NOTHING_GIVEN | {option: value})


def test_what_is_not_recorded_must_be_said():
    with pytest.raises(ConfigError, match="--action_convention; give"):
        agreed_frames(replace(RECORDED, convention="not recorded"), NOTHING_GIVEN)
    given = {"action_convention": "scaled", "height": 32, "width": 48, "fps": 5.0}
    assert agreed_frames(None, given) == RECORDED
    with pytest.raises(ConfigError, match="--height; give"):
        agreed_frames(None, given | {"height": None})


@pytest.fixture
def tree(tmp_path, tmp_path_factory) -> Path:
    return arm_tree(tmp_path / "tree", tmp_path_factory)


def asked(*options) -> list:
    words = ["--checkpoint", "run", *map(str, options)]
    return read_roll_outs(parser("").parse_args(words), action_dim=7)


def test_a_split_is_rolled_out_under_true_and_under_shuffled_actions(tree, tmp_path):
    options = ("--dataset_path", tree, "--split", "val", "--video_save_path", tmp_path / "out")
    true, shuffled = asked(*options), asked(*options, "--shuffle_actions")
    assert [each.request.save_path.name for each in true] == ["4.mp4", "5.mp4"]
    assert [each.request for each in true] == [replace(r.request, prompt=true[0].request.prompt) for r in shuffled]
    assert [each.episode.name for each in true] == ["4", "5"] and [each.episode.name for each in shuffled] == ["5", "4"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--input_image_or_video_path", "a.png"], "for one video, or --dataset_path"),
        (["--dataset_path", "tree", "--action_annotation_path", "a.json"], "for one video, or --dataset_path"),
        (["--input_image_or_video_path", "a", "--action_annotation_path", "a", "--shuffle_actions"], "give that"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(ConfigError, match=words):
        asked(*options)


def test_an_annotation_alone_is_enough(tree, tmp_path):
    annotation = json.loads((tree / "annotation/val/4.json").read_text())
    (tmp_path / "alone.json").write_text(json.dumps(annotation))
    video = tree / "videos/val/4/rgb.mp4"
    one = ["--input_image_or_video_path", video, "--action_annotation_path", tmp_path / "alone.json"]
    (found,) = asked(*one, "--video_save_path", "a.mp4")
    assert found.episode.action.tolist() == annotation["action"] and found.request.save_path == Path("a.mp4")
    assert (first_picture(str(video)) == read_video(video)[0]).all()


def generator_of(**action) -> VideoGenerator:
    """A network whose action layers, zero at the start, have weights that matter."""
    config = DiTConfig(condition_mask=True, action=ActionConditioning(**action), **SIZES)
    objective = EDMObjective(conditioning=VideoConditioning(1, 1))
    generator = VideoGenerator(DiffusionModel(config, objective, "dct", single_frames=True), MegatronStrategy(), None)
    random = torch.Generator().manual_seed(0)
    for parameter in generator.model.chunks[0].parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    return generator


def rolled(generator, episode, start, seed=1) -> np.ndarray:
    return roll_out(generator, start, episode, RECORDED, GenerationSettings(4, 0.0, seed=seed))


def shorter(episode, first: int, num_frames: int):
    """A part of an episode."""
    rows = slice(first, first + num_frames)
    parts = {"state": episode.state[rows], "gripper": episode.gripper[rows]}
    return replace(episode, action=episode.action[first : first + num_frames - 1], **parts)


def test_each_frame_follows_from_the_one_before_and_its_own_action(tree):
    episode = read_episodes(tree, "val")[0][0]
    start = read_video(episode.video(0))[0]
    generator = generator_of()
    video = rolled(generator, shorter(episode, 0, 4), start)
    assert video.shape == (4, 32, 48, 3)
    # A roll-out that goes on from the second frame repeats the first one, but for the rounding to 8 bits on the way.
    again, astray = (rolled(generator, shorter(episode, 1, 3), given, seed=2) for given in (video[1], start))
    differences = [np.abs(each[1:].astype(int) - video[2:]).mean() for each in (again, astray)]
    assert differences[0] < 0.2 * differences[1], differences
    elsewhere = shorter(episode, 0, 4)
    elsewhere.gripper[2] = 1 - elsewhere.gripper[2]
    other = rolled(generator, elsewhere, start)
    assert (other[:2] == video[:2]).all() and np.abs(other[2].astype(int) - video[2]).mean() > 0.1


def test_several_actions_at_once_make_as_many_frames(tree):
    episode = read_episodes(tree, "val")[0][0]
    generator = generator_of(num_actions=2)
    video = rolled(generator, episode, read_video(episode.video(0))[0])
    assert len(video) == episode.num_frames == 6
    with pytest.raises(DataError, match="1 actions, the network needs at least 2 at once"):
        steps_of(shorter(episode, 0, 2), RECORDED, generator.task)


def test_actions_that_the_network_does_not_take(tree):
    episode = read_episode(None, tree / "annotation/val/4.json")
    task = DiffusionModel(DiTConfig(action=ActionConditioning(action_dim=10)))
    with pytest.raises(DataError, match="actions of 7 numbers, the network takes 10"):
        steps_of(episode, RECORDED, task)
    task.config.action.action_dim = 7
    assert steps_of(episode, replace(RECORDED, interval=2), task) == [0, 2, 4]
    with pytest.raises(ConfigError, match="one recorded action per frame"):
        steps_of(episode, replace(RECORDED, convention="json", interval=2), task)
