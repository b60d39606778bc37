# SPDX-License-Identifier: Apache-2.0
"""Captions: a text file for each source, or all in one JSON, JSON lines, or pickled dict of older preparation programs."""

import json
from collections.abc import Container
from pathlib import Path
from typing import Dict

from cosmos1.data.plain_pickle import load_plain_pickle
from cosmos1.errors import DataError


def read_captions(path: Path) -> Dict[str, str]:
    """Return caption by source name.

    `.json`: {name: caption}; `.jsonl`: {"name": ..., "caption": ...} per line; `.pkl` and `.pickle`: a dict of strings.
    A key "name/0" is that of the first chunk and stands for the source; "name/1", ... beside it are not used.
    Raises DataError for anything else.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            # Not `splitlines`, which also splits at characters that JSON allows inside a text.
            lines = content.decode("utf-8-sig").split("\n")
            entries = [json.loads(line) for line in lines if line.strip()]
            captions = {entry["name"]: entry["caption"] for entry in entries}
        elif path.suffix in (".pkl", ".pickle"):
            captions = load_plain_pickle(content, str(path))
        else:
            captions = json.loads(content)
    except (OSError, UnicodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f'captions {path}: cannot be read ({error!r}). Give a .json {{"name": "caption"}} or a .jsonl with '
            f'{{"name": ..., "caption": ...}} per line.'
        ) from error
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
