# SPDX-License-Identifier: Apache-2.0
"""The options that the generation commands share, and what they do with them."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cosmos1.errors import ConfigError, DataError, UserError


def parser(description: str, video2world: bool) -> argparse.ArgumentParser:
    """The command line of ``recipes/generate/{text2world,video2world}.py``."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("7b", "14b", "tiny"), help="network size; not needed with --checkpoint")
    p.add_argument("--checkpoint", help="any format of docs/weights.md; without it the weights are untrained")
    p.add_argument("--tokenizer", choices=("dct", "cosmos_cv8x8x8"), help="default: the one recorded with the weights")
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
    p.add_argument("--prompt_hook", help="package.module:function that rewrites or refuses each prompt")
    p.add_argument("--video_hook", help="package.module:function that changes or refuses each video")
    p.add_argument(
        "--guardrail", action="store_true", help="check prompts and videos with cosmos_guardrail (default: off)"
    )
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


def run(p: argparse.ArgumentParser, video2world: bool) -> None:
    """Generate the videos; mistakes of the user end with one line and status 2."""
    try:
        _generate(p.parse_args(), video2world)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def read_requests(options: argparse.Namespace, video2world: bool) -> list[Request]:
    """The videos asked for, by ``--prompt`` or by the lines of ``--batch_input_path``."""
    if (options.prompt is None) == (options.batch_input_path is None):
        raise ConfigError("give either --prompt or --batch_input_path")
    if options.prompt is not None:
        visual_input = options.conditioned_image_or_video_path if video2world else None
        requests = [Request(options.prompt, visual_input, Path(options.video_save_path))]
    else:
        requests = _read_jsonl(Path(options.batch_input_path), Path(options.video_save_path))
    if video2world and any(request.visual_input is None for request in requests):
        raise ConfigError('Video2World needs --conditioned_image_or_video_path (or "visual_input" in every line)')
    return requests


def _read_jsonl(path: Path, folder: Path) -> list[Request]:
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
            prompt, visual_input = entry["prompt"], entry.get("visual_input")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'line {number} of {path}: {error!r}; each line is {{"prompt": "...", "visual_input": "..."}}'
            ) from error
        if visual_input is not None:
            found = [p for p in (path.parent / visual_input, Path(visual_input)) if p.exists()]
            if not found:
                raise DataError(
                    f'line {number} of {path}: "visual_input" points to {visual_input}, which does not exist (looked in '
                    f"{path.parent} and the working directory)"
                )
            visual_input = str(found[0])
        requests.append(Request(prompt, visual_input, folder / f"{len(requests)}.mp4"))
    if not requests:
        raise DataError(f"--batch_input_path {path} has no lines")
    return requests


def _generate(options: argparse.Namespace, video2world: bool) -> None:
    from cosmos1.generation.generator import VideoGenerator, VideoShape, network_of_checkpoint, network_of_size
    from cosmos1.generation.hooks import load_guardrail, load_hook
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import MegatronStrategy

    requests = read_requests(options, video2world)
    prompt_hook, video_hook = load_hook(options.prompt_hook), load_hook(options.video_hook)
    prompts = [prompt_hook(request.prompt) for request in requests]
    guard_prompt, guard_video = load_guardrail() if options.guardrail else (load_hook(None), load_hook(None))
    prompts = [guard_prompt(prompt) for prompt in prompts]

    if not options.checkpoint and not options.model:
        raise ConfigError("give --checkpoint FOLDER, or --model {7b,14b,tiny} for an untrained network")
    checkpoint = Path(options.checkpoint).expanduser() if options.checkpoint else None
    task = network_of_checkpoint(checkpoint) if checkpoint else network_of_size(options.model, video2world)
    task.tokenizer = options.tokenizer or task.tokenizer
    task.tokenizer_path = options.tokenizer_dir or task.tokenizer_path
    if task.config.condition_mask != video2world:
        kind = "Video2World" if task.config.condition_mask else "Text2World"
        raise ConfigError(
            f"--checkpoint {options.checkpoint} is a {kind} network; use recipes/generate/{kind.lower()}.py"
        )
    shape = VideoShape(options.num_video_frames, options.height, options.width, options.fps)
    shape.latent_shape(task.config.latent_channels)

    strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size, context_parallel_size=options.cp_size)
    generator = VideoGenerator(task, strategy, checkpoint, options.ema)
    if process_groups.is_main_rank():
        for line in generator.report:
            print(line)
    texts = generator.embed([*prompts, options.negative_prompt])
    negative = texts[-1:] if options.negative_prompt else None
    for request, prompt, text in zip(requests, prompts, texts[:-1]):
        frames = _one_video(generator, options, request, text[None], negative, shape, video2world)
        if process_groups.is_main_rank():
            _write(request, prompt, video_hook(guard_video(frames)), options)
    process_groups.shutdown()


def _one_video(generator, options, request, text, negative, shape, video2world):
    from cosmos1.generation.generator import read_given_frames
    from cosmos1.models.diffusion.generation import GenerationSettings
    from cosmos1.parallel import process_groups
    from cosmos1.training.progress import counting_bar

    settings = GenerationSettings(options.num_steps, options.guidance, options.sampler, options.seed)
    with counting_bar("denoising", enabled=process_groups.is_main_rank()) as progress:
        arguments = {"text": text, "negative_text": negative, "shape": shape, "progress": progress}
        if not video2world:
            return generator.generate(settings=settings, **arguments)
        given = read_given_frames(request.visual_input, options.num_input_frames)
        return generator.generate_long(
            options.num_chunks, options.num_input_frames, settings, given_frames=given, **arguments
        )


def _write(request: Request, prompt: str, frames, options: argparse.Namespace) -> None:
    """The mp4, and beside it a json with everything that repeats it."""
    from cosmos1.data.video import write_video

    request.save_path.parent.mkdir(parents=True, exist_ok=True)
    write_video(request.save_path, frames, options.fps)
    record = {**vars(options), "prompt": request.prompt, "prompt_used": prompt, "visual_input": request.visual_input}
    request.save_path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(
        f"video: {request.save_path} ({len(frames)} frames, {frames.shape[1]} x {frames.shape[2]}, {options.fps:g} fps)"
    )
