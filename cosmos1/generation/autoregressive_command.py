# SPDX-License-Identifier: Apache-2.0
"""The command line of ``recipes/generate/autoregressive.py``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError
from cosmos1.generation import command
from cosmos1.generation.action_command import roll_outs_of_dataset
from cosmos1.generation.autoregressive_signals import (
    DEFAULT_FPS,
    OF_A_LINE,
    Signals,
    add_signal_options,
    check_options,
    read_signals,
)
from cosmos1.generation.camera_control import save_cameras
from cosmos1.generation.hooks import add_rule_options
from cosmos1.generation.multiview import save_views
from cosmos1.generation.requests import Request, output_path, read_batch
from cosmos1.option_types import count_from, number, positive_number

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.data.geometry.rigs import Rig
    from cosmos1.models.autoregressive.model import AutoregressiveModel

SIZES = ("4b", "12b", "5b", "13b", "tiny", "tiny_video2world")
INPUT_TYPES = ("video", "image", "text_and_video", "text_and_image")
STARTS = ("input_image_or_video_path", "conditioned_images", "batch_input_path", "dataset_path")
"""Options of which one says what videos begin with; a scene with cameras has pictures of its own."""
DEFAULT_TOP_P = 0.8
WITHOUT_EFFECT = (
    "offload_ar_model",
    "offload_tokenizer",
    "offload_text_encoder_model",
    "offload_diffusion_decoder",
    "offload_guardrail_models",
    "disable_guardrail",
)


def parser(description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=SIZES, help="network size; not needed with --checkpoint")
    p.add_argument(
        "--checkpoint", "--ar_model_dir", help="any format of docs/weights.md; without it the weights are untrained"
    )
    p.add_argument("--ema", type=int, help="use this EMA copy of the checkpoint")
    p.add_argument("--tokenizer", choices=("dct_fsq", "cosmos_dv"), help="default: the one recorded with the weights")
    p.add_argument("--encoder_path", help="of cosmos_dv: encoder.jit, its folder or a Hugging Face id")
    p.add_argument("--decoder_path", help="of cosmos_dv: decoder.jit, its folder or a Hugging Face id")
    p.add_argument("--tokenizer_compression_factor", help="like 8,16,16; default: the one recorded with the weights")
    p.add_argument(
        "--num_context_frames", type=count_from(1), help="frames of the whole video; default: what was trained"
    )
    p.add_argument("--height", type=count_from(1), help="pixels; default: what was trained")
    p.add_argument("--width", type=count_from(1))
    p.add_argument("--input_image_or_video_path", "--conditioned_image_or_video_path")
    p.add_argument("--input_type", choices=INPUT_TYPES, help="an image type gives one frame; default: by the file")
    p.add_argument(
        "--num_input_frames", type=count_from(1), default=9, help="1 or 9: how many last frames of a video are given"
    )
    p.add_argument("--prompt", help="Video2World")
    p.add_argument("--text_encoder", choices=("hashed", "t5"), help="default: t5, with dct_fsq hashed")
    p.add_argument(
        "--batch_input_path", help='jsonl, a line per video: {"visual_input": ..., "prompt": ..., "name": ...}'
    )
    p.add_argument("--temperature", type=number, default=1.0, help="0: always the most probable token")
    p.add_argument(
        "--top_p", type=number, help=f"default {DEFAULT_TOP_P}; recommended: 4b 0.8, 12b 0.9, 5b 0.7, 13b 0.8"
    )
    p.add_argument("--top_k", type=int, help="instead of --top_p")
    p.add_argument("--seed", type=count_from(0), default=0)
    p.add_argument("--fps", type=positive_number, help=f"default: {DEFAULT_FPS:g}; with actions, as trained")
    command.add_output_option(p, "--batch_input_path or --dataset_path", "--video_save_name")
    add_rule_options(p)
    p.add_argument(
        "--tp_size",
        "--tensor_model_parallel_size",
        "--num_gpus",
        type=int,
        help="GPUs that share each layer: as many as torchrun starts, which is the default",
    )
    p.add_argument("--no_cuda_graph", action="store_true", help="launch every kernel of every token by itself")
    p.add_argument(
        "--disable_diffusion_decoder", action="store_true", help="accepted; videos are always decoded by the tokenizer"
    )
    add_signal_options(p)
    _add_official_options(p.add_argument_group("names of the official programs"))
    return p


def _add_official_options(p) -> None:
    p.add_argument("--checkpoint_dir", help="folder of the --ar_model_dir; alone it is the --checkpoint")
    p.add_argument("--video_save_folder", help="folder of the --video_save_name")
    for name in WITHOUT_EFFECT:
        p.add_argument(f"--{name}", action="store_true", help="accepted, without effect")


def take_official_options(options: argparse.Namespace) -> None:
    """Turn the options of the official programs into those of this one; says which have no effect here."""
    if options.checkpoint_dir is not None:
        options.checkpoint = str(Path(options.checkpoint_dir, options.checkpoint or ""))
    if options.video_save_folder is not None:
        # With a batch the folder holds the videos, whatever one video would be called.
        name = "" if options.batch_input_path is not None else options.video_save_path or "generated.mp4"
        options.video_save_path = str(Path(options.video_save_folder, name))
    ignored = [f"--{name}" for name in WITHOUT_EFFECT if getattr(options, name)]
    if ignored:
        _tell(f"without effect: {', '.join(ignored)}")


def read_requests(options: argparse.Namespace) -> list[Request]:
    """The videos asked for, by one of ``STARTS`` or by the scene whose cameras are followed; none for ``--dataset_path``, whose
    episodes only the network can tell how to read."""
    given = [name for name in STARTS if getattr(options, name) is not None]
    if len(given) > 1 or not (given or options.camera_extrinsics_path):
        known = ", ".join(f"--{name}" for name in STARTS)
        raise ConfigError(f"give one of {known}; given: {', '.join(given) or 'none'}")
    if options.dataset_path is None and options.shuffle_actions:
        raise ConfigError("--shuffle_actions takes the actions of another episode of --dataset_path; give that")
    others = [name for name in ("view_prompts", "batch_input_path", "dataset_path") if getattr(options, name)]
    if options.prompt is not None and others:
        raise ConfigError(f"--prompt is for one video with one text; leave it out, or --{others[0]}")
    if options.batch_input_path is None:
        if options.dataset_path is not None:
            return []
        prompt = options.prompt or (options.view_prompts or [""])[0]
        return [Request(prompt, options.input_image_or_video_path, output_path(options, is_folder=False))]
    requests = read_batch(options, ("visual_input", "seed", *sorted(OF_A_LINE)), needs_prompt=False)
    starts = {"visual_input", "conditioned_images", "camera_extrinsics_path"}
    if any(not starts & set(request.entry) for request in requests):
        raise ConfigError(f'--batch_input_path {options.batch_input_path}: every line needs "visual_input"')
    return requests


def _requests_of_dataset(options: argparse.Namespace, task: "AutoregressiveModel") -> list[Request]:
    """A video for each episode of ``--dataset_path``."""
    if task.config.action is None:
        raise ConfigError("--dataset_path: the network takes no actions; leave it out")
    if options.action_annotation_path is not None:
        raise ConfigError("--dataset_path has an annotation for each episode; leave out --action_annotation_path")
    roll_outs = roll_outs_of_dataset(options, task.config.action.action_dim)
    return [
        replace(each.request, prompt="", entry={"action_annotation_path": str(each.episode.annotation)})
        for each in roll_outs
    ]


def generate(options: argparse.Namespace) -> None:
    """Generate the videos. Everything that can be refused is, before the network is built."""
    requests = read_requests(options)
    from cosmos1.data.geometry.rigs import load_rig
    from cosmos1.generation.autoregressive import AutoregressiveGenerator
    from cosmos1.parallel import process_groups

    if options.tp_size not in (None, process_groups.world_size()):
        raise ConfigError(
            f"--tp_size {options.tp_size}, but {process_groups.world_size()} processes run; start torchrun with "
            f"--nproc_per_node={options.tp_size}"
        )
    settings = sampling_settings(options)
    task = _task(options)
    settings.validate(task.config.vocab_size)
    requests = requests or _requests_of_dataset(options, task)
    rig = load_rig(options.rig) if options.rig else None
    _check_prompts(requests, task.config.reads_text)
    check_prompt, finish_video = command.hooks(options)
    prompts, signals = [], []
    for request in requests:
        own = request.options(options)
        check_options(own, task)
        prompts.append([check_prompt(text) for text in _texts(own, task, request.prompt)])
        signals.append(read_signals(own, task, request.visual_input, rig))

    generator = AutoregressiveGenerator(task, command.checkpoint_path(options), options.ema)
    generator.encoder_path = options.encoder_path or generator.encoder_path
    generator.decoder_path = options.decoder_path or generator.decoder_path
    _tell(*generator.report)
    for request, used, text, signal in zip(requests, prompts, _embeddings(options, task, prompts), signals):
        own = request.options(options)
        own.fps = options.fps or signal.fps
        views, rate = _one_video(generator, signal, text, replace(settings, seed=own.seed), own)
        views = [finish_video(frames) for frames in views]
        if process_groups.is_main_rank():
            facts = {"top_p_used": settings.top_p, "tokens_per_s": round(rate, 1), "prompts_used": used}
            save(request, signal, views, rig, own, facts)
        _tell(f"{rate:.1f} tokens per second after the prompt")
    process_groups.shutdown()


def save(
    request: Request,
    signal: Signals,
    views: "list[np.ndarray]",
    rig: "Rig | None",
    options: argparse.Namespace,
    facts: dict,
) -> None:
    """The mp4 with all views, what repeats it, and what the metrics of its control read."""
    import numpy as np

    picture = np.concatenate(views, axis=2) if rig is None else rig.preview_picture(np.stack(views))
    command.save(request, (facts["prompts_used"] or [""])[0], picture, options, facts | signal.facts)
    if rig is not None:
        save_views(request, rig, views, options.fps)
    if signal.cameras is not None:
        save_cameras(request, signal.cameras)


def _embeddings(options: argparse.Namespace, task, prompts: list[list[str]]) -> list:
    """Text ``[1, V * 512, 1024]`` of each video; None for networks that read none."""
    from cosmos1.generation.generator import embed_prompts

    if not task.config.reads_text:
        return [None] * len(prompts)
    encoder = options.text_encoder or ("hashed" if task.tokenizer == "dct_fsq" else "t5")
    rows = embed_prompts([text for texts in prompts for text in texts], encoder)
    return [part.flatten(0, 1)[None] for part in rows.split([len(texts) for texts in prompts])]


def sampling_settings(options: argparse.Namespace):
    from cosmos1.models.autoregressive.sampling import SamplingSettings

    top_p = DEFAULT_TOP_P if options.top_p is None and options.top_k is None else options.top_p
    return SamplingSettings(options.temperature, top_p, options.top_k, options.seed)


def _task(options: argparse.Namespace):
    """The network of the checkpoint or of the size, with what the options say about tokenizer and size of the clip."""
    from cosmos1.generation.autoregressive import task_of_checkpoint, task_of_size
    from cosmos1.models.tokenizers.token_grid import clip_shape, latent_grid, parse_compression

    checkpoint, size = command.checkpoint_path(options), (options.height, options.width)
    task = task_of_checkpoint(checkpoint, *size) if checkpoint else task_of_size(options.model)
    # Recomputation saves memory in the backward pass, of which there is none.
    task.config.recompute_granularity = None
    task.tokenizer = options.tokenizer or task.tokenizer
    if options.tokenizer_compression_factor:
        task.compression_factor = list(parse_compression(options.tokenizer_compression_factor))
    compression = tuple(task.compression_factor)
    wanted = (options.num_context_frames, options.height, options.width)
    shape = [given or trained for given, trained in zip(wanted, clip_shape(task.config.latent_shape, compression))]
    grid = latent_grid(*shape, compression)
    task.config.latent_shape = [task.config.latent_shape[0], *grid[1:]] if task.single_frames else grid
    return task


def _check_prompts(requests: list[Request], reads_text: bool) -> None:
    if reads_text and not all(request.prompt for request in requests):
        raise ConfigError('a Video2World network needs --prompt (or "prompt" in every line)')
    if not reads_text and any(request.prompt for request in requests):
        raise ConfigError("this network reads no text; leave out the prompt, or use a Video2World checkpoint")


def _texts(options: argparse.Namespace, task, prompt: str) -> list[str]:
    """The prompt, or one for each view where each has a text; none for networks that read none."""
    if not task.config.reads_text:
        return []
    if task.config.views is None or task.config.views.shared_text:
        if options.view_prompts:
            raise ConfigError("--view_prompts: the views of this network share one text; give it as --prompt")
        return [prompt]
    prompts = options.view_prompts or [prompt] * task.config.num_views
    if len(prompts) != task.config.num_views:
        raise ConfigError(f"--view_prompts: {len(prompts)} prompts, the network has {task.config.num_views} views")
    return prompts


def _one_video(generator, signals: Signals, text, settings, options) -> "tuple[list[np.ndarray], float]":
    """The frames of each view, and tokens per second."""
    import numpy as np

    use_graph, progress = not options.no_cuda_graph, command.step_reporter("tokens")
    if signals.actions is not None:
        frames, rate = generator.roll_out(signals.views[0], signals.actions, settings, use_graph, progress)
        return [frames], rate
    given = generator.given_tokens(signals.views)
    frames, rate = generator.generate(given, text, settings, use_graph, progress, signals.controls)
    return np.split(frames, generator.task.config.num_views, axis=2), rate


def _tell(*lines: str) -> None:
    from cosmos1.parallel import process_groups

    if process_groups.is_main_rank():
        for line in lines:
            print(line)
