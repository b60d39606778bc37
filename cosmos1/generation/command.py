# SPDX-License-Identifier: Apache-2.0
"""The options that the generation commands share, and what they do with them."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos1 import hub
from cosmos1.checkpoint import folders
from cosmos1.errors import CheckpointError, ConfigError, UserError
from cosmos1.generation.hooks import add_rule_options
from cosmos1.generation.requests import Request, read_each, read_requests
from cosmos1.models.tokenizers.video import VIDEO_TOKENIZER_NAMES
from cosmos1.option_types import count_from, number, positive_number

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.generation.generator import VideoGenerator, VideoShape
    from cosmos1.models.diffusion.config import DiTConfig
    from cosmos1.models.diffusion.generation import GenerationSettings
    from cosmos1.models.diffusion.model import DiffusionModel


def parser(description: str, video2world: bool) -> argparse.ArgumentParser:
    """The command line of ``recipes/generate/{text2world,video2world}.py``."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("7b", "14b", "tiny"), help="network size; not needed with --checkpoint")
    p.add_argument("--checkpoint", help="any format of docs/weights.md; without it the weights are untrained")
    p.add_argument("--tokenizer", choices=VIDEO_TOKENIZER_NAMES, help="default: the one recorded with the weights")
    p.add_argument("--tokenizer_dir", help="weights of the tokenizer; default: from HF_HOME or the hub")
    p.add_argument("--ema", type=int, help="use this EMA copy of the checkpoint")
    p.add_argument("--prompt")
    p.add_argument("--negative_prompt", default="", help="empty: guidance away from no text")
    p.add_argument("--batch_input_path", help='jsonl, a line per video: {"prompt": ..., "name": ..., "seed": ...}')
    p.add_argument("--guidance", type=number, default=7.0, help="g in cond + g * (cond - uncond)")
    p.add_argument("--num_steps", type=count_from(1), default=35)
    p.add_argument("--sampler", choices=("res", "euler", "euler_diffusers"), default="res")
    p.add_argument("--seed", type=count_from(0), default=1)
    p.add_argument("--height", type=count_from(1), default=704)
    p.add_argument("--width", type=count_from(1), default=1280)
    p.add_argument("--fps", type=positive_number, default=24)
    p.add_argument("--num_video_frames", type=count_from(1), default=121)
    p.add_argument("--tp_size", type=count_from(1), default=1, help="GPUs that share each layer")
    p.add_argument("--cp_size", type=count_from(1), default=1, help="GPUs that share the tokens")
    add_output_option(p, "--batch_input_path")
    add_rule_options(p)
    if video2world:
        p.add_argument("--conditioned_image_or_video_path", help='or "visual_input" in the lines of a batch')
        p.add_argument(
            "--num_input_frames", type=count_from(1), default=1, help="1 or 9: how many last frames are given"
        )
        p.add_argument("--num_chunks", type=count_from(1), default=1, help="chain this many samples to a long video")
    return p


def add_output_option(p: argparse.ArgumentParser, many: str, *names: str) -> None:
    """``--video_save_path``; with the option ``many`` it is a folder."""
    p.add_argument(
        "--video_save_path", *names, help=f"default: generated.mp4; with {many} a folder, default: generated"
    )


def run(p: argparse.ArgumentParser, video2world: bool) -> None:
    """Generate the videos of ``recipes/generate/{text2world,video2world}.py``."""
    run_program(p, lambda options: _generate(options, video2world))


