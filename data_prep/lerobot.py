# SPDX-License-Identifier: Apache-2.0
"""Turn a LeRobot dataset (v2.1 or v3.0) into the folders that instruction and action control are prepared from.

    python data_prep/lerobot.py --dataset_path my_robot --output_path instructed --to instruction
    python data_prep/lerobot.py --dataset_path my_robot --output_path tree --to bridge --action relative_pose \\
        --state_layout xyz_rpy_gripper

"instruction" writes videos/<id>.mp4 and instructions/<id>.json for prepare_instruction_dataset.py; "bridge" writes the
tree that prepare_action_dataset.py and BridgePixelsDataModule read. Action k leads from frame k to frame k+1: either a
column as it is (--action column), or the relative motion of the pose in a state column (--action relative_pose).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cosmos1.data.batches.sampler import held_out_names
from cosmos1.data.command_line import run_command, use_each
from cosmos1.data.files import sha256_of_json, write_bytes
from cosmos1.data.geometry.actions import bridge_actions
from cosmos1.data.geometry.rotations import euler_angles, rotation_of_quaternion
from cosmos1.data.preparing.output_folder import (
    add_folder_options,
    claim_output_folder,
    rank_and_world_size,
    report_failures,
    share_of_rank,
)
from cosmos1.data.sources.lerobot import LeRobotDataset, LeRobotEpisode, open_lerobot
from cosmos1.data.video import write_video
from cosmos1.errors import ConfigError, DataError
from cosmos1.progress import Progress

STATE_LAYOUTS = {"xyz_rpy_gripper": 7, "xyz_quaternion_gripper": 8}
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "test": "test"}
LOW_QUANTILE, HIGH_QUANTILE = 0.01, 0.99


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", type=Path, required=True, help="folder of meta/, data/ and videos/")
    add("--output_path", type=Path, required=True, help="new or empty folder")
    add("--to", choices=("instruction", "bridge"), required=True)
    add("--camera", help="name of the camera; needed when there are several")
    add("--action", choices=("column", "relative_pose"), default="column", help="what an action is")
    add("--action_key", default="action", help="column of --action column")
    add(
        "--normalize",
        choices=("none", "quantile"),
        default="none",
        help="of --action column: 1 %% and 99 %% to -1 and 1",
    )
    add("--state_key", default="observation.state", help="column of states")
    add("--state_layout", choices=tuple(STATE_LAYOUTS), help="meaning of the state, for --action relative_pose")
    add("--open_gripper", choices=("high", "low"), default="high", help="whether an open gripper is 1 or 0")
    add("--validation_fraction", type=float, default=0.1, help="of the episodes, where the dataset has no such split")
    add("--seed", type=int, default=0, help="draws the held-out episodes")
    add_folder_options(parser, stop_at="episode that cannot be used")
    return parser


@dataclass(frozen=True)
class Motion:
    """What is written of an episode: state (T, S), action (T-1, A), gripper (T,) 0 = open .. 1 = closed."""

    state: np.ndarray
    action: np.ndarray
    gripper: np.ndarray


def choose_camera(arguments: argparse.Namespace, dataset: LeRobotDataset) -> str:
    cameras = dataset.picture_keys()
    if arguments.camera is None and len(cameras) == 1:
        return cameras[0]
    if arguments.camera not in cameras:
        raise ConfigError(f"--camera {arguments.camera}: {dataset.root} has {', '.join(cameras) or 'none'}. Name one.")
    return arguments.camera


def assign_splits(arguments: argparse.Namespace, dataset: LeRobotDataset) -> dict[int, str]:
    """The split of each episode: those of info.json; where they hold nothing out, a fraction of the episodes."""
    splits = {}
    for name, span in dataset.info.get("splits", {}).items():
        first, _, last = span.partition(":")
        if name not in SPLIT_NAMES or not first.isdigit() or not last.isdigit():
            raise DataError(f"{dataset.root}: split {name}: {span}; train, val or test with first:last is needed.")
        splits |= dict.fromkeys(range(int(first), int(last)), SPLIT_NAMES[name])
    indices = [episode.index for episode in dataset.episodes]
    if any(splits.get(index, "train") != "train" for index in indices):
        return {index: splits.get(index, "train") for index in indices}
    held_out = held_out_names([str(index) for index in indices], arguments.validation_fraction, arguments.seed)
    return {index: "val" if str(index) in held_out else "train" for index in indices}


def read_motion(arguments: argparse.Namespace, dataset: LeRobotDataset, episode: LeRobotEpisode) -> Motion:
    """State, action and gripper of an episode, actions not normalised. Raises DataError for values without meaning."""
    if arguments.action == "column":
        action = dataset.column(episode, arguments.action_key)[:-1]
        return Motion(np.zeros((episode.length, 1)), action, np.zeros(episode.length))
    values = dataset.column(episode, arguments.state_key)
    width = STATE_LAYOUTS[arguments.state_layout]
    where = f"{episode.data_file}: episode {episode.index}: {arguments.state_key}"
    if values.shape[1] != width:
        raise DataError(f"{where} has {values.shape[1]} numbers, --state_layout {arguments.state_layout} has {width}.")
    angles = values[:, 3:6] if width == 7 else _angles_of_quaternions(values[:, 3:7], where)
    opening = values[:, -1] if arguments.open_gripper == "high" else 1.0 - values[:, -1]
    if opening.min() < -1e-3 or opening.max() > 1 + 1e-3:
        raise DataError(
            f"{where}: the gripper runs from {values[:, -1].min():g} to {values[:, -1].max():g}; 0 to 1 is needed."
        )
    bit = (opening > 0.5).astype(np.float64)
    state = np.concatenate([values[:, :3], angles, bit[:, None]], axis=1)
    return Motion(state, bridge_actions(state, bit), np.clip(1.0 - opening, 0, 1))


def _angles_of_quaternions(quaternions_N4: np.ndarray, where: str) -> np.ndarray:
    """Roll, pitch, yaw (N, 3) of unit quaternions (x, y, z, w)."""
    norms = np.linalg.norm(quaternions_N4, axis=1)
    if np.abs(norms - 1).max() > 1e-2:
        raise DataError(
            f"{where}: row {np.abs(norms - 1).argmax()}: the quaternion has length {norms.max():g}, 1 is needed."
        )
    return euler_angles(rotation_of_quaternion(quaternions_N4[:, [3, 0, 1, 2]]))


def normalization(arguments: argparse.Namespace, motions: list[Motion]) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale (A,) such that action * scale + offset is what is written."""
    actions = np.concatenate([motion.action for motion in motions])
    if arguments.normalize == "none":
        return np.zeros(actions.shape[1]), np.ones(actions.shape[1])
    low, high = np.quantile(actions, [LOW_QUANTILE, HIGH_QUANTILE], axis=0)
    # A number that never changes has nothing to normalise.
    scale = np.where(high > low, 2 / np.where(high > low, high - low, 1), 1.0)
    return np.where(high > low, -1 - low * scale, 0.0), scale


