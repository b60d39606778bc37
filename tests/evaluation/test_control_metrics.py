# SPDX-License-Identifier: Apache-2.0
"""Camera, trajectory and view metrics: small errors on true videos of the demo worlds, large ones on others."""

import json
import math
import sys

import numpy as np
import pytest
import torch

from cosmos1.data.demo_worlds.posed_worlds import (
    Clips,
    render_rig,
    sample_camera_path,
    sample_drive,
    write_camera_world,
)
from cosmos1.data.demo_worlds.room_world import furnished_room, render_path
from cosmos1.data.files import write_json
from cosmos1.data.geometry.cameras import named_path, relative_to_first
from cosmos1.data.geometry.rigs import Rig, rig_json, six_camera_rig
from cosmos1.data.geometry.trajectories import preset_trajectory, track_json
from cosmos1.data.video import read_video, write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.__main__ import build_parser, main
from cosmos1.evaluation.camera_pose import pose_errors
from cosmos1.evaluation.command_gap import measure_commands
from cosmos1.evaluation.control_gap import ControlScore, compare_controls
from cosmos1.evaluation.geometry import Motion, poses_without_depth, rotation_error_degrees, sampson_errors
from cosmos1.evaluation.trajectory_following import path_errors, rig_positions
from cosmos1.models.tokenizers.discrete_dct import DiscreteDctTokenizer

CLIPS = Clips(num_videos=3, num_frames=5, height=96, width=128, fps=7.0, seed=0)


