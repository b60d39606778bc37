# SPDX-License-Identifier: Apache-2.0
"""Video tokens in webdataset shards: a sample has the parts `tokens.npy` (ids) and `json` (its source)."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from cosmos1.data.batches.sampler import held_out_names
from cosmos1.data.files import write_json
from cosmos1.data.formats.shard_writer import whole_folder, write_energon_metadata, write_shards
from cosmos1.data.formats.token_facts import VOCABULARY_SIZE
from cosmos1.errors import DataError


def pack_token_shards(
    folders: List[Path], output: Path, facts: Dict[str, Any], val_fraction: float, shard_megabytes: float, seed: int
) -> Dict[str, int]:
    """Pack the documents of indexed datasets into shards; return the number of samples per split.

    Whole videos are held out. The order is shuffled, so that a small shuffle buffer is enough.
    """
    samples = {}
    for folder in folders:
        records = json.loads((folder / "videos.json").read_text())
        ids = np.fromfile(folder / ".bin", np.uint16).reshape(len(records), facts["num_tokens"])
        for record, document in zip(records, ids):
            samples[record["video_path"]] = (record, document)
    held_out = held_out_names(sorted(samples), val_fraction, seed)
    order = np.random.RandomState([seed % 2**32, 1]).permutation(sorted(samples))
    splits = {"train": [name for name in order if name not in held_out], "val": sorted(held_out)}
    with whole_folder(output, "the shards' folder") as temporary:
        number = 0
        for split, names in splits.items():
            chosen = [samples[name] for name in names]
            write_shards(temporary, split, _shard_samples(chosen, number), shard_megabytes)
            number += len(chosen)
        write_energon_metadata(temporary)
        packing = {"val_fraction": val_fraction, "shard_megabytes": shard_megabytes, "seed": seed}
        own = {"format": "cosmos token shards", "num_samples": number, **packing}
        write_json(temporary / "dataset.json", {**facts, **own})
    return {split: len(names) for split, names in splits.items()}


def decode_tokens(content: bytes, where: str, position: int, expected_shape: Optional[List[int]]) -> Dict[str, Any]:
    """Turn a part `tokens.npy` into one sample of a base network, without the batch axis.

    Keys tokens [S], labels [S] int64, loss_mask [S] float32 (0 at the last position, which has no next token),
    sample_position. Raises DataError naming `where` for ids or lengths that cannot be used.
    """
    import torch

    from cosmos1.models.tokenizers.token_grid import check_ids

    try:
        tokens = torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False).astype(np.int64))
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"sample {where}: part tokens.npy cannot be read ({error}). Write the shards again.") from error
    if tokens.ndim != 1 or (expected_shape is not None and len(tokens) != math.prod(expected_shape)):
        needed = "" if expected_shape is None else f" of {math.prod(expected_shape)} ids, grid {tuple(expected_shape)}"
        raise DataError(f"sample {where}: tokens of shape {tuple(tokens.shape)}, a row{needed} is needed.")
    check_ids(tokens, VOCABULARY_SIZE, f"sample {where}")
    labels, loss_mask = tokens.roll(-1), torch.ones(len(tokens))
    labels[-1] = loss_mask[-1] = 0
    place = torch.tensor(position, dtype=torch.int64)
    return {"tokens": tokens, "labels": labels, "loss_mask": loss_mask, "sample_position": place}


def _shard_samples(chosen: List[Any], first: int) -> Iterator[Any]:
    for number, (record, document) in enumerate(chosen, start=first):
        buffer = io.BytesIO()
        np.save(buffer, document)
        yield str(number), [("tokens.npy", buffer.getvalue()), ("json", json.dumps(record).encode())]
