# SPDX-License-Identifier: Apache-2.0
"""What ``recipes/generate/autoregressive.py`` does."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError
from cosmos1.generation import command
from cosmos1.generation.autoregressive_options import DEFAULT_TOP_P, read_requests, requests_of_dataset
from cosmos1.generation.autoregressive_signals import Signals, check_options, read_signals
from cosmos1.generation.camera_options import save_cameras
from cosmos1.generation.requests import Request, read_each
from cosmos1.generation.view_options import save_views, view_texts

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.data.geometry.rigs import Rig
    from cosmos1.generation.autoregressive import AutoregressiveGenerator
    from cosmos1.models.autoregressive.model import AutoregressiveModel
    from cosmos1.models.autoregressive.sampling import SamplingSettings


@dataclass
class Clip:
    """One video to make."""

    request: Request
    options: argparse.Namespace
    texts: list[str]
    """One, or one for each view; none for networks that read none."""
    signals: Signals


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
    rig = load_rig(options.rig) if options.rig else None
    check_prompt, finish_video = command.hooks(options)
    requests = requests or requests_of_dataset(options, task)
    clips = read_each(requests, lambda each: read_clip(each, each.options(options), task, rig, check_prompt))

    generator = AutoregressiveGenerator(task, command.checkpoint_path(options), options.ema)
    generator.encoder_path = options.encoder_path or generator.encoder_path
    generator.decoder_path = options.decoder_path or generator.decoder_path
    command.tell(*generator.report)
    for clip, text in zip(clips, _embeddings(options, task, rig, clips)):
        views, rate = _one_video(generator, clip, text, replace(settings, seed=clip.options.seed))
        views = [finish_video(frames) for frames in views]
        if process_groups.is_main_rank():
            save(clip, views, rig, {"top_p_used": settings.top_p, "tokens_per_s": round(rate, 1)})
        command.tell(f"{rate:.1f} tokens per second after the prompt")
    process_groups.shutdown()


def read_clip(
    request: Request,
    options: argparse.Namespace,
    task: "AutoregressiveModel",
    rig: "Rig | None",
    check_prompt: Callable,
) -> Clip:
    """Read what one video is made from. Raises ConfigError or DataError for what does not fit the network."""
    check_options(options, task)
    _check_prompt(request.prompt, task.config.reads_text)
    texts = [check_prompt(text) for text in _texts(options, task, rig, request.prompt)]
    signals = read_signals(options, task, request.visual_input, rig)
    options.fps = options.fps or signals.fps
    return Clip(request, options, texts, signals)


def save(clip: Clip, views: "list[np.ndarray]", rig: "Rig | None", facts: dict) -> None:
    """The mp4 with all views, what repeats it, and what the metrics of its control read."""
    import numpy as np

    picture = np.concatenate(views, axis=2) if rig is None else rig.preview_picture(np.stack(views))
    facts |= {"prompts_used": clip.texts, **clip.signals.facts}
    command.save(clip.request, (clip.texts or [""])[0], picture, clip.options, facts)
    if rig is not None:
        save_views(clip.request, rig, views, clip.options.fps)
    if clip.signals.cameras is not None:
        save_cameras(clip.request, clip.signals.cameras)


def _embeddings(
    options: argparse.Namespace, task: "AutoregressiveModel", rig: "Rig | None", clips: list[Clip]
) -> "list[torch.Tensor | None]":
    """Text ``[1, 512, 1024]`` of each video, ``[1, V * 512, 1024]`` where each view has one; None for networks that read none."""
    from cosmos1.generation.generator import embed_prompts

    if not task.config.reads_text:
        return [None] * len(clips)
    encoder = options.text_encoder or ("hashed" if task.tokenizer == "dct_fsq" else "t5")
    if _has_text_per_view(task):
        return view_texts(lambda texts: embed_prompts(texts, encoder), rig, [clip.texts for clip in clips])
    return list(embed_prompts([clip.texts[0] for clip in clips], encoder).split(1))


def sampling_settings(options: argparse.Namespace) -> "SamplingSettings":
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


def _check_prompt(prompt: str, reads_text: bool) -> None:
    if reads_text and not prompt:
        raise ConfigError('a Video2World network needs --prompt (or "prompt" in every line)')
    if not reads_text and prompt:
        raise ConfigError("this network reads no text; leave out the prompt, or use a Video2World checkpoint")


def _has_text_per_view(task: "AutoregressiveModel") -> bool:
    return task.config.views is not None and not task.config.views.shared_text


def _texts(options: argparse.Namespace, task: "AutoregressiveModel", rig: "Rig | None", prompt: str) -> list[str]:
    """The prompt, or one for each view where each has a text; none for networks that read none."""
    if not task.config.reads_text:
        return []
    if not _has_text_per_view(task):
        if options.view_prompts:
            raise ConfigError("--view_prompts: the views of this network share one text; give it as --prompt")
        return [prompt]
    if rig is None:
        raise ConfigError(
            "each view of this network has a text, which begins with the description of its camera: give the --rig of the "
            "training data"
        )
    prompts = options.view_prompts or [prompt] * task.config.num_views
    if len(prompts) != task.config.num_views:
        raise ConfigError(f"--view_prompts: {len(prompts)} prompts, the network has {task.config.num_views} views")
    return prompts


def _one_video(
    generator: "AutoregressiveGenerator", clip: Clip, text: "torch.Tensor | None", settings: "SamplingSettings"
) -> "tuple[list[np.ndarray], float]":
    """The frames of each view, and tokens per second."""
    import numpy as np

    signals, use_graph, progress = clip.signals, not clip.options.no_cuda_graph, command.step_reporter("tokens")
    if signals.actions is not None:
        frames, rate = generator.roll_out(signals.views[0], signals.actions, settings, use_graph, progress)
        return [frames], rate
    given = generator.given_tokens(signals.views)
    frames, rate = generator.generate(given, text, settings, use_graph, progress, signals.controls)
    return np.split(frames, generator.task.config.num_views, axis=2), rate
