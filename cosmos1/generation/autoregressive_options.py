# SPDX-License-Identifier: Apache-2.0
"""The options of ``recipes/generate/autoregressive.py``, and the videos that they ask for."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos1.errors import ConfigError
from cosmos1.generation import command
from cosmos1.generation.action_command import check_dataset_options, roll_outs_of_dataset
from cosmos1.generation.autoregressive_signals import DEFAULT_FPS, PER_VIDEO, add_signal_options
from cosmos1.generation.hooks import add_rule_options
from cosmos1.generation.requests import Request, output_path, read_batch, read_each
from cosmos1.option_types import count_from, number, positive_number

if TYPE_CHECKING:
    from cosmos1.models.autoregressive.model import AutoregressiveModel

SIZES = ("4b", "12b", "5b", "13b", "tiny", "tiny_video2world")
INPUT_TYPES = ("video", "image", "text_and_video", "text_and_image")
OF_AN_EPISODE = (
    "input_image_or_video_path",
    "conditioned_images",
    "batch_input_path",
    "action_annotation_path",
    "prompt",
)
"""What ``--dataset_path`` says for each of its videos."""
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
        "--num_input_frames",
        type=count_from(1),
        default=9,
        help="1 or 9: how many last frames of a video are given; of several views, and of scenes, the first ones",
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
    p.add_argument(
        "--fps", type=positive_number, help=f"default: {DEFAULT_FPS:g}; with actions, as recorded in training"
    )
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
        # Of many videos the folder holds all, whatever one video would be called.
        is_folder = options.batch_input_path is not None or options.dataset_path is not None
        name = "" if is_folder else options.video_save_path or "generated.mp4"
        options.video_save_path = str(Path(options.video_save_folder, name))
    ignored = [f"--{name}" for name in WITHOUT_EFFECT if getattr(options, name)]
    if ignored:
        command.tell(f"without effect: {', '.join(ignored)}")


def read_requests(options: argparse.Namespace) -> list[Request]:
    """The videos asked for, by a start, by a scene whose cameras are followed, or by the lines of ``--batch_input_path``, for
    which a start on the command line holds where they have none. None for ``--dataset_path``: :func:`requests_of_dataset`.

    Raises ConfigError for options that do not go together.
    """
    check_dataset_options(options)
    if options.dataset_path is not None:
        given = [name for name in OF_AN_EPISODE if getattr(options, name) is not None]
        if given:
            raise ConfigError(f"--{given[0]}: --dataset_path says it for each episode; leave one of them out")
        return []
    if options.batch_input_path is None:
        requests = [Request(options.prompt or "", None, output_path(options, is_folder=False))]
    else:
        texts = [name for name in ("prompt", "view_prompts") if getattr(options, name) is not None]
        if texts:
            raise ConfigError(f"--{texts[0]} is for one video; leave it out, or --batch_input_path")
        requests = read_batch(options, PER_VIDEO, needs_prompt=False)
    return read_each(requests, lambda each: _completed(each, options))


def _completed(request: Request, options: argparse.Namespace) -> Request:
    """With what the command line says for all videos. Raises ConfigError unless there is one start and one kind of text."""
    own = request.options(options)
    request.visual_input = request.visual_input or own.input_image_or_video_path
    starts = [start for start in (request.visual_input, own.conditioned_images) if start is not None]
    if len(starts) > 1 or not (starts or own.camera_extrinsics_path):
        raise ConfigError(
            'give one start for each video: --input_image_or_video_path (or "visual_input" in its line of --batch_input_path), '
            "--conditioned_images of several views, or a scene as --camera_extrinsics_path"
        )
    if request.prompt and own.view_prompts:
        raise ConfigError("--prompt and --view_prompts: give one text, or one for each view")
    request.prompt = request.prompt or next(filter(None, own.view_prompts or []), "")
    return request


def requests_of_dataset(options: argparse.Namespace, task: "AutoregressiveModel") -> list[Request]:
    """A video for each episode of ``--dataset_path``."""
    if task.config.action is None:
        raise ConfigError("--dataset_path: the network takes no actions; leave it out")
    roll_outs = roll_outs_of_dataset(options, task.config.action.action_dim)
    for each in roll_outs:
        each.request.prompt = ""  # The instruction, which these networks do not read.
        each.request.entry = {"action_annotation_path": str(each.episode.annotation)}
    return [each.request for each in roll_outs]
