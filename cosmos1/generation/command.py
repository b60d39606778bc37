# SPDX-License-Identifier: Apache-2.0
"""The options that the generation commands share, and what they do with them."""

import argparse
import json
import sys
from pathlib import Path

from cosmos1.errors import UserError


def parser(description: str, video2world: bool) -> argparse.ArgumentParser:
    """The command line of ``recipes/generate/{text2world,video2world}.py``."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("7b", "14b", "tiny"), help="network size; not needed with --checkpoint")
    p.add_argument("--checkpoint", help="checkpoint or run folder of this suite; without it the weights are untrained")
    p.add_argument("--ema", type=int, help="use this EMA copy of the checkpoint")
    p.add_argument("--prompt", required=True)
    p.add_argument("--negative_prompt", default="", help="empty: guidance away from no text")
    p.add_argument("--guidance", type=float, default=7.0, help="g in cond + g * (cond - uncond)")
    p.add_argument("--num_steps", type=int, default=35)
    p.add_argument("--sampler", choices=("res", "euler"), default="res")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--height", type=int, default=704)
    p.add_argument("--width", type=int, default=1280)
    p.add_argument("--fps", type=float, default=24)
    p.add_argument("--num_video_frames", type=int, default=121)
    p.add_argument("--tp_size", type=int, default=1, help="GPUs that share each layer")
    p.add_argument("--cp_size", type=int, default=1, help="GPUs that share the tokens")
    p.add_argument("--video_save_path", default="generated.mp4")
    if video2world:
        p.add_argument("--conditioned_image_or_video_path", required=True)
        p.add_argument("--num_input_frames", type=int, default=1, help="1 or 9: how many last frames are given")
    return p


def run(p: argparse.ArgumentParser, video2world: bool) -> None:
    """Generate one video; mistakes of the user end with one line and status 2."""
    try:
        _generate(p.parse_args(), video2world)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _generate(options: argparse.Namespace, video2world: bool) -> None:
    from cosmos1.data.video import write_video
    from cosmos1.errors import ConfigError
    from cosmos1.generation.generator import VideoGenerator, network_of_checkpoint, network_of_size, read_given_frames
    from cosmos1.models.diffusion.generation import GenerationSettings
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import MegatronStrategy
    from cosmos1.training.progress import counting_bar

    if not options.checkpoint and not options.model:
        raise ConfigError("give --checkpoint FOLDER, or --model {7b,14b,tiny} for an untrained network")
    checkpoint = Path(options.checkpoint).expanduser() if options.checkpoint else None
    task = network_of_checkpoint(checkpoint) if checkpoint else network_of_size(options.model, video2world)
    if task.config.condition_mask != video2world:
        kind = "Video2World" if task.config.condition_mask else "Text2World"
        raise ConfigError(
            f"--checkpoint {options.checkpoint} is a {kind} network; use recipes/generate/{kind.lower()}.py"
        )
    given = None
    if video2world:
        given = read_given_frames(options.conditioned_image_or_video_path, options.num_input_frames)
    strategy = MegatronStrategy(tensor_model_parallel_size=options.tp_size, context_parallel_size=options.cp_size)
    generator = VideoGenerator(task, strategy, checkpoint, options.ema)
    main_rank = process_groups.is_main_rank()
    settings = GenerationSettings(options.num_steps, options.guidance, options.sampler, options.seed)
    with counting_bar("denoising", enabled=main_rank) as progress:
        frames = generator.generate(
            options.prompt,
            options.negative_prompt,
            options.num_video_frames,
            options.height,
            options.width,
            options.fps,
            settings,
            given,
            progress,
        )
    if main_rank:
        path = Path(options.video_save_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, options.fps)
        path.with_suffix(".json").write_text(json.dumps(vars(options), indent=2) + "\n")
        print(f"video: {path} ({len(frames)} frames, {options.height} x {options.width}, {options.fps:g} fps)")
    process_groups.shutdown()