def run_program(
    p: argparse.ArgumentParser,
    generate: Callable[[argparse.Namespace], None],
    prepare: Callable[[argparse.Namespace], None] | None = None,
) -> None:
    """Generate the videos; mistakes of the user end with one line, from one process, and status 2. ``prepare`` may change
    the options first."""
    try:
        options = p.parse_args()
        if prepare is not None:
            prepare(options)
        _check_network(options)
        generate(options)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _check_network(options: argparse.Namespace) -> None:
    """Before the seconds that the libraries take to load. Of a run it is the newest checkpoint, which the record then names."""
    if not options.checkpoint:
        if not getattr(options, "model", None):
            raise ConfigError("give --checkpoint FOLDER, or --model SIZE (see --help) for an untrained network")
        return
    path = Path(options.checkpoint).expanduser()
    if not path.exists() and not hub.is_model_id(options.checkpoint):
        raise CheckpointError(
            f"--checkpoint {path} does not exist; give a run folder, a checkpoint of any format, or a Hugging Face id such as "
            "nvidia/Cosmos-1.0-Diffusion-7B-Text2World"
        )
    if any(folders.complete_checkpoints(folder) for folder in (path, path / "checkpoints")):
        options.checkpoint = str(folders.resolve(path).path)


def hooks(options: argparse.Namespace) -> tuple[Callable, Callable]:
    """What every prompt and every video goes through: the team's own functions and the guardrail. All ranks call them; the
    prompt is that of the main rank on all of them, the frames only there."""
    from cosmos1.generation.hooks import load_guardrail, load_hook
    from cosmos1.parallel.process_groups import on_main_rank

    prompt_hook, video_hook = load_hook(options.prompt_hook), load_hook(options.video_hook)
    if not (options.prompt_hook or options.video_hook or options.guardrail):
        return prompt_hook, video_hook
    guard_prompt, guard_video = load_guardrail() if options.guardrail else (load_hook(None), load_hook(None))

    def finish_video(frames: "np.ndarray") -> "np.ndarray":
        finished = []
        on_main_rank(lambda: finished.append(video_hook(guard_video(frames))))
        return finished[0] if finished else frames

    return lambda prompt: on_main_rank(lambda: guard_prompt(prompt_hook(prompt))), finish_video


def program_for(config: "DiTConfig") -> str:
    """The program that gives a network everything it takes."""
    if config.action is not None:
        return "recipes/generate/action_control.py"
    if config.camera is not None:
        return "recipes/generate/camera_control.py"
    if config.views is not None:
        return "recipes/generate/multiview.py"
    return f"recipes/generate/{'video' if config.condition_mask else 'text'}2world.py"


def checkpoint_path(options: argparse.Namespace) -> Path | None:
    return Path(options.checkpoint).expanduser() if options.checkpoint else None


def recorded_data(options: argparse.Namespace) -> dict[str, Any]:
    """The ``data`` settings of the run that wrote ``--checkpoint``; empty without one and for weights of other programs."""
    from cosmos1.generation.generator import recorded_settings

    return recorded_settings(checkpoint_path(options), "data") if options.checkpoint else {}


def choose_network(
    options: argparse.Namespace, program: str, untrained: Callable[[str], "DiffusionModel"]
) -> "DiffusionModel":
    """The network of ``--checkpoint``, or an ``untrained`` one of the size ``--model``, with the tokenizer asked for.

    Raises ConfigError for a network of another program.
    """
    from cosmos1.generation.generator import network_of_checkpoint

    task = network_of_checkpoint(checkpoint_path(options)) if options.checkpoint else untrained(options.model)
    task.tokenizer = options.tokenizer or task.tokenizer
    task.tokenizer_path = options.tokenizer_dir or task.tokenizer_path
    if program_for(task.config) != program:
        raise ConfigError(f"--checkpoint {options.checkpoint} is a network for {program_for(task.config)}; use that")
    return task


def open_generator(options: argparse.Namespace, task: "DiffusionModel") -> "VideoGenerator":
    """The network on all processes; says what was loaded."""
    from cosmos1.generation.generator import VideoGenerator
    from cosmos1.parallel.strategy import MegatronStrategy

    strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size, context_parallel_size=options.cp_size)
    generator = VideoGenerator(task, strategy, checkpoint_path(options), options.ema)
    tell(*generator.report)
    return generator


def tell(*lines: str) -> None:
    """Print lines from one process."""
    from cosmos1.parallel import process_groups

    if process_groups.is_main_rank():
        print(*lines, sep="\n")


