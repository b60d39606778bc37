# SPDX-License-Identifier: Apache-2.0
"""The folder of one run, and the record of what was asked for."""

import dataclasses
import datetime
from pathlib import Path

import torch.distributed as dist

from cosmos1.checkpoint.folders import complete_checkpoints
from cosmos1.errors import ConfigError
from cosmos1.training.config import Logger


def choose_run_folder(log: Logger, resume_if_exists: bool) -> Path:
    """``<log_dir>/<name>/<version>``, the same on all ranks; created.

    Without ``log.version`` a resuming run takes the newest version that has a checkpoint, any other a new one named by
    the time.
    """
    chosen = [None, None]
    if dist.get_rank() == 0:
        parent = Path(log.log_dir).expanduser() / log.name
        version = log.version
        if version is None and resume_if_exists and parent.is_dir():
            with_checkpoint = [p for p in parent.iterdir() if complete_checkpoints(p / "checkpoints")]
            version = max(with_checkpoint, key=lambda p: p.stat().st_mtime).name if with_checkpoint else None
        version = version or datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        try:
            (parent / version / "checkpoints").mkdir(parents=True, exist_ok=True)
            (parent / version / ".writable").touch()
            (parent / version / ".writable").unlink()
            chosen = [str(parent / version), None]
        except OSError as error:
            chosen = [
                None,
                f"log.log_dir={log.log_dir}: {error.strerror}: {error.filename}; give a folder you can write to",
            ]
    dist.broadcast_object_list(chosen, src=0)
    if chosen[1]:
        raise ConfigError(chosen[1])
    return Path(chosen[0])


def to_plain(value):
    """A recipe's values as nested dictionaries, lists and scalars, each object with its class."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, dict):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
