# SPDX-License-Identifier: Apache-2.0
"""Writing the samples of planned clips: latents, text and `info.json`, each video in one pass over its frames."""

import argparse
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from cosmos1.data.command_line import Progress
from cosmos1.data.files import write_json, write_tensor
from cosmos1.data.formats.latent_sample import CONDITIONING_PART, REQUIRED_PARTS
from cosmos1.data.preparing.latent_writer import CONDITIONING_FRAMES, LatentEncoder
from cosmos1.data.preparing.output_folder import (
    check_output_folder,
    claim_output_folder,
    rank_and_world_size,
    report_failures,
    share_of_rank,
)
from cosmos1.data.sources.clip_plan import PlannedVideo
from cosmos1.data.video import count_frames, iterate_frames, resize_frames
from cosmos1.errors import DataError


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
    writer = SampleWriter(arguments) if work else None
    claim_output_folder(arguments.output_path, facts, arguments.resume, rank)
    progress = Progress(num_missing, "samples", enabled=rank == 0)
    failures = []
    for video, indices in work:
        try:
            write_video_samples(writer, video, indices, progress)
        except DataError as error:
            if arguments.strict:
                raise
            failures.append(str(error))
    report_failures(arguments.output_path, failures, "*.info.json")
    if rank == 0:
        num_finished = progress.done + len(owned) - num_missing
        print(f"{num_finished} samples of rank 0 are in {arguments.output_path}; {len(failures)} videos failed")


class SampleWriter:
    """Encodes chunks and writes the files of a sample, `info.json` last: a sample without it is unfinished."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.encoder = LatentEncoder(arguments)

    def write(self, index: int, video: PlannedVideo, start: int, frames: np.ndarray) -> None:
        """Write sample `index` from its frames (T, H, W, 3) uint8, already at the target size."""
        import torch

        folder = self.arguments.output_path
        write_tensor(folder / f"{index}.video_latent.pth", self.encoder.video(frames))
        conditioning = self.encoder.video(frames, num_given=CONDITIONING_FRAMES)
        write_tensor(folder / f"{index}.conditioning_latent.pth", conditioning)
        embeddings, _ = self.encoder.text(video.prompt)
        write_tensor(folder / f"{index}.t5_text_embeddings.pth", embeddings)
        # All ones: the released checkpoints were trained attending to the zero rows too.
        write_tensor(folder / f"{index}.t5_text_mask.pth", torch.ones(len(embeddings), dtype=torch.bfloat16))
        write_json(folder / f"{index}.info.json", self._info(video, start))

    def _info(self, video: PlannedVideo, start: int) -> dict:
        return {
            "height": video.info.height,
            "width": video.info.width,
            "fps": video.info.fps,
            "num_frames": self.arguments.num_frames,
            "video_path": video.source_name or video.info.path.name,
            "start_frame": int(start),
            "target_height": self.arguments.height,
            "target_width": self.arguments.width,
            "prompt": video.prompt,
            "tokenizer": self.arguments.tokenizer,
            "seed": self.arguments.seed,
        }


def write_video_samples(writer: SampleWriter, video: PlannedVideo, indices: list[int], progress: Progress) -> None:
    """Write the samples of one video, in one pass over its frames.

    Raises DataError before anything is written when the video cannot be decoded to its end, or is too short for a
    planned sample.
    """
    arguments = writer.arguments
    num_frames = count_frames(video.info.path)
    last = max(video.starts[index - video.first_index] for index in indices) + arguments.num_frames
    if num_frames < last:
        raise DataError(
            f"{video.info.path}: {num_frames} frames can be decoded, the samples planned of it need {last}. Was it "
            f"replaced meanwhile? Prepare it again into another folder."
        )
    wanted = deque(indices)
    window: deque = deque(maxlen=arguments.num_frames)
    for number, frame in enumerate(iterate_frames(video.info.path, arguments.allow_grey)):
        # Frames before the first chunk are decoded but not resized; only one chunk is held in memory.
        if number >= video.starts[wanted[0] - video.first_index]:
            window.append(resize_frames(frame[None], arguments.height, arguments.width)[0])
        while wanted and number == video.starts[wanted[0] - video.first_index] + arguments.num_frames - 1:
            index = wanted.popleft()
            writer.write(index, video, video.starts[index - video.first_index], np.stack(window))
            progress.advance()
        if not wanted:
            return


def unfinished_indices(folder: Path, video: PlannedVideo, owned: range) -> list[int]:
    """Return this rank's samples of a video that lack a file."""
    indices = range(video.first_index, video.first_index + len(video.starts))
    parts = (*REQUIRED_PARTS, CONDITIONING_PART)
    return [
        index
        for index in indices
        if index in owned and not all((folder / f"{index}.{part}").exists() for part in parts)
    ]
