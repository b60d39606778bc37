# SPDX-License-Identifier: Apache-2.0
"""From the members of one webdataset sample to one training sample, with and without energon's loader.

Parts of a sample: `pth` latent (16, t, h, w), a leading axis of 1 is dropped; `npy` or `pickle` text rows (L, 1024),
alone or first in a list; `json` with `framerate` or `fps`, `num_frames`, and what info.json of a folder holds;
`cond.pth` conditioning latent. Names with a leading dot, or `jpg..pth`, as older writers made them, are read too.
A sample with a part `tokens.npy` is one of the autoregressive networks instead (cosmos1/data/formats/token_shards.py).
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from megatron.energon import Cooker, DefaultTaskEncoder, Sample, basic_sample_keys, edataclass, stateless

from cosmos1.data.formats.latent_sample import check_latent, finish_sample, load_tensor, pad_text
from cosmos1.data.formats.token_shards import decode_tokens
from cosmos1.data.plain_pickle import ARRAY_BUILDERS, load_plain_pickle
from cosmos1.errors import DataError

DEFAULT_FRAMES_PER_SECOND = 30.0


@edataclass
class LatentSample(Sample):
    """What a worker hands to the main process: tensors, or the message of the error that this sample caused."""

    tensors: Dict[str, Any]
    error: Optional[str] = None


class LatentTaskEncoder(DefaultTaskEncoder):
    """Decodes samples itself: energon's own decoder would unpickle whatever a shard holds."""

    decoder = None

    def __init__(self, with_conditioning: bool, expected_shape: List[int]):
        super().__init__()
        self.with_conditioning = with_conditioning
        self.expected_shape = expected_shape
        self.cookers = [Cooker(self.cook)]

    @stateless
    def cook(self, raw: Dict[str, Any]) -> LatentSample:
        tensors, message = {}, None
        try:
            tensors = decode_sample(raw, raw["__key__"], 0, self.with_conditioning, self.expected_shape)
        except DataError as error:
            # As a value: an exception in a worker would be counted and logged by energon and lose its message.
            message = str(error)
        return LatentSample(**basic_sample_keys(raw), tensors=tensors, error=message)


def decode_sample(
    parts: Dict[str, Any],
    where: str,
    position: int,
    with_conditioning: bool,
    expected_shape: Optional[List[int]] = None,
) -> Dict[str, Any]:
    """Turn the raw bytes of a sample's parts into one checked sample. Raises DataError naming `where`."""
    tokens = _find_part(parts, "tokens.npy")
    if tokens is not None:
        return decode_tokens(tokens, where, position, expected_shape)
    latent = _load_latent(parts, "pth", where)
    check_latent(latent, f"sample {where}: pth", expected_shape, "the first sample")
    info = _load_info(parts, where, num_latent_frames=latent.shape[1])
    embeddings = _load_text(parts, where).to(torch.bfloat16)
    mask_length = info.get("text_mask_length", 512)
    embeddings, mask = pad_text(embeddings, torch.ones(len(embeddings), dtype=torch.bfloat16), f"sample {where}")
    mask = (torch.arange(len(mask)) < mask_length).to(torch.bfloat16)
    sample = finish_sample(latent, embeddings, mask, info, position)
    if with_conditioning:
        sample["gt_latent"] = _load_latent(parts, "cond.pth", where)
        check_latent(sample["gt_latent"], f"sample {where}: cond.pth", list(latent.shape), "its latent")
    return sample


def shape_of_samples(sample: Dict[str, Any], facts: Dict[str, Any]) -> List[int]:
    """Return the shape [C, t, h, w] of a latent, or the token grid [t, h, w] ([S] where dataset.json has none)."""
    if "video" in sample:
        return list(sample["video"].shape)
    return facts.get("latent_shape") or list(sample["tokens"].shape)


def read_shard_sample(shard: Path, index: int) -> Dict[str, Any]:
    """Read sample `index` of a shard by the offsets in its `.tar.idx`; return its key and raw parts."""
    offsets = np.fromfile(f"{shard}.idx", dtype=np.uint64)
    with shard.open("rb") as file:
        file.seek(int(offsets[index]))
        content = file.read(int(offsets[index + 1]) - int(offsets[index]))
    parts: Dict[str, Any] = {}
    try:
        # Two zero blocks end an archive; without them the cut-out piece would look truncated.
        with tarfile.open(fileobj=io.BytesIO(content + bytes(1024))) as archive:
            for member in archive:
                key, _, part = member.name.partition(".")
                parts["__key__"] = key
                parts[part] = archive.extractfile(member).read()
    except (tarfile.TarError, AttributeError) as error:
        raise DataError(f"{shard}: sample {index} cannot be read ({error}). Write the shards again.") from error
    return parts


def shard_keys(shard: Path) -> List[str]:
    """Keys of the samples of a shard, in their order."""
    with tarfile.open(shard) as archive:
        return list(dict.fromkeys(member.name.partition(".")[0] for member in archive if member.isfile()))


def _find_part(parts: Dict[str, Any], name: str) -> Optional[bytes]:
    for key, value in parts.items():
        if key.lstrip(".") == name or key.endswith(f"..{name}"):
            return value
    return None


def _load_latent(parts: Dict[str, Any], name: str, where: str) -> torch.Tensor:
    content = _find_part(parts, name)
    if content is None:
        found = ", ".join(key for key in parts if not key.startswith("__"))
        raise DataError(f"sample {where} has no part {name} (parts: {found}). Write the shards again with it.")
    latent = load_tensor(io.BytesIO(content), f"sample {where}: part {name}")
    return latent[0] if latent.ndim == 5 and latent.shape[0] == 1 else latent


def _load_info(parts: Dict[str, Any], where: str, num_latent_frames: int) -> Dict[str, Any]:
    content = _find_part(parts, "json")
    try:
        info = json.loads(content) if content is not None else {}
    except ValueError as error:
        raise DataError(f"sample {where}: part json cannot be read ({error}). Write the shards again.") from error
    default_num_frames = 8 * (num_latent_frames - 1) + 1
    return {
        **info,
        "fps": info.get("fps", info.get("framerate", DEFAULT_FRAMES_PER_SECOND)),
        "num_frames": info.get("num_frames", default_num_frames),
    }


def _load_text(parts: Dict[str, Any], where: str) -> torch.Tensor:
    array, pickled = _find_part(parts, "npy"), _find_part(parts, "pickle")
    try:
        if array is not None:
            value = np.load(io.BytesIO(array), allow_pickle=False)
        elif pickled is not None:
            value = load_plain_pickle(pickled, f"sample {where}: part pickle", ARRAY_BUILDERS)
        else:
            raise DataError(f"sample {where} has no text: a part npy or pickle is needed. Write the shards again.")
        value = value[0] if isinstance(value, list) else value
        tensor = torch.as_tensor(np.asarray(value, dtype=np.float32))
    except (ValueError, EOFError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"sample {where}: the text cannot be read ({error}). Write the shards again.") from error
    return tensor[0] if tensor.ndim == 3 else tensor
