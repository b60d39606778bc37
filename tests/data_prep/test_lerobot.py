# SPDX-License-Identifier: Apache-2.0
"""LeRobot datasets, written here in versions 2.1 and 3.0, become instruction folders and Bridge trees."""

import io
import json
import os
from fractions import Fraction

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cosmos1.data.formats.action_frames import ActionFrames
from cosmos1.data.geometry.actions import bridge_actions
from cosmos1.data.modules.action_pairs import ActionPairsDataModule
from cosmos1.data.modules.bridge_pixels import BridgePixelsDataModule
from cosmos1.data.sources.bridge import actions_between, read_episodes
from cosmos1.data.sources.lerobot import open_lerobot
from cosmos1.data.video import read_video
from cosmos1.errors import ConfigError, DataError
from data_prep import lerobot, prepare_action_dataset

FPS, LENGTHS, CAMERA = 10, (5, 7, 6), "observation.images.top"
TASKS = ("pick the cup | take the cup", "open the drawer", "pick the cup | take the cup")


def frame(episode, index):
    """A picture whose grey level says which episode and frame it is."""
    return np.full((48, 64, 3), 20 + 60 * episode + 6 * index, np.uint8)


def encode(path, frames, codec):
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"g": "2", "crf": "20"} | ({"preset": "12"} if codec == "libsvtav1" else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    # SVT-AV1 gives the process of a superuser real-time priority, and the other tests would starve.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def poses(length, seed):
    random = np.random.RandomState(seed)
    pose = np.cumsum(random.uniform(-0.05, 0.05, (length, 6)), axis=0)
    return np.concatenate([pose, random.rand(length, 1)], axis=1)


def rows(episode, first_index=0):
    length = LENGTHS[episode]
    return {
        "observation.state": [row.tolist() for row in poses(length, episode)],
        "action": [[float(episode), index / 10, 3.0] for index in range(length)],
        "timestamp": [index / FPS for index in range(length)],
        "frame_index": list(range(length)),
        "episode_index": [episode] * length,
        "index": list(range(first_index, first_index + length)),
        "task_index": [episode % 2] * length,
    }


def write_parquet(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_info(root, version, **info):
    numeric = {
        "observation.state": 7,
        "action": 3,
        "timestamp": 1,
        "frame_index": 1,
        "episode_index": 1,
        "task_index": 1,
    }
    features = {name: {"dtype": "float32", "shape": [width]} for name, width in numeric.items()}
    features[CAMERA] = {"dtype": "video", "shape": [48, 64, 3]}
    content = {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "features": features,
        "splits": {"train": "0:3"},
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps({**content, **info}))


def write_v2(root, codec="libx264"):
    names = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    write_info(root, "v2.1", **names)
    lines = [{"episode_index": k, "tasks": [TASKS[k]], "length": LENGTHS[k]} for k in range(3)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for k, length in enumerate(LENGTHS):
        write_parquet(root / f"data/chunk-000/episode_{k:06d}.parquet", rows(k))
        encode(root / f"videos/chunk-000/{CAMERA}/episode_{k:06d}.mp4", [frame(k, i) for i in range(length)], codec)
    return root


def write_v3(root, codec="libsvtav1"):
    """Episodes 0 and 1 share the first files, episode 2 has the second data file; its entry names the wrong one."""
    names = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    write_info(root, "v3.0", **names)
    merged = {key: value + rows(1, 5)[key] for key, value in rows(0).items()}
    write_parquet(root / "data/chunk-000/file-000.parquet", merged)
    write_parquet(root / "data/chunk-000/file-001.parquet", rows(2, 12))
    starts = [0, 5, 12]
    entries = {
        "episode_index": [0, 1, 2],
        "tasks": [[task] for task in TASKS],
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 0],
        f"videos/{CAMERA}/chunk_index": [0, 0, 0],
        f"videos/{CAMERA}/file_index": [0, 0, 0],
        f"videos/{CAMERA}/from_timestamp": [start / FPS for start in starts],
        "stats/action/min": [[0.0], [0.0], [0.0]],
    }
    write_parquet(root / "meta/episodes/chunk-000/file-000.parquet", entries)
    frames = [frame(k, i) for k, length in enumerate(LENGTHS) for i in range(length)]
    encode(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", frames, codec)
    return root


@pytest.fixture(params=[(write_v2, "libx264"), (write_v2, "libsvtav1"), (write_v3, "libsvtav1"), (write_v3, "libx264")])
def source(request, tmp_path):
    write, codec = request.param
    return write(tmp_path / "robot", codec)


def run(root, output, *options):
    lerobot.main(
        lerobot.build_parser().parse_args(["--dataset_path", str(root), "--output_path", str(output), *options])
    )
    return output


def assert_frames(path, episode):
    levels = read_video(path).mean(axis=(1, 2, 3))
    assert levels == pytest.approx([frame(episode, k).mean() for k in range(LENGTHS[episode])], abs=2)


def test_instruction_folder(source, tmp_path):
    output = run(source, tmp_path / "out", "--to", "instruction")
    for k in range(3):
        assert_frames(output / f"videos/{k:06d}.mp4", k)
        content = json.loads((output / f"instructions/{k:06d}.json").read_text())
        assert list(content.values()) == TASKS[k].split(" | ")


def test_tree_with_recorded_actions(source, tmp_path):
    options = ("--to", "bridge", "--normalize", "quantile", "--validation_fraction", "0.3")
    output = run(source, tmp_path / "out", *options)
    facts = json.loads((output / "dataset.json").read_text())
    assert facts["splits"] == {"train": 2, "val": 1, "test": 0} and facts["action_dim"] == 3
    written = {e.name: e for split in ("train", "val") for e in read_episodes(output, split, action_dim=3)[0]}
    for k in range(3):
        assert_frames(written[str(k)].video(0), k)
        recorded = np.array(rows(k)["action"])[:-1] * facts["action_scale"] + facts["action_offset"]
        assert written[str(k)].action == pytest.approx(recorded, abs=1e-6)
        assert written[str(k)].text == TASKS[k].split(" | ")[0] and not written[str(k)].has_poses
    # A number that never changes is left as it is.
    assert facts["action_scale"][2] == 1.0 and written["0"].action[0, 2] == 3.0
    training = np.concatenate([e.action for e in read_episodes(output, "train", action_dim=3)[0]])
    assert np.quantile(training[:, 1], [0.01, 0.99]) == pytest.approx([-1, 1])


def test_tree_with_relative_poses(tmp_path):
    source = write_v3(tmp_path / "robot", "libx264")
    layout = ("--to", "bridge", "--action", "relative_pose", "--state_layout", "xyz_rpy_gripper")
    output = run(source, tmp_path / "out", *layout, "--validation_fraction", "0")
    for k, episode in enumerate(read_episodes(output, "train")[0]):
        state = poses(LENGTHS[k], k)
        bit = (state[:, 6] > 0.5).astype(float)
        assert episode.has_poses and episode.action == pytest.approx(bridge_actions(state, bit), abs=1e-12)
        assert episode.gripper == pytest.approx(1 - state[:, 6])
        assert actions_between(episode, [0, 1], "scaled")[0, :6] == pytest.approx(episode.action[0, :6] * 20)
    with pytest.raises(DataError, match="has 7 numbers, --state_layout xyz_quaternion_gripper has 8"):
        run(source, tmp_path / "b", *layout[:-1], "xyz_quaternion_gripper")
    with pytest.raises(ConfigError, match="needs --state_layout"):
        run(source, tmp_path / "b", *layout[:4])


def test_quaternions_low_open_grippers_and_the_splits_of_the_dataset(tmp_path):
    root = write_v2(tmp_path / "robot")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "splits": {"train": "0:2", "validation": "2:3"}}))
    angle = 0.3
    quaternion = [0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2)]
    for k, length in enumerate(LENGTHS):
        states = [[0.01 * step, 0.0, 0.0, *quaternion, 1.0 - step % 2] for step in range(length)]
        write_parquet(root / f"data/chunk-000/episode_{k:06d}.parquet", {**rows(k), "observation.state": states})
    layout = ("--to", "bridge", "--action", "relative_pose", "--state_layout", "xyz_quaternion_gripper")
    output = run(root, tmp_path / "out", *layout, "--open_gripper", "low")
    (episode,) = read_episodes(output, "val")[0]
    assert episode.name == "2" and episode.state[:, 5] == pytest.approx(angle)
    # A step along x of the base, seen by a gripper that is turned by the angle.
    step = [0.01 * np.cos(angle), -0.01 * np.sin(angle), 0, 0, 0, 0]
    assert episode.action[0, :6] == pytest.approx(step, abs=1e-12)
    assert episode.action[:, 6].tolist() == [1, 0, 1, 0, 1] and episode.gripper.tolist() == [1, 0, 1, 0, 1, 0]
    states = [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0]] * LENGTHS[1]
    write_parquet(root / "data/chunk-000/episode_000001.parquet", {**rows(1), "observation.state": states})
    with pytest.raises(DataError, match="row 0: the quaternion has length 0.5, 1 is needed"):
        run(root.rename(tmp_path / "renamed"), tmp_path / "again", *layout, "--strict")


