# SPDX-License-Identifier: Apache-2.0
"""Small sets of video tokens, as the preparation programs write them."""

import json

import numpy as np
import torch

from cosmos1.data.formats.indexed_file import write_indexed_file
from cosmos1.data.formats.token_facts import video2world_ids

GRID = [2, 3, 4]
NUM_TOKENS = 24


def document(number, num_tokens=NUM_TOKENS):
    """Ids that show which document they are of; the largest code is among them."""
    ids = 100 * number + np.arange(num_tokens)
    ids[-1] = 63999 - number
    return ids


def write_documents(folder, numbers, **facts):
    """Write an indexed dataset of these documents and its dataset.json."""
    write_indexed_file(folder, [document(number) for number in numbers])
    facts = {
        "tokenizer": "dct_fsq",
        "compression": [4, 8, 8],
        "latent_shape": GRID,
        "num_samples": len(numbers),
        **facts,
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def write_clip(folder, split, index, codes):
    torch.save(video2world_ids(torch.as_tensor(codes)).int(), folder / f"{split}_video_{index}.pt")
    text = torch.zeros(512, 1024)
    text[:3] = float(codes[0])
    torch.save(text, folder / f"{split}_prompt_{index}.pt")


def write_clips(folder, **counts):
    """Write token clips: sample i of a split begins with code 1000 * (place of the split) + 10 * i."""
    folder.mkdir()
    for place, (split, count) in enumerate(counts.items()):
        for index in range(count):
            codes = document(10 * place)
            codes[:-1] += 10 * index
            write_clip(folder, split, index, codes)
    metadata = {f"{split}_samples": counts.get(split, 0) for split in ("train", "test", "val")}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder
