# SPDX-License-Identifier: Apache-2.0
"""Turn a folder of mp4 videos into video tokens for the autoregressive base networks (4B, 12B).

    python data_prep/autoregressive_dataset.py --input_videos_dir videos --output_prefix tokens --tokenizer dct_fsq
    torchrun --nproc_per_node=8 data_prep/autoregressive_dataset.py ... --encoder_path Cosmos-1.0-Tokenizer-DV8x16x16

Each video gives one document: the ids of its first frames. The output is a Megatron indexed dataset, .bin and .idx, in
the folder itself or, for more than one chunk of videos, in folders 0, 1, ... in it; any number of ranks writes the
same files. With --format energon the tokens are also packed into webdataset shards, in the folder "shards".
"""

import argparse
import json
import time
from pathlib import Path

from cosmos1.data.command_line import run_command
from cosmos1.data.files import read_facts, sha256_of_json, write_json
from cosmos1.data.formats.indexed_file import write_indexed_file
from cosmos1.data.preparing.leading_clip import PlannedClip, plan_leading_clips
from cosmos1.data.preparing.output_folder import claim_output_folder, rank_and_world_size
from cosmos1.data.preparing.token_preparation import (
    ClipEncoder,
    ClipShape,
    add_clip_options,
    clip_facts,
    clip_shape_of,
    short_clip_lines,
)
from cosmos1.data.sources.clip_plan import list_mp4_files
from cosmos1.errors import ConfigError, DataError
from cosmos1.progress import Progress

OUTPUT = "--output_prefix"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input_videos_dir", type=Path, required=True, help="folder of *.mp4, not searched recursively")
    add(OUTPUT, type=Path, required=True, help="new or empty folder")
    add_clip_options(parser)
    add("--videos_per_chunk", type=int, default=250, help="a chunk is the work of one rank, and what --resume skips")
    add("--format", choices=("indexed", "energon"), default="indexed", help="energon: also pack webdataset shards")
    add("--val_fraction", type=float, default=0.1, help="share of the videos in the validation shards of energon")
    add("--shard_megabytes", type=float, default=100.0, help="a shard of energon is closed when it reaches this size")
    add("--seed", type=int, default=0, help="draws the held-out videos and the order of energon shards")
    return parser


def dataset_facts(arguments: argparse.Namespace, shape: ClipShape, clips: list[PlannedClip]) -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    sources = [[clip.path.name, clip.num_source_frames] for clip in clips]
    facts = {
        "format": "cosmos indexed tokens",
        **clip_facts(arguments, shape, len(clips)),
        "videos_per_chunk": arguments.videos_per_chunk,
        "source_list_sha256": sha256_of_json(sources),
    }
    return {**facts, "plan_sha256": sha256_of_json(facts)}


def shards_folder(arguments: argparse.Namespace) -> Path:
    return arguments.output_prefix / "shards"


def packing(arguments: argparse.Namespace) -> dict:
    """The options that decide what is in which energon shard, and nothing else."""
    return {name: getattr(arguments, name) for name in ("val_fraction", "shard_megabytes", "seed")}


def check_packing(arguments: argparse.Namespace) -> None:
    """Raise ConfigError when the shards that are there were packed with other options than those of now."""
    shards = shards_folder(arguments)
    if arguments.format != "energon" or not arguments.resume or not shards.exists():
        return
    before, now = read_facts(shards, "Delete the folder."), packing(arguments)
    changed = [
        f"{key}: {before.get(key, 'not recorded')} before, {now[key]} now" for key in now if before.get(key) != now[key]
    ]
    if changed:
        raise ConfigError(
            f"--resume: {shards} was packed with other options ({'; '.join(changed)}). Use those, or delete that folder: "
            f"it is packed anew, and no video is encoded again."
        )


def chunk_folders(arguments: argparse.Namespace, num_clips: int) -> list[Path]:
    """Return the folder of each chunk; a single chunk goes directly into the output folder."""
    count = -(-num_clips // arguments.videos_per_chunk)
    output = arguments.output_prefix
    return [output] if count == 1 else [output / str(number) for number in range(count)]


def is_finished(folder: Path) -> bool:
    """Whether a chunk is written; one of whose videos none could be used has an empty videos.json and nothing else."""
    record = folder / "videos.json"
    return record.exists() and (not read_records(folder) or all((folder / name).exists() for name in (".bin", ".idx")))


def read_records(folder: Path) -> list[dict]:
    """What is written of each video of a finished chunk."""
    return json.loads((folder / "videos.json").read_text())


def write_chunk(
    encoder: ClipEncoder, folder: Path, clips: list[PlannedClip], progress: Progress, strict: bool
) -> list[str]:
    """Encode and write one chunk; return a line per video that failed."""
    documents, records, failures = [], [], []
    for clip in clips:
        try:
            documents.append(encoder.encode(clip.path))
            records.append(
                {"video_path": clip.path.name, "num_frames": clip.num_source_frames, "num_repeated": clip.num_repeated}
            )
        except DataError as error:
            if strict:
                raise
            failures.append(str(error))
        progress.advance()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "videos.json", records)
    if documents:
        write_indexed_file(folder, documents)
    return failures


