# SPDX-License-Identifier: Apache-2.0
"""The command line of ``recipes/generate/action_control.py``."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from cosmos1.data.geometry.actions import ACTION_CONVENTIONS
from cosmos1.data.sources.bridge import SPLITS, Episode, read_episode, read_episodes
from cosmos1.errors import ConfigError, DataError
from cosmos1.generation import command
from cosmos1.generation.given_frames import first_picture
from cosmos1.generation.hooks import add_rule_options
from cosmos1.generation.requests import Request, output_path
from cosmos1.models.tokenizers.video import VIDEO_TOKENIZER_NAMES
from cosmos1.option_types import count_from, number, positive_number

PROGRAM = "recipes/generate/action_control.py"


def parser(description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--checkpoint", required=True, help="any format of docs/weights.md")
    p.add_argument("--ema", type=int, help="use this EMA copy of the checkpoint")
    p.add_argument("--tokenizer", choices=VIDEO_TOKENIZER_NAMES, help="default: the one recorded with the weights")
    p.add_argument("--tokenizer_dir", help="weights of the tokenizer; default: from HF_HOME or the hub")
    one = p.add_argument_group("one video")
    one.add_argument("--input_image_or_video_path", help="the picture to start from; of a video its first frame")
    one.add_argument("--action_annotation_path", help="Bridge annotation (json); all its actions are followed")
    add_dataset_options(p.add_argument_group("all episodes of a Bridge tree"))
    trained = p.add_argument_group("facts of training: another value is refused, needed where none is recorded")
    trained.add_argument("--height", type=count_from(1), help="pixels")
    trained.add_argument("--width", type=count_from(1), help="pixels")
    trained.add_argument("--fps", type=positive_number, help="the robot's control rate")
    trained.add_argument("--action_convention", choices=tuple(ACTION_CONVENTIONS), help="docs/action_control.md")
    p.add_argument("--guidance", type=number, default=0.0, help="away from no text; no effect without text in training")
    p.add_argument("--num_steps", type=count_from(1), default=35, help="denoising steps of each frame")
    p.add_argument("--sampler", choices=("res", "euler", "euler_diffusers"), default="res")
    p.add_argument("--seed", type=count_from(0), default=1)
    p.add_argument("--tp_size", type=count_from(1), default=1, help="GPUs that share each layer")
    p.add_argument("--cp_size", type=count_from(1), default=1, help="GPUs that share the tokens")
    command.add_output_option(p, "--dataset_path")
    add_rule_options(p, prompts=False)
    return p


def add_dataset_options(p) -> None:
    """A video of every episode of a split, for a parser or a group of its options."""
    p.add_argument("--dataset_path", help="folder of annotation/ and videos/")
    p.add_argument("--split", choices=SPLITS, help="default: val")
    p.add_argument("--camera", type=count_from(0), help='place in the "videos" list of an annotation; default: 0')
    p.add_argument("--shuffle_actions", action="store_true", help="follow the actions of the next episode instead")


def check_dataset_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for those that would have no effect."""
    given = [name for name in ("split", "camera", "shuffle_actions") if getattr(options, name) not in (None, False)]
    if given and options.dataset_path is None:
        raise ConfigError(f"--{given[0]} goes with --dataset_path; give that, or leave it out")


@dataclass
class RollOut:
    """One video to make: the actions, the picture to start from, and where the video goes."""

    episode: Episode
    request: Request


def read_roll_outs(options: argparse.Namespace, action_dim: int) -> list[RollOut]:
    """The videos asked for. Raises ConfigError for options that do not go together, DataError for bad annotations."""
    check_dataset_options(options)
    one = [options.input_image_or_video_path, options.action_annotation_path]
    if (options.dataset_path is None) == (None in one) or (options.dataset_path and any(one)):
        raise ConfigError(
            "give --input_image_or_video_path and --action_annotation_path for one video, or --dataset_path for all episodes"
        )
    if options.dataset_path:
        return roll_outs_of_dataset(options, action_dim)
    episode = read_episode(None, Path(options.action_annotation_path), action_dim)
    save_path = output_path(options, is_folder=False)
    return [RollOut(episode, Request(episode.text, options.input_image_or_video_path, save_path))]


def roll_outs_of_dataset(options: argparse.Namespace, action_dim: int) -> list[RollOut]:
    """One video for each episode of ``--dataset_path``, called as the episode is. Raises DataError for bad annotations."""
    folder, split = output_path(options, is_folder=True), options.split or "val"
    episodes, _ = read_episodes(Path(options.dataset_path), split, action_dim)
    if options.shuffle_actions and len(episodes) < 2:
        raise DataError(f"{options.dataset_path}: split {split} has one episode; --shuffle_actions needs two")
    shift = 1 if options.shuffle_actions else 0
    followed = episodes[shift:] + episodes[:shift]
    return [
        RollOut(actions, Request(actions.text, str(episode.video(options.camera or 0)), folder / f"{episode.name}.mp4"))
        for episode, actions in zip(episodes, followed)
    ]


def generate(options: argparse.Namespace) -> None:
    """Generate the videos. Everything that can be refused is, before the network is built."""
    from cosmos1.generation.action_control import agreed_frames, frames_of_checkpoint, roll_out, steps_of
    from cosmos1.parallel import process_groups

    _, finish_video = command.hooks(options)
    task = command.choose_network(options, PROGRAM, untrained=None)
    frames = agreed_frames(frames_of_checkpoint(command.checkpoint_path(options)), vars(options))
    roll_outs = read_roll_outs(options, task.config.action.action_dim)
    for each in roll_outs:
        steps_of(each.episode, frames, task)
    pictures = [first_picture(each.request.visual_input) for each in roll_outs]

    generator, settings = command.open_generator(options, task), command.sampling_settings(options)
    is_main = process_groups.is_main_rank()
    if is_main:
        print(*frames.describe(), sep="\n")
    options.fps = frames.fps / frames.interval  # a video shows every interval-th frame
    for each, picture in zip(roll_outs, pictures):
        progress = command.step_reporter("samples")
        video = finish_video(roll_out(generator, picture, each.episode, frames, settings, progress))
        if is_main:
            facts = asdict(frames) | {"action_annotation": str(each.episode.annotation), **vars(task.config.action)}
            command.save(each.request, each.request.prompt, video, options, facts)
    process_groups.shutdown()
