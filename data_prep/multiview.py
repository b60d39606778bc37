# SPDX-License-Identifier: Apache-2.0
"""Turn recordings of several cameras into cached latents of several views.

    python data_prep/multiview.py --dataset_path recordings --output_path multiview_cached
    python data_prep/multiview.py --dataset_path recordings --rig rig.json --height 96 --width 128 ...
    python data_prep/multiview.py ... --tokenizer dct_fsq      # tokens for the autoregressive networks

--dataset_path holds videos/<camera>/<clip>.mp4, captions/<camera>/<clip>.txt (or captions/<clip>.txt) and, where there
are any, timestamps/<camera>/<clip>.json and trajectory/<clip>.json; or, with --caption_tars, one <clip>.tar per clip.
The rig says which cameras, in which order; by default it is rig.json of the folder, else the six-camera preset. Any
number of ranks writes the same files.
"""

import argparse
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cosmos1.data.command_line import run_command, use_each
from cosmos1.data.files import sha256_of_json
from cosmos1.data.formats.latent_sample import TEXT_PARTS
from cosmos1.data.geometry.rigs import SIX_CAMERAS, Rig, load_rig
from cosmos1.data.geometry.trajectories import trajectory_of_track
from cosmos1.data.preparing.encoders import (
    LatentEncoder,
    add_encoder_options,
    encoder_facts,
    encoder_names,
    require_t5,
    settle_encoders,
    video_parts,
)
from cosmos1.data.preparing.latent_writer import check_sizes, write_sample_files, write_samples
from cosmos1.data.preparing.output_folder import rank_and_world_size
from cosmos1.data.preparing.view_text import multiview_text, view_descriptions
from cosmos1.data.preparing.weight_identity import weight_identity
from cosmos1.data.sources.clip_plan import draw_starts
from cosmos1.data.sources.multiview_clips import (
    Caption,
    FramePicks,
    MultiviewClip,
    list_clips,
    pick_frames,
    read_folder_clip,
    read_views,
    reference_times,
)
from cosmos1.data.sources.multiview_tars import TarClips
from cosmos1.errors import DataError


@dataclass(frozen=True)
class PlannedClip:
    """One recording and the samples that it gives: sample `first_index + k` shows `picks[k]`."""

    clip: MultiviewClip
    picks: "tuple[FramePicks, ...]"
    trajectory_problems: "tuple[str, ...]"
    """Of each pick, why it has no trajectory; empty where it has one."""
    first_index: int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_path", type=Path, required=True, help="folder of recordings")
    add("--output_path", type=Path, default=Path("multiview_cached"), help="new or empty folder")
    add("--rig", help=f"rig file, or {SIX_CAMERAS}; default: rig.json of --dataset_path, else {SIX_CAMERAS}")
    add("--caption_tars", type=Path, help="folder of mapping.json and T5 tars; clips are then <clip>.tar")
    add("--view_embeddings_dir", type=Path, help="folder of video_camera_embeddings_v0_<camera>.pt")
    add("--num_chunks", type=int, default=1, help="samples per clip")
    add("--num_frames", type=int, default=57, help="frames per view, 8k+1")
    add("--fps", type=float, default=24.0, help="frames per second of a sample")
    add("--frame_selection", choices=("nearest", "consecutive"), default="nearest", help="nearest: true time")
    add("--height", type=int, default=480, help="pixels of a view; pictures are stretched to this size")
    add("--width", type=int, default=848)
    add("--shared_text", action="store_true", help="one text for all views: the first caption, without descriptions")
    add("--require_trajectory", action="store_true", help="leave out clips without a trajectory for every chunk")
    add("--seed", type=int, default=0, help="draws the start times")
    add_encoder_options(parser, with_tokens=True)
    return parser


def choose_rig(arguments: argparse.Namespace) -> Rig:
    own = arguments.dataset_path / "rig.json"
    return load_rig(arguments.rig or (str(own) if own.exists() else SIX_CAMERAS))


