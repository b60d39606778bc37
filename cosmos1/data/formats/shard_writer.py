# SPDX-License-Identifier: Apache-2.0
"""Writing webdataset shards with Megatron-Energon's metadata, for all programs that pack samples."""

import contextlib
import io
import multiprocessing
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path

from cosmos1.data.files import remove_leftovers, write_bytes
from cosmos1.errors import ConfigError

CRUDE_DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"


@contextlib.contextmanager
def whole_folder(output: Path, option: str) -> Iterator[Path]:
    """Give a temporary folder that becomes `output` when the block ends, and disappears when it fails.

    Raises ConfigError naming `option` when `output` holds something.
    """
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{option} {output} is not empty. Give another folder, or delete it.")
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_shards(
    folder: Path, split: str, samples: Iterable[tuple[str, Iterable[tuple[str, bytes]]]], shard_megabytes: float
) -> int:
    """Write samples (key, its parts by name) as `<split>-000000.tar`, ...; return the number of shards.

    A shard is closed when it reaches `shard_megabytes`. Raises ConfigError unless that is above 0.
    """
    if shard_megabytes <= 0:
        raise ConfigError(f"--shard_megabytes {shard_megabytes}: a size above 0 is needed.")
    num_shards, archive = 0, None
    for key, parts in samples:
        if archive is None or archive.offset >= shard_megabytes * 1e6:
            if archive is not None:
                archive.close()
            archive = tarfile.open(folder / f"{split}-{num_shards:06d}.tar", "w")  # noqa: SIM115 closed at the limit
            num_shards += 1
        for part, content in parts:
            member = tarfile.TarInfo(f"{key.rjust(9, '0')}.{part}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if archive is not None:
        archive.close()
    return num_shards


def write_energon_metadata(folder: Path) -> None:
    """Write `.nv-meta` and the tar indices, as `energon prepare` does, with the split that the shard names state."""
    # Energon forks its workers. Forked from here they may wait for ever, for a lock that a thread of PyTorch held just
    # then; so it gets a new process.
    with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_prepare, folder).result()
    write_bytes(folder / ".nv-meta" / "dataset.yaml", CRUDE_DATASET.encode())


def _prepare(folder: Path) -> None:
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

    shards = sorted(path.name for path in folder.glob("*.tar"))
    with contextlib.redirect_stdout(io.StringIO()):
        BaseWebdatasetFactory.prepare_dataset(
            folder,
            shards,
            split_parts_patterns=[("train", "train-.*"), ("val", "val-.*")],
            shuffle_seed=None,
            workers=min(len(shards), os.cpu_count() or 1),
        )
