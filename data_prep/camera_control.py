# SPDX-License-Identifier: Apache-2.0
"""Turn scenes with camera poses into cached latents with cameras, for camera control.

    python data_prep/camera_control.py --dataset_path scenes --output_path camera_ctrl_dataset_cached
    python data_prep/camera_control.py ... --tokenizer dct_fsq      # tokens for the autoregressive networks
    torchrun --nproc_per_node=8 data_prep/camera_control.py ... --tokenizer_dir Cosmos-1.0-Tokenizer-CV8x8x8

A scene is a DL3DV zip or a nerfstudio folder (transforms.json beside images/), found at any depth; its name is its path
below --dataset_path, without ".zip". Its pictures, in the order of their names, are the frames. They keep their aspect
ratio: scaled to --height, padded or cropped at the sides to --width. Any number of ranks writes the same files.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosmos1.data.command_line import run_command, use_each
from cosmos1.data.files import sha256_of_json
from cosmos1.data.formats.camera_sample import CAMERAS_PART, PLUCKER_PART, pack_cameras
from cosmos1.data.formats.latent_sample import SPATIAL_FACTOR, TEXT_PARTS
from cosmos1.data.geometry.cameras import plucker_embeddings
from cosmos1.data.geometry.letterbox import letterbox, letterbox_cameras, letterbox_frames, padding_mask
from cosmos1.data.preparing.encoders import (
    LatentEncoder,
    add_encoder_options,
    encoder_facts,
    encoder_names,
    settle_encoders,
    video_parts,
)
from cosmos1.data.preparing.latent_writer import check_sizes, write_sample_files, write_samples
from cosmos1.data.preparing.output_folder import rank_and_world_size
from cosmos1.data.sources.captions import read_captions
from cosmos1.data.sources.clip_plan import draw_starts
from cosmos1.data.sources.nerfstudio import Scene, find_scenes, read_scene
from cosmos1.errors import ConfigError, DataError

DEFAULT_CAPTION = "A video of a camera moving"
PARTS = ("info.json", *TEXT_PARTS, CAMERAS_PART, "image_size.pth", "padding_mask.pth")


@dataclass(frozen=True)
class PlannedScene:
    """One scene and the samples that it gives: sample `first_index + k` starts at frame `starts[k]`."""

    scene: Scene
    caption: str
    starts: "tuple[int, ...]"
    first_index: int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", type=Path, required=True, help="folder of scenes, searched recursively")
    add("--output_path", type=Path, default=Path("camera_ctrl_dataset_cached"), help="new or empty folder")
    add("--path_to_caption_dict", type=Path, help="captions by scene name: .json, .jsonl, or a pickled dict")
    add("--caption", default=DEFAULT_CAPTION, help="caption of every scene when there is no caption file")
    add("--num_chunks", type=int, default=1, help="samples per scene")
    add("--num_frames", type=int, default=57, help="frames per sample, 8k+1")
    add("--fps", type=float, default=7.0, help="frame rate to record; pictures have none of their own")
    add("--height", type=int, default=704, help="pixels")
    add("--width", type=int, default=1280)
    add("--num_zip_files", type=int, default=-1, help="draw this many scenes; -1: all")
    add("--seed", type=int, default=1234, help="draws scenes and start frames")
    add("--allow_unposed", action="store_true", help="drop pictures without a pose and poses without a picture")
    add("--write_plucker", action="store_true", help=f"also write [i].{PLUCKER_PART}, for other programs (large)")
    add("--video_processing_cache_path", help="accepted and not needed: pictures are read from the scenes directly")
    add_encoder_options(parser, with_tokens=True)
    return parser


def choose_scenes(arguments: argparse.Namespace, names: "list[str]") -> "list[str]":
    """All scenes, or those that the seed draws, in the order given."""
    if arguments.num_zip_files < 0 or arguments.num_zip_files >= len(names):
        return names
    if arguments.num_zip_files == 0:
        raise ConfigError("--num_zip_files 0: at least 1 scene is needed, or -1 for all.")
    order = np.random.RandomState(arguments.seed % 2**32).permutation(len(names))
    return [names[index] for index in sorted(order[: arguments.num_zip_files])]


def captions_by_scene(arguments: argparse.Namespace, names: "list[str]") -> "dict[str, str]":
    """Caption of every scene that has one: by its name, or by the last part of it where no other scene has the same."""
    if not arguments.path_to_caption_dict:
        return dict.fromkeys(names, arguments.caption)
    captions = read_captions(arguments.path_to_caption_dict)
    last_parts = {name: name.rpartition("/")[2] for name in names}
    counts = Counter(last_parts.values())
    found = {name: captions[part] for name, part in last_parts.items() if part in captions and counts[part] == 1}
    return found | {name: captions[name] for name in names if name in captions}


def plan(arguments: argparse.Namespace) -> "tuple[list[PlannedScene], list[str]]":
    """Read every scene's transforms.json and draw the starts; return the plan and a line per scene left out."""
    sources = find_scenes(arguments.dataset_path)
    captions = captions_by_scene(arguments, list(sources))
    lengths: list[int] = []

    def read(name: str) -> Scene:
        scene = read_scene(sources[name], arguments.allow_unposed, name)
        lengths.append(len(scene.pictures))
        check_scene(arguments, scene, captions)
        return scene

    scenes, left_out = use_each(choose_scenes(arguments, list(sources)), read, arguments.strict)
    if not scenes:
        advice = f"The longest has {max(lengths)} frames; --num_frames lowers what is needed." if lengths else ""
        raise DataError("\n".join([*left_out, f"no scene can be used, nothing to do. {advice}"]))
    planned = []
    for number, scene in enumerate(scenes):
        last_start = len(scene.pictures) - arguments.num_frames
        starts = draw_starts(scene.name, last_start, arguments.num_chunks, arguments.seed)
        planned.append(PlannedScene(scene, captions[scene.name], starts, number * arguments.num_chunks))
    return planned, left_out


