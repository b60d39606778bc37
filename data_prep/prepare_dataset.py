# SPDX-License-Identifier: Apache-2.0
"""Turn a folder of mp4 videos into a folder of cached latents and text embeddings for diffusion post-training.

    python data_prep/prepare_dataset.py --dataset_path videos --output_path cached --prompt "A video of sks robot."
    torchrun --nproc_per_node=8 data_prep/prepare_dataset.py ... --tokenizer_dir Cosmos-1.0-Tokenizer-CV8x8x8

Each video gives --num_chunks samples that start at random frames. A file `name.txt` beside `name.mp4` is that video's
caption; videos without one get --prompt. A folder with metas/ or t5_xxl/ has its videos in videos/, captions in
metas/name.txt and, optionally, the captions' T5 rows in t5_xxl/name.pickle (or .npy, .safetensors), which are then not
encoded again. Any number of ranks writes the same files.
"""

import argparse
from pathlib import Path

from cosmos1.data.command_line import run_command, use_each
from cosmos1.data.files import sha256_of_file, sha256_of_json
from cosmos1.data.preparing.clip_writer import add_sample_options, write_clips
from cosmos1.data.preparing.encoders import encoder_facts, encoder_names, require_t5, settle_encoders
from cosmos1.data.preparing.latent_writer import check_sizes
from cosmos1.data.preparing.output_folder import rank_and_world_size
from cosmos1.data.sources.captions import read_caption_file
from cosmos1.data.sources.clip_plan import (
    DescribedVideo,
    PlannedVideo,
    list_mp4_files,
    plan_videos,
    repeated_chunk_warnings,
)
from cosmos1.data.sources.metas_folder import is_metas_folder, read_metas_folder
from cosmos1.errors import DataError

DEFAULT_PROMPT = "a video of sks."


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    source = "folder of *.mp4, not searched recursively, or of videos/, metas/ and t5_xxl/"
    add("--dataset_path", type=Path, default=Path("video_dataset"), help=source)
    add("--output_path", type=Path, default=Path("video_dataset_cached"), help="new or empty folder")
    default = f"text of videos that have none; default: {DEFAULT_PROMPT}, or such videos are left out beside metas/"
    add("--prompt", help=default)
    add_sample_options(parser, seed_draws="the start frames")
    return parser


def read_videos(arguments: argparse.Namespace) -> tuple[list[DescribedVideo], list[str]]:
    """Return the videos with their texts, and one line per problem. Raises DataError when nothing is left.

    With --strict, for any problem.
    """
    folder = arguments.dataset_path
    if is_metas_folder(folder):
        videos, problems = read_metas_folder(folder, arguments.prompt)
    else:
        videos, problems = use_each(list_mp4_files(folder), lambda path: describe(path, arguments.prompt))
    if problems and (arguments.strict or not videos):
        raise DataError("\n".join(problems))
    return videos, problems


def describe(path: Path, prompt: str | None) -> DescribedVideo:
    """A video with the text of the caption file beside it, or the one for all.

    Raises DataError for a caption file that is damaged or empty.
    """
    caption = path.with_suffix(".txt")
    if caption.exists():
        text = read_caption_file(caption)
        if not text:
            raise DataError(
                f"{caption}: is empty; its video has no text. Write the caption, or remove the file to use --prompt."
            )
        return DescribedVideo(path, text, has_caption=True)
    return DescribedVideo(path, DEFAULT_PROMPT if prompt is None else prompt, has_caption=False)


def print_plan(
    arguments: argparse.Namespace,
    videos: list[DescribedVideo],
    planned: list[PlannedVideo],
    problems: list[str],
    left_out: list[str],
) -> None:
    used = {video.info.path for video in planned}
    given = sum(video.text_rows is not None for video in planned)
    captions = sum(video.has_caption for video in videos if video.path in used and video.text_rows is None)
    for line in [*problems, *left_out, *repeated_chunk_warnings(planned, arguments.num_frames)]:
        print(line)
    print(
        f"plan: {len(planned)} videos used, {len(left_out)} left out; {arguments.num_chunks} samples per video", end=""
    )
    print(f"; {len(problems)} problems with the texts or files, named above" if problems else "")
    print(f"plan: {len(planned) * arguments.num_chunks} samples of {arguments.num_frames} frames", end="")
    print(f", {arguments.height} x {arguments.width}, seed {arguments.seed}, into {arguments.output_path}")
    print(f"plan: {captions} captions from text files, {len(planned) - captions - given} videos with --prompt", end="")
    print(f", {given} texts encoded already" if given else "")
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
        **encoder_facts(arguments, with_text=any(video.text_rows is None for video in planned)),
        "seed": arguments.seed,
        "source_list_sha256": sha256_of_json(sources),
    }
    starts_and_text = [[video.prompt, [int(start) for start in video.starts]] for video in planned]
    given = [[number, sha256_of_file(video.text_rows)] for number, video in enumerate(planned) if video.text_rows]
    return {**facts, "plan_sha256": sha256_of_json([facts, starts_and_text, *given])}


def main(arguments: argparse.Namespace) -> None:
    videos, problems = read_videos(arguments)
    num_given = sum(video.text_rows is not None for video in videos)
    if num_given:
        require_t5(
            arguments, f"{num_given} of {len(videos)} texts are given as T5 rows in {arguments.dataset_path}/t5_xxl"
        )
    settle_encoders(arguments)
    check_sizes(arguments, usual_frames=121)
    planned, left_out = plan_videos(
        videos, arguments.num_frames, arguments.num_chunks, arguments.seed, arguments.strict
    )
    if rank_and_world_size()[0] == 0:
        print_plan(arguments, videos, planned, problems, left_out)
    write_clips(arguments, dataset_facts(arguments, planned), planned)


if __name__ == "__main__":
    run_command(build_parser(), main)
