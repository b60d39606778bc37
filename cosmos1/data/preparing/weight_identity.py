# SPDX-License-Identifier: Apache-2.0
"""Which weights a folder was prepared with, in words that are the same on every machine that has the same files."""

import hashlib
from pathlib import Path
from typing import List, Union

ENCODER_FILES = ("encoder.jit", "mean_std.pt")
OTHER_SUFFIXES = (".bin", ".json", ".model", ".pt", ".safetensors")
BYTES_PER_SAMPLE, NUM_SAMPLES = 65536, 64


def weight_identity(path: Union[str, Path]) -> Union[str, List[str]]:
    """One line per weight file at a path: name, size, digest. A path that is not here is a name of the hub: itself."""
    path = Path(path)
    if not path.exists():
        return str(path)
    return [f"{file.name}: {file.stat().st_size} bytes, {sampled_digest(file)}" for file in _weight_files(path)]


def sampled_digest(path: Path) -> str:
    """Sixteen hexadecimal digits from the size of a file and its content, of which 64 samples are read if it is large.

    Text encoders are tens of gigabytes, so the whole would take minutes. The samples are spread evenly and include both
    ends; the end of a file that torch wrote lists the check sums of everything in it.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= BYTES_PER_SAMPLE * NUM_SAMPLES:
            digest.update(file.read())
        else:
            for number in range(NUM_SAMPLES):
                file.seek((size - BYTES_PER_SAMPLE) * number // (NUM_SAMPLES - 1))
                digest.update(file.read(BYTES_PER_SAMPLE))
    return digest.hexdigest()[:16]


def _weight_files(path: Path) -> List[Path]:
    """What an encoder reads of a path. Nothing that is prepared depends on a decoder."""
    if path.is_file():
        return [path]
    torchscript = [path / name for name in ENCODER_FILES if (path / name).is_file()]
    if (path / ENCODER_FILES[0]) in torchscript:
        return torchscript
    # The diffusers layout keeps the tokenizer in the folder vae.
    folders = [folder for folder in (path, path / "vae") if folder.is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    return [file for file in files if file.suffix in OTHER_SUFFIXES and file.is_file()]
