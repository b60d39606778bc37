# SPDX-License-Identifier: Apache-2.0
"""Turn a folder of mp4 videos into a folder of cached latents and text embeddings for diffusion post-training.

    python data_prep/prepare_dataset.py --dataset_path videos --output_path cached --prompt "A video of sks robot."
    torchrun --nproc_per_node=8 data_prep/prepare_dataset.py ... --tokenizer_dir Cosmos-1.0-Tokenizer-CV8x8x8

Each video gives --num_chunks samples that start at random frames. A file `name.txt` beside `name.mp4` is that video's
caption; videos without one get --prompt. Any number of ranks writes the same files.
"""

import argparse
import os
from collections import deque
from functools import lru_cache
from pathlib import Path

import numpy as np

from cosmos1.data.clip_plan import PlannedVideo, list_mp4_files, plan_videos, repeated_chunk_warnings
from cosmos1.data.latent_sample import CONDITIONING_PART, REQUIRED_PARTS
from cosmos1.data.preparation import (
    Progress,
    claim_output_folder,
    rank_and_world_size,
    run_command,
    sha256_of_json,
    share_of_rank,
    write_json,
    write_tensor,
)
from cosmos1.data.video import count_frames, iterate_frames, resize_frames
from cosmos1.errors import ConfigError, DataError

