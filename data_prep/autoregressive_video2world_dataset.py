# SPDX-License-Identifier: Apache-2.0
"""Turn captioned videos into token and text files for the autoregressive Video2World networks (5B, 13B).

    python data_prep/autoregressive_video2world_dataset.py --input_jsonl clips.jsonl --output_dir clips --tokenizer dct_fsq
    torchrun --nproc_per_node=8 data_prep/autoregressive_video2world_dataset.py ... --encoder_path DV8x16x16

Each line of the jsonl is an object with "prompt" and "visual_input", the path of a video, relative to the jsonl or to
the working directory. Instead, --instruction_path takes videos/<id>.mp4 with instructions/<id>.json, or with
--bridge_split a Bridge tree. The videos are shuffled by --seed and split, each with all its lines; any number of ranks
writes the same files: {train,test,val}_video_[i].pt int32 ids, {train,test,val}_prompt_[i].pt text embeddings,
metadata.json.
"""

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cosmos1.data.command_line import run_command
from cosmos1.data.files import sha256_of_json, write_json, write_tensor
from cosmos1.data.formats.token_facts import video2world_ids
from cosmos1.data.preparing.encoders import add_text_options, choose_device, text_encoder, text_facts
from cosmos1.data.preparing.leading_clip import PlannedClip, plan_leading_clips
from cosmos1.data.preparing.output_folder import (
    claim_output_folder,
    rank_and_world_size,
    report_failures,
    share_of_rank,
)
from cosmos1.data.preparing.token_preparation import (
    ClipEncoder,
    ClipShape,
    add_clip_options,
    clip_facts,
    clip_shape_of,
    short_clip_lines,
)
from cosmos1.data.sources.bridge import SPLITS as BRIDGE_SPLITS
from cosmos1.data.sources.captioned_videos import CaptionedVideo, read_captioned_videos
from cosmos1.data.sources.instructions import read_bridge_instructions, read_instruction_folder
from cosmos1.errors import ConfigError, DataError
from cosmos1.progress import Progress

OUTPUT = "--output_dir"
SPLITS = ("train", "test", "val")


@dataclass(frozen=True)
class PlannedSample:
    """One line of the jsonl, and the split and number that it got."""

    split: str
    number: int
    clip: PlannedClip
    prompt: str

    def path(self, folder: Path, part: str) -> Path:
        return folder / f"{self.split}_{part}_{self.number}.pt"

    def is_finished(self, folder: Path) -> bool:
        return all(self.path(folder, part).exists() for part in ("video", "prompt"))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input_jsonl", type=Path, help='lines {"prompt": ..., "visual_input": ...}')
    add("--instruction_path", type=Path, help="folder of videos/ and instructions/, or a Bridge tree")
    add("--instruction_key", default="language_instruction_0", help="key of the instruction in the JSON files")
    add("--bridge_split", choices=BRIDGE_SPLITS, help="read this split of a Bridge tree")
    add("--action_dim", type=int, default=7, help="of a Bridge tree: numbers per action")
    add(OUTPUT, type=Path, required=True, help="new or empty folder; nothing in it is ever deleted")
    add_clip_options(parser)
    add_text_options(parser, default="hashed beside dct_fsq, else t5")
    add("--split_string", default="4,1,1", help="shares of training, test and validation")
    add("--seed", type=int, default=0, help="shuffles the videos before the split")
    return parser


def read_videos(arguments: argparse.Namespace) -> tuple[list[CaptionedVideo], list[str]]:
    """Return the videos with their prompts, and one line per problem. Raises ConfigError or DataError."""
    if (arguments.input_jsonl is None) == (arguments.instruction_path is None):
        raise ConfigError("give either --input_jsonl or --instruction_path, which say what text each video has.")
    if arguments.input_jsonl is not None:
        return read_captioned_videos(arguments.input_jsonl, arguments.strict)
    source = arguments.instruction_path
    if arguments.bridge_split:
        videos, problems = read_bridge_instructions(source, arguments.bridge_split, 0, arguments.action_dim, "first")
    else:
        videos, problems = read_instruction_folder(source, arguments.instruction_key, "first")
    if problems and arguments.strict:
        raise DataError("\n".join(problems))
    return [CaptionedVideo(video.path, video.texts[0]) for video in videos], problems


