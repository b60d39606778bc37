# SPDX-License-Identifier: Apache-2.0
"""What the programs that write video tokens share: their options, the plan, and the encoder."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Tuple

import numpy as np

from cosmos1.data.formats.token_facts import VOCABULARY_SIZE, sequence_lengths
from cosmos1.data.preparing.encoders import (
    add_device_option,
    choose_device,
    discrete_encoder_path,
    tokenizer_weights,
)
from cosmos1.data.preparing.leading_clip import PlannedClip, read_leading_frames
from cosmos1.data.preparing.output_folder import add_folder_options
from cosmos1.data.video import cover_and_crop
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.token_grid import latent_grid, parse_compression

if TYPE_CHECKING:
    import torch

NUM_WARNINGS_SHOWN = 5


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """Add the size of the clips, the tokenizer, the device, and what to do with bad input and a folder that exists."""
    add = parser.add_argument
    add("--width", type=int, default=1024, help="pixels; pictures keep their proportions and are cut at the centre")
    add("--height", type=int, default=640)
    add("--num_context_frames", type=int, default=33, help="the first so many frames of each video make the clip")
    add("--tokenizer", choices=("cosmos_dv", "dct_fsq"), default="cosmos_dv", help="dct_fsq needs no weights")
    add("--tokenizer_compression_factor", default="8,16,16", help="frames, rows and columns per token")
    add(
        "--encoder_path", help="of cosmos_dv: encoder.jit, its folder, or a Hugging Face id; default: the published one"
    )
    add("--decoder_path", help="of cosmos_dv: with it, a first clip is decoded again and its PSNR printed")
    add_device_option(parser)
    add_folder_options(parser, stop_at="video that is unreadable or too short")


@dataclass(frozen=True)
class ClipShape:
    """Size of the clips in pixels and in tokens."""

    num_frames: int
    height: int
    width: int
    compression: Tuple[int, int, int]
    latent_shape: List[int]

    @property
    def num_tokens(self) -> int:
        return math.prod(self.latent_shape)

    def describe(self) -> List[str]:
        """Return the arithmetic from pixels to sequence lengths, for the printed plan."""
        factors = " x ".join(str(factor) for factor in self.compression)
        grid = " x ".join(str(size) for size in self.latent_shape)
        lengths = ", ".join(f"{kind} {length}" for kind, length in sequence_lengths(self.latent_shape).items())
        return [
            f"{self.num_frames} frames of {self.height} x {self.width}, compression {factors}: token grid {grid} = "
            f"{self.num_tokens} tokens per clip",
            f"sequence length of the network: {lengths}; train with model.config.latent_shape={self.latent_shape}",
        ]


def clip_shape_of(arguments: argparse.Namespace) -> ClipShape:
    """Return the size of the clips that the options ask for. Raises ConfigError naming the option that does not fit."""
    compression = parse_compression(arguments.tokenizer_compression_factor)
    size = (arguments.num_context_frames, arguments.height, arguments.width)
    try:
        return ClipShape(*size, compression, latent_grid(*size, compression))
    except ConfigError as error:
        raise ConfigError(f"--num_context_frames {size[0]} --height {size[1]} --width {size[2]}: {error}") from error


def short_clip_lines(clips: List[PlannedClip], num_frames: int) -> List[str]:
    """Return warnings for videos whose last frame will be repeated: the first few by name, and how many there are."""
    short = [clip for clip in clips if clip.num_repeated]
    lines = [
        f"{clip.path}: {clip.num_source_frames} frames, a clip needs {num_frames}; the last frame is repeated "
        f"{clip.num_repeated} times (refused with --strict)"
        for clip in short[:NUM_WARNINGS_SHOWN]
    ]
    hidden = len(short) - len(lines)
    return [*lines, f"... and {hidden} more videos that are too short"] if hidden else lines


def clip_facts(arguments: argparse.Namespace, shape: ClipShape, num_samples: int) -> "dict[str, Any]":
    """Return what dataset.json says of the clips and of the tokenizer."""
    return {
        "version": 1,
        "num_samples": num_samples,
        "tokenizer": arguments.tokenizer,
        "tokenizer_weights": tokenizer_weights(arguments, "--encoder_path"),
        "compression": list(shape.compression),
        "latent_shape": shape.latent_shape,
        "num_tokens": shape.num_tokens,
        "vocabulary_size": VOCABULARY_SIZE,
        "num_frames": shape.num_frames,
        "height": shape.height,
        "width": shape.width,
    }


class ClipEncoder:
    """Turns videos into ids with the tokenizer that the options name."""

    def __init__(self, arguments: argparse.Namespace, shape: ClipShape):
        from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer

        self.shape = shape
        self.can_decode = arguments.tokenizer == "dct_fsq" or arguments.decoder_path is not None
        self.tokenizer = build_discrete_tokenizer(
            arguments.tokenizer,
            shape.compression,
            encoder_path=discrete_encoder_path(arguments, "--encoder_path"),
            decoder_path=arguments.decoder_path,
            device=choose_device(arguments.device),
        )

    def encode(self, path: Path) -> np.ndarray:
        """Return the ids (S,) int32 of a video's first frames, in the order t, h, w. Raises DataError."""
        return self.tokenizer.encode(self._pixels(path)).flatten().cpu().numpy().astype(np.int32)

    def print_quality(self, paths: List[Path]) -> None:
        """Print how well the first readable video is decoded from its tokens, if there is a decoder."""
        if not self.can_decode:
            return
        for path in paths:
            try:
                video = self._pixels(path)
            except DataError:
                continue  # reported when its turn comes
            decoded = self.tokenizer.decode(self.tokenizer.encode(video)).cpu().clamp(-1, 1)
            psnr = 10 * math.log10(4 / max(float((decoded - video).square().mean()), 1e-9))
            print(f"check: {path.name} is decoded from its tokens at {psnr:.1f} dB (PSNR)", flush=True)
            return

    def _pixels(self, path: Path) -> "torch.Tensor":
        frames = read_leading_frames(path, self.shape.num_frames)
        return cover_and_crop(frames, self.shape.height, self.shape.width)
