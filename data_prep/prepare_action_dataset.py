# SPDX-License-Identifier: Apache-2.0
"""Tokenise the frames of robot episodes one by one, and put the action that leads to the next frame beside each.

    python data_prep/prepare_action_dataset.py --dataset_path bridge --dataset_split train --output_path actions/train
    python data_prep/prepare_action_dataset.py ... --tokenizer dct_fsq      # codes for the autoregressive networks

The source is a Bridge / IRASim tree (annotation/SPLIT/*.json, videos/SPLIT/*/rgb.mp4). Every episode is checked, and
decoded to its end, before anything is written. torchrun shares the work; any number of ranks writes the same files.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.data.command_line import run_command
from cosmos1.data.files import read_facts, sha256_of_json, write_json, write_tensor
from cosmos1.data.geometry.actions import ACTION_CONVENTIONS
from cosmos1.data.preparing.encoders import (
    add_device_option,
    choose_device,
    discrete_tokenizer,
    tokenizer_weights,
)
from cosmos1.data.preparing.output_folder import (
    add_folder_options,
    check_output_folder,
    claim_output_folder,
    rank_and_world_size,
    share_of_rank,
)
from cosmos1.data.sources.bridge import (
    SPLITS,
    Episode,
    actions_between,
    check_convention,
    check_frame_count,
    check_poses,
    list_annotations,
    read_episode,
    read_state_file,
)
from cosmos1.data.video import count_frames, probe_video, read_video, resize_frames
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.token_grid import parse_compression
from cosmos1.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch

CONTINUOUS, DISCRETE = ("dct", "cosmos_cv8x8x8"), ("dct_fsq", "cosmos_dv")
WEIGHT_FREE = ("dct", "dct_fsq")


@dataclass(frozen=True)
class Plan:
    """Which episodes are used, at what picture size, and which of them each file of frames holds."""

    episodes: list[Episode]
    left_out: list[str]
    height: int
    width: int
    shards: list[list[Episode]]

    def shard_name(self, number: int) -> str:
        if len(self.shards) == 1:
            return "tokenized-frames.pt"
        return f"tokenized-frames-{number:05d}-of-{len(self.shards):05d}.pt"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", "--dataset-dir", type=Path, required=True, help="folder of annotation/ and videos/")
    add("--dataset_split", "--dataset-split", choices=SPLITS, default="train")
    add("--output_path", "--output-prefix", type=Path, required=True, help="new or empty folder, one per split")
    add("--action_convention", choices=tuple(ACTION_CONVENTIONS), default="json", help="docs/action_control.md")
    add("--action_dim", type=int, default=7, help="numbers per action; other than 7: not checked against poses")
    add("--camera", type=int, default=0, help='place in the "videos" list of an annotation')
    add("--height", type=int, help="stretch pictures to this size; default: as they are")
    add("--width", type=int)
    add("--tokenizer", choices=CONTINUOUS + DISCRETE, help="default: cosmos_cv8x8x8 with --tokenizer_dir, else dct")
    compression = "of dct_fsq and cosmos_dv: frames, rows and columns per token"
    add("--tokenizer_compression_factor", default="8,16,16", help=compression)
    add("--tokenizer_dir", default="", help="weights of the tokenizer; empty: download them into HF_HOME")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="precision in which the tokenizer runs")
    add_device_option(parser)
    add("--batch_size", "--batch-size", type=int, default=10, help="frames per pass of the tokenizer")
    add("--frames_per_shard", type=int, default=8192, help="larger datasets get several files of frames")
    # Ranks of torchrun share the cores of their machine.
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    add("--num_workers", "--num-workers", type=int, default=max(1, cores), help="threads that decode")
    add_folder_options(parser, stop_at="episode that cannot be used")
    return parser


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Read all annotations, decode all videos once to count their frames, and divide the episodes into files.

    Raises DataError when no episode is left; with --strict, at the first that cannot be used.
    """
    paths = list_annotations(arguments.dataset_path, arguments.dataset_split)
    with ThreadPoolExecutor(max(arguments.num_workers, 1)) as pool:
        results = list(pool.map(lambda path: _check_episode(arguments, path), paths))
    left_out = [result for result in results if isinstance(result, DataError)]
    episodes = [result for result in results if isinstance(result, Episode)]
    if left_out and (arguments.strict or not episodes):
        raise DataError(
            str(left_out[0]) if arguments.strict else "\n".join([*map(str, left_out), "no episode is left."])
        )
    height, width = _picture_size(arguments, episodes)
    shards: list[list[Episode]] = [[]]
    for episode in episodes:
        held = sum(other.num_frames for other in shards[-1])
        if held and held + episode.num_frames > arguments.frames_per_shard:
            shards.append([])
        shards[-1].append(episode)
    return Plan(episodes, [str(error) for error in left_out], height, width, shards)


