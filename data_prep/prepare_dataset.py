# SPDX-License-Identifier: Apache-2.0
"""Turn a folder of mp4 videos into a folder of cached latents and text embeddings for diffusion post-training.

    python data_prep/prepare_dataset.py --dataset_path videos --output_path cached --prompt "A video of sks robot."
    torchrun --nproc_per_node=8 data_prep/prepare_dataset.py ... --tokenizer_dir Cosmos-1.0-Tokenizer-CV8x8x8

Each video gives --num_chunks samples that start at random frames. A file `name.txt` beside `name.mp4` is that video's
caption; videos without one get --prompt. Any number of ranks writes the same files.
"""

import argparse
from pathlib import Path

from cosmos1.data.command_line import run_command
from cosmos1.data.files import sha256_of_json
from cosmos1.data.preparing.clip_writer import add_sample_options, write_clips
from cosmos1.data.preparing.encoders import encoder_names, settle_encoders
from cosmos1.data.preparing.latent_writer import check_sizes
from cosmos1.data.preparing.output_folder import rank_and_world_size
from cosmos1.data.sources.clip_plan import PlannedVideo, list_mp4_files, plan_videos, repeated_chunk_warnings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", type=Path, default=Path("video_dataset"), help="folder of *.mp4, not searched recursively")
    add("--output_path", type=Path, default=Path("video_dataset_cached"), help="new or empty folder")
    add("--prompt", default="a video of sks.", help="text of videos that have no caption file")
    add_sample_options(parser, seed_draws="the start frames")
    return parser


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
    print(f"plan: {encoder_names(arguments)}", flush=True)


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


def main(arguments: argparse.Namespace) -> None:
    settle_encoders(arguments)
    check_sizes(arguments, usual_frames=121)
    paths = list_mp4_files(arguments.dataset_path)
    prompts = [prompt_of(path, arguments.prompt) for path in paths]
    planned, left_out = plan_videos(
        paths, prompts, arguments.num_frames, arguments.num_chunks, arguments.seed, arguments.strict
    )
    if rank_and_world_size()[0] == 0:
        print_plan(arguments, planned, left_out)
    write_clips(arguments, dataset_facts(arguments, planned), planned)


if __name__ == "__main__":
    run_command(build_parser(), main)
