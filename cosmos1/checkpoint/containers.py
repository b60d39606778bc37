# SPDX-License-Identifier: Apache-2.0
"""The files that hold weights, as lazy tensors by their stored names: ``.pt``, safetensors, torch_dist, zarr."""

import io
import json
import pickle
from pathlib import Path

import torch

from cosmos1.checkpoint.chunked import ChunkedArray, read_torch_dist, read_zarr
from cosmos1.checkpoint.lazy import LazyTensor, file_tensor
from cosmos1.errors import CheckpointError

_SAFETENSORS_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
SAFETENSORS_NAMES = {dtype: name for name, dtype in _SAFETENSORS_DTYPES.items()}
_WRAPPERS = ("model", "module", "state_dict", "net", "ema")
_AUTOREGRESSIVE_PREFIX = "model."
_STACKED = "module.decoder.layers."


# ---- .pt ----


def read_pt(path: Path, ema: int | None = None) -> dict[str, LazyTensor]:
    """Tensors of a ``model.pt`` by official names without ``net.`` or ``model.``; ``ema`` takes its EMA copy.

    Raises:
        CheckpointError: the file is cut off, is no plain mapping of tensors, or has no EMA copy.
    """
    try:
        # "meta" reads names, shapes and places, and leaves the values in the file.
        with torch.serialization.safe_globals([io.BytesIO]):
            content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as weights: {first}; it must be a file of torch.save (zip format) that holds tensors "
            "and plain containers only; if it was copied or downloaded, compare its size with the source"
        ) from error
    has_container = isinstance(content, dict) and isinstance(content.get("ema"), dict)
    named = _unwrap(path, content, ema)
    if ema is not None and (ema > 0 or not (has_container or any(name.startswith("net_ema.") for name in named))):
        raise CheckpointError(f"{path} holds no EMA copy {ema} (a file has one at most, number 0)")
    named = _choose_copy(named, ema)
    return {name: _pt_tensor(path, tensor) for name, tensor in named.items() if isinstance(tensor, torch.Tensor)}


def _unwrap(path: Path, content, ema: int | None) -> dict:
    """The mapping of tensors inside trainers' containers."""
    order = ("ema", *_WRAPPERS) if ema is not None else _WRAPPERS
    while isinstance(content, dict) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        content = next((content[key] for key in order if isinstance(content.get(key), dict)), None)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path} holds no mapping from names to tensors (looked under {', '.join(_WRAPPERS)})")
    # The EMA container of one trainer holds buffers, whose names cannot have dots.
    return {name if "." in name else name.replace("-", "."): value for name, value in content.items()}


def _choose_copy(named: dict, ema: int | None) -> dict:
    """Drop the prefix of the wanted copy (``net.`` or ``net_ema.``), the other copy, and what needs no loading."""
    prefixes = {prefix for prefix in ("net.", "net_ema.") if any(name.startswith(prefix) for name in named)}
    prefix = "net_ema." if "net_ema." in prefixes and (ema is not None or len(prefixes) == 1) else "net."
    other = (prefixes - {prefix}) or {"\0"}
    return {
        name.removeprefix(prefix).removeprefix(_AUTOREGRESSIVE_PREFIX): value
        for name, value in named.items()
        if not is_ignored(name) and not name.startswith(tuple(other))
    }


def is_ignored(name: str) -> bool:
    """Bookkeeping that is made anew: states of FP8 layers, and a table of indices."""
    return name.endswith(("_extra_state", "pos_embedder.seq")) or "_extra_state/" in name


def _pt_tensor(path: Path, tensor: torch.Tensor) -> LazyTensor:
    offset = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * tensor.itemsize
    if tensor.is_contiguous():
        return file_tensor(path, offset, tuple(tensor.shape), tensor.dtype)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    span, shape, strides = file_tensor(path, offset, (extent,), tensor.dtype), tensor.shape, tensor.stride()
    return LazyTensor(tuple(shape), tensor.dtype, lambda: span.load().as_strided(shape, strides))


# ---- safetensors ----


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Tensors of a safetensors file, or of a folder of them with or without an index; official names as :func:`read_pt`.

    Raises:
        CheckpointError: a file of the index is missing, or a file is cut off or damaged.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.safetensors")) if path.is_dir() else [path]
    for index in sorted(folder.glob("*.safetensors.index.json"))[:1]:
        try:
            files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is no index of safetensors files: {error!r}") from error
    tensors = {}
    for file in files:
        tensors |= _safetensors_file(file)
    return _choose_copy(tensors, None)


def _safetensors_file(path: Path) -> dict[str, LazyTensor]:
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size - 8:
                raise ValueError(f"its header of {length} bytes does not fit its {size} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size} bytes, its header describes {end}")
        return {
            name: file_tensor(
                path,
                8 + length + entry["data_offsets"][0],
                tuple(entry["shape"]),
                _SAFETENSORS_DTYPES[entry["dtype"]],
            )
            for name, entry in header.items()
        }
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing, though the index beside it names it; download it again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is cut off or damaged: {error}; copy or download it again") from error


# ---- torch_dist and zarr ----


def read_arrays(folder: Path) -> dict[str, LazyTensor]:
    """Tensors of a distributed checkpoint; NeMo's stacks over layers become one tensor per layer."""
    arrays = read_torch_dist(folder) if (folder / ".metadata").exists() else read_zarr(folder)
    tensors: dict[str, LazyTensor] = {}
    for name, array in arrays.items():
        if name.startswith(_STACKED) and not name.removeprefix(_STACKED)[0].isdigit():
            tensors |= _layers(name.removeprefix(_STACKED), array)
        else:
            tensors[name] = array.whole()
    return {name: tensor for name, tensor in tensors.items() if not is_ignored(name)}


def _layers(name: str, array: ChunkedArray) -> dict[str, LazyTensor]:
    return {f"{_STACKED}{n}.{name}": array.layer(n) for n in range(array.shape[0])}
