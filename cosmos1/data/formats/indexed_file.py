# SPDX-License-Identifier: Apache-2.0
"""The files of a Megatron indexed dataset, `.bin` and `.idx`: writing them whole, finding them, and checking them.

`.idx`, little endian: 9 bytes "MMIDIDX\\0\\0"; uint64 version 1; uint8 code of the number type; uint64 number of
sequences S; uint64 number of document starts D; int32 x S lengths; int64 x S byte offsets; int64 x D document starts.
`.bin` is the concatenation of the sequences. One video is one document of one sequence.
"""

import struct
from pathlib import Path
from typing import List

import numpy as np

from cosmos1.data.files import write_bytes
from cosmos1.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
HEADER_BYTES = len(MAGIC) + 8 + 1 + 8 + 8
UINT16 = 8
# Number types that can hold ids, by their code in the file.
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}
WRITE_AGAIN = "Prepare it again with data_prep/autoregressive_dataset.py."


def find_prefixes(path: str) -> List[str]:
    """Return the Megatron prefixes (file name without .bin) that a path means.

    A path is a folder that holds `.bin` and `.idx`, or a folder whose sub-folders do, or itself a prefix. Raises
    DataError when there are none.
    """
    folder = Path(path)
    if not folder.is_dir():
        if all(Path(f"{path}{suffix}").is_file() for suffix in (".bin", ".idx")):
            return [path]
        raise DataError(f"data.path={path}: there is no such folder, and no {path}.bin with {path}.idx. {WRITE_AGAIN}")
    if (folder / ".idx").exists() or (folder / ".bin").exists():
        return [f"{folder}/"]
    # In numeric order: 10 comes after 9.
    inside = sorted(
        (entry for entry in folder.iterdir() if (entry / ".idx").exists() or (entry / ".bin").exists()),
        key=lambda entry: (not entry.name.isdigit(), int(entry.name) if entry.name.isdigit() else 0, entry.name),
    )
    if not inside:
        raise DataError(f"data.path={path}: neither it nor a folder inside holds files .bin and .idx. {WRITE_AGAIN}")
    return [f"{entry}/" for entry in inside]


def read_lengths(prefix: str) -> np.ndarray:
    """Return the number of tokens of each document, int32, after checking that `.idx` and `.bin` fit each other.

    Raises DataError naming the file for a missing, truncated or foreign file, and for a mismatch of the two.
    """
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for file, other in ((index, data), (data, index)):
        if not file.is_file():
            raise DataError(f"{file}: missing beside {other}. {WRITE_AGAIN}")
    content = index.read_bytes()
    item_bytes, num_sequences, num_starts = _read_header(index, content)
    expected = HEADER_BYTES + 12 * num_sequences + 8 * num_starts
    if len(content) != expected:
        raise DataError(
            f"{index}: {len(content)} bytes, but its header declares {num_sequences} sequences, that is {expected} "
            f"bytes; the file is truncated or of another format. {WRITE_AGAIN}"
        )
    lengths = np.frombuffer(content, np.int32, num_sequences, HEADER_BYTES)
    num_bytes = int(lengths.sum(dtype=np.int64)) * item_bytes
    if data.stat().st_size != num_bytes:
        raise DataError(
            f"{data}: {data.stat().st_size} bytes, but {index} lists {lengths.sum(dtype=np.int64)} tokens of "
            f"{item_bytes} bytes, that is {num_bytes}; one of the two is truncated or of another run. {WRITE_AGAIN}"
        )
    return lengths


def _read_header(index: Path, content: bytes) -> "tuple[int, int, int]":
    """Return bytes per token, number of sequences and number of document starts."""
    if len(content) < HEADER_BYTES or not content.startswith(MAGIC):
        raise DataError(
            f"{index}: starts with {content[:9]!r} and has {len(content)} bytes; {MAGIC!r} and a header of {HEADER_BYTES} "
            f"bytes are needed. The file is truncated or no Megatron index. {WRITE_AGAIN}"
        )
    version, code, num_sequences, num_starts = struct.unpack_from("<QBQQ", content, len(MAGIC))
    if version != 1 or code not in ITEM_BYTES:
        raise DataError(
            f"{index}: version {version}, number type {code}; version 1 and an integer type (8 is uint16) are needed. "
            f"{WRITE_AGAIN}"
        )
    return ITEM_BYTES[code], num_sequences, num_starts


def write_indexed_file(folder: Path, documents: List[np.ndarray]) -> None:
    """Write documents of ids 0..65535 as `<folder>/.bin` and `<folder>/.idx`, uint16; each appears whole, `.idx` last."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(document) for document in documents], np.int32)
    ends = np.cumsum(lengths, dtype=np.int64) * ITEM_BYTES[UINT16]
    header = MAGIC + struct.pack("<QBQQ", 1, UINT16, len(lengths), len(lengths) + 1)
    starts = np.arange(len(lengths) + 1, dtype=np.int64)
    write_bytes(folder / ".bin", b"".join(document.astype(np.uint16).tobytes() for document in documents))
    write_bytes(folder / ".idx", header + lengths.tobytes() + np.append(0, ends[:-1]).tobytes() + starts.tobytes())