def finished_file(arguments: argparse.Namespace, episode: LeRobotEpisode, split: str) -> Path:
    """The file of an episode that is written last."""
    if arguments.to == "bridge":
        return arguments.output_path / "annotation" / split / f"{episode.index}.json"
    return arguments.output_path / "instructions" / f"{episode.index:06d}.json"


def write_instruction(arguments: argparse.Namespace, dataset: LeRobotDataset, episode: LeRobotEpisode) -> None:
    if not episode.texts:
        raise DataError(f"{dataset.root}: episode {episode.index} has no task text; instruction control needs one.")
    folder, name = arguments.output_path, f"{episode.index:06d}"
    frames = dataset.frames(episode, choose_camera(arguments, dataset))
    content = {f"language_instruction_{number}": text for number, text in enumerate(episode.texts)}
    write_video(folder / "videos" / f"{name}.mp4", frames, dataset.fps)
    (folder / "instructions").mkdir(exist_ok=True)
    write_bytes(folder / "instructions" / f"{name}.json", json.dumps(content, ensure_ascii=False).encode())


def write_tree_episode(
    arguments: argparse.Namespace, dataset: LeRobotDataset, episode: LeRobotEpisode, motion: Motion, split: str
) -> None:
    name = str(episode.index)
    video = f"videos/{split}/{name}/rgb.mp4"
    frames = dataset.frames(episode, choose_camera(arguments, dataset))
    write_video(arguments.output_path / video, frames, dataset.fps)
    annotation = {
        "texts": list(episode.texts),
        "action_kind": "pose" if arguments.action == "relative_pose" else "recorded",
        "videos": [{"video_path": video}],
        "state": motion.state.tolist(),
        "action": motion.action.tolist(),
        "continuous_gripper_state": motion.gripper.tolist(),
        "episode_id": name,
    }
    path = finished_file(arguments, episode, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(annotation, ensure_ascii=False).encode())


