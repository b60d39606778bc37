# SPDX-License-Identifier: Apache-2.0
"""Scores of videos whose obedience is known."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from cosmos1.data.demo_worlds.arm_drawing import ArmRenderer
from cosmos1.data.demo_worlds.arm_world import render_episode, sample_episode
from cosmos1.data.formats.action_frames import ActionFrames
from cosmos1.data.geometry.actions import moved_pose
from cosmos1.data.sources.bridge import read_episode
from cosmos1.data.video import read_video, write_video
from cosmos1.errors import DataError
from cosmos1.evaluation.__main__ import build_parser, main
from cosmos1.evaluation.action_following import commanded_motions, frame_scores, motion_scores
from cosmos1.models.tokenizers.dct import DctTokenizer
from tests.data.arm_tree import arm_tree


def rendered(index, num_frames=8):
    episode = sample_episode(0, index, num_frames, "wander")
    return render_episode(episode, ArmRenderer(96, 128)), np.array(episode.annotation("0", "")["action"])


def test_true_motion_has_no_error_and_other_motion_has_its_size():
    frames, action = rendered(0)
    right = motion_scores(frames, action)
    assert right["position_error_mm"] < 1 and right["turn_error_degrees"] < 1.5 and right["gripper_lost"] == 0
    wrong = motion_scores(rendered(1)[0], action)
    assert wrong["position_error_mm"] > 20 and wrong["relative_error"] > 0.7 and wrong["turn_error_degrees"] > 10


def test_a_still_picture_misses_all_of_the_motion():
    frames, action = rendered(0)
    still = motion_scores(np.repeat(frames[:1], 8, axis=0), action)
    assert still["relative_error"] == pytest.approx(1, abs=0.02)
    assert still["position_error_mm"] == pytest.approx(1000 * np.hypot(*action[:, :2].T).mean(), rel=0.02)


def test_frames_without_a_gripper_are_counted():
    frames, action = rendered(0)
    frames[3] = 128
    assert motion_scores(frames, action)["gripper_lost"] == pytest.approx(2 / 7)
    assert motion_scores(np.full_like(frames, 128), action) == {"gripper_lost": 1.0}


@pytest.fixture
def folders(tmp_path, tmp_path_factory):
    """A tree, and its held-out episodes "generated": once as they are, once each with the other's frames."""
    tree = arm_tree(tmp_path / "tree", tmp_path_factory)
    frames = [read_video(tree / f"videos/val/{name}/rgb.mp4") for name in ("4", "5")]
    for name, true, other in zip(("4", "5"), frames, reversed(frames)):
        write_video(tmp_path / "true" / f"{name}.mp4", true, 5)
        write_video(tmp_path / "shuffled" / f"{name}.mp4", np.concatenate([true[:1], other[1:]]), 5)
    return tmp_path


def run(folder, *options):
    arguments = ["action_following", "--generated", str(folder / "true"), "--dataset_path", str(folder / "tree")]
    main(build_parser().parse_args([*arguments, "--output", str(folder / "results.json"), *options]))
    return json.loads((folder / "results.json").read_text())


def test_gap_to_videos_that_follow_other_actions(folders, capsys):
    results = run(folders, "--shuffled", str(folders / "shuffled"))
    gaps = {name: metric["gap"] for name, metric in results["metrics"].items()}
    assert gaps["psnr"] > 10 and gaps["latent_l2"] < -0.3
    assert gaps["position_error_mm"] < -10 and gaps["turn_error_degrees"] < -10
    assert {video["name"] for video in results["videos"]} == {"4", "5"} and "true control" in capsys.readouterr().out


def test_gap_to_the_actions_of_other_episodes(folders):
    metrics = run(folders)["metrics"]
    assert metrics["position_error_mm"]["gap"] < -10 and metrics["position_error_mm"]["true"] < 5
    assert metrics["psnr"]["true"] > 20 and metrics["psnr"]["gap"] is None


def test_given_first_frame_does_not_count(folders):
    evaluation = frame_scores(DctTokenizer(), *read_both(folders))
    generated, reference = read_both(folders)
    generated[0] = 255 - generated[0]
    assert frame_scores(DctTokenizer(), generated, reference) == evaluation


def read_both(folders):
    return read_video(folders / "true/4.mp4"), read_video(folders / "tree/videos/val/4/rgb.mp4")