def test_pictures_inside_parquet(tmp_path):
    root = write_v2(tmp_path / "robot")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["dtype"], info["video_path"] = "image", None
    (root / "meta/info.json").write_text(json.dumps(info))
    for k, length in enumerate(LENGTHS):
        pictures = []
        for index in range(length):
            buffer = io.BytesIO()
            Image.fromarray(frame(k, index)).save(buffer, "png")
            pictures.append({"bytes": buffer.getvalue(), "path": f"{index}.png"})
        write_parquet(root / f"data/chunk-000/episode_{k:06d}.parquet", {**rows(k), CAMERA: pictures})
    output = run(root, tmp_path / "out", "--to", "instruction")
    assert_frames(output / "videos/000001.mp4", 1)


def test_late_in_a_long_episode_times_are_coarse(tmp_path):
    """Beyond 2048 s a float32 is further than the usual tolerance from the time that was meant."""
    root = write_v2(tmp_path / "robot")
    times = [0.0] + [5000 + (3 * index + 1) / 7 for index in range(LENGTHS[0] - 1)]
    stored = np.array(times, np.float32)
    assert np.abs(stored - times).max() > 1e-4
    write_parquet(root / "data/chunk-000/episode_000000.parquet", {**rows(0), "timestamp": stored})
    with av.open(str(root / f"videos/chunk-000/{CAMERA}/episode_000000.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.codec_context.time_base = 64, 48, Fraction(1, 7)
        for index, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(frame(0, index), format="rgb24")
            picture.pts, picture.time_base = round(time * 7), Fraction(1, 7)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    output = run(root, tmp_path / "out", "--to", "instruction", "--strict")
    assert_frames(output / "videos/000000.mp4", 0)


def test_pictures_of_depth_are_refused(tmp_path):
    root = write_v2(tmp_path / "robot")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["dtype"], info["video_path"] = "image", None
    (root / "meta/info.json").write_text(json.dumps(info))
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64), 9000, np.uint16)).save(buffer, "png")
    pictures = [{"bytes": buffer.getvalue(), "path": "0.png"}] * LENGTHS[0]
    write_parquet(root / "data/chunk-000/episode_000000.parquet", {**rows(0), CAMERA: pictures})
    with pytest.raises(DataError, match="episode 0: a picture: is grey of more than 8 bits"):
        run(root, tmp_path / "out", "--to", "instruction", "--strict")