def print_plan(arguments: argparse.Namespace, shape: ClipShape, clips: list[PlannedClip], left_out: list[str]) -> None:
    for line in [*left_out, *short_clip_lines(clips, shape.num_frames)]:
        print(line)
    num_chunks = len(chunk_folders(arguments, len(clips)))
    num_short = sum(clip.num_repeated > 0 for clip in clips)
    print(f"plan: {len(clips)} videos used ({num_short} of them too short), {len(left_out)} left out")
    for line in shape.describe():
        print(f"plan: {line}")
    stand_in = " (weight-free stand-in)" if arguments.tokenizer == "dct_fsq" else ""
    print(
        f"plan: tokenizer {arguments.tokenizer}{stand_in}; {num_chunks} chunks into {arguments.output_prefix}",
        flush=True,
    )


def main(arguments: argparse.Namespace) -> None:
    rank, world_size = rank_and_world_size()
    if arguments.videos_per_chunk < 1:
        raise ConfigError(f"--videos_per_chunk {arguments.videos_per_chunk}: at least 1 is needed.")
    shape = clip_shape_of(arguments)
    paths = list_mp4_files(arguments.input_videos_dir, "--input_videos_dir")
    clips, left_out = plan_leading_clips(paths, shape.num_frames, arguments.strict)
    if rank == 0:
        print_plan(arguments, shape, clips, left_out)
    check_packing(arguments)
    encoder = ClipEncoder(arguments, shape)
    if rank == 0:
        encoder.print_quality([clip.path for clip in clips])
    facts = dataset_facts(arguments, shape, clips)
    claim_output_folder(arguments.output_prefix, facts, arguments.resume, rank, OUTPUT)
    folders = chunk_folders(arguments, len(clips))
    size = arguments.videos_per_chunk
    work = [
        (folder, clips[number * size : (number + 1) * size])
        for number, folder in enumerate(folders)
        if number % world_size == rank and not is_finished(folder)
    ]
    progress = Progress(sum(len(of_chunk) for _, of_chunk in work), "clips", enabled=rank == 0)
    failures = []
    for folder, of_chunk in work:
        failures += write_chunk(encoder, folder, of_chunk, progress, arguments.strict)
    for failure in failures:
        print(f"FAILED: {failure}", flush=True)
    if rank == 0:
        wait_for_chunks(folders)
        report(arguments, folders, facts)


def wait_for_chunks(folders: list[Path]) -> None:
    """Return when the other ranks have written their chunks too."""
    started = time.monotonic()
    while unfinished := [folder for folder in folders if not is_finished(folder)]:
        if time.monotonic() - started > 30:
            print(f"waiting for {len(unfinished)} chunks of other ranks, the first is {unfinished[0]}", flush=True)
            started = time.monotonic()
        time.sleep(0.1)


def report(arguments: argparse.Namespace, folders: list[Path], facts: dict) -> None:
    """Say how many clips there are; pack them for energon when asked to. Raises DataError when there are none."""
    num_written = sum(len(read_records(folder)) for folder in folders)
    if num_written == 0:
        for folder in folders:
            (folder / "videos.json").unlink()  # so that --resume tries them again
        raise DataError(f"{arguments.output_prefix}: none of the {facts['num_samples']} videos could be used.")
    num_failed = facts["num_samples"] - num_written
    print(f"{num_written} clips of {facts['num_tokens']} tokens are in {arguments.output_prefix}; {num_failed} failed")
    shards = shards_folder(arguments)
    if arguments.format == "energon" and not shards.exists():
        from cosmos1.data.formats.token_shards import pack_token_shards

        counts = pack_token_shards(
            [folder for folder in folders if read_records(folder)],
            shards,
            facts,
            **packing(arguments),
        )
        print(f"{counts['train']} training and {counts['val']} validation clips as shards in {shards}")


if __name__ == "__main__":
    run_command(build_parser(), main)
