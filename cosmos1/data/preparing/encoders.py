# SPDX-License-Identifier: Apache-2.0
"""The encoders of video and text: their options, and what they make of frames and prompts."""

import argparse
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Union

import numpy as np

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS
from cosmos1.data.formats.latent_sample import CONDITIONING_PART, LATENT_PART, TEXT_PARTS, TOKENS_PART
from cosmos1.data.preparing.output_folder import add_folder_options
from cosmos1.data.preparing.weight_identity import weight_identity
from cosmos1.errors import ConfigError
from cosmos1.models.tokenizers.discrete import DISCRETE_TOKENIZER_NAMES
from cosmos1.models.tokenizers.text import DEFAULT_T5
from cosmos1.models.tokenizers.token_grid import parse_compression
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
    add_text_options(parser, default="t5 beside cosmos_cv8x8x8, hashed beside dct")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="precision in which the tokenizer runs")
    add_device_option(parser)
    add_folder_options(parser, stop_at="source that cannot be used")


def add_text_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options of the text encoder; `default` says in words which one is taken when none is named."""
    add = parser.add_argument
    add("--text_encoder", choices=("hashed", "t5"), help=f"default: {default}")
    add("--text_encoder_dir", default="", help="weights of t5; empty: google-t5/t5-11b from HF_HOME or the hub")
    add("--text_dtype", choices=("float32", "bfloat16"), default="float32", help="precision in which t5 runs")
    add("--text_device", default="", help="device of the text encoder; empty: that of the tokenizer")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that `choose_device` reads."""
    parser.add_argument(
        "--device", default="", help="cpu, cuda, cuda:1; empty: this rank's CUDA device if there is one"
    )


def settle_encoders(arguments: argparse.Namespace) -> None:
    """Replace encoders that were left open by their defaults."""
    arguments.tokenizer = arguments.tokenizer or ("cosmos_cv8x8x8" if arguments.tokenizer_dir else "dct")
    arguments.text_encoder = arguments.text_encoder or ("hashed" if is_weight_free(arguments.tokenizer) else "t5")


def require_t5(arguments: argparse.Namespace, why: str) -> None:
    """Let T5 encode the texts that are not given as T5 rows: a folder has one text encoder.

    `why` says which texts are given, and what to do otherwise. Raises ConfigError when another encoder is asked for.
    """
    if arguments.text_encoder not in (None, "t5"):
        raise ConfigError(
            f"--text_encoder {arguments.text_encoder}: {why}, and a folder has one text encoder. Leave the option out."
        )
    arguments.text_encoder = "t5"


def writes_tokens(arguments: argparse.Namespace) -> bool:
    """Whether the tokenizer is a discrete one."""
    return arguments.tokenizer in DISCRETE_TOKENIZER_NAMES


def video_parts(arguments: argparse.Namespace) -> Tuple[str, ...]:
    """The files that hold the video of a sample."""
    return (TOKENS_PART,) if writes_tokens(arguments) else (LATENT_PART, CONDITIONING_PART)


def encoder_facts(arguments: argparse.Namespace, with_text: bool = True) -> Dict[str, Any]:
    """What dataset.json says of the encoders; `with_text` says that there are texts to be encoded."""
    facts = {"tokenizer": arguments.tokenizer, "tokenizer_weights": tokenizer_weights(arguments)}
    facts |= text_facts(arguments, with_text) | {"dtype": arguments.dtype}
    if writes_tokens(arguments):
        facts["compression"] = list(parse_compression(arguments.tokenizer_compression_factor))
    return facts


def text_facts(arguments: argparse.Namespace, with_text: bool = True) -> Dict[str, Any]:
    """What dataset.json says of the text encoder; where every text is given as rows, no more than its name."""
    has_weights = with_text and arguments.text_encoder == "t5"
    return {
        "text_encoder": arguments.text_encoder,
        "text_encoder_weights": weight_identity(arguments.text_encoder_dir or DEFAULT_T5) if has_weights else None,
        "text_dtype": arguments.text_dtype if with_text else None,
    }


def tokenizer_weights(arguments: argparse.Namespace, option: str = "--tokenizer_dir") -> Union[None, str, List[str]]:
    """The `weight_identity` of what `option` names, or of the published tokenizer; None for one without weights."""
    if is_weight_free(arguments.tokenizer):
        return None
    if writes_tokens(arguments):
        return weight_identity(discrete_encoder_path(arguments, option))
    from cosmos1.models.tokenizers.cosmos_cv import HUB_NAMES

    named = getattr(arguments, option.removeprefix("--"))
    return weight_identity(named or HUB_NAMES[TEMPORAL_FACTORS[arguments.tokenizer]])


