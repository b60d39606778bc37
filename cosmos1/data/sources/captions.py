# SPDX-License-Identifier: Apache-2.0
"""Captions: a text file for each source, or all in one JSON, JSON lines, or pickled dict of older preparation programs."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Dict

from cosmos1.data.files import read_json_lines
from cosmos1.data.plain_pickle import load_plain_pickle
from cosmos1.errors import DataError

FORMATS = 'Give a .json {"name": "caption"} or a .jsonl with {"name": ..., "caption": ...} per line.'


def read_captions(path: Path) -> Dict[str, str]:
    """Return caption by source name.

    `.json`: {name: caption}; `.jsonl`: {"name": ..., "caption": ...} per line; `.pkl` and `.pickle`: a dict of strings.
    A key "name/0" is that of the first chunk and stands for the source; "name/1", ... beside it are not used.
    Raises DataError for anything else.
    """
    try:
        if path.suffix == ".jsonl":
            captions = {
                entry["name"]: entry["caption"] for _, entry in read_json_lines(path, FORMATS, f"captions {path}")
            }
        elif path.suffix in (".pkl", ".pickle"):
            captions = load_plain_pickle(path.read_bytes(), str(path))
        else:
            captions = json.loads(path.read_bytes())
    except (OSError, UnicodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"captions {path}: cannot be read ({error!r}). {FORMATS}") from error
    if not isinstance(captions, dict) or not all(isinstance(text, str) for pair in captions.items() for text in pair):
        raise DataError(f"captions {path}: a dict from names to strings is needed.")
    return {
        name.removesuffix("/0"): caption for name, caption in captions.items() if not _is_later_chunk(name, captions)
    }


def read_caption_file(path: Path) -> str:
    """The text of one caption file, without white space or byte order mark. Raises DataError unless it is UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a caption in UTF-8 ({error}). Save it as UTF-8 text.") from error


def _is_later_chunk(name: str, names: Container[str]) -> bool:
    source, _, chunk = name.rpartition("/")
    return chunk.isdigit() and chunk != "0" and f"{source}/0" in names