def dataset_facts(arguments: argparse.Namespace, dataset: LeRobotDataset, splits: dict[int, str]) -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    facts = {
        "format": f"LeRobot {dataset.version} as {arguments.to}",
        "fps": dataset.fps,
        "camera": choose_camera(arguments, dataset),
        "num_episodes": len(dataset.episodes),
        "splits": {name: sum(split == name for split in splits.values()) for name in ("train", "val", "test")},
    }
    if arguments.to == "bridge":
        facts |= {key: getattr(arguments, key) for key in ("action", "action_key", "state_key", "state_layout")}
    content = [[episode.index, episode.length, episode.texts, splits[episode.index]] for episode in dataset.episodes]
    return {**facts, "plan_sha256": sha256_of_json([facts, arguments.normalize, arguments.open_gripper, content])}


def read_motions(
    arguments: argparse.Namespace, dataset: LeRobotDataset, splits: dict[int, str]
) -> tuple[dict[int, Motion], list[str]]:
    """Motion of every episode that has a usable one, and one line per episode that has not.

    Raises DataError when no training episode is left; with --strict, at the first that cannot be used.
    """

    def read(episode: LeRobotEpisode) -> tuple[int, Motion]:
        return episode.index, read_motion(arguments, dataset, episode)

    found, left_out = use_each(dataset.episodes, read, arguments.strict)
    motions = dict(found)
    if not any(splits[index] == "train" for index in motions):
        raise DataError("\n".join([*left_out, f"{dataset.root}: no training episode is left, nothing to do."]))
    return motions, left_out


def normalize(
    arguments: argparse.Namespace, motions: dict[int, Motion], splits: dict[int, str], facts: dict
) -> dict[int, Motion]:
    """The motions, normalised by the training episodes; the numbers are added to `facts`."""
    offset, scale = normalization(arguments, [motions[index] for index in motions if splits[index] == "train"])
    facts |= {"action_dim": len(scale), "action_scale": scale.tolist(), "action_offset": offset.tolist()}
    return {index: Motion(m.state, m.action * scale + offset, m.gripper) for index, m in motions.items()}


def main(arguments: argparse.Namespace) -> None:
    rank, world_size = rank_and_world_size()
    if arguments.action == "relative_pose" and (arguments.state_layout is None or arguments.normalize != "none"):
        raise ConfigError("--action relative_pose needs --state_layout and goes without --normalize; its scale is that of "
                          "the action convention (docs/action_control.md).")  # fmt: skip
    dataset = open_lerobot(arguments.dataset_path)
    choose_camera(arguments, dataset)
    splits = assign_splits(arguments, dataset)
    left_out: list[str] = []
    if arguments.to == "bridge":
        motions, left_out = read_motions(arguments, dataset, splits)
        dataset = replace(dataset, episodes=[episode for episode in dataset.episodes if episode.index in motions])
        splits = {index: splits[index] for index in motions}
        facts = dataset_facts(arguments, dataset, splits)
        motions = normalize(arguments, motions, splits, facts)

        def write(episode: LeRobotEpisode) -> None:
            index = episode.index
            write_tree_episode(arguments, dataset, episode, motions[index], splits[index])
    else:
        facts = dataset_facts(arguments, dataset, splits)

        def write(episode: LeRobotEpisode) -> None:
            write_instruction(arguments, dataset, episode)

    if rank == 0:
        for line in left_out:
            print(f"left out: {line}")
        print(f"plan: {len(dataset.episodes)} episodes used, {len(left_out)} left out")
        for key, value in facts.items():
            print(f"plan: {key} {value}", flush=True)
    claim_output_folder(arguments.output_path, facts, arguments.resume, rank)
    owned = share_of_rank(len(dataset.episodes), rank, world_size)
    episodes = [dataset.episodes[number] for number in owned]
    missing = [episode for episode in episodes if not finished_file(arguments, episode, splits[episode.index]).exists()]
    write_episodes(arguments, missing, write, rank == 0)


def write_episodes(
    arguments: argparse.Namespace, episodes: list[LeRobotEpisode], write: Callable, show_progress: bool
) -> None:
    """Write episodes; those that fail are named at the end. Raises DataError when no rank has written anything."""
    progress, failures = Progress(len(episodes), "episodes", show_progress), []
    for episode in episodes:
        try:
            write(episode)
        except DataError as error:
            if arguments.strict:
                raise
            failures.append(str(error))
        progress.advance()
    pattern = "annotation/*/*.json" if arguments.to == "bridge" else "instructions/*.json"
    report_failures(arguments.output_path, failures, pattern)
    print(f"{len(episodes) - len(failures)} episodes are in {arguments.output_path}; {len(failures)} failed")


if __name__ == "__main__":
    run_command(build_parser(), main)
