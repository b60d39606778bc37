# SPDX-License-Identifier: Apache-2.0
"""Writing the samples of planned clips: latents, text and `info.json`, each video in one pass over its frames."""

import argparse
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from cosmos1.data.command_line import use_each
from cosmos1.data.formats.latent_sample import CONDITIONING_PART, REQUIRED_PARTS
from cosmos1.data.preparing.encoders import LatentEncoder, add_encoder_options, text_files_of_rows
from cosmos1.data.preparing.latent_writer import unfinished_samples, write_sample_files
from cosmos1.data.preparing.output_folder import (
    check_output_folder,
    claim_output_folder,
    rank_and_world_size,
    report_failures,
    share_of_rank,
)
from cosmos1.data.sources.clip_plan import PlannedVideo
from cosmos1.data.text_rows import read_text_rows
from cosmos1.data.video import count_frames, iterate_frames, resize_frames
from cosmos1.errors import DataError
from cosmos1.progress import Progress


def add_sample_options(parser: argparse.ArgumentParser, seed_draws: str) -> None:
    """Add what a sample is made of, what the seed draws, and the encoders' options."""
    add = parser.add_argument
    add("--num_chunks", type=int, default=5, help="samples per video")
    add("--height", type=int, default=704, help="pixels; pictures are stretched to this size")
    add("--width", type=int, default=1280)
    add("--num_frames", type=int, default=121, help="pixel frames per sample, 8k+1")
    add("--seed", type=int, default=0, help=f"draws {seed_draws}")
    add("--allow_grey", action="store_true", help="repeat a single grey channel three times")
    add_encoder_options(parser)


def write_clips(arguments: argparse.Namespace, facts: dict[str, Any], planned: list[PlannedVideo]) -> None:
    """Write this rank's share of the samples of a plan, as far as files are missing.

    `facts` go into dataset.json. A video that fails is reported at the end (with --strict it stops the run). Raises
    DataError when no rank has written anything, ConfigError for a folder in use; encoders that cannot be built leave no
    folder.
    """
    rank, world_size = rank_and_world_size()
    if rank == 0:
        check_output_folder(arguments.output_path, facts, arguments.resume)
    owned = share_of_rank(facts["num_samples"], rank, world_size)
    work = [(video, unfinished_indices(arguments.output_path, video, owned)) for video in planned]
    work = [(video, indices) for video, indices in work if indices]
    num_missing = sum(len(indices) for _, indices in work)
    if rank == 0 and num_missing < len(owned):
        print(f"{len(owned) - num_missing} of {len(owned)} samples of rank 0 are already there")
    to_encode = any(video.text_rows is None for video, _ in work)
    encoder = LatentEncoder(arguments, with_text=to_encode) if work else None
    claim_output_folder(arguments.output_path, facts, arguments.resume, rank)
    progress = Progress(num_missing, "samples", enabled=rank == 0)
    _, failures = use_each(work, lambda job: write_video_samples(arguments, encoder, *job, progress), arguments.strict)
    report_failures(arguments.output_path, failures, "*.info.json")
    if rank == 0:
        num_finished = progress.done + len(owned) - num_missing
        print(f"{num_finished} samples of rank 0 are in {arguments.output_path}; {len(failures)} videos failed")


def write_video_samples(
    arguments: argparse.Namespace, encoder: LatentEncoder, video: PlannedVideo, indices: list[int], progress: Progress
) -> None:
    """Write the samples of one video, in one pass over its frames.

    Raises DataError before anything is written when the video cannot be decoded to its end, or is too short for a
    planned sample.
    """
    num_frames = count_frames(video.info.path)
    last = max(video.starts[index - video.first_index] for index in indices) + arguments.num_frames
    if num_frames < last:
        raise DataError(
            f"{video.info.path}: {num_frames} frames can be decoded, the samples planned of it need {last}. Was it "
            f"replaced meanwhile? Prepare it again into another folder."
        )
    if video.text_rows is None:
        text = encoder.text_files(video.prompt)
    else:
        text = text_files_of_rows(read_text_rows(video.text_rows))
    wanted = deque(indices)
    window: deque = deque(maxlen=arguments.num_frames)
    for number, frame in enumerate(iterate_frames(video.info.path, arguments.allow_grey)):
        # Frames before the first chunk are decoded but not resized; only one chunk is held in memory.
        if number >= video.starts[wanted[0] - video.first_index]:
            window.append(resize_frames(frame[None], arguments.height, arguments.width)[0])
        while wanted and number == video.starts[wanted[0] - video.first_index] + arguments.num_frames - 1:
            index = wanted.popleft()
            tensors = encoder.video_files([np.stack(window)]) | text
            info = sample_info(arguments, video, video.starts[index - video.first_index])
            write_sample_files(arguments.output_path, index, tensors, info)
            progress.advance()
        if not wanted:
            return


def sample_info(arguments: argparse.Namespace, video: PlannedVideo, start: int) -> dict[str, Any]:
    return {
        "height": video.info.height,
        "width": video.info.width,
        "fps": video.info.fps,
        "num_frames": arguments.num_frames,
        "video_path": video.source_name or video.info.path.name,
        "start_frame": int(start),
        "target_height": arguments.height,
        "target_width": arguments.width,
        "prompt": video.prompt,
        "tokenizer": arguments.tokenizer,
        "seed": arguments.seed,
    }


def unfinished_indices(folder: Path, video: PlannedVideo, owned: range) -> list[int]:
    """Return this rank's samples of a video that lack a file."""
    indices = range(video.first_index, video.first_index + len(video.starts))
    return unfinished_samples(
        folder, (index for index in indices if index in owned), (*REQUIRED_PARTS, CONDITIONING_PART)
    )
