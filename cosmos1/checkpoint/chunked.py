# SPDX-License-Identifier: Apache-2.0
"""Arrays that a checkpoint stores in rectangular chunks: torch_dist (``.metadata`` + ``.distcp``) and zarr version 2."""

import io
import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cosmos1.checkpoint.lazy import LazyTensor, file_tensor
from cosmos1.errors import CheckpointError


@dataclass(frozen=True)
class Chunk:
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class ChunkedArray:
    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: list[Chunk]

    def whole(self) -> LazyTensor:
        return LazyTensor(self.shape, self.dtype, lambda: self._read(0, self.shape[0] if self.shape else 1))

    def layer(self, index: int) -> LazyTensor:
        """Entry ``index`` of the leading axis."""
        return LazyTensor(self.shape[1:], self.dtype, lambda: self._read(index, index + 1)[0])

    def _read(self, start: int, stop: int) -> torch.Tensor:
        """``[stop - start, ...]``: the chunks that overlap this part of the leading axis, put together."""
        if not self.shape:
            return self.chunks[0].load()
        result = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        filled = 0
        for chunk in self.chunks:
            first, last = max(start, chunk.offset[0]), min(stop, chunk.offset[0] + chunk.shape[0])
            if first >= last:
                continue
            rest = tuple(slice(o, o + n) for o, n in zip(chunk.offset[1:], chunk.shape[1:]))
            target = result[(slice(first - start, last - start), *rest)]
            source = chunk.load()[first - chunk.offset[0] : last - chunk.offset[0]]
            # Chunks at the edge of a zarr array are padded.
            target.copy_(source[tuple(slice(0, n) for n in target.shape)])
            filled += target.numel()
        if filled != result.numel():
            raise CheckpointError(f"chunks hold {filled} of {result.numel()} values of a tensor; files are missing")
        return result


# ---- torch_dist ----


class _MetadataUnpickler(pickle.Unpickler):
    """Reads ``.metadata`` without running what a stranger put there: classes of the checkpoint library and no others."""

    _CLASSES = {
        "torch.distributed.checkpoint.metadata",
        "torch.distributed.checkpoint.filesystem",
        "torch.distributed.checkpoint.planner",
    }
    _FUNCTIONS = {("torch.serialization", "_get_layout"), ("collections", "OrderedDict"), ("pathlib", "PosixPath")}

    def find_class(self, module: str, name: str):
        found = super().find_class(module, name)
        plain = module == "torch" and (isinstance(found, torch.dtype) or name in ("Size", "device"))
        if plain or (module, name) in self._FUNCTIONS or (module in self._CLASSES and isinstance(found, type)):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in checkpoint metadata")


def read_torch_dist(folder: Path) -> dict[str, ChunkedArray]:
    """Every tensor of a torch_dist checkpoint, by its stored name.

    Raises:
        CheckpointError: the metadata cannot be read or asks for foreign code.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        metadata = _MetadataUnpickler(io.BytesIO((folder / ".metadata").read_bytes())).load()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise CheckpointError(f"{folder / '.metadata'} cannot be read: {error}") from error
    places = {(index.fqn, tuple(index.offset or ())): place for index, place in metadata.storage_data.items()}
    arrays = {}
    for name, entry in metadata.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            continue
        chunks = []
        for part in entry.chunks:
            offset, shape = tuple(part.offsets), tuple(part.sizes)
            place = places[name, offset]
            chunks.append(
                Chunk(offset, shape, _blob(folder / place.relative_path, place.offset, place.length, shape, name))
            )
        arrays[name] = ChunkedArray(tuple(entry.size), entry.properties.dtype, chunks)
    return arrays


def _blob(path: Path, offset: int, length: int, shape: tuple[int, ...], name: str) -> Callable[[], torch.Tensor]:
    def load() -> torch.Tensor:
        try:
            with open(path, "rb") as stream:
                stream.seek(offset)
                tensor = torch.load(io.BytesIO(stream.read(length)), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read, the file is missing or damaged: {error}") from error
        return tensor.view(shape)

    return load


# ---- zarr version 2 ----

_ZARR_DTYPES = {"bfloat16": torch.bfloat16, "<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}


def read_zarr(folder: Path) -> dict[str, ChunkedArray]:
    """Every array of a folder of zarr version 2 arrays, uncompressed and in C order, as Megatron-core wrote them.

    Raises:
        CheckpointError: an array is compressed or of another type.
    """
    return {path.parent.name: _zarr_array(path.parent) for path in sorted(folder.glob("*/.zarray"))}


def _zarr_array(folder: Path) -> ChunkedArray:
    try:
        header = json.loads((folder / ".zarray").read_text())
        shape, size, dtype = tuple(header["shape"]), tuple(header["chunks"]), header["dtype"]
        foreign = header.get("compressor") or header.get("filters") or header.get("order", "C") != "C"
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / '.zarray'} cannot be read: {error}") from error
    if foreign or dtype not in _ZARR_DTYPES:
        raise CheckpointError(
            f"{folder} is a zarr array with dtype {dtype}, compressor {header.get('compressor')}, order "
            f"{header.get('order')}; only uncompressed C-ordered float arrays are read. Save it as torch_dist with the "
            "software that wrote it, or use the model.pt of the same release"
        )
    separator, chunks = header.get("dimension_separator", "."), []
    for index in itertools.product(*(range(-(-n // step)) for n, step in zip(shape, size))):
        path = folder / (separator.join(map(str, index)) or "0")
        offset = tuple(i * step for i, step in zip(index, size))
        extent = tuple(min(step, n - start) for step, n, start in zip(size, shape, offset))
        chunks.append(Chunk(offset, extent, file_tensor(path, 0, size, _ZARR_DTYPES[dtype]).load))
    return ChunkedArray(shape, _ZARR_DTYPES[dtype], chunks)
