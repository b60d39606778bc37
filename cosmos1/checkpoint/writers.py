# SPDX-License-Identifier: Apache-2.0
"""Write lazy tensors one at a time: ``.pt``, safetensors, and torch_dist. At no time is more than one in memory."""

import json
import os
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cosmos1.checkpoint.containers import SAFETENSORS_NAMES
from cosmos1.checkpoint.folders import crc32
from cosmos1.checkpoint.lazy import LazyTensor, as_bytes

SHARD_BYTES = 5 * 10**9
_DIST_FILE_BYTES = 2**30
Report = Callable[[int], None]
"""Called with the number of bytes that have just been written."""


def write_pt(path: Path, tensors: dict[str, LazyTensor], report: Report) -> None:
    """A file that ``torch.load`` reads as a mapping from names to tensors.

    ``torch.save`` first writes the file with room for the values, and says where; then they are filled in. The zip
    archive's checksums of the values stay empty, which ``torch.load`` does not look at.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.serialization import skip_data

    with FakeTensorMode(), skip_data(materialize_fake_tensors=True):
        torch.save({name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors.items()}, path)
    places = torch.load(path, map_location="meta", weights_only=True)
    with open(path, "r+b") as stream:
        for name, tensor in tensors.items():
            stream.seek(places[name].untyped_storage()._checkpoint_offset)
            stream.write(as_bytes(tensor.load().contiguous()))
            report(tensor.num_bytes)
        _sync(stream)


def write_diffusers(folder: Path, tensors: dict[str, LazyTensor], config: dict, report: Report) -> None:
    """``config.json`` and safetensors files; several with an index where they would exceed 5 GB together."""
    stem = "diffusion_pytorch_model"
    shards = [dict(batch) for batch in _batches(list(tensors.items()), lambda item: item[1].num_bytes, SHARD_BYTES)]
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [f"{stem}.safetensors"]
    for name, shard in zip(names, shards):
        _write_safetensors(folder / name, shard, report)
    if len(shards) > 1:
        total = sum(tensor.num_bytes for tensor in tensors.values())
        places = {key: name for name, shard in zip(names, shards) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _batches(items: list, num_bytes: Callable[[Any], int], limit: int) -> list[list]:
    """Consecutive items in lists of at most ``limit`` bytes (or one item)."""
    batches, size = [[]], 0
    for item in items:
        if batches[-1] and size + num_bytes(item) > limit:
            batches.append([])
            size = 0
        batches[-1].append(item)
        size += num_bytes(item)
    return batches


def _write_safetensors(path: Path, tensors: dict[str, LazyTensor], report: Report) -> None:
    """The safetensors layout: length of the header, header in json, values in the order of the header."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # keeps every value aligned
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in ordered:
        offsets = [end, end + tensor.num_bytes]
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        end = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            stream.write(as_bytes(tensor.load().contiguous()))
            report(tensor.num_bytes)
        _sync(stream)


# ---- torch_dist ----


@dataclass(frozen=True)
class Part:
    """A tensor as it is stored: the whole of ``name``, or one layer of a stack over ``num_layers``."""

    name: str
    tensor: LazyTensor
    layer: int | None = None
    num_layers: int = 1

    @property
    def local_shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.layer is None else (1, *self.tensor.shape)

    @property
    def global_shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.layer is None else (self.num_layers, *self.tensor.shape)

    @property
    def offset(self) -> tuple[int, ...]:
        return (self.layer or 0,) + (0,) * (len(self.local_shape) - 1) if self.local_shape else ()


def write_torch_dist(folder: Path, parts: list[Part], common: dict, report: Report) -> list[str]:
    """Files that ``megatron.core.dist_checkpointing.load`` reads; returns their names."""
    places, checksums = {}, {}
    for number, batch in enumerate(_batches(parts, lambda part: part.tensor.num_bytes, _DIST_FILE_BYTES)):
        name = f"__0_{number}.distcp"
        stream = _ChecksummedFile(folder / name)
        for part in batch:
            start = stream.tell()
            torch.save(part.tensor.load().contiguous().view(part.local_shape), stream)
            places[part.name, part.offset] = (name, start, stream.tell() - start)
            report(part.tensor.num_bytes)
        stream.close()
        checksums[name] = stream.checksum
    torch.save(common, folder / "common.pt")
    backends = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    backends |= {"common_backend": "torch", "common_backend_version": 1}
    (folder / "metadata.json").write_text(json.dumps(backends))
    (folder / ".metadata").write_bytes(pickle.dumps(_metadata(parts, places)))
    return checksums | {name: crc32(folder / name) for name in ("common.pt", "metadata.json", ".metadata")}


class _ChecksummedFile:
    """A new file, written from start to end, and the CRC-32 of what was written."""

    def __init__(self, path: Path):
        self.checksum, self._stream = 0, open(path, "wb")  # noqa: SIM115 (closed by close)

    def write(self, data) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        return self._stream.write(data)

    def tell(self) -> int:
        return self._stream.tell()

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        _sync(self._stream)
        self._stream.close()


def _metadata(parts: list[Part], places: dict):
    from torch.distributed.checkpoint import metadata as m
    from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo

    arrays: dict[str, m.TensorStorageMetadata] = {}
    storage = {}
    for part in parts:
        properties = m.TensorProperties(dtype=part.tensor.dtype)
        array = arrays.setdefault(
            part.name, m.TensorStorageMetadata(properties, torch.Size(part.global_shape), chunks=[])
        )
        offset = torch.Size(part.offset)
        array.chunks.append(m.ChunkStorageMetadata(offset, torch.Size(part.local_shape)))
        storage[m.MetadataIndex(part.name, offset)] = _StorageInfo(*places[part.name, part.offset])
    return m.Metadata(arrays, storage_data=storage, storage_meta=m.StorageMeta(), version=CURRENT_DCP_VERSION)


def _sync(stream) -> None:
    stream.flush()
    os.fsync(stream.fileno())
