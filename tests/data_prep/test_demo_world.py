# SPDX-License-Identifier: Apache-2.0
"""The demo world: repeatable, true to its captions, and different from clip to clip."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cosmos1.data.command_line import for_each
from cosmos1.data.demo_worlds.rendering import Renderer
from cosmos1.data.video import probe_video
from cosmos1.errors import ConfigError, DataError
from data_prep import demo_world
from data_prep.demo_world import COLOURS, MOTIONS, Clip, render_clip, sample_clip


def run(output, *options):
    small = ["--num_videos", "3", "--num_frames", "5", "--height", "48", "--width", "64"]
    demo_world.main(demo_world.build_parser().parse_args(["--output_path", str(output), *small, *options]))
    return output


def object_pixels(frame, empty):
    """Return rows and columns of the pixels that differ clearly in colour from the empty room."""
    hue = frame.astype(int) - frame.mean(axis=2, keepdims=True) - (empty - empty.mean(axis=2, keepdims=True))
    return np.nonzero(np.abs(hue).max(axis=2) > 40)


@pytest.fixture(scope="module")
def empty_room():
    from cosmos1.data.demo_worlds.rendering import Scene

    return Renderer(48, 64).render(Scene(), demo_world.ROOM_CAMERA)


def test_files_and_repeatability(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["000.mp4", "000.txt", "001.mp4", "001.txt", "002.mp4", "002.txt", "world.json"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    info = probe_video(first / "000.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (5, 48, 64, 24.0)
    assert (run(tmp_path / "c", "--seed", "1") / "001.mp4").read_bytes() != (first / "001.mp4").read_bytes()


@pytest.mark.parametrize("world", ["clips", "camera"])
def test_processes_share_the_work_and_a_later_clip_is_the_same_clip(world, tmp_path):
    whole = run(tmp_path / "whole", "--world", world)
    shared = run(
        tmp_path / "shared", "--world", world, "--num_processes", "2", "--num_videos", "2", "--first_clip", "1"
    )
    clips = {path.name for path in shared.iterdir() if path.stem.isdigit()}
    assert clips == {path.name for path in whole.iterdir() if path.stem in ("001", "002")} and len(clips) >= 2
    for name in clips:
        assert (shared / name).read_bytes() == (whole / name).read_bytes()


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_ends_the_work():
    with pytest.raises(DataError, match="use fewer --num_processes"):
        for_each(die, range(3), "clips", num_processes=2)


def fail_or_write(folder: Path, number: int) -> None:
    if number == 0:
        raise DataError("the first cannot be used")
    time.sleep(0.05)
    (folder / str(number)).touch()


def test_an_error_is_not_kept_back_until_the_rest_is_done(tmp_path):
    with pytest.raises(DataError, match="the first cannot be used"):
        for_each(partial(fail_or_write, tmp_path), range(200), "clips", num_processes=2)
    assert len(list(tmp_path.iterdir())) < 100


@pytest.mark.parametrize("direction, side", [(1, "to the right"), (-1, "to the left")])
@pytest.mark.parametrize("motion", ["ball rolls", "ball bounces", "box slides"])
def test_object_moves_as_the_caption_says(motion, direction, side, empty_room):
    clip = Clip("red", motion, direction, phase=0.4, depth=0.0)
    assert side in clip.caption() and motion.split()[0] in clip.caption()
    frames = render_clip(clip, Renderer(48, 64), 4, fps=12)
    columns = [object_pixels(frame, empty_room)[1].mean() for frame in frames]
    assert all(np.sign(np.diff(columns)) == direction)


@pytest.mark.parametrize("colour", list(COLOURS))
def test_object_has_the_colour_of_the_caption(colour, empty_room):
    clip = Clip(colour, "box turns", 1, phase=0.2, depth=0.0)
    assert colour in clip.caption()
    (frame,) = render_clip(clip, Renderer(48, 64), 1, fps=24)
    mean = frame[object_pixels(frame, empty_room)].mean(axis=0)
    assert np.corrcoef(mean, COLOURS[colour])[0, 1] > 0.9


def test_jump_stays_in_place_and_moves_up(empty_room):
    clip = Clip("blue", "ball jumps", 1, phase=0.0, depth=0.0)
    low, high = render_clip(clip, Renderer(48, 64), 2, fps=1 / 0.66)
    (low_rows, low_columns), (high_rows, high_columns) = (object_pixels(frame, empty_room) for frame in (low, high))
    assert high_rows.mean() < low_rows.mean() - 4 and abs(high_columns.mean() - low_columns.mean()) < 1


def test_object_throws_a_shadow(empty_room):
    clip = Clip("red", "ball rolls", 1, phase=0.5, depth=0.0)
    frame = render_clip(clip, Renderer(48, 64), 1, fps=24)[0].astype(int)
    unchanged_hue = np.ones(frame.shape[:2], bool)
    unchanged_hue[object_pixels(frame, empty_room)] = False
    darker = (empty_room.astype(int) - frame).min(axis=2) > 25
    assert (darker & unchanged_hue).sum() > 10


def test_few_clips_show_every_colour_and_motion():
    clips = [sample_clip(0, index) for index in range(20)]
    assert len({(clip.motion, clip.colour) for clip in clips}) == len(MOTIONS) * len(COLOURS)


def test_bad_options(tmp_path):
    with pytest.raises(ConfigError, match="multiples of 16"):
        run(tmp_path / "a", "--height", "50")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        run(tmp_path / "b")


@pytest.mark.parametrize(
    "world, expected",
    [
        ("camera", {"000.zip", "001.zip", "002.zip", "captions.json", "world.json"}),
        ("rig", {"videos", "captions", "trajectory", "rig.json", "world.json"}),
    ],
)
def test_posed_worlds_become_datasets(tmp_path, world, expected):
    """What the renderer writes is what the preparation programs read."""
    from cosmos1.data.geometry.rigs import rig_json, six_camera_rig
    from data_prep import camera_control, multiview

    content = rig_json(six_camera_rig())
    rig = {"cameras": content["cameras"][:2]}
    (tmp_path / "two.json").write_text(json.dumps(rig))
    folder = run(tmp_path / "world", "--world", world, "--num_frames", "9", "--rig", str(tmp_path / "two.json"))
    assert {path.name for path in folder.iterdir()} == expected
    assert json.loads((folder / "world.json").read_text())["world"] == world
    program = {"camera": camera_control, "rig": multiview}[world]
    size = ["--num_frames", "9", "--height", "48", "--width", "64", "--fps", "24"]
    paths = ["--dataset_path", str(folder), "--output_path", str(tmp_path / "cached")]
    program.main(program.build_parser().parse_args([*paths, *size]))
    assert len(list((tmp_path / "cached").glob("*.info.json"))) == 3