def _check_episode(arguments: argparse.Namespace, path: Path) -> "Episode | DataError":
    try:
        if not path.stem.isdigit():
            raise DataError(f"{path}: the episode's name is not a number, which the order of rows needs. Rename it.")
        episode = read_episode(arguments.dataset_path, path, arguments.action_dim)
        check_poses(episode, arguments.action_convention)
        if episode.num_frames < 2:
            raise DataError(f"{path}: {episode.num_frames} frames, a motion needs 2; skipped.")
        check_frame_count(episode, arguments.camera, count_frames(episode.video(arguments.camera)))
        read_state_file(episode)
        return episode
    except DataError as error:
        return error


def _picture_size(arguments: argparse.Namespace, episodes: list[Episode]) -> tuple[int, int]:
    """The size asked for, or that of the first video; frames of other sizes are stretched only when asked."""
    if (arguments.height is None) != (arguments.width is None):
        raise ConfigError("--height and --width belong together: give both, or none to keep the pictures' size.")
    if arguments.height is not None:
        height, width = arguments.height, arguments.width
    else:
        sizes = {}
        for episode in episodes:
            info = probe_video(episode.video(arguments.camera))
            sizes.setdefault((info.height, info.width), info.path)
        if len(sizes) > 1:
            named = ", ".join(f"{size[0]} x {size[1]} ({path})" for size, path in sizes.items())
            raise DataError(
                f"the videos have {len(sizes)} sizes: {named}. Give --height and --width to stretch all to one."
            )
        height, width = next(iter(sizes))
    if height % 16 or width % 16:
        raise ConfigError(
            f"pictures of {height} x {width}: both must be multiples of 16. Use --height {max(height // 16, 1) * 16} "
            f"--width {max(width // 16, 1) * 16}."
        )
    return height, width


def dataset_facts(arguments: argparse.Namespace, plan: Plan) -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    rule = ACTION_CONVENTIONS[arguments.action_convention]
    source = read_facts(arguments.dataset_path, "Make the tree again, or remove the file.")
    recorded = not all(episode.has_poses for episode in plan.episodes)
    facts = {
        "format": "cosmos action frames",
        "version": 1,
        "num_frames": sum(episode.num_frames for episode in plan.episodes),
        "num_episodes": len(plan.episodes),
        "num_shards": len(plan.shards),
        "frames_per_shard": arguments.frames_per_shard,
        "split": arguments.dataset_split,
        "camera": arguments.camera,
        "height": plan.height,
        "width": plan.width,
        "tokenizer": arguments.tokenizer,
        "tokenizer_weights": tokenizer_weights(arguments),
        "dtype": arguments.dtype,
        "action_convention": arguments.action_convention,
        "action_meaning": "recorded actions of another robot" if recorded else rule.meaning,
        "action_scale": source.get("action_scale", [1.0] * arguments.action_dim) if recorded else rule.scale,
    }
    if arguments.tokenizer in DISCRETE:
        facts["compression"] = list(parse_compression(arguments.tokenizer_compression_factor))
    if recorded and "action_offset" in source:
        facts["action_offset"] = source["action_offset"]
    sources = [[episode.name, episode.num_frames, episode.action.tolist()] for episode in plan.episodes]
    if source:
        facts["source"] = source
    return {**facts, "plan_sha256": sha256_of_json([facts, sources])}


def print_plan(arguments: argparse.Namespace, plan: Plan, facts: dict) -> None:
    for line in plan.left_out:
        print(f"left out: {line}")
    pairs = facts["num_frames"] - facts["num_episodes"]
    print(f"plan: {len(plan.episodes)} episodes of {arguments.dataset_split} used, {len(plan.left_out)} left out")
    print(
        f"plan: {facts['num_frames']} frames of {plan.height} x {plan.width}, {pairs} pairs, {len(plan.shards)} files"
    )
    print(f'plan: actions of {arguments.action_dim} numbers, convention "{arguments.action_convention}": ', end="")
    print(f"{facts['action_meaning']}; scale {facts['action_scale']}")
    stand_in = " (weight-free stand-in)" if arguments.tokenizer in WEIGHT_FREE else ""
    print(f"plan: tokenizer {arguments.tokenizer}{stand_in}, frame by frame, into {arguments.output_path}", flush=True)


