# SPDX-License-Identifier: Apache-2.0
"""The folder of one run, and the record of what was asked for."""

import dataclasses
import datetime
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
import yaml

from cosmos1.checkpoint.folders import Checkpoint, complete_checkpoints, read_recipe
from cosmos1.errors import ConfigError, DamagedCheckpoint
from cosmos1.training.config import Logger

# The names of layers that a run with adapters trains whole.
_TRAINED_IN_FULL = (
    "optim.new_layers.names",
    "resume.restore_config.allow_missing",
    "resume.restore_config.reinitialize",
)


def choose_run_folder(log: Logger, resume_if_exists: bool, recipe: dict) -> Path:
    """``<log_dir>/<name>/<version>``, the same on all ranks; created.

    Without ``log.version`` a resuming run takes the newest version that has a checkpoint, any other a new one named by
    the time.

    Raises:
        ConfigError: the folder cannot be written, or holds a run that this one may not or cannot continue.
    """
    chosen: list[Path | ConfigError | None] = [None]
    if dist.get_rank() == 0:
        try:
            chosen = [_choose(log, resume_if_exists, recipe)]
        except ConfigError as error:
            chosen = [error]
    dist.broadcast_object_list(chosen, src=0)
    if isinstance(chosen[0], ConfigError):
        raise chosen[0]
    return chosen[0]


def _choose(log: Logger, resume_if_exists: bool, recipe: dict) -> Path:
    parent = Path(log.log_dir).expanduser() / log.name
    version = log.version
    if version is None and resume_if_exists and parent.is_dir():
        with_checkpoint = [p for p in parent.iterdir() if complete_checkpoints(p / "checkpoints")]
        version = max(with_checkpoint, key=lambda p: p.stat().st_mtime).name if with_checkpoint else None
    folder = parent / (version or datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if found := complete_checkpoints(folder / "checkpoints"):
        _check_continuation(folder, found, resume_if_exists, recipe)
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(
            f"log.log_dir={log.log_dir}: {error.strerror}: {error.filename}; give a folder you can write to"
        ) from error
    return folder


def _check_continuation(folder: Path, found: list[Checkpoint], resume_if_exists: bool, recipe: dict) -> None:
    if not resume_if_exists:
        raise ConfigError(
            f"{folder} already holds a checkpoint of step {found[-1].step}; give another log.version, or "
            "resume.resume_if_exists=true to continue it"
        )
    before = _newest_record(found)
    for part in ("model", "data", "model_transform"):
        old, new = (_class_name(recorded.get(part)) for recorded in (before or recipe, recipe))
        if old != new:
            raise ConfigError(
                f"{folder} holds a run of another recipe: its {part} is {old}, this one's {new}; give log.version=NAME for "
                "a new run, or resume.resume_if_exists=false"
            )
    if recipe["model_transform"] and before:
        _check_adapters(folder, before, recipe)


def _newest_record(found: list[Checkpoint]) -> dict | None:
    """The newest record that can be read. Resuming passes over checkpoints with a damaged one, or says that all are."""
    for checkpoint in reversed(found):
        with suppress(DamagedCheckpoint):
            return read_recipe(checkpoint)
    return None


def _class_name(settings: dict | None) -> str | None:
    """Without the module, which may move from one release of this suite to the next."""
    return settings["_target_"].rpartition(".")[2] if settings else None


def _check_adapters(folder: Path, before: dict, now: dict) -> None:
    """Raise :class:`ConfigError` if the trained adapters and whole layers would not be those that are trained on."""
    different = [
        (f"model_transform.{name}", before["model_transform"].get(name), now["model_transform"][name])
        for name in ("rank", "alpha", "targets")
    ]
    different.append((" + ".join(_TRAINED_IN_FULL), _trained_in_full(before), _trained_in_full(now)))
    for name, old, new in different:
        if old != new:
            raise ConfigError(
                f"{folder} holds a run with other adapters: {name} is {old} there, {new} here; set it back, or begin anew "
                f"from the merged weights with log.version=NEW resume.restore_config.path={folder}"
            )


def _trained_in_full(recipe: dict) -> list[str]:
    """What is trained beside the adapters, by the settings of ``_TRAINED_IN_FULL``."""
    found: set[str] = set()
    for setting in _TRAINED_IN_FULL:
        value = recipe
        for name in setting.split("."):
            value = (value or {}).get(name)
        found.update(value or ())
    return sorted(found)


def changed_settings(before: str, now: str) -> list[str]:
    """Settings that differ between two recorded recipes, as ``name: old -> new``."""
    old, new = (dict(_flatten(yaml.safe_load(text))) for text in (before, now))
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)]


def _flatten(value, path: str = ""):
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _flatten(entry, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


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
