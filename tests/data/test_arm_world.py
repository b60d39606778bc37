# SPDX-License-Identifier: Apache-2.0
"""The arm world: repeatable, in the Bridge layout, and with pictures that show the recorded motion."""

import hashlib

import numpy as np
import pytest

from cosmos1.data.demo_worlds.arm_drawing import ArmRenderer, Block, find_gripper
from cosmos1.data.demo_worlds.arm_world import ArmEpisode, render_episode, sample_episode, write_arm_world
from cosmos1.data.geometry.actions import relative_motions
from cosmos1.data.sources.bridge import read_episodes, read_state_file
from cosmos1.data.video import read_video
from cosmos1.errors import ConfigError
from tests.data.arm_tree import arm_tree


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_layout_and_repeatability(tmp_path, tmp_path_factory):
    tree = arm_tree(tmp_path / "tree", tmp_path_factory)
    for split, count in (("train", 4), ("val", 2)):
        episodes, skipped = read_episodes(tree, split)
        assert len(episodes) == count and not skipped
        for episode in episodes:
            assert len(read_video(episode.video(0))) == episode.num_frames == len(read_state_file(episode)) == 6
    write_arm_world(tmp_path / "again", 4, 0, 2, 6, 48, 64)
    assert digest(tmp_path / "again") == digest(tree)
    with pytest.raises(ConfigError, match="is not empty"):
        write_arm_world(tree, 4)
    with pytest.raises(ConfigError, match="multiples of 16"):
        write_arm_world(tmp_path / "odd", 4, height=50)


@pytest.mark.parametrize("motion", ["wander", "instructed"])
def test_the_gripper_is_found_where_it_is(motion):
    episode = sample_episode(3, 5, 12, motion)
    found = np.stack([find_gripper(frame) for frame in render_episode(episode, ArmRenderer(96, 128))])
    assert np.abs(found[:, :2] - episode.path[:, :2]).max() < 2e-3
    assert np.abs(found[:, 2] - episode.path[:, 2]).max() < 0.04


def test_motion_seen_in_pictures_is_the_recorded_action():
    episode = sample_episode(0, 2, 10, "wander")
    poses = np.zeros((10, 6))
    poses[:, [0, 1, 5]] = [find_gripper(frame) for frame in render_episode(episode, ArmRenderer(192, 256))]
    recorded = np.array(episode.annotation("2", "")["action"])
    assert np.abs(relative_motions(poses) - recorded[:, :6]).max(axis=0) == pytest.approx(np.zeros(6), abs=0.03)
    # In the frame of the base the same motion would be far off.
    assert np.abs(np.diff(poses[:, :2], axis=0) - recorded[:, :2]).max() > 0.01


def test_no_gripper_is_none():
    assert find_gripper(np.full((48, 64, 3), 120, np.uint8)) is None


@pytest.mark.parametrize("index", range(8))
def test_instructed_episodes_end_where_the_text_says(index):
    episode = sample_episode(0, index, 20, "instructed")
    (block,) = [block for block in episode.blocks if block.colour in episode.text]
    end = episode.path[-1]
    assert end[3] == 1
    if "Move" in episode.text:
        assert end[:2] == pytest.approx(block.center)
    else:
        assert np.sign(end[1]) == (1 if "left" in episode.text else -1)
        assert np.linalg.norm(episode.path[:, :2] - block.center, axis=1).min() < 0.02


def test_a_closed_gripper_carries_the_block():
    path = np.array([[0.2, 0.0, 0.0, 0], [0.2, 0.0, 0.0, 1], [0.3, 0.15, 0.0, 1]])
    blocks = [Block("red", (0.2, -0.02), 0.0), Block("blue", (0.3, -0.2), 0.0)]
    frames = render_episode(ArmEpisode("x", path, blocks), ArmRenderer(96, 128)).astype(int)
    red = [(frame[..., 0] - frame[..., 1:].max(axis=-1)) > 100 for frame in frames]
    assert np.abs(red[2].nonzero()[1].mean() - red[0].nonzero()[1].mean()) > 20
    blue = [(frame[..., 2] - frame[..., :2].max(axis=-1)) > 80 for frame in frames]
    assert abs(blue[2].nonzero()[1].mean() - blue[0].nonzero()[1].mean()) < 2


def test_steps_cannot_be_told_from_the_steps_before():
    """What comes next is in the action alone: successive steps of a wandering arm are not alike."""
    steps = np.concatenate([np.diff(sample_episode(0, k, 33, "wander").path[:, :2], axis=0) for k in range(8)])
    assert abs(np.corrcoef(steps[:-1, 0], steps[1:, 0])[0, 1]) < 0.3
