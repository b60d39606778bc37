# SPDX-License-Identifier: Apache-2.0
"""The videos that a generation command is asked for: by its options, or by the lines of ``--batch_input_path``."""

import argparse
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cosmos1.data.files import read_json_lines
from cosmos1.errors import ConfigError, DataError, UserError

INPUT_FILES = ("visual_input", "action_annotation_path", "camera_extrinsics_path", "prompt_path", "trajectory_path")
"""What a line may name relative to its file."""
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "name": ((str, int), "text"),
    "conditioned_images": ((str, list), "paths"),
    "view_prompts": ((list,), "a text for each view"),
    "seed": ((int,), "a whole number"),
    "camera_path_amount": ((int, float), "a number"),
    "field_of_view": ((int, float), "a number"),
    "trajectory_speed": ((int, float), "a number"),
}
"""What a line may hold that is no text."""


@dataclass
class Request:
    """One video to make."""

    prompt: str
    visual_input: str | None
    save_path: Path
    entry: dict[str, Any] = field(default_factory=dict)
    """The whole line of ``--batch_input_path``; empty without one."""
    where: str = ""
    """Names that line in messages."""

    def options(self, options: argparse.Namespace) -> argparse.Namespace:
        """The options of this video: its line may set some of its own."""
        return argparse.Namespace(**{**vars(options), **self.entry})


Read = TypeVar("Read")


def read_each(requests: Iterable[Request], read: Callable[[Request], Read]) -> list[Read]:
    """``read`` of every request; what it finds wrong with a line of ``--batch_input_path`` begins with that line."""
    results = []
    for request in requests:
        try:
            results.append(read(request))
        except UserError as error:
            if not request.where:
                raise
            raise type(error)(f"{request.where}: {error}") from error
    return results


def output_path(options: argparse.Namespace, is_folder: bool) -> Path:
    """``--video_save_path``, as the folder of several videos or the file of one, or its default.

    Raises ConfigError where a file stands in the way of a folder, or a folder in that of a file.
    """
    path = Path(options.video_save_path or ("generated" if is_folder else "generated.mp4"))
    if not is_folder and path.suffix != ".mp4":
        path = path.with_name(path.name + ".mp4")
    folder = path if is_folder else path.parent
    in_the_way = [part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()]
    if in_the_way:
        raise ConfigError(
            f"--video_save_path {path}: {in_the_way[0]} is a file, a folder is needed; choose another path"
        )
    if not is_folder and path.is_dir():
        raise ConfigError(f"--video_save_path {path} is a folder; give the name of the video")
    return path


def read_requests(options: argparse.Namespace, per_video: tuple[str, ...]) -> list[Request]:
    """The videos asked for, by ``--prompt`` or by the lines of ``--batch_input_path``, which may also set ``per_video``."""
    if (options.prompt is None) == (options.batch_input_path is None):
        raise ConfigError("give either --prompt or --batch_input_path")
    if options.batch_input_path is not None:
        return read_batch(options, per_video)
    return [Request(options.prompt, None, output_path(options, is_folder=False))]


def read_batch(options: argparse.Namespace, per_video: tuple[str, ...], needs_prompt: bool = True) -> list[Request]:
    """One request per line of ``--batch_input_path``; the videos go to a folder as ``0.mp4``, ``1.mp4``, ..., or
    ``<name>.mp4`` where a line has a "name".

    Raises DataError for a line that is no object of the known keys and types, with its number.
    """
    path, folder, requests = Path(options.batch_input_path), output_path(options, is_folder=True), []
    known = ("prompt", "name", *per_video)
    for where, line in read_json_lines(path, 'A line is {"prompt": "..."}.', f"--batch_input_path {path}"):
        entry = {key: value for key, value in line.items() if value is not None}
        _check_entry(entry, where, known, needs_prompt)
        entry |= {key: _find(path.parent, where, key, entry[key]) for key in INPUT_FILES if key in entry}
        save_path = folder / f"{entry.get('name', len(requests))}.mp4"
        requests.append(Request(entry.get("prompt", ""), entry.get("visual_input"), save_path, entry, where))
    if not requests:
        raise DataError(f"--batch_input_path {path} has no lines")
    paths = [request.save_path for request in requests]
    repeated = sorted({str(save_path) for save_path in paths if paths.count(save_path) > 1})
    if repeated:
        raise DataError(f'--batch_input_path {path}: several lines would write {repeated[0]}; give each its own "name"')
    return requests


def _check_entry(entry: dict[str, Any], where: str, known: tuple[str, ...], needs_prompt: bool) -> None:
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise DataError(f'{where} has "{unknown[0]}"; known are {", ".join(known)}')
    if needs_prompt and "prompt" not in entry:
        raise DataError(f'{where} has no "prompt"')
    for key, value in entry.items():
        types, kind = KINDS.get(key, ((str,), "text"))
        if not isinstance(value, types) or isinstance(value, bool):
            raise DataError(f'{where}: "{key}" is {json.dumps(value)}; {kind} is needed')
        if isinstance(value, list) and not all(isinstance(part, str) for part in value):
            raise DataError(f'{where}: "{key}" is {json.dumps(value)}; a list of texts is needed')
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f'{where}: "{key}" is {value}; a finite number is needed')
    if entry.get("seed", 0) < 0:
        raise DataError(f'{where}: "seed" is {entry["seed"]}; use 0 or more')
    if entry.get("trajectory_speed", 1) <= 0:
        raise DataError(f'{where}: "trajectory_speed" is {entry["trajectory_speed"]}; more than 0 is needed')
    name = str(entry.get("name", "0"))
    if not name or Path(name).name != name:
        raise DataError(f'{where}: "name" is "{name}"; it is the name of a file, without folders')


def _find(folder: Path, where: str, key: str, value: str) -> str:
    """The file that a line names, relative to ``folder``, that of the list, or to the working directory."""
    found = [path for path in (folder / value, Path(value)) if path.exists()]
    if not found:
        raise DataError(
            f'{where}: "{key}" points to {value}, which does not exist (looked in {folder} and the working directory)'
        )
    return str(found[0])
