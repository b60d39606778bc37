# SPDX-License-Identifier: Apache-2.0
"""The Bridge reader: what it returns, and the answer to each kind of broken tree."""

import json
import shutil

import numpy as np
import pytest

from cosmos1.data.sources.bridge import check_frame_count, read_episodes, read_state_file
from cosmos1.errors import ConfigError, DataError
from tests.data.arm_tree import arm_tree, change, read


@pytest.fixture
def tree(tmp_path, tmp_path_factory):
    return arm_tree(tmp_path / "tree", tmp_path_factory)


def test_episodes_in_the_order_of_their_numbers(tree):
    for split in ("annotation", "videos"):
        old = tree / split / "train" / ("2.json" if split == "annotation" else "2")
        old.rename(old.with_name(old.name.replace("2", "10")))
    change(tree, "10", videos=[{"video_path": "videos/train/10/rgb.mp4"}])
    episodes, skipped = read_episodes(tree, "train")
    assert [episode.name for episode in episodes] == ["0", "1", "3", "10"] and skipped == []
    first = episodes[0]
    assert first.state.shape == (6, 7) and first.action.shape == (5, 7) and first.gripper.shape == (6,)
    assert first.text == "Move the arm freely over the table." and first.video(0).name == "rgb.mp4"


def test_state_file_differs_by_half_a_turn(tree):
    episode = read_episodes(tree, "train")[0][0]
    state = read_state_file(episode)
    assert state[:, 3] == pytest.approx(episode.state[:, 3] - np.pi)
    assert np.clip(1 - state[:, 7], 0, 1) == pytest.approx(episode.gripper)


def test_episode_of_one_frame_is_skipped_and_named(tree):
    content = read(tree, "1")
    change(tree, "1", state=content["state"][:1], action=[], continuous_gripper_state=[0.0])
    episodes, skipped = read_episodes(tree, "train")
    assert len(episodes) == 3 and "1.json: 1 frames, a motion needs 2; skipped" in skipped[0]


def shorten(key):
    return lambda tree: change(tree, "1", **{key: read(tree, "1")[key][:-1]})


def nan_state(tree):
    state = read(tree, "1")["state"]
    state[3][2] = float("nan")
    change(tree, "1", state=state)


def narrow(tree):
    change(tree, "1", state=[row[:6] for row in read(tree, "1")["state"]])


def ragged(tree):
    change(tree, "1", action=[row[: 6 + (index > 0)] for index, row in enumerate(read(tree, "1")["action"])])


def null_videos(tree):
    path = tree / "annotation/train/1.json"
    path.write_text(json.dumps({**read(tree, "1"), "videos": None}))


def world_frame(tree):
    """Displacements in the frame of the base, the classic mistake."""
    content = read(tree, "1")
    states, action = np.array(content["state"]), np.array(content["action"])
    action[:, :3] = np.diff(states[:, :3], axis=0)
    change(tree, "1", action=action.tolist())


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda tree: shutil.rmtree(tree / "annotation" / "train"), "train does not exist; splits that exist.*: val"),
        (lambda tree: [p.unlink() for p in (tree / "annotation/train").iterdir()], "train is empty; splits.*val"),
        (lambda tree: (tree / "videos/train/1/rgb.mp4").unlink(), "1.json: lists the video videos/train/1/rgb.mp4.*no file"),
        (lambda tree: (tree / "annotation/train/1.json").unlink(), r"1 video folders have no annotation \(1\)"),
        (
            lambda tree: (tree / "videos/train/1").rename(tree / "videos/train/7"),
            r"1 video folders have no annotation \(7\), and 1 annotations have no video folder \(1\)",
        ),
        (lambda tree: (tree / "annotation/train/1.json").write_text("{"), "1.json: cannot be read as JSON"),
        (lambda tree: change(tree, "1", state=None), "1.json: has no key state"),
        (shorten("action"), "episode 1: 6 states need 5 actions and 6 gripper values, found 4 and 6"),
        (shorten("continuous_gripper_state"), "found 5 and 5"),
        (shorten("state"), "5 states need 4 actions and 5 gripper values, found 5 and 6"),
        (narrow, r"episode 1: state has shape \(6, 6\), rows of 7"),
        (ragged, "episode 1: action: is no table of numbers"),
        (nan_state, "episode 1: state: row 3 holds NaN"),
        (world_frame, "episode 1: action . is .*, but the states give .*another convention"),
        (lambda tree: change(tree, "1", texts="x"), "episode 1: texts is 'x'"),
        (null_videos, "1.json: videos is None, a list with one entry per camera"),
        (lambda tree: change(tree, "1", videos=[]), r"1.json: videos is \[\], a list"),
        (lambda tree: change(tree, "1", videos=[{"video_path": 3}]), "1.json: lists the video 3, but there is no file"),
    ],
)  # fmt: skip
def test_broken_trees(tree, damage, words):
    damage(tree)
    with pytest.raises(DataError, match=words):
        read_episodes(tree, "train")


def test_unknown_split_and_camera(tree):
    with pytest.raises(ConfigError, match='no split "valid". Use one of train, val, test'):
        read_episodes(tree, "valid")
    with pytest.raises(
        DataError, match=r"camera 1 is asked for, but 1 are listed .*Use 0 to 0 .data.cam_ids, --camera"
    ):
        read_episodes(tree, "train")[0][0].video(1)


def test_counts_and_state_files_must_fit(tree):
    episode = read_episodes(tree, "train")[0][0]
    with pytest.raises(DataError, match="episode 0: .*rgb.mp4 has 5 frames but .*0.json lists 6 states"):
        check_frame_count(episode, 0, 5)
    np.save(tree / "videos/train/0/state.npy", read_state_file(episode)[:-1])
    with pytest.raises(DataError, match=r"episode 0: .*state.npy has shape \(5, 8\), \(6, 8\) is needed"):
        read_state_file(episode)


def test_actions_of_other_robots_keep_their_width(tree):
    for name in "0123":
        change(tree, name, action=np.arange(15.0).reshape(5, 3).tolist(), state=np.zeros((6, 4)).tolist())
    episodes, _ = read_episodes(tree, "train", action_dim=3)
    assert episodes[0].action.shape == (5, 3) and not episodes[0].has_poses
    with pytest.raises(DataError, match=r"action has shape \(5, 3\), rows of 5 are needed"):
        read_episodes(tree, "train", action_dim=5)