CONDITIONING_FRAMES = 9
TEMPORAL_FACTOR = 8


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", type=Path, default=Path("video_dataset"), help="folder of *.mp4, not searched recursively")
    add("--output_path", type=Path, default=Path("video_dataset_cached"), help="new or empty folder")
    add("--prompt", default="a video of sks.", help="text of videos that have no caption file")
    add("--num_chunks", type=int, default=5, help="samples per video")
    add("--height", type=int, default=704, help="pixels; pictures are stretched to this size")
    add("--width", type=int, default=1280)
    add("--num_frames", type=int, default=121, help="pixel frames per sample, 8k+1")
    add("--tokenizer", choices=("dct", "cosmos_cv8x8x8"), help="default: cosmos_cv8x8x8 with --tokenizer_dir, else dct")
    add("--tokenizer_dir", default="", help="weights of cosmos_cv8x8x8; empty: download them into HF_HOME")
    add("--text_encoder", choices=("hashed", "t5"), help="default: t5 beside cosmos_cv8x8x8, hashed beside dct")
    add("--text_encoder_dir", default="", help="weights of t5; empty: google-t5/t5-11b from HF_HOME or the hub")
    add("--text_dtype", choices=("float32", "bfloat16"), default="float32", help="precision in which t5 runs")
    add("--text_device", default="", help="device of the text encoder; empty: that of the tokenizer")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="precision in which the tokenizer runs")
    add("--device", default="", help="cpu, cuda, cuda:1; empty: this rank's CUDA device if there is one")
    add("--seed", type=int, default=0, help="draws the start frames")
    add("--allow_grey", action="store_true", help="repeat a single grey channel three times")
    add("--resume", action="store_true", help="complete a folder that an earlier run with the same options began")
    add("--strict", action="store_true", help="stop at the first video that cannot be used")
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for sizes that no sample can have."""
    for option in ("height", "width"):
        value = getattr(arguments, option)
        if value < 16 or value % 16:
            lower = max(value // 16 * 16, 16)
            raise ConfigError(f"--{option} {value} is not a multiple of 16. Use {lower} or {lower + 16}.")
    frames = arguments.num_frames
    if frames < 1 or (frames - 1) % TEMPORAL_FACTOR:
        lower = max((frames - 1) // 8 * 8 + 1, 1)
        raise ConfigError(f"--num_frames {frames} is not 8k+1. The nearest are {lower} and {lower + 8}; 121 is usual.")
    if arguments.num_chunks < 1:
        raise ConfigError(f"--num_chunks {arguments.num_chunks}: at least 1 sample per video is needed.")


def prompt_of(path: Path, default: str) -> str:
    """Return the text of the caption file beside a video, or the default."""
    caption = path.with_suffix(".txt")
    return caption.read_text(encoding="utf-8").strip() if caption.exists() else default


def print_plan(arguments: argparse.Namespace, planned: list[PlannedVideo], left_out: list[str]) -> None:
    captions = sum(video.info.path.with_suffix(".txt").exists() for video in planned)
    for line in [*left_out, *repeated_chunk_warnings(planned, arguments.num_frames)]:
        print(line)
    print(f"plan: {len(planned)} videos used, {len(left_out)} left out; {arguments.num_chunks} samples per video")
    print(f"plan: {len(planned) * arguments.num_chunks} samples of {arguments.num_frames} frames", end="")
    print(f", {arguments.height} x {arguments.width}, seed {arguments.seed}, into {arguments.output_path}")
    print(f"plan: {captions} captions from text files, {len(planned) - captions} videos with --prompt")
    print(f"plan: tokenizer {arguments.tokenizer}, text encoder {arguments.text_encoder}", end="")
    stand_ins = [name for name in (arguments.tokenizer, arguments.text_encoder) if name in ("dct", "hashed")]
    print(f" (weight-free stand-in: {', '.join(stand_ins)})" if stand_ins else "", flush=True)


def dataset_facts(arguments: argparse.Namespace, planned: list[PlannedVideo]) -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    sources = [[video.info.path.name, video.info.num_frames] for video in planned]
    facts = {
        "format": "cosmos latent folder",
        "version": 1,
        "num_samples": len(planned) * arguments.num_chunks,
        "num_videos": len(planned),
        "num_chunks": arguments.num_chunks,
        "num_frames": arguments.num_frames,
        "height": arguments.height,
        "width": arguments.width,
        "tokenizer": arguments.tokenizer,
        "text_encoder": arguments.text_encoder,
        "dtype": arguments.dtype,
        "seed": arguments.seed,
        "source_list_sha256": sha256_of_json(sources),
    }
    starts_and_text = [[video.prompt, [int(start) for start in video.starts]] for video in planned]
    return {**facts, "plan_sha256": sha256_of_json([facts, starts_and_text])}


class SampleWriter:
    """Encodes chunks and writes the files of a sample, `info.json` last: a sample without it is unfinished."""

    def __init__(self, arguments: argparse.Namespace, device: str):
        import torch

        from cosmos1.models.tokenizers.text import build_text_encoder
        from cosmos1.models.tokenizers.video import build_video_tokenizer

        self.arguments = arguments
        self.tokenizer = build_video_tokenizer(
            arguments.tokenizer,
            arguments.tokenizer_dir or None,
            num_frames=arguments.num_frames,
            device=device,
            dtype=getattr(torch, arguments.dtype),
        )
        self.text_encoder = build_text_encoder(
            arguments.text_encoder,
            arguments.text_encoder_dir or None,
            device=arguments.text_device or device,
            dtype=getattr(torch, arguments.text_dtype),
        )
        # A prompt is encoded once, not once per sample.
        self.encode_prompt = lru_cache(maxsize=64)(lambda prompt: self.text_encoder.encode([prompt])[0][0].bfloat16())

    def write(self, index: int, video: PlannedVideo, start: int, frames: np.ndarray) -> None:
        """Write sample `index` from its frames (T, H, W, 3) uint8, already at the target size."""
        import torch

        from cosmos1.data.video import frames_to_tensor

        folder = self.arguments.output_path
        pixels = frames_to_tensor(frames)
        write_tensor(folder / f"{index}.video_latent.pth", self._encode(pixels))
        # The conditioning clip is nine real frames, then mid-grey (0.0), not black.
        pixels[:, :, CONDITIONING_FRAMES:] = 0.0
        write_tensor(folder / f"{index}.conditioning_latent.pth", self._encode(pixels))
        embeddings = self.encode_prompt(video.prompt)
        write_tensor(folder / f"{index}.t5_text_embeddings.pth", embeddings)
        # All ones: the released checkpoints were trained attending to the zero rows too.
        write_tensor(folder / f"{index}.t5_text_mask.pth", torch.ones(len(embeddings), dtype=torch.bfloat16))
        write_json(folder / f"{index}.info.json", self._info(video, start))

    def _encode(self, pixels):
        return self.tokenizer.encode(pixels)[0].bfloat16()

    def _info(self, video: PlannedVideo, start: int) -> dict:
        return {
            "height": video.info.height,
            "width": video.info.width,
            "fps": video.info.fps,
            "num_frames": self.arguments.num_frames,
            "video_path": video.info.path.name,
            "start_frame": int(start),
            "target_height": self.arguments.height,
            "target_width": self.arguments.width,
            "prompt": video.prompt,
            "tokenizer": self.arguments.tokenizer,
            "seed": self.arguments.seed,
        }


def write_video_samples(writer: SampleWriter, video: PlannedVideo, indices: list[int], progress: Progress) -> None:
    """Write the samples of one video, in one pass over its frames.

    Raises DataError before anything is written when the video cannot be decoded to its end.
    """
    arguments = writer.arguments
    count_frames(video.info.path)
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


def main(arguments: argparse.Namespace) -> None:
    rank, world_size = rank_and_world_size()
    arguments.tokenizer = arguments.tokenizer or ("cosmos_cv8x8x8" if arguments.tokenizer_dir else "dct")
    arguments.text_encoder = arguments.text_encoder or ("hashed" if arguments.tokenizer == "dct" else "t5")
    check_options(arguments)
    paths = list_mp4_files(arguments.dataset_path)
    prompts = [prompt_of(path, arguments.prompt) for path in paths]
    planned, left_out = plan_videos(
        paths, prompts, arguments.num_frames, arguments.num_chunks, arguments.seed, arguments.strict
    )
    if rank == 0:
        print_plan(arguments, planned, left_out)
    claim_output_folder(arguments.output_path, dataset_facts(arguments, planned), arguments.resume, rank)
    owned = share_of_rank(len(planned) * arguments.num_chunks, rank, world_size)
    work = [(video, unfinished_indices(arguments.output_path, video, owned)) for video in planned]
    work = [(video, indices) for video, indices in work if indices]
    num_missing = sum(len(indices) for _, indices in work)
    if rank == 0 and num_missing < len(owned):
        print(f"{len(owned) - num_missing} of {len(owned)} samples of rank 0 are already there")
    writer = SampleWriter(arguments, choose_device(arguments.device)) if work else None
    progress = Progress(num_missing, "samples", enabled=rank == 0)
    failures = []
    for video, indices in work:
        try:
            write_video_samples(writer, video, indices, progress)
        except DataError as error:
            if arguments.strict:
                raise
            failures.append(str(error))
    report(arguments, rank, progress.done + len(owned) - num_missing, failures)


def report(arguments: argparse.Namespace, rank: int, num_finished: int, failures: list[str]) -> None:
    """Say what failed; raise DataError when this rank has nothing to show for its work."""
    if failures and num_finished == 0:
        raise DataError("\n".join([*failures, f"rank {rank}: no sample was written."]))
    for failure in failures:
        print(f"FAILED: {failure}")
    if rank == 0:
        print(f"{num_finished} samples of rank 0 are in {arguments.output_path}; {len(failures)} videos failed")


def choose_device(requested: str) -> str:
    import torch

    if requested:
        return requested
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    run_command(build_parser(), main)