def encoder_names(arguments: argparse.Namespace) -> str:
    """Name the encoders for the printed plan, and say which are stand-ins."""
    names = f"tokenizer {arguments.tokenizer}, text encoder {arguments.text_encoder}"
    names_used = (arguments.tokenizer, arguments.text_encoder)
    stand_ins = [name for name in names_used if is_weight_free(name) or name == "hashed"]
    return names + (f" (weight-free stand-in: {', '.join(stand_ins)})" if stand_ins else "")


class LatentEncoder:
    """The video tokenizer and, `with_text`, the text encoder that the options of `add_encoder_options` name."""

    def __init__(self, arguments: argparse.Namespace, with_text: bool = True):
        device = choose_device(arguments.device)
        self._writes_tokens = writes_tokens(arguments)
        build = discrete_tokenizer if self._writes_tokens else _continuous_tokenizer
        self.tokenizer = build(arguments, device)
        self.text_encoder = text_encoder(arguments, device) if with_text else None
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

    def text_files(self, prompt: str) -> "Dict[str, torch.Tensor]":
        """The files of `TEXT_PARTS` of a sample: embeddings (512, 1024) and mask (512,) bfloat16."""
        return _text_files(self.text(prompt)[0])

    def _text(self, prompt: str) -> "Tuple[torch.Tensor, int]":
        """Embeddings (512, 1024) bfloat16 of a prompt, and how many rows are not padding."""
        num_tokens = self.text_encoder.count_tokens(prompt)
        if num_tokens > NUM_TEXT_TOKENS:
            print(f"text of {num_tokens} tokens, cut to {NUM_TEXT_TOKENS}: {prompt[:60]}...")
        embeddings, lengths = self.text_encoder.encode([prompt])
        return embeddings[0].bfloat16(), int(lengths[0])


def text_files_of_rows(rows: np.ndarray) -> "Dict[str, torch.Tensor]":
    """The files of `TEXT_PARTS` of a text that was encoded elsewhere: rows (n, 1024), zero rows added up to 512."""
    import torch

    embeddings = torch.zeros(NUM_TEXT_TOKENS, rows.shape[1], dtype=torch.bfloat16)
    embeddings[: len(rows)] = torch.from_numpy(rows.astype(np.float32))
    return _text_files(embeddings)


def _text_files(embeddings: "torch.Tensor") -> "Dict[str, torch.Tensor]":
    import torch

    # All ones: the released checkpoints were trained attending to the zero rows too.
    return dict(zip(TEXT_PARTS, (embeddings, torch.ones(len(embeddings), dtype=torch.bfloat16))))


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


def text_encoder(arguments: argparse.Namespace, device: str):
    """The text encoder that the options of `add_text_options` name."""
    import torch

    from cosmos1.models.tokenizers.text import build_text_encoder

    return build_text_encoder(
        arguments.text_encoder,
        arguments.text_encoder_dir or None,
        device=arguments.text_device or device,
        dtype=getattr(torch, arguments.text_dtype),
    )


def discrete_tokenizer(arguments: argparse.Namespace, device: str):
    """The tokenizer that --tokenizer, --tokenizer_dir and --tokenizer_compression_factor name, or the published one.

    Raises ConfigError for a compression that none is published for, DataError when weights are missing.
    """
    from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer

    path = discrete_encoder_path(arguments, "--tokenizer_dir")
    compression = parse_compression(arguments.tokenizer_compression_factor)
    return build_discrete_tokenizer(arguments.tokenizer, compression, path, device=device)


def discrete_encoder_path(arguments: argparse.Namespace, option: str) -> Optional[str]:
    """What `option` names, or the published encoder of cosmos_dv. Raises ConfigError where none is published."""
    from cosmos1.models.tokenizers.cosmos_dv import HUB_NAMES

    named = getattr(arguments, option.removeprefix("--"))
    if named or arguments.tokenizer != "cosmos_dv":
        return named
    compression = parse_compression(arguments.tokenizer_compression_factor)
    if compression not in HUB_NAMES:
        known = " and ".join(",".join(map(str, factors)) for factors in HUB_NAMES)
        raise ConfigError(
            f"--tokenizer_compression_factor {arguments.tokenizer_compression_factor}: tokenizers are published for {known}. "
            f"Give {option} of yours, or use --tokenizer dct_fsq."
        )
    return HUB_NAMES[compression]


def choose_device(requested: str) -> str:
    """The device asked for, or this rank's: a GPU (more ranks than GPUs share them), or the CPU."""
    from cosmos1.parallel.device import device

    return requested or str(device())
