# SPDX-License-Identifier: Apache-2.0
"""Pack a folder of cached latents into webdataset shards with Megatron-Energon's metadata.

    python data_prep/shard.py --input_path cached --output_path shards --val_fraction 0.1

Source videos, not samples, are assigned to the training or the validation shards. Samples are written in a shuffled
order, so that a small shuffle buffer is enough. The output folder appears whole or not at all. Folders with control
signals (cameras, views, actions) are refused: shards have no parts for them.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cosmos1.data.command_line import run_command
from cosmos1.data.files import read_facts, tensor_bytes, write_json
from cosmos1.data.formats.latent_sample import CONDITIONING_PART, load_folder_sample, read_info
from cosmos1.data.formats.shard_writer import whole_folder, write_energon_metadata, write_shards
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import DataError
from cosmos1.progress import Progress

PLAIN_FORMAT = "cosmos latent folder"
# Which data modules read the other formats: from latents, or from tokens.
READERS = {
    "cosmos camera folder": "CameraFolderDataModule or CameraTokensDataModule",
    "cosmos multiview folder": "MultiviewFolderDataModule or MultiviewTokensDataModule",
    "cosmos action frames": "ActionPairsDataModule or ActionTokensDataModule",
    "cosmos token clips": "TokenClipsDataModule",
    "cosmos indexed tokens": "IndexedTokensDataModule",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input_path", type=Path, required=True, help="folder written by prepare_dataset.py")
    add("--output_path", type=Path, required=True, help="new or empty folder")
    add("--shard_megabytes", type=float, default=1000.0, help="a shard is closed when it reaches this size")
    add("--val_fraction", type=float, default=0.1, help="share of the source videos that is held out")
    add("--conditioning_latent", action="store_true", help="pack the conditioning latents too")
    add("--seed", type=int, default=0, help="draws the held-out videos and the order of the samples")
    return parser


def main(arguments: argparse.Namespace) -> None:
    facts = _source_facts(arguments.input_path)
    # The data module's split is the one rule for holding out videos, and setup() checks the folder.
    folder = LatentFolderDataModule(
        str(arguments.input_path),
        seed=arguments.seed,
        validation_fraction=arguments.val_fraction,
        require_conditioning_latent=arguments.conditioning_latent,
    )
    folder.setup()
    train, held_out = folder.split_names()
    with whole_folder(arguments.output_path, "--output_path") as temporary:
        progress = Progress(len(train) + len(held_out), "samples")
        order = np.random.RandomState([arguments.seed % 2**32, 1]).permutation(len(train))
        num_train = _write_split(arguments, temporary, "train", [train[index] for index in order], progress)
        num_val = _write_split(arguments, temporary, "val", held_out, progress)
        write_energon_metadata(temporary)
        write_json(temporary / "dataset.json", facts | _own_facts(len(train), len(held_out)))
    print(
        f"{len(train)} training samples in {num_train} shards, {len(held_out)} validation samples in {num_val} shards"
    )
    print(f"written to {arguments.output_path}")


def _write_split(arguments: argparse.Namespace, folder: Path, split: str, names: list[str], progress: Progress) -> int:
    """Write the shards of one split and return their number."""

    def samples() -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
        for name in names:
            yield name, _sample_parts(arguments, name)
            progress.advance()

    return write_shards(folder, split, samples(), arguments.shard_megabytes)


def _sample_parts(arguments: argparse.Namespace, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield part name and content of one sample: pth latent, npy text rows, json facts, cond.pth when asked for."""
    folder = arguments.input_path
    sample = load_folder_sample(folder, name, 0, arguments.conditioning_latent)
    yield "pth", tensor_bytes(sample["video"])
    # Only the rows up to the end of the text: the zero rows after it come back at load.
    text = sample["t5_text_embeddings"].float()
    used_rows = text.abs().sum(dim=1).nonzero()
    num_rows = int(used_rows[-1]) + 1 if len(used_rows) else 1
    buffer = io.BytesIO()
    np.save(buffer, text[:num_rows].numpy())
    yield "npy", buffer.getvalue()
    info = read_info(folder / f"{name}.info.json")
    info |= {"framerate": info["fps"], "text_mask_length": int(sample["t5_text_mask"].sum())}
    yield "json", json.dumps(info).encode()
    if arguments.conditioning_latent:
        yield CONDITIONING_PART.replace("conditioning_latent", "cond"), tensor_bytes(sample["gt_latent"])


def _source_facts(folder: Path) -> dict:
    """Return the dataset.json of the folder to pack. Raises DataError when samples have more parts than shards have."""
    facts = read_facts(folder, "Prepare the folder again.")
    found = facts.get("format", PLAIN_FORMAT)
    if found != PLAIN_FORMAT:
        reader = READERS.get(found, "the data module of its task")
        raise DataError(
            f'--input_path {folder}: is a "{found}"; only a "{PLAIN_FORMAT}" can be packed, shards would lose what else '
            f"its samples hold. Train on the folder itself: {reader} reads it."
        )
    return facts


def _own_facts(num_train: int, num_held_out: int) -> dict:
    """Return what dataset.json of the shards says beside the facts of the packed folder."""
    return {
        "format": "cosmos latent shards",
        "num_samples": num_train + num_held_out,
        "num_training_samples": num_train,
        "num_validation_samples": num_held_out,
    }


if __name__ == "__main__":
    run_command(build_parser(), main)