def test_shorter_rollouts_and_refused_folders(folders):
    write_video(folders / "true/4.mp4", read_video(folders / "true/4.mp4")[:3], 5)
    assert run(folders)["videos"][0]["true"]["psnr"] > 20
    (folders / "shuffled/5.mp4").unlink()
    with pytest.raises(DataError, match="--generated has 2 and --shuffled 1 videos"):
        run(folders, "--shuffled", str(folders / "shuffled"))
    with pytest.raises(DataError, match=r"split train of .* has no episode 4 \(it has 0, 1, 2, 3"):
        run(folders, "--split", "train")
    write_video(folders / "true/4.mp4", np.zeros((9, 48, 64, 3), np.uint8), 5)
    with pytest.raises(DataError, match="4.mp4: 9 frames; episode 4 allows 2 to 6"):
        run(folders)


@pytest.fixture
def every_second(folders):
    """The held-out episodes, "generated" by networks that make every second frame, as the files beside them say."""
    tree = folders / "tree"
    frames = [read_video(tree / f"videos/val/{name}/rgb.mp4")[::2] for name in ("4", "5")]
    for name, true, other in zip(("4", "5"), frames, reversed(frames)):
        for kind, video in (("true", true), ("shuffled", np.concatenate([true[:1], other[1:]]))):
            write_video(folders / kind / f"{name}.mp4", video, 5)
            write_facts(folders / kind / f"{name}.json", 2)
    return folders


def write_facts(path, interval):
    path.write_text(json.dumps(asdict(ActionFrames("scaled", 48, 64, 5.0, interval))))


@pytest.mark.parametrize("options", [(), ("--shuffled", "shuffled")])
def test_frames_that_were_left_out_are_left_out_of_the_real_video(every_second, options):
    options = [str(every_second / word) if word == "shuffled" else word for word in options]
    metrics = run(every_second, *options)["metrics"]
    assert metrics["psnr"]["true"] > 35 and metrics["latent_l2"]["true"] < 0.2
    assert metrics["position_error_mm"]["true"] < 5 and metrics["position_error_mm"]["gap"] < -10
    (every_second / "true/4.json").unlink()
    alone = run(every_second, *options)["videos"][0]["true"]
    assert alone["psnr"] < 25 and alone["position_error_mm"] > 15


def test_motions_over_several_frames(folders):
    episode = read_episode(None, folders / "tree/annotation/val/4.json")
    recorded = commanded_motions(episode, [1, 2, 3])
    assert np.array_equal(recorded, episode.action[1:3])
    both = moved_pose(moved_pose(episode.state[1, :6], recorded[0, :6]), recorded[1, :6])
    (motion,) = commanded_motions(episode, [1, 3])
    assert moved_pose(episode.state[1, :6], motion) == pytest.approx(both)
    with pytest.raises(DataError, match="recorded numbers, not motions between poses"):
        commanded_motions(replace(episode, has_poses=False), [1, 3])


def test_an_interval_limits_how_many_frames_there_can_be(every_second):
    write_facts(every_second / "true/4.json", 3)
    with pytest.raises(DataError, match=r"4.mp4: 3 frames; episode 4 allows 2 to 2, its frames 0, 3\."):
        run(every_second)
    write_facts(every_second / "true/4.json", 6)
    with pytest.raises(DataError, match="4.mp4: follows every 6. frame, but episode 4 has 6; at least 7 are needed"):
        run(every_second)


@pytest.mark.parametrize("content", ['{"interval": 0}', '{"interval": "2"}', "[2]", "{"])
def test_facts_beside_a_video_that_make_no_sense(folders, content):
    (folders / "true/4.json").write_text(content)
    with pytest.raises(DataError, match="4.json: .* Generate the video again"):
        run(folders)


def test_facts_without_an_interval_stand_for_every_frame(folders):
    expected = run(folders)
    (folders / "true/4.json").write_text('{"seed": 1}')
    assert run(folders) == expected


def test_a_real_video_that_does_not_fit_its_annotation(folders):
    real = folders / "tree/videos/val/4/rgb.mp4"
    write_video(real, read_video(real)[:4], 5)
    with pytest.raises(DataError, match="rgb.mp4 has 4 frames but .*4.json lists 6 states"):
        run(folders)


def test_identical_frames_are_null(folders):
    for name in ("4", "5"):
        (folders / f"true/{name}.mp4").write_bytes((folders / f"tree/videos/val/{name}/rgb.mp4").read_bytes())
    results = run(folders)
    assert results["metrics"]["psnr"]["true"] is None and results["videos"][0]["true"]["latent_l2"] == 0


def test_real_robots_have_no_motion_scores(folders):
    (folders / "tree/world.json").unlink()
    assert set(run(folders)["metrics"]) == {"psnr", "latent_l2"}