def test_lines_of_episodes_end_at_line_feeds_only(tmp_path):
    root = write_v2(tmp_path / "robot")
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace("open the drawer", "open\u2028the drawer") + "\n", encoding="utf-8")
    assert open_lerobot(root).episodes[1].texts == ("open\u2028the drawer",)


def test_resume_writes_only_what_is_missing(tmp_path):
    root = write_v2(tmp_path / "robot")
    output = run(root, tmp_path / "out", "--to", "instruction")
    (output / "instructions/000001.json").unlink()
    kept = (output / "videos/000000.mp4").stat().st_mtime_ns
    run(root, output, "--to", "instruction", "--resume")
    assert (output / "instructions/000001.json").exists() and (output / "videos/000000.mp4").stat().st_mtime_ns == kept
    with pytest.raises(ConfigError, match="is not empty"):
        run(root, output, "--to", "instruction")


def cut_rows(root):
    columns = rows(1)
    write_parquet(root / "data/chunk-000/episode_000001.parquet", {key: value[:-1] for key, value in columns.items()})


def late_rows(root):
    columns = rows(1)
    columns["timestamp"] = [time + 0.03 for time in columns["timestamp"]]
    write_parquet(root / "data/chunk-000/episode_000001.parquet", columns)


def no_text(root):
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('["open the drawer"]', "[]"))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda root: (root / "meta/info.json").unlink(), "info.json: cannot be read as JSON"),
        (lambda root: write_info(root, "v1.6", data_path=""), "codebase_version v1.6; versions v2.0, v2.1, v3.0"),
        (
            lambda root: (root / "meta/episodes.jsonl").write_text('{"a": 1}\n{'),
            "line 2 of .*episodes.jsonl: cannot be read as JSON",
        ),
        (lambda root: (root / "data/chunk-000/episode_000001.parquet").unlink(), "no file under data/ holds episode 1"),
        (lambda root: (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"PAR1"), "no whole parquet file"),
        (cut_rows, "episode 1 has 6 rows, its metadata say 7"),
        (late_rows, "no frame within 0.0001 s of 0.0300 s; 0 of 7 frames"),
        (no_text, "episode 1 has no task text"),
    ],
)
def test_broken_datasets(tmp_path, damage, words):
    root = write_v2(tmp_path / "robot")
    damage(root)
    with pytest.raises(DataError, match=words):
        run(root, tmp_path / "out", "--to", "instruction", "--strict")