def table_of_actions(arguments: argparse.Namespace, episodes: list[Episode]) -> "dict[str, np.ndarray]":
    """Arrays of all frames in row order: actions (N, A) with NaN after each episode, state (N, 8) and gripper (N,)."""
    import numpy as np

    actions, states = [], []
    for episode in episodes:
        frames = list(range(episode.num_frames))
        actions += [
            actions_between(episode, frames, arguments.action_convention),
            np.full((1, arguments.action_dim), np.nan),
        ]
        state = read_state_file(episode)
        states.append(np.full((episode.num_frames, 8), np.nan) if state is None else state)
    arrays = {"actions": np.concatenate(actions), "state": np.concatenate(states)}
    return {**arrays, "gripper": np.concatenate([episode.gripper for episode in episodes])}


def write_table(arguments: argparse.Namespace, episodes: list[Episode]) -> None:
    import torch

    for name, array in table_of_actions(arguments, episodes).items():
        write_tensor(arguments.output_path / f"{name}.pt", torch.from_numpy(array).float())
    entries, row = [], 0
    for episode in episodes:
        length = episode.num_frames
        entries.append({"id": episode.name, "first_row": row, "length": length, "text": episode.text})
        row += length
    write_json(arguments.output_path / "episodes.json", entries)


def build_encoder(arguments: argparse.Namespace) -> "Callable[[torch.Tensor], torch.Tensor]":
    """Return a function from single frames (N, 3, 1, H, W) in [-1, 1] to what is stored of them, row by row."""
    import torch

    device = choose_device(arguments.device)
    if arguments.tokenizer in DISCRETE:
        tokenizer = discrete_tokenizer(arguments, device)
        return lambda pictures: tokenizer.encode(pictures).int().cpu()
    from cosmos1.models.tokenizers.video import build_video_tokenizer

    dtype = getattr(torch, arguments.dtype)
    tokenizer = build_video_tokenizer(arguments.tokenizer, arguments.tokenizer_dir or None, 1, device, dtype)
    return lambda pictures: tokenizer.encode(pictures).bfloat16().cpu()


def encode_episode(arguments: argparse.Namespace, plan: Plan, episode: Episode, encode: Callable) -> "torch.Tensor":
    """Every frame of an episode, encoded for itself: (T, 16, 1, h, w) bfloat16 or (T, 1, h, w) int32."""
    import torch

    from cosmos1.data.video import frames_to_tensor

    frames = resize_frames(read_video(episode.video(arguments.camera)), plan.height, plan.width)
    pictures = frames_to_tensor(frames).permute(2, 1, 0, 3, 4)
    return torch.cat([encode(part) for part in pictures.split(arguments.batch_size)])


def main(arguments: argparse.Namespace) -> None:
    import torch

    rank, world_size = rank_and_world_size()
    arguments.tokenizer = arguments.tokenizer or ("cosmos_cv8x8x8" if arguments.tokenizer_dir else "dct")
    check_convention(arguments.action_convention, arguments.action_dim)
    plan = make_plan(arguments)
    facts = dataset_facts(arguments, plan)
    if rank == 0:
        print_plan(arguments, plan, facts)
        check_output_folder(arguments.output_path, facts, arguments.resume)
    owned = share_of_rank(len(plan.shards), rank, world_size)
    missing = [number for number in owned if not (arguments.output_path / plan.shard_name(number)).exists()]
    encode = build_encoder(arguments) if missing else None
    claim_output_folder(arguments.output_path, facts, arguments.resume, rank)
    if rank == 0:
        write_table(arguments, plan.episodes)
    progress = Progress(sum(len(plan.shards[number]) for number in missing), "episodes", enabled=rank == 0)
    for number in missing:
        parts = []
        for episode in plan.shards[number]:
            parts.append(encode_episode(arguments, plan, episode, encode))
            progress.advance()
        write_tensor(arguments.output_path / plan.shard_name(number), torch.cat(parts))
    if rank == 0:
        print(f"{len(owned)} of {len(plan.shards)} files of frames are rank 0's and in {arguments.output_path}")


if __name__ == "__main__":
    run_command(build_parser(), main)