def run(*arguments):
    options = build_parser().parse_args([str(argument) for argument in arguments])
    main(options)
    return json.loads(options.output.read_text())["metrics"]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Three true videos, and three that ignore their cameras (the first frame, repeated)."""
    folder = tmp_path_factory.mktemp("rooms")
    (folder / "world").mkdir()
    write_camera_world(folder / "world", CLIPS)
    write_json(folder / "world/world.json", {"world": "camera", "seed": 0})
    for index in range(CLIPS.num_videos):
        frames = render_path(furnished_room(0), sample_camera_path(CLIPS, index)[0])
        write_video(folder / f"true/{index:03d}.mp4", frames, 7)
        write_video(folder / f"still/{index:03d}.mp4", np.repeat(frames[:1], 5, axis=0), 7)
    return folder


def test_camera_pose_in_the_demo_world(rooms):
    world = ("--cameras", rooms / "world", "--demo_world")
    scores = run("camera_pose", "--generated", rooms / "true", *world, "--output", rooms / "true.json")
    assert scores["rotation_error"]["true"] < 0.3 and scores["translation_error"]["true"] < 0.01
    assert scores["rotation_error"]["gap"] < -3 and scores["translation_error"]["gap"] < -0.03
    assert scores["world_psnr"]["true"] > 28 and scores["world_psnr"]["gap"] > 8 and scores["frames_found"]["true"] == 1
    still = run("camera_pose", "--generated", rooms / "still", *world, "--output", rooms / "still.json")
    assert still["rotation_error"]["true"] > 3 and abs(still["rotation_error"]["gap"]) < 1.5


def test_camera_pose_without_knowing_the_world(rooms):
    """The middle of the command line for real videos: corners, no depth."""
    options = ("--generated", rooms / "true", "--cameras", rooms / "world", "--output", rooms / "points.json")
    scores = run("camera_pose", *options)
    assert scores["rotation_error"]["true"] < 2.5 and scores["rotation_error"]["gap"] < -2
    assert scores["direction_error"]["true"] < 30 and scores["direction_error"]["gap"] < -20
    assert "translation_error" not in scores


def test_a_turn_on_the_spot_has_no_translation():
    cameras, caption = sample_camera_path(CLIPS, 2)
    assert "turns" in caption
    motion = poses_without_depth(render_path(furnished_room(0), cameras), cameras.intrinsics)
    true = relative_to_first(cameras.poses)
    assert motion.found.all() and np.abs(motion.poses[:, :3, 3]).max() == 0
    assert rotation_error_degrees(motion.poses[:, :3, :3], true[:, :3, :3]).max() < 0.5


def test_pose_errors_are_what_was_put_in():
    commanded = named_path("dolly", 5, 2.0)
    turned = named_path("pan", 2, 3.0)[1]
    poses = np.stack([np.eye(4), *(pose @ turned for pose in commanded[1:])])
    poses[1:, 0, 3] += 0.5
    motion = Motion(poses, np.array([True, True, False, True, True]))
    with_depth = pose_errors(motion, commanded, median_depth=5.0)
    assert with_depth == pytest.approx({"rotation_error": 3.0, "translation_error": 0.1, "frames_found": 0.75})
    angles = np.degrees(np.arctan2(0.5, [0.5, 1.5, 2.0]))
    assert pose_errors(motion, commanded, None)["direction_error"] == pytest.approx(angles.mean())
    nothing = pose_errors(Motion(poses, np.eye(5, dtype=bool)[0]), commanded, None)
    assert nothing["rotation_error"] is None and nothing["direction_error"] is None


def test_commands_that_are_missing(rooms, tmp_path):
    with pytest.raises(DataError, match="no 000.json, 000.zip or folder 000"):
        run("camera_pose", "--generated", rooms / "true", "--cameras", tmp_path, "--output", tmp_path / "x.json")
    with pytest.raises(ConfigError, match="world.json cannot be read"):
        run("camera_pose", "--generated", rooms / "true", "--cameras", tmp_path, "--demo_world")
    with pytest.raises(DataError, match="no .*mp4 directly inside"):
        run("camera_pose", "--generated", tmp_path, "--cameras", tmp_path)


@pytest.mark.parametrize("options", [(), ("--demo_world",)])
def test_one_frame_has_no_motion(rooms, tmp_path, options):
    for index in range(CLIPS.num_videos):
        frames = read_video(rooms / f"true/{index:03d}.mp4")
        write_video(tmp_path / f"videos/{index:03d}.mp4", frames[:1] if index == 1 else frames, 7)
    with pytest.raises(DataError, match="001.mp4: 1 frame; a motion needs 2 or more"):
        run("camera_pose", "--generated", tmp_path / "videos", "--cameras", rooms / "world", *options)


def test_in_black_pictures_no_camera_is_found(rooms, tmp_path):
    """A network that fell apart makes such videos; their scores must say so."""
    for index in range(CLIPS.num_videos):
        write_video(tmp_path / f"videos/{index:03d}.mp4", np.zeros((5, 96, 128, 3), np.uint8), 7)
    videos, world = ("--generated", tmp_path / "videos"), ("--cameras", rooms / "world", "--demo_world")
    scores = run("camera_pose", *videos, *world, "--output", tmp_path / "black.json")
    assert scores["frames_found"]["true"] == 0 and scores["rotation_error"]["true"] is None


def test_pycolmap_is_asked_for_by_name(rooms, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    options = ("--generated", rooms / "true", "--cameras", rooms / "world", "--method", "pycolmap")
    with pytest.raises(ConfigError, match="needs pycolmap: pip install pycolmap"):
        run("camera_pose", *options)


def test_each_video_is_compared_with_the_commands_of_the_next(tmp_path):
    seen = []

    def score(video, command):
        seen.append((video, command))
        return {"error": 0.0 if video == command else float(ord(command)), "rare": None}

    scores = (ControlScore("error", "error", "", False), ControlScore("rare", "rare", "", False))
    options = build_parser().parse_args(["camera_pose", "--generated", "x", "--cameras", "y", "--num_shuffles", "2"])
    results = measure_commands(["a", "b", "c"], score, scores, options)
    assert sorted(seen) == [(video, command) for video in "abc" for command in "abc"]
    error = results["metrics"]["error"]
    assert (error["true"], error["shuffled"], error["gap"]) == (0, 98, -98)
    assert results["metrics"]["rare"]["gap"] is None
    with pytest.raises(DataError, match="1 videos: at least 2 are needed"):
        measure_commands(["a"], score, scores, options)


def test_scores_that_are_no_numbers():
    """JSON has neither: infinite PSNR becomes null, what is NaN or infinitely bad is refused."""
    psnr, loss = ControlScore("psnr", "PSNR", "dB", True), ControlScore("loss", "loss", "", False)

    def results(**shuffled):
        videos = [
            {"name": "7", "true": {"psnr": 20.0, "loss": 1.0}, "shuffled": [{"psnr": 30.0, "loss": 2.0} | shuffled]}
        ]
        return compare_controls([psnr, loss], videos)

    identical = results(psnr=math.inf)
    assert identical["videos"][0]["shuffled"] == [{"psnr": None, "loss": 2.0}]
    assert identical["metrics"]["psnr"]["gap"] is None and identical["metrics"]["loss"]["gap"] == -1
    json.dumps(identical, allow_nan=False)
    for name, value in (("psnr", math.nan), ("loss", math.nan), ("loss", math.inf), ("psnr", -math.inf)):
        with pytest.raises(DataError, match=f"video 7, shuffled control: {name} is {value}, a finite number is needed"):
            results(**{name: value})


def test_sampson_error_of_a_sideways_pair():
    """Between two cameras side by side, a match that is d pixels too low is d / sqrt(2) from a valid pair."""
    fundamental = np.array([[0, 0, 0], [0, 0, -1.0], [0, 1, 0]])
    first = np.array([[10.0, 20], [30, 5], [7, 7]])
    second = first + [[4, 0], [9, 2], [-3, -1]]
    assert sampson_errors(fundamental, first, second) == pytest.approx(np.array([0, 2, 1]) / np.sqrt(2))


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Three drives, seen by the front and the left camera."""
    folder = tmp_path_factory.mktemp("drives")
    cameras = six_camera_rig().cameras[:2]
    rig = Rig(cameras, [[camera.name for camera in cameras]])
    (folder / "trajectory").mkdir()
    for index in range(3):
        _, track, poses = sample_drive(CLIPS, index)
        write_json(folder / f"trajectory/{index}.json", track_json(track))
        for camera, frames in zip(cameras, render_rig(CLIPS, rig, poses)):
            write_video(folder / f"videos/{camera.name}/{index}.mp4", frames, 7)
    write_json(folder / "rig.json", rig_json(rig))
    write_json(folder / "world.json", {"world": "rig", "seed": 0})
    return folder