def test_unknown_names_list_the_valid_ones(tmp_path):
    root = write_v2(tmp_path / "robot")
    with pytest.raises(ConfigError, match=f"--camera wrist: .* has {CAMERA}"):
        run(root, tmp_path / "out", "--to", "bridge", "--camera", "wrist")
    with pytest.raises(ConfigError, match='no numeric feature "actions". There is: observation.state, action'):
        run(root, tmp_path / "out", "--to", "bridge", "--action_key", "actions")


def test_one_bad_episode_is_left_out_and_counted(tmp_path, capsys):
    root = write_v2(tmp_path / "robot")
    columns = rows(1)
    columns["action"][2][0] = float("nan")
    write_parquet(root / "data/chunk-000/episode_000001.parquet", columns)
    options = ("--to", "bridge", "--validation_fraction", "0")
    output = run(root, tmp_path / "out", *options)
    printed = capsys.readouterr().out
    assert "left out: " in printed and "episode 1: action: row 2 holds NaN" in printed
    assert "plan: 2 episodes used, 1 left out" in printed and "num_episodes 2" in printed
    assert [episode.name for episode in read_episodes(output, "train", action_dim=3)[0]] == ["0", "2"]
    with pytest.raises(DataError, match="episode 1: action: row 2 holds NaN"):
        run(root, tmp_path / "strict", *options, "--strict")
    assert not (tmp_path / "strict").exists()


def test_normalisation_and_rate_reach_the_checkpoint(tmp_path):
    options = ("--to", "bridge", "--normalize", "quantile", "--validation_fraction", "0")
    tree = run(write_v2(tmp_path / "robot"), tmp_path / "tree", *options)
    arguments = ["--dataset_path", str(tree), "--output_path", str(tmp_path / "cached"), "--action_dim", "3"]
    prepare_action_dataset.main(prepare_action_dataset.build_parser().parse_args(arguments))
    cached = ActionPairsDataModule(str(tmp_path / "cached"), num_workers=0, validation_fraction=0.0)
    size = {"video_size": [48, 64], "action_convention": "json", "action_dim": 3}
    pixels = BridgePixelsDataModule(str(tree), num_workers=0, validation_split=None, **size)
    facts = json.loads((tree / "dataset.json").read_text())
    for module in (cached, pixels):
        module.setup()
        frames = ActionFrames(**module.state_dict(0)["action_frames"])
        assert (frames.fps, frames.action_scale, frames.action_offset) == (
            FPS,
            facts["action_scale"],
            facts["action_offset"],
        )
        assert next(module.train_batches(0, 1, 0))["fps"].item() == FPS
        assert "recorded action * [" in "\n".join(frames.describe())
    cached.fps = 3.0
    assert cached.state_dict(0)["action_frames"]["fps"] == 3.0
