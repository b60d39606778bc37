# SPDX-License-Identifier: Apache-2.0
"""The options that the generation commands share, and what they do with them."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos1 import hub
from cosmos1.errors import CheckpointError, ConfigError, DataError, UserError
from cosmos1.generation.hooks import add_rule_options
from cosmos1.models.tokenizers.video import VIDEO_TOKENIZER_NAMES

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.generation.generator import VideoGenerator
    from cosmos1.models.diffusion.config import DiTConfig
    from cosmos1.models.diffusion.generation import GenerationSettings
    from cosmos1.models.diffusion.model import DiffusionModel

INPUT_FILES = ("visual_input", "camera_extrinsics_path", "prompt_path", "trajectory_path")
"""What a line of ``--batch_input_path`` may name relative to that file."""


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
    p.add_argument("--batch_input_path", help='jsonl, a line per video: {"prompt": ..., "visual_input": path}')
    p.add_argument("--guidance", type=float, default=7.0, help="g in cond + g * (cond - uncond)")
    p.add_argument("--num_steps", type=int, default=35)
    p.add_argument("--sampler", choices=("res", "euler", "euler_diffusers"), default="res")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--height", type=int, default=704)
    p.add_argument("--width", type=int, default=1280)
    p.add_argument("--fps", type=float, default=24)
    p.add_argument("--num_video_frames", type=int, default=121)
    p.add_argument("--tp_size", type=int, default=1, help="GPUs that share each layer")
    p.add_argument("--cp_size", type=int, default=1, help="GPUs that share the tokens")
    p.add_argument("--video_save_path", default="generated.mp4", help="with --batch_input_path: a folder")
    add_rule_options(p)
    if video2world:
        p.add_argument("--conditioned_image_or_video_path")
        p.add_argument("--num_input_frames", type=int, default=1, help="1 or 9: how many last frames are given")
        p.add_argument("--num_chunks", type=int, default=1, help="chain this many samples to a long video")
    return p


@dataclass
class Request:
    """One video to make."""

    prompt: str
    visual_input: str | None
    save_path: Path
    entry: dict[str, Any] = field(default_factory=dict)
    """The whole line of ``--batch_input_path``; empty without one."""


def run(p: argparse.ArgumentParser, video2world: bool) -> None:
    """Generate the videos of ``recipes/generate/{text2world,video2world}.py``."""
    run_program(p, lambda options: _generate(options, video2world))


def run_program(p: argparse.ArgumentParser, generate: Callable[[argparse.Namespace], None]) -> None:
    """Generate the videos; mistakes of the user end with one line, from one process, and status 2."""
    try:
        options = p.parse_args()
        _check_network(options)
        generate(options)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _check_network(options: argparse.Namespace) -> None:
    """Before the seconds that the libraries take to load."""
    given = vars(options)
    if not any(given.get(name) for name in ("checkpoint", "checkpoint_dir", "model")):
        raise ConfigError("give --checkpoint FOLDER, or --model SIZE (see --help) for an untrained network")
    path = options.checkpoint
    if path and not Path(path).expanduser().exists() and not hub.is_model_id(path):
        raise CheckpointError(
            f"--checkpoint {path} does not exist; give a run folder, a checkpoint of any format, or a Hugging Face id such as "
            "nvidia/Cosmos-1.0-Diffusion-7B-Text2World"
        )


def read_requests(options: argparse.Namespace, video2world: bool) -> list[Request]:
    """The videos asked for, by ``--prompt`` or by the lines of ``--batch_input_path``."""
    if (options.prompt is None) == (options.batch_input_path is None):
        raise ConfigError("give either --prompt or --batch_input_path")
    if options.prompt is not None:
        visual_input = options.conditioned_image_or_video_path if video2world else None
        requests = [Request(options.prompt, visual_input, Path(options.video_save_path))]
    else:
        requests = read_jsonl(Path(options.batch_input_path), Path(options.video_save_path))
    if video2world and any(request.visual_input is None for request in requests):
        raise ConfigError('Video2World needs --conditioned_image_or_video_path (or "visual_input" in every line)')
    return requests


def read_jsonl(path: Path, folder: Path, needs_prompt: bool = True) -> list[Request]:
    """One request per line of ``path``; the videos go to ``folder`` as ``0.mp4``, ``1.mp4``, ..., or ``<name>.mp4`` where a
    line has a "name"."""
    requests = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DataError(f"--batch_input_path {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            prompt = entry["prompt"] if needs_prompt else entry.get("prompt", "")
            entry = {key: value for key, value in entry.items() if value is not None}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'line {number} of {path}: {error!r}; each line is {{"prompt": "...", "visual_input": "..."}}'
            ) from error
        entry |= {key: _find(path, number, key, str(entry[key])) for key in INPUT_FILES if key in entry}
        save_path = folder / f"{entry.get('name', len(requests))}.mp4"
        requests.append(Request(prompt, entry.get("visual_input"), save_path, entry))
    if not requests:
        raise DataError(f"--batch_input_path {path} has no lines")
    paths = [request.save_path for request in requests]
    repeated = sorted({str(save_path) for save_path in paths if paths.count(save_path) > 1})
    if repeated:
        raise DataError(f'--batch_input_path {path}: several lines would write {repeated[0]}; give each its own "name"')
    return requests


def _find(batch: Path, number: int, key: str, value: str) -> str:
    """The file that a line of ``batch`` names, relative to that file or to the working directory."""
    found = [path for path in (batch.parent / value, Path(value)) if path.exists()]
    if not found:
        raise DataError(
            f'line {number} of {batch}: "{key}" points to {value}, which does not exist (looked in {batch.parent} and the '
            "working directory)"
        )
    return str(found[0])


def options_of(options: argparse.Namespace, request: Request, per_video: tuple[str, ...]) -> argparse.Namespace:
    """The options of one video: its line of ``--batch_input_path`` may set those named ``per_video``."""
    unknown = set(request.entry) - {"prompt", "visual_input", "name", *per_video}
    if unknown:
        raise DataError(
            f'--batch_input_path {options.batch_input_path}: the line of {request.save_path.name} has "{min(unknown)}"; known '
            f"are prompt, visual_input, name, {', '.join(per_video)}"
        )
    return argparse.Namespace(**{**vars(options), **request.entry})


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
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import MegatronStrategy

    strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size, context_parallel_size=options.cp_size)
    generator = VideoGenerator(task, strategy, checkpoint_path(options), options.ema)
    if process_groups.is_main_rank():
        for line in generator.report:
            print(line)
    return generator


def sampling_settings(options: argparse.Namespace) -> "GenerationSettings":
    from cosmos1.models.diffusion.generation import GenerationSettings

    return GenerationSettings(options.num_steps, options.guidance, options.sampler, options.seed)


def _generate(options: argparse.Namespace, video2world: bool) -> None:
    requests = read_requests(options, video2world)
    from cosmos1.generation.generator import VideoShape, network_of_size
    from cosmos1.models.diffusion.generation import Prompt
    from cosmos1.parallel import process_groups

    check_prompt, finish_video = hooks(options)
    prompts = [check_prompt(request.prompt) for request in requests]
    program = f"recipes/generate/{'video' if video2world else 'text'}2world.py"
    task = choose_network(options, program, lambda size: network_of_size(size, video2world))
    shape = VideoShape(options.num_video_frames, options.height, options.width, options.fps)
    shape.latent_shape(task.config)

    generator = open_generator(options, task)
    texts = generator.embed([*prompts, options.negative_prompt])
    negative = texts[-1:] if options.negative_prompt else None
    for request, prompt, text in zip(requests, prompts, texts[:-1]):
        shown = Prompt(text[None], shape.fps, negative)
        frames = finish_video(_one_video(generator, options, request, shown, shape, video2world))
        if process_groups.is_main_rank():
            save(request, prompt, frames, options)
    process_groups.shutdown()


def step_reporter(unit: str = "steps") -> Callable[[int, int], None]:
    """Shows how far one video is, on one rank; samplers call it with (done, total)."""
    from cosmos1.parallel import process_groups
    from cosmos1.progress import Progress

    return Progress(0, unit, process_groups.is_main_rank()).reach


def _one_video(generator, options, request, prompt, shape, video2world):
    from cosmos1.generation.generator import read_given_frames

    settings = sampling_settings(options)
    shown = {"prompt": prompt, "shape": shape, "progress": step_reporter()}
    if not video2world:
        return generator.generate(settings=settings, **shown)
    given = read_given_frames(request.visual_input, options.num_input_frames)
    return generator.generate_long(options.num_chunks, options.num_input_frames, settings, given, **shown)


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