def split_sizes(split_string: str, num_samples: int) -> dict[str, int]:
    """Return the number of samples per split: training and test rounded down, validation gets the rest.

    Raises ConfigError when the string is not three whole numbers, and when a split would be empty.
    """
    parts = [part.strip() for part in split_string.split(",")]
    if len(parts) != 3 or not all(part.isdigit() for part in parts) or not any(int(part) for part in parts):
        raise ConfigError(
            f"--split_string {split_string} is not three whole numbers, the shares of training, test and validation. "
            f"Use for example 4,1,1."
        )
    train, test, val = (int(part) for part in parts)
    total = train + test + val
    sizes = {"train": train * num_samples // total, "test": test * num_samples // total}
    sizes["val"] = num_samples - sum(sizes.values())
    if min(sizes.values()) == 0:
        needed = max(-(-total // share) if share else 0 for share in (train, test))
        hint = f"{needed} lines are enough" if min(train, test, val) else "give every part a share above 0"
        raise ConfigError(
            f"--split_string {split_string} splits {num_samples} samples into {sizes['train']} training, {sizes['test']} "
            f"test and {sizes['val']} validation samples; each needs one. With this string {hint}."
        )
    return sizes


def plan_samples(
    videos: list[CaptionedVideo], clips: list[PlannedClip], split_string: str, seed: int
) -> list[PlannedSample]:
    """Shuffle the videos and deal them out to the splits, each with all its usable lines.

    Raises ConfigError when a split would be empty.
    """
    lines_of: dict[Path, list[PlannedClip]] = {}
    for clip in clips:
        lines_of.setdefault(clip.path.resolve(), []).append(clip)
    groups = list(lines_of.values())
    sizes = split_sizes(split_string, len(clips))
    if len(groups) < len(SPLITS):
        raise ConfigError(
            f"the {len(clips)} usable lines are of {len(groups)} different videos; training, test and validation need one "
            f"each, since a video in two of them would be trained on and tested with. Add videos."
        )
    order = np.random.RandomState([seed % 2**32, len(groups)]).permutation(len(groups))
    shuffled = [groups[index] for index in order]
    first, second = _nearest_cuts([len(group) for group in shuffled], sizes["train"], sizes["test"])
    samples = []
    for split, dealt in zip(SPLITS, (shuffled[:first], shuffled[first:second], shuffled[second:])):
        dealt_clips = [clip for group in dealt for clip in group]
        samples += [
            PlannedSample(split, number, clip, videos[clip.place].prompt) for number, clip in enumerate(dealt_clips)
        ]
    return samples


def _nearest_cuts(lengths: list[int], num_train: int, num_test: int) -> tuple[int, int]:
    """Where to cut a list of three or more groups so that the first two parts have about so many lines, none is empty."""
    ends = np.cumsum(lengths)
    first = 1 + int(np.abs(ends[:-2] - num_train).argmin())
    second = first + 1 + int(np.abs(ends[first:-1] - num_train - num_test).argmin())
    return first, second


def dataset_facts(arguments: argparse.Namespace, shape: ClipShape, samples: list[PlannedSample]) -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    facts = {
        "format": "cosmos token clips",
        **clip_facts(arguments, shape, len(samples)),
        **text_facts(arguments),
        "split_string": arguments.split_string,
        "seed": arguments.seed,
    }
    sources = [
        [sample.split, sample.clip.path.name, sample.clip.num_source_frames, sample.prompt] for sample in samples
    ]
    return {**facts, "plan_sha256": sha256_of_json([facts, sources])}


class SampleWriter:
    """Encodes clips and prompts and writes the two files of a sample."""

    def __init__(self, arguments: argparse.Namespace, shape: ClipShape):
        self.folder = arguments.output_dir
        self.clips = ClipEncoder(arguments, shape)
        encoder = text_encoder(arguments, choose_device(arguments.device))
        # A prompt is encoded once, not once per sample.
        self.encode_prompt = lru_cache(maxsize=64)(lambda prompt: encoder.encode([prompt])[0][0].float())

    def write(self, sample: PlannedSample) -> None:
        """Write the files of one sample; raises DataError before anything is written when its video cannot be read."""
        import torch

        ids = video2world_ids(torch.from_numpy(self.clips.encode(sample.clip.path)))
        write_tensor(sample.path(self.folder, "prompt"), self.encode_prompt(sample.prompt))
        write_tensor(sample.path(self.folder, "video"), ids.int())


def print_plan(
    arguments: argparse.Namespace, shape: ClipShape, samples: list[PlannedSample], left_out: list[str]
) -> None:
    for line in [*left_out, *short_clip_lines([sample.clip for sample in samples], shape.num_frames)]:
        print(line)
    counts = ", ".join(f"{sum(sample.split == split for sample in samples)} {split}" for split in SPLITS)
    print(f"plan: {len(samples)} lines used ({counts}), {len(left_out)} left out")
    videos = {
        split: len({sample.clip.path.resolve() for sample in samples if sample.split == split}) for split in SPLITS
    }
    counts = ", ".join(f"{count} {split}" for split, count in videos.items())
    print(f"plan: {sum(videos.values())} different videos ({counts}); all lines of a video are in one split")
    for line in shape.describe():
        print(f"plan: {line}")
    stand_ins = [name for name in (arguments.tokenizer, arguments.text_encoder) if name in ("dct_fsq", "hashed")]
    suffix = f" (weight-free stand-in: {', '.join(stand_ins)})" if stand_ins else ""
    print(f"plan: tokenizer {arguments.tokenizer}, text encoder {arguments.text_encoder}{suffix}", flush=True)


def main(arguments: argparse.Namespace) -> None:
    rank, world_size = rank_and_world_size()
    arguments.text_encoder = arguments.text_encoder or ("hashed" if arguments.tokenizer == "dct_fsq" else "t5")
    shape = clip_shape_of(arguments)
    videos, missing = read_videos(arguments)
    clips, left_out = plan_leading_clips([video.path for video in videos], shape.num_frames, arguments.strict)
    samples = plan_samples(videos, clips, arguments.split_string, arguments.seed)
    if rank == 0:
        print_plan(arguments, shape, samples, missing + left_out)
    writer = SampleWriter(arguments, shape)
    if rank == 0:
        writer.clips.print_quality([clip.path for clip in clips])
    folder = arguments.output_dir
    claim_output_folder(folder, dataset_facts(arguments, shape, samples), arguments.resume, rank, OUTPUT)
    if rank == 0:
        counts = {f"{split}_samples": sum(sample.split == split for sample in samples) for split in SPLITS}
        write_json(folder / "metadata.json", counts)
    owned = [samples[index] for index in share_of_rank(len(samples), rank, world_size)]
    work = [sample for sample in owned if not sample.is_finished(folder)]
    progress = Progress(len(work), "samples", enabled=rank == 0)
    failures = []
    for sample in work:
        try:
            writer.write(sample)
        except DataError as error:
            if arguments.strict:
                raise
            failures.append(f"{sample.split} {sample.number}: {error}")
        progress.advance()
    report_failures(folder, failures, "*_video_*.pt")
    if rank == 0:
        print(f"{len(owned) - len(failures)} samples of rank 0 are in {folder}; {len(failures)} failed")


if __name__ == "__main__":
    run_command(build_parser(), main)
