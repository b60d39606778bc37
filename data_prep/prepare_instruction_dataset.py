# SPDX-License-Identifier: Apache-2.0
"""Turn videos with instructions into a folder of cached latents and text embeddings for instruction control.

    python data_prep/prepare_instruction_dataset.py --dataset_path robot_dataset --output_path cached
    python data_prep/prepare_instruction_dataset.py --dataset_path bridge --bridge_split train --output_path cached \\
        --num_frames 25 --height 256 --width 320

The source is videos/<id>.mp4 with instructions/<id>.json {"language_instruction_0": "..."}, or a Bridge tree. A video
gives --num_chunks samples, fewer if it has fewer different clips. The result is what data_prep/prepare_dataset.py
writes. torchrun shares the work; any number of ranks writes the same files.
"""

import argparse
from pathlib import Path

from cosmos1.data.command_line import run_command
from cosmos1.data.files import sha256_of_json
from cosmos1.data.formats.action_frames import BRIDGE_CONTROL_RATE_HZ
from cosmos1.data.preparing.clip_writer import add_sample_options, write_clips
from cosmos1.data.preparing.encoders import encoder_facts, encoder_names, settle_encoders
from cosmos1.data.preparing.latent_writer import check_sizes
from cosmos1.data.preparing.output_folder import rank_and_world_size
from cosmos1.data.sources.bridge import SPLITS
from cosmos1.data.sources.clip_plan import PlannedVideo
from cosmos1.data.sources.instructions import (
    plan_instructions,
    read_bridge_instructions,
    read_instruction_folder,
    with_frame_rate,
)
from cosmos1.errors import DataError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", type=Path, required=True, help="folder of videos/ and instructions/, or a Bridge tree")
    add("--output_path", type=Path, default=Path("instruction_dataset_cached"), help="new or empty folder")
    add("--instruction_key", default="language_instruction_0", help="key of the instruction in the JSON files")
    add("--instruction_sampling", choices=("first", "random", "all"), default="first", help="of several instructions")
    add("--bridge_split", choices=SPLITS, help="read this split of a Bridge tree instead")
    add("--camera", type=int, default=0, help='of a Bridge tree: place in the "videos" list of an annotation')
    add("--action_dim", type=int, default=7, help="of a Bridge tree: numbers per action")
    add("--fps", type=float, help="frame rate to record; default: the video's, for Bridge its control rate of 5")
    add_sample_options(parser, seed_draws="start frames and texts")
    return parser


def make_plan(arguments: argparse.Namespace) -> tuple[list[PlannedVideo], list[str]]:
    """Read the instructions and probe the videos. Returns the plan and one line per problem.

    Raises DataError when nothing is left; with --strict, for any problem.
    """
    sampling = arguments.instruction_sampling
    if arguments.bridge_split:
        source = arguments.dataset_path, arguments.bridge_split
        videos, problems = read_bridge_instructions(*source, arguments.camera, arguments.action_dim, sampling)
    else:
        videos, problems = read_instruction_folder(arguments.dataset_path, arguments.instruction_key, sampling)
    if problems and arguments.strict:
        raise DataError("\n".join(problems))
    planned, left_out = plan_instructions(
        videos, arguments.num_frames, arguments.num_chunks, arguments.seed, sampling, arguments.strict
    )
    fps = arguments.fps or (BRIDGE_CONTROL_RATE_HZ if arguments.bridge_split else None)
    return with_frame_rate(planned, fps) if fps else planned, problems + left_out


def dataset_facts(arguments: argparse.Namespace, planned: list[PlannedVideo]) -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    content = [[video.source_name, video.prompt, video.starts, video.info.fps] for video in planned]
    facts = {
        "format": "cosmos latent folder",
        "version": 1,
        "num_samples": sum(len(video.starts) for video in planned),
        "num_videos": len({video.source_name for video in planned}),
    }
    names = ("num_chunks", "num_frames", "height", "width", "seed", "instruction_sampling", "bridge_split")
    facts |= {name: getattr(arguments, name) for name in names} | encoder_facts(arguments)
    facts["source_list_sha256"] = sha256_of_json(
        [[item[0], video.info.num_frames] for item, video in zip(content, planned)]
    )
    return {**facts, "plan_sha256": sha256_of_json([facts, content])}


def print_plan(arguments: argparse.Namespace, planned: list[PlannedVideo], problems: list[str], facts: dict) -> None:
    for line in problems:
        print(line)
    num_texts = len({video.prompt for video in planned})
    print(f"plan: {facts['num_videos']} videos used, {len(problems)} problems; {num_texts} different instructions")
    print(f"plan: {facts['num_samples']} samples of {arguments.num_frames} frames", end="")
    print(f", {arguments.height} x {arguments.width}, seed {arguments.seed}, into {arguments.output_path}")
    print(f"plan: {encoder_names(arguments)}", flush=True)


def main(arguments: argparse.Namespace) -> None:
    settle_encoders(arguments)
    check_sizes(arguments, usual_frames=121)
    planned, problems = make_plan(arguments)
    facts = dataset_facts(arguments, planned)
    if rank_and_world_size()[0] == 0:
        print_plan(arguments, planned, problems, facts)
    write_clips(arguments, facts, planned)


if __name__ == "__main__":
    run_command(build_parser(), main)