def sampling_settings(options: argparse.Namespace) -> "GenerationSettings":
    from cosmos1.models.diffusion.generation import GenerationSettings

    return GenerationSettings(options.num_steps, options.guidance, options.sampler, options.seed)


def _generate(options: argparse.Namespace, video2world: bool) -> None:
    requests = read_requests(options, ("visual_input", "seed") if video2world else ("seed",))
    if video2world:
        add_starts(options, requests)
    from cosmos1.generation.generator import VideoShape, network_of_size
    from cosmos1.models.diffusion.generation import Prompt
    from cosmos1.parallel import process_groups

    check_prompt, finish_video = hooks(options)
    prompts = read_each(requests, lambda each: check_prompt(each.prompt))
    program = f"recipes/generate/{'video' if video2world else 'text'}2world.py"
    task = choose_network(options, program, lambda size: network_of_size(size, video2world))
    shape = VideoShape(options.num_video_frames, options.height, options.width, options.fps)
    shape.latent_shape(task.config)
    starts = _read_starts(options, requests, task.config, shape) if video2world else [None] * len(requests)

    generator = open_generator(options, task)
    texts = generator.embed([*prompts, options.negative_prompt])
    negative = texts[-1:] if options.negative_prompt else None
    for request, prompt, text, start in zip(requests, prompts, texts[:-1], starts):
        frames = _one_video(generator, request.options(options), Prompt(text[None], shape.fps, negative), shape, start)
        frames = finish_video(frames)
        if process_groups.is_main_rank():
            save(request, prompt, frames, request.options(options))
    process_groups.shutdown()


def add_starts(options: argparse.Namespace, requests: list[Request]) -> None:
    """What each video begins with: the "visual_input" of its line, else ``--conditioned_image_or_video_path``."""
    for request in requests:
        request.visual_input = request.visual_input or options.conditioned_image_or_video_path
    if any(request.visual_input is None for request in requests):
        raise ConfigError('Video2World needs --conditioned_image_or_video_path (or "visual_input" in every line)')


def _read_starts(
    options: argparse.Namespace, requests: list[Request], config: "DiTConfig", shape: "VideoShape"
) -> "list[np.ndarray]":
    from cosmos1.generation.generator import given_latents
    from cosmos1.generation.given_frames import read_given_frames

    starts = read_each(requests, lambda each: read_given_frames(each.visual_input, options.num_input_frames))
    counts = {len(start) for start in starts} | ({options.num_input_frames} if options.num_chunks > 1 else set())
    for count in counts:
        given_latents(config, count, shape)
    return starts


def step_reporter(unit: str = "steps") -> Callable[[int, int], None]:
    """Shows how far one video is, on one rank; samplers call it with (done, total)."""
    from cosmos1.parallel import process_groups
    from cosmos1.progress import Progress

    return Progress(0, unit, process_groups.is_main_rank()).reach


def _one_video(generator, options, prompt, shape, start):
    settings = sampling_settings(options)
    shown = {"prompt": prompt, "shape": shape, "progress": step_reporter()}
    if start is None:
        return generator.generate(settings=settings, **shown)
    return generator.generate_long(options.num_chunks, options.num_input_frames, settings, start, **shown)


def save(request: Request, prompt: str, frames, options: argparse.Namespace, facts: dict | None = None) -> None:
    """The mp4, and beside it a json with everything that repeats it."""
    from cosmos1.data.video import write_video

    request.save_path.parent.mkdir(parents=True, exist_ok=True)
    write_video(request.save_path, frames, options.fps)
    record = {**vars(options), "prompt": request.prompt, "prompt_used": prompt, "visual_input": request.visual_input}
    record |= facts or {}
    request.save_path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(
        f"video: {request.save_path} ({len(frames)} frames, {frames.shape[1]} x {frames.shape[2]}, {options.fps:g} fps)"
    )
