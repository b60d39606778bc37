# SPDX-License-Identifier: Apache-2.0
"""Folders of cached latents: sizes that a sample can have, this rank's share of the samples, and the files of each."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from cosmos1.data.command_line import use_each
from cosmos1.data.files import write_json, write_tensor
from cosmos1.data.preparing.encoders import LatentEncoder, writes_tokens
from cosmos1.data.preparing.output_folder import (
    check_output_folder,
    claim_output_folder,
    rank_and_world_size,
    report_failures,
    share_of_rank,
)
from cosmos1.errors import ConfigError
from cosmos1.models.tokenizers.token_grid import latent_grid, parse_compression
from cosmos1.models.tokenizers.video import TEMPORAL_FACTORS
from cosmos1.progress import Progress

if TYPE_CHECKING:
    import torch


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


def write_samples(
    arguments: argparse.Namespace,
    facts: Dict[str, Any],
    parts: Sequence[str],
    write_sample: Callable[[LatentEncoder, int], None],
    with_text: bool = True,
) -> None:
    """Write this rank's share of the `facts["num_samples"]` samples of a planned folder, as far as files are missing.

    `parts` are the files that a finished sample has; `with_text` says that there are texts to be encoded. A sample that
    fails with a DataError is reported at the end (with --strict it stops the run). Raises DataError when no rank has
    written anything, ConfigError for a folder in use; encoders that cannot be built leave no folder.
    """
    rank, world_size = rank_and_world_size()
    folder = arguments.output_path
    if rank == 0:
        check_output_folder(folder, facts, arguments.resume)
    owned = share_of_rank(facts["num_samples"], rank, world_size)
    missing = unfinished_samples(folder, owned, parts)
    encoder = LatentEncoder(arguments, with_text) if missing else None
    claim_output_folder(folder, facts, arguments.resume, rank)
    progress = Progress(len(missing), "samples", enabled=rank == 0)

    def write(index: int) -> None:
        write_sample(encoder, index)
        progress.advance()

    _, failures = use_each(missing, write, arguments.strict)
    report_failures(folder, failures, "*.info.json")
    if rank == 0:
        print(f"{len(owned) - len(failures)} samples of rank 0 are in {folder}; {len(failures)} failed")


def unfinished_samples(folder: Path, indices: Iterable[int], parts: Sequence[str]) -> List[int]:
    """Return the samples that lack one of the files `parts`."""
    return [index for index in indices if not all((folder / f"{index}.{part}").exists() for part in parts)]


def write_sample_files(folder: Path, index: int, tensors: "Dict[str, torch.Tensor]", info: Dict[str, Any]) -> None:
    """Write the tensors of a sample by part, then `info.json`: a sample without it is unfinished."""
    for part, tensor in tensors.items():
        write_tensor(folder / f"{index}.{part}", tensor)
    write_json(folder / f"{index}.info.json", info)