def plan(arguments: argparse.Namespace, rig: Rig) -> "tuple[list[PlannedClip], list[str]]":
    """Read every clip's facts and choose its frames; return the plan and a line per clip that is left out."""
    folder, cameras = arguments.dataset_path, rig.names
    tars = TarClips(folder, arguments.caption_tars) if arguments.caption_tars else None
    names = tars.names() if tars else list_clips(folder, cameras)

    def read(name: str) -> "tuple[MultiviewClip, tuple[FramePicks, ...], tuple[str, ...]]":
        clip = tars.read(name, cameras) if tars else read_folder_clip(folder, name, cameras)
        picks = choose_picks(arguments, clip, cameras)
        problems = tuple(trajectory_problem(clip, pick) for pick in picks)
        check_clip(arguments, clip, problems)
        return clip, picks, problems

    usable, left_out = use_each(names, read, arguments.strict)
    if not usable:
        raise DataError("\n".join([*left_out, f"{len(names)} of {len(names)} clips cannot be used, nothing to do."]))
    planned = [PlannedClip(*clip, number * arguments.num_chunks) for number, clip in enumerate(usable)]
    return planned, left_out


def choose_picks(arguments: argparse.Namespace, clip: MultiviewClip, cameras: "list[str]") -> "tuple[FramePicks, ...]":
    """Draw the chunks of a clip, uniformly and with replacement."""
    how = (arguments.num_frames, arguments.fps, arguments.frame_selection)
    times = reference_times(clip, cameras, *how)
    starts = draw_starts(clip.name, len(times) - 1, arguments.num_chunks, arguments.seed)
    return tuple(pick_frames(clip, cameras, int(times[start]), *how) for start in starts)


def trajectory_problem(clip: MultiviewClip, pick: FramePicks) -> str:
    """Why a sample has no trajectory; empty where it has one."""
    if clip.track is None:
        return clip.track_problem or f"clip {clip.name}: no ego motion was recorded with it"
    try:
        trajectory_of_track(clip.track, pick.start_us, f"clip {clip.name}")
    except DataError as error:
        return str(error)
    return ""


def check_clip(arguments: argparse.Namespace, clip: MultiviewClip, trajectory_problems: "tuple[str, ...]") -> None:
    """Raise DataError for a clip without any caption, or without a trajectory where one is required."""
    if all(caption is None for caption in clip.captions.values()):
        raise DataError(f"clip {clip.name}: no view has a caption. Write captions/{clip.name}.txt for all its views.")
    problem = next(filter(None, trajectory_problems), "")
    if arguments.require_trajectory and problem:
        raise DataError(f"{problem} (--require_trajectory); skipped.")


def print_plan(arguments: argparse.Namespace, rig: Rig, planned: "list[PlannedClip]", left_out: "list[str]") -> None:
    for line in [*left_out, *(line for item in planned for line in trajectory_lines(item))]:
        print(line)
    num_captions = sum(caption is not None for item in planned for caption in item.clip.captions.values())
    num_repeats = int(sum(pick.frame_repeat.sum() for item in planned for pick in item.picks))
    num_tracks = sum(item.clip.track is not None for item in planned)
    num_trajectories = sum(not problem for item in planned for problem in item.trajectory_problems)
    print(f"plan: {len(planned)} clips used, {len(left_out)} left out; {arguments.num_chunks} samples per clip")
    print(f"plan: {len(rig.names)} views: {', '.join(rig.names)}")
    print(f"plan: {len(planned) * arguments.num_chunks} samples of {arguments.num_frames} frames per view", end="")
    print(f", {arguments.height} x {arguments.width}, {arguments.fps:g} fps, seed {arguments.seed}")
    print(
        f"plan: {num_captions} captions for {len(planned) * len(rig.names)} views, {num_tracks} clips with ego motion"
    )
    print(f"plan: {num_trajectories} of {len(planned) * arguments.num_chunks} samples have a trajectory")
    print(f"plan: {num_repeats} frames repeat the one before ({arguments.frame_selection})")
    print(f"plan: {encoder_names(arguments)}; into {arguments.output_path}", flush=True)


def encodes_text(arguments: argparse.Namespace, planned: "list[PlannedClip]") -> bool:
    """Whether there are texts to be encoded: a large text encoder is not loaded where all are given."""
    describes = not (arguments.shared_text or arguments.view_embeddings_dir)
    return describes or any(isinstance(text, str) for item in planned for text in item.clip.captions.values())


def trajectory_lines(item: PlannedClip) -> "list[str]":
    """Why samples of a clip have no trajectory although ego motion was recorded with it: the first reason, and how many."""
    if item.clip.track is None:
        return [item.clip.track_problem] if item.clip.track_problem else []
    problems = [problem for problem in item.trajectory_problems if problem]
    return [f"{problems[0]} ({len(problems)} of its {len(item.picks)} samples have no trajectory)"] if problems else []


