# SPDX-License-Identifier: Apache-2.0
"""What the programs that write cached latents share: their options, and the encoders of video and text."""

import argparse
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

import numpy as np

from cosmos1.data.command_line import Progress
from cosmos1.data.formats.latent_sample import CONDITIONING_PART, LATENT_PART, NUM_TEXT_TOKENS, TOKENS_PART
from cosmos1.data.preparing.output_folder import (
    check_output_folder,
    claim_output_folder,
    rank_and_world_size,
    report_failures,
    share_of_rank,
)
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.discrete import DISCRETE_TOKENIZER_NAMES
from cosmos1.models.tokenizers.token_grid import latent_grid, parse_compression
from cosmos1.models.tokenizers.video import TEMPORAL_FACTORS, VIDEO_TOKENIZER_NAMES, is_weight_free

if TYPE_CHECKING:
    import torch

CONDITIONING_FRAMES = 9


def add_encoder_options(parser: argparse.ArgumentParser, with_tokens: bool = False) -> None:
    """Add the options of the encoders, the device, the seed, and what to do with a folder that exists.

    `with_tokens` also offers the discrete tokenizers of the autoregressive networks.
    """
    add = parser.add_argument
    names = VIDEO_TOKENIZER_NAMES + (DISCRETE_TOKENIZER_NAMES if with_tokens else ())
    add("--tokenizer", choices=names, help="default: cosmos_cv8x8x8 with --tokenizer_dir, else dct")
    if with_tokens:
        compression = "of dct_fsq and cosmos_dv: frames, rows and columns per token"
        add("--tokenizer_compression_factor", default="8,16,16", help=compression)
    add("--tokenizer_dir", default="", help="weights of the tokenizer; empty: download them into HF_HOME")
    add("--text_encoder", choices=("hashed", "t5"), help="default: t5 beside cosmos_cv8x8x8, hashed beside dct")
    add("--text_encoder_dir", default="", help="weights of t5; empty: google-t5/t5-11b from HF_HOME or the hub")
    add("--text_dtype", choices=("float32", "bfloat16"), default="float32", help="precision in which t5 runs")
    add("--text_device", default="", help="device of the text encoder; empty: that of the tokenizer")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="precision in which the tokenizer runs")
    add("--device", default="", help="cpu, cuda, cuda:1; empty: this rank's CUDA device if there is one")
    add("--resume", action="store_true", help="complete a folder that an earlier run with the same options began")
    add("--strict", action="store_true", help="stop at the first source that cannot be used")


def settle_encoders(arguments: argparse.Namespace) -> None:
    """Replace encoders that were left open by their defaults."""
    arguments.tokenizer = arguments.tokenizer or ("cosmos_cv8x8x8" if arguments.tokenizer_dir else "dct")
    arguments.text_encoder = arguments.text_encoder or ("hashed" if is_weight_free(arguments.tokenizer) else "t5")