def check_scene(arguments: argparse.Namespace, scene: Scene, captions: "dict[str, str]") -> None:
    """Raise DataError for a scene that is too short or has no caption although there is a caption file."""
    if len(scene.pictures) < arguments.num_frames:
        raise DataError(
            f"scene {scene.name}: {len(scene.pictures)} frames, a chunk needs {arguments.num_frames}; skipped."
        )
    if scene.name not in captions:
        raise DataError(
            f"scene {scene.name}: no caption in {arguments.path_to_caption_dict} (key {scene.name}/0); skipped. Add it, "
            f"or leave --path_to_caption_dict out to use --caption for all."
        )


def print_plan(arguments: argparse.Namespace, planned: "list[PlannedScene]", left_out: "list[str]") -> None:
    for line in [*left_out, *(warning for item in planned for warning in item.scene.warnings)]:
        print(line)
    boxes = [letterbox(item.scene.height, item.scene.width, arguments.height, arguments.width) for item in planned]
    num_cropped = sum(box.content_width > box.width for box in boxes)
    num_padded = sum(box.content_width < box.width for box in boxes)
    print(f"plan: {len(planned)} scenes used, {len(left_out)} left out; {arguments.num_chunks} samples per scene")
    print(f"plan: {num_padded} scenes padded at the sides, {num_cropped} cropped")
    print(f"plan: {len(planned) * arguments.num_chunks} samples of {arguments.num_frames} frames", end="")
    print(f", {arguments.height} x {arguments.width}, seed {arguments.seed}, into {arguments.output_path}")
    print(f"plan: {encoder_names(arguments)}", flush=True)


def dataset_facts(arguments: argparse.Namespace, planned: "list[PlannedScene]") -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    facts = {"format": "cosmos camera folder", "version": 1, "num_samples": len(planned) * arguments.num_chunks}
    names = ("num_chunks", "num_frames", "fps", "height", "width", "seed")
    facts |= {name: getattr(arguments, name) for name in names} | encoder_facts(arguments)
    facts["source_list_sha256"] = sha256_of_json([[item.scene.name, len(item.scene.pictures)] for item in planned])
    content = [[item.caption, item.starts, _geometry(item.scene)] for item in planned]
    return {**facts, "plan_sha256": sha256_of_json([facts, arguments.write_plucker, content])}


def _geometry(scene: Scene) -> list:
    """A JSON value that changes when the cameras of a scene or the size of its pictures do."""
    return [scene.height, scene.width, scene.cameras.poses.tolist(), scene.cameras.intrinsics.tolist()]


def write_sample(arguments: argparse.Namespace, encoder: LatentEncoder, item: PlannedScene, index: int) -> None:
    """Encode and write one sample."""
    import torch

    scene, start = item.scene, item.starts[index - item.first_index]
    frames = scene.read_frames(start, arguments.num_frames)
    box = letterbox(scene.height, scene.width, arguments.height, arguments.width)
    frames = letterbox_frames(frames, box)
    # Frame and camera k of the sample are both number start + k of the scene.
    cameras = letterbox_cameras(scene.cameras.of_frames(slice(start, start + arguments.num_frames)), box)
    h, w = arguments.height // SPATIAL_FACTOR, arguments.width // SPATIAL_FACTOR
    mask = torch.from_numpy(padding_mask(box, h, w))
    tensors = {
        **encoder.video_files([frames]),
        **encoder.text_files(item.caption),
        CAMERAS_PART: pack_cameras(cameras),
        "image_size.pth": torch.tensor([box.image_size]),
        "padding_mask.pth": mask,
    }
    if arguments.write_plucker:
        tensors[PLUCKER_PART] = torch.from_numpy(plucker_embeddings(cameras, h, w)) * (1 - mask)
    write_sample_files(arguments.output_path, index, tensors, sample_info(arguments, item, start))


def sample_info(arguments: argparse.Namespace, item: PlannedScene, start: int) -> dict:
    return {
        "height": item.scene.height,
        "width": item.scene.width,
        "fps": arguments.fps,
        "num_frames": arguments.num_frames,
        "video_path": item.scene.name + (".zip" if item.scene.source.is_file() else ""),
        "start_frame": int(start),
        "caption": item.caption,
        "target_height": arguments.height,
        "target_width": arguments.width,
        "tokenizer": arguments.tokenizer,
        "seed": arguments.seed,
    }


def main(arguments: argparse.Namespace) -> None:
    settle_encoders(arguments)
    check_sizes(arguments, usual_frames=57)
    planned, left_out = plan(arguments)
    if rank_and_world_size()[0] == 0:
        print_plan(arguments, planned, left_out)
    parts = (*PARTS, *video_parts(arguments), *([PLUCKER_PART] if arguments.write_plucker else []))

    def write(encoder: LatentEncoder, index: int) -> None:
        write_sample(arguments, encoder, planned[index // arguments.num_chunks], index)

    write_samples(arguments, dataset_facts(arguments, planned), parts, write)


if __name__ == "__main__":
    run_command(build_parser(), main)