def dataset_facts(arguments: argparse.Namespace, rig: Rig, planned: "list[PlannedClip]") -> dict:
    """Return the content of dataset.json, which is also the identity of the run for --resume."""
    facts = {"format": "cosmos multiview folder", "version": 1, "num_samples": len(planned) * arguments.num_chunks}
    names = ("num_chunks", "num_frames", "fps", "frame_selection", "height", "width")
    facts |= {name: getattr(arguments, name) for name in (*names, "seed", "require_trajectory", "shared_text")}
    facts |= encoder_facts(arguments, encodes_text(arguments, planned))
    facts["views"] = rig.names
    embeddings = arguments.view_embeddings_dir
    facts["view_embeddings"] = None if embeddings is None else weight_identity(embeddings)
    content = [[item.clip.name, [pick.indices.tolist() for pick in item.picks]] for item in planned]
    captions = [[_identity(caption) for caption in item.clip.captions.values()] for item in planned]
    descriptions = [camera.description for camera in rig.cameras]
    return {**facts, "plan_sha256": sha256_of_json([facts, content, captions, descriptions])}


def _identity(caption: "Caption | None") -> "str | None":
    """A JSON value that changes when the caption does."""
    return caption if caption is None or isinstance(caption, str) else sha256(caption.tobytes()).hexdigest()


class SampleWriter:
    """Encodes and writes samples; the cameras' descriptions are encoded once."""

    def __init__(self, arguments: argparse.Namespace, rig: Rig):
        self.arguments, self.rig = arguments, rig
        self._descriptions = None

    def write(self, encoder: LatentEncoder, item: PlannedClip, index: int) -> None:
        import torch

        arguments, clip, picks = self.arguments, item.clip, item.picks[index - item.first_index]
        views = read_views(clip, self.rig.names, picks, arguments.height, arguments.width)
        text, mask = self._text(encoder, [clip.captions[name] for name in self.rig.names])
        tensors = {
            **encoder.video_files(views),
            "t5_text_embeddings.pth": text,
            "t5_text_mask.pth": mask,
            "frame_repeat.pth": torch.from_numpy(picks.frame_repeat),
        }
        if not item.trajectory_problems[index - item.first_index]:
            trajectory = trajectory_of_track(clip.track, picks.start_us, f"clip {clip.name}")
            tensors["trajectory.pth"] = torch.from_numpy(trajectory)
        write_sample_files(arguments.output_path, index, tensors, self._info(clip, picks))

    def _text(self, encoder: LatentEncoder, captions: list):
        if self.arguments.shared_text:
            first = next(caption for caption in captions if caption is not None)
            return multiview_text([], [first], encoder.text)
        if self._descriptions is None:
            self._descriptions = view_descriptions(self.rig, encoder.text, self.arguments.view_embeddings_dir)
        return multiview_text(self._descriptions, captions, encoder.text)

    def _info(self, clip: MultiviewClip, picks: FramePicks) -> dict:
        arguments = self.arguments
        captions = {name: caption for name, caption in clip.captions.items() if isinstance(caption, str)}
        return {
            "height": arguments.height,
            "width": arguments.width,
            "fps": arguments.fps,
            "num_frames": arguments.num_frames,
            "video_path": clip.name,
            "start_frame": int(picks.indices[0, 0]),
            "start_time_us": picks.start_us,
            "views": self.rig.names,
            "captions": captions,
            "target_height": arguments.height,
            "target_width": arguments.width,
            "tokenizer": arguments.tokenizer,
            "seed": arguments.seed,
        }


def main(arguments: argparse.Namespace) -> None:
    for option in ("caption_tars", "view_embeddings_dir"):
        if getattr(arguments, option):
            require_t5(arguments, f"--{option} holds T5 rows")
    settle_encoders(arguments)
    check_sizes(arguments, usual_frames=57)
    rig = choose_rig(arguments)
    planned, left_out = plan(arguments, rig)
    if rank_and_world_size()[0] == 0:
        print_plan(arguments, rig, planned, left_out)
    parts = ("info.json", *TEXT_PARTS, *video_parts(arguments), "frame_repeat.pth")
    parts = (*parts, *(["trajectory.pth"] if arguments.require_trajectory else []))
    writer = SampleWriter(arguments, rig)

    def write(encoder: LatentEncoder, index: int) -> None:
        writer.write(encoder, planned[index // arguments.num_chunks], index)

    with_text = encodes_text(arguments, planned)
    write_samples(arguments, dataset_facts(arguments, rig, planned), parts, write, with_text)


if __name__ == "__main__":
    run_command(build_parser(), main)