def check_sizes(arguments: argparse.Namespace, usual_frames: int) -> None:
    """Raise ConfigError for --height, --width, --num_frames and --num_chunks that no sample can have."""
    for option in ("height", "width"):
        value = getattr(arguments, option)
        if value < 16 or value % 16:
            lower = max(value // 16 * 16, 16)
            raise ConfigError(f"--{option} {value} is not a multiple of 16. Use {lower} or {lower + 16}.")
    frames = arguments.num_frames
    if writes_tokens(arguments):
        factor, rows, columns = parse_compression(arguments.tokenizer_compression_factor)
        latent_grid(1, arguments.height, arguments.width, (factor, rows, columns))
    else:
        factor = TEMPORAL_FACTORS[arguments.tokenizer]
    if frames < 1 or (frames - 1) % factor:
        lower = max((frames - 1) // factor * factor + 1, 1)
        raise ConfigError(
            f"--num_frames {frames} is not {factor}k+1. The nearest are {lower} and {lower + factor}; {usual_frames} is usual."
        )
    if arguments.num_chunks < 1:
        raise ConfigError(f"--num_chunks {arguments.num_chunks}: at least 1 sample per source is needed.")


def writes_tokens(arguments: argparse.Namespace) -> bool:
    """Whether the tokenizer is a discrete one."""
    return arguments.tokenizer in DISCRETE_TOKENIZER_NAMES


def video_parts(arguments: argparse.Namespace) -> Tuple[str, ...]:
    """The files that hold the video of a sample."""
    return (TOKENS_PART,) if writes_tokens(arguments) else (LATENT_PART, CONDITIONING_PART)


def encoder_facts(arguments: argparse.Namespace) -> Dict[str, Any]:
    """What dataset.json says of the encoders."""
    facts = {name: getattr(arguments, name) for name in ("tokenizer", "text_encoder", "dtype")}
    if writes_tokens(arguments):
        facts["compression"] = list(parse_compression(arguments.tokenizer_compression_factor))
    return facts


def encoder_names(arguments: argparse.Namespace) -> str:
    """Name the encoders for the printed plan, and say which are stand-ins."""
    names = f"tokenizer {arguments.tokenizer}, text encoder {arguments.text_encoder}"
    names_used = (arguments.tokenizer, arguments.text_encoder)
    stand_ins = [name for name in names_used if is_weight_free(name) or name == "hashed"]
    return names + (f" (weight-free stand-in: {', '.join(stand_ins)})" if stand_ins else "")


def write_samples(
    arguments: argparse.Namespace,
    facts: Dict[str, Any],
    parts: Sequence[str],
    write_sample: "Callable[[LatentEncoder, int], None]",
) -> None:
    """Write this rank's share of the `facts["num_samples"]` samples of a planned folder, as far as files are missing.

    `parts` are the files that a finished sample has. A sample that fails with a DataError is reported at the end (with
    --strict it stops the run). Raises DataError when no rank has written anything, ConfigError for a folder in use;
    encoders that cannot be built leave no folder.
    """
    rank, world_size = rank_and_world_size()
    folder = arguments.output_path
    if rank == 0:
        check_output_folder(folder, facts, arguments.resume)
    owned = share_of_rank(facts["num_samples"], rank, world_size)
    missing = [index for index in owned if not all((folder / f"{index}.{part}").exists() for part in parts)]
    encoder = LatentEncoder(arguments) if missing else None
    claim_output_folder(folder, facts, arguments.resume, rank)
    progress = Progress(len(missing), "samples", enabled=rank == 0)
    failures = []
    for index in missing:
        try:
            write_sample(encoder, index)
            progress.advance()
        except DataError as error:
            if arguments.strict:
                raise
            failures.append(str(error))
    report_failures(folder, failures, "*.info.json")
    if rank == 0:
        print(f"{len(owned) - len(failures)} samples of rank 0 are in {folder}; {len(failures)} failed")


class LatentEncoder:
    """The video tokenizer and the text encoder that the options of `add_encoder_options` name."""

    def __init__(self, arguments: argparse.Namespace):
        import torch

        from cosmos1.models.tokenizers.text import build_text_encoder

        device = choose_device(arguments.device)
        self._writes_tokens = writes_tokens(arguments)
        build = discrete_tokenizer if self._writes_tokens else _continuous_tokenizer
        self.tokenizer = build(arguments, device)
        self.text_encoder = build_text_encoder(
            arguments.text_encoder,
            arguments.text_encoder_dir or None,
            device=arguments.text_device or device,
            dtype=getattr(torch, arguments.text_dtype),
        )
        # A prompt is encoded once, not once per sample.
        self.text = lru_cache(maxsize=64)(self._text)

    def video_files(self, views: "Sequence[np.ndarray]") -> "Dict[str, torch.Tensor]":
        """The files of `video_parts` of a sample of one or more views (T, H, W, 3) uint8, each encoded for itself.

        Latents (16, V*t, h, w), all frames of the first view first, whole and with given frames only; or tokens
        (V*t, h, w) int32.
        """
        import torch

        if self._writes_tokens:
            return {TOKENS_PART: torch.cat([self._tokens(view) for view in views])}
        given = [self.video(view, num_given=CONDITIONING_FRAMES) for view in views]
        return {
            LATENT_PART: torch.cat([self.video(view) for view in views], dim=1),
            CONDITIONING_PART: torch.cat(given, dim=1),
        }

    def _tokens(self, frames: np.ndarray) -> "torch.Tensor":
        from cosmos1.data.video import frames_to_tensor

        return self.tokenizer.encode(frames_to_tensor(frames))[0].int().cpu()

    def video(self, frames: np.ndarray, num_given: Optional[int] = None) -> "torch.Tensor":
        """Latent (16, t, h, w) bfloat16 of frames (T, H, W, 3) uint8.

        With `num_given` only so many frames are shown, and mid-grey (0.0, not black) for the others.
        """
        from cosmos1.data.video import frames_to_tensor

        pixels = frames_to_tensor(frames)
        if num_given is not None:
            pixels[:, :, num_given:] = 0.0
        return self.tokenizer.encode(pixels)[0].bfloat16()

    def _text(self, prompt: str) -> "Tuple[torch.Tensor, int]":
        """Embeddings (512, 1024) bfloat16 of a prompt, and how many rows are not padding."""
        num_tokens = self.text_encoder.count_tokens(prompt)
        if num_tokens > NUM_TEXT_TOKENS:
            print(f"text of {num_tokens} tokens, cut to {NUM_TEXT_TOKENS}: {prompt[:60]}...")
        embeddings, lengths = self.text_encoder.encode([prompt])
        return embeddings[0].bfloat16(), int(lengths[0])


def _continuous_tokenizer(arguments: argparse.Namespace, device: str):
    import torch

    from cosmos1.models.tokenizers.video import build_video_tokenizer

    return build_video_tokenizer(
        arguments.tokenizer,
        arguments.tokenizer_dir or None,
        num_frames=arguments.num_frames,
        device=device,
        dtype=getattr(torch, arguments.dtype),
    )


def discrete_tokenizer(arguments: argparse.Namespace, device: str):
    """The tokenizer that --tokenizer, --tokenizer_dir and --tokenizer_compression_factor name, or the published one.

    Raises ConfigError for a compression that none is published for, DataError when weights are missing.
    """
    from cosmos1.models.tokenizers.cosmos_dv import HUB_NAMES
    from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer

    compression = parse_compression(arguments.tokenizer_compression_factor)
    path = arguments.tokenizer_dir or HUB_NAMES.get(compression)
    if path is None and arguments.tokenizer == "cosmos_dv":
        known = " and ".join(",".join(map(str, factors)) for factors in HUB_NAMES)
        raise ConfigError(
            f"--tokenizer_compression_factor {arguments.tokenizer_compression_factor}: tokenizers are published for {known}. "
            f"Give --tokenizer_dir of yours, or use --tokenizer dct_fsq."
        )
    return build_discrete_tokenizer(arguments.tokenizer, compression, path, device=device)


def choose_device(requested: str) -> str:
    """The device asked for, or this rank's CUDA device if there is one, or the CPU."""
    import torch

    if requested:
        return requested
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
