# SPDX-License-Identifier: Apache-2.0
"""Lists of captioned videos: jsonl files whose lines are objects with "prompt" and "visual_input"."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos1.data.files import read_json_lines
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
    videos, missing = [], []
    advice = f"Each line is one object with {' and '.join(KEYS)}."
    for where, entry in read_json_lines(jsonl, advice, f"--input_jsonl {jsonl}"):
        _check_entry(entry, where)
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


def _check_entry(entry: dict[str, Any], where: str) -> None:
    absent = [key for key in KEYS if not isinstance(entry.get(key), str)]
    if absent:
        keys = ", ".join(entry)
        raise DataError(f"{where} has no text {' and no '.join(absent)} (keys: {keys}). Each line needs both.")


def _find(name: str, folder: Path) -> Path | None:
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    return None