def test_trajectory_following_in_the_demo_world(drives):
    front = drives / "videos/camera_front_wide_120fov"
    options = ("--generated", front, "--trajectories", drives / "trajectory", "--rig", drives / "rig.json")
    scores = run("trajectory_following", *options, "--demo_world", drives, "--output", drives / "true.json")
    assert scores["mean_error"]["true"] < 0.05 and scores["mean_error"]["gap"] < -0.1
    assert scores["final_error"]["gap"] < -0.2 and scores["frames_found"]["true"] == 1


def test_pictures_that_stand_for_four_frames(tmp_path):
    """As tokens without motion of their own show them: the video stands still and jumps by metres."""
    clips, rig = Clips(num_videos=3, num_frames=9, height=64, width=96, fps=8.0, seed=0), six_camera_rig()
    front, tokenizer = rig.cameras[0], DiscreteDctTokenizer((4, 8, 8))
    (tmp_path / "trajectory").mkdir()
    for index in range(3):
        _, track, poses = sample_drive(clips, index)
        write_json(tmp_path / f"trajectory/{index}.json", track_json(track))
        (frames,) = render_rig(clips, Rig([front], [[front.name]]), poses)
        video = torch.tensor(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
        shown = tokenizer.decode(tokenizer.encode(video))[0].clamp(-1, 1).permute(1, 2, 3, 0)
        write_video(tmp_path / f"front/{index}.mp4", ((shown + 1) * 127.5).round().byte().numpy(), 8)
    write_json(tmp_path / "rig.json", rig_json(rig))
    write_json(tmp_path / "world.json", {"world": "rig", "seed": 0})
    options = ("--generated", tmp_path / "front", "--trajectories", tmp_path / "trajectory", "--demo_world", tmp_path)
    options += ("--rig", tmp_path / "rig.json", "--output", tmp_path / "result.json")
    scores = run("trajectory_following", *options, "--frames_per_token", 4)
    assert scores["mean_error"]["true"] < 0.4 and scores["final_error"]["gap"] < -0.3
    for number, message in ((3, "0.mp4: 9 frames; --frames_per_token 3 needs 1 and a multiple"), (0, "at least 1")):
        with pytest.raises((ConfigError, DataError), match=message):
            run("trajectory_following", *options, "--frames_per_token", number)


def test_one_frame_follows_no_trajectory(drives, tmp_path):
    for index in range(3):
        frames = read_video(drives / f"videos/camera_front_wide_120fov/{index}.mp4")
        write_video(tmp_path / f"{index}.mp4", frames[:1] if index == 1 else frames[:2], 7)
    options = ("--generated", tmp_path, "--trajectories", drives / "trajectory", "--rig", drives / "rig.json")
    with pytest.raises(DataError, match="1.mp4: 1 frame; a motion needs 2 or more"):
        run("trajectory_following", *options, "--demo_world", drives)


def test_path_errors_are_what_was_put_in():
    straight = preset_trajectory("straight", 5.0)
    seconds = np.arange(9) / 4
    positions = np.stack([5 * seconds, 0.3 * (seconds > 0), 0 * seconds], axis=1)
    found = np.ones(9, bool)
    assert path_errors(positions, found, straight, 4.0, True) == pytest.approx(
        {"mean_error": 0.3, "final_error": 0.3, "frames_found": 1.0}, abs=1e-5
    )
    # Without scale the path is stretched to fit; a sideways path still does not.
    assert path_errors(0.1 * positions, found, straight, 4.0, False)["mean_error"] == pytest.approx(0.3, rel=0.02)
    sideways = positions[:, [1, 0, 2]]
    assert path_errors(sideways, found, straight, 4.0, False)["mean_error"] > 4
    assert path_errors(positions, ~found, straight, 4.0, True) == {"frames_found": 0.0}
    # Pictures that stand for four frames: the places are those of the groups' middles.
    jumping = np.concatenate([positions[:1], positions[1:].reshape(2, 4, 3).mean(axis=1).repeat(4, axis=0)])
    assert path_errors(jumping, found, straight, 4.0, True)["mean_error"] > 1
    assert path_errors(jumping, found, straight, 4.0, True, 4)["mean_error"] == pytest.approx(0.3, abs=1e-5)


def test_the_rig_turns_about_its_own_origin():
    """A camera 2 m ahead of the origin moves sideways when the rig turns; the rig stays."""
    camera = six_camera_rig().cameras[0].rig_from_camera
    rig = np.tile(np.eye(4), (3, 1, 1))
    rig[1, :2, :2], rig[2, :3, 3] = [[0, -1], [1, 0]], [1, 2, 3]
    motion = Motion(np.linalg.inv(camera) @ rig @ camera, np.ones(3, bool))
    assert rig_positions(motion, camera) == pytest.approx(rig[:, :3, 3])


def test_view_consistency_of_one_clip_and_of_two(drives):
    options = ("--generated", drives / "videos", "--rig", drives / "rig.json", "--num_shuffles", "1")
    scores = run("view_consistency", *options, "--output", drives / "views.json")
    assert scores["sampson_error"]["true"] < 2 and scores["consistent_matches"]["true"] > 5
    assert scores["consistent_matches"]["gap"] > 0.5 * scores["consistent_matches"]["true"]


def test_views_of_several_sizes_are_refused(drives, tmp_path):
    """The geometry of one size would be silently wrong for another."""
    for camera in six_camera_rig().cameras[:2]:
        for index in range(2):
            frames = read_video(drives / f"videos/{camera.name}/{index}.mp4")
            write_video(tmp_path / f"{camera.name}/{index}.mp4", frames[:, : 96 - 32 * index, : 128 - 48 * index], 7)
    with pytest.raises(
        DataError, match="/0.mp4 is 96 x 128, but .*camera_front_wide_120fov/1.mp4 is 64 x 80; all views"
    ):
        run("view_consistency", "--generated", tmp_path, "--rig", drives / "rig.json")


def test_rigs_without_geometry_or_overlap(drives, tmp_path):
    names = [camera.name for camera in six_camera_rig().cameras[:2]]
    write_json(tmp_path / "names.json", {"cameras": [{"name": name} for name in names]})
    with pytest.raises(DataError, match="rig camera camera_front_wide_120fov: the rig file states no position"):
        run("view_consistency", "--generated", drives / "videos", "--rig", tmp_path / "names.json")
    content = json.loads((drives / "rig.json").read_text())
    content["cameras"][1]["roll_pitch_yaw_degrees"] = [0, 0, 180]
    write_json(tmp_path / "apart.json", content)
    with pytest.raises(DataError, match="no two of its cameras see the same part"):
        run("view_consistency", "--generated", drives / "videos", "--rig", tmp_path / "apart.json")
    with pytest.raises(DataError, match="no NAME.mp4 that all cameras have"):
        run("view_consistency", "--generated", drives, "--rig", drives / "rig.json")
