# SPDX-License-Identifier: Apache-2.0
"""Lists of captioned videos: jsonl files whose lines are objects with "prompt" and "visual_input"."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos1.errors import DataError

KEYS = ("prompt", "visual_input")


@dataclass(frozen=True)
class CaptionedVideo:
    path: Path
    prompt: str


def read_captioned_videos(jsonl: Path, strict: bool) -> tuple[list[CaptionedVideo], list[str]]:
    """Return the videos of a list, and one line per entry whose video does not exist.

    A relative path is looked for beside the jsonl first, then in the working directory. Raises DataError for a line
    that is not such an object, when nothing is left, and with `strict` for the first video that does not exist.
    """
    if not jsonl.is_file():
        raise DataError(f"--input_jsonl {jsonl}: there is no such file. Give the list of videos, one object per line.")
    videos, missing = [], []
    try:
        # Not `splitlines`, which also splits at characters that JSON allows inside a text.
        lines = jsonl.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"--input_jsonl {jsonl}: is not UTF-8 text ({error}). Save it as UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {jsonl}"
        entry = _parse(line, where)
        path = _find(entry["visual_input"], jsonl.parent)
        if path is not None:
            videos.append(CaptionedVideo(path, entry["prompt"]))
            continue
        message = (
            f'{where}: "visual_input" points to {entry["visual_input"]}, which does not exist (looked in {jsonl.parent} and '
            f"in the working directory)."
        )
        if strict:
            raise DataError(message)
        missing.append(message)
    if not videos:
        raise DataError("\n".join([*missing, f"--input_jsonl {jsonl}: no line names a video that exists."]))
    return videos, missing


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}). Each line is one object with {' and '.join(KEYS)}.") from error
    absent = [key for key in KEYS if not isinstance(entry, dict) or not isinstance(entry.get(key), str)]
    if absent:
        keys = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where} has no text {' and no '.join(absent)} (keys: {keys}). Each line needs both.")
    return entry


def _find(name: str, folder: Path) -> Path | None:
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    return None
