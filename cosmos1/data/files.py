# SPDX-License-Identifier: Apache-2.0
"""Files that are found, files that appear whole or not at all, and JSON that says what is wrong with it."""

import glob
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Tuple, Union

from cosmos1.errors import DataError


def files_below(folder: Path, above: FrozenSet[str] = frozenset()) -> Iterator[Path]:
    """Every file in a folder and below it, in the order of names; links to folders are followed.

    A link back to a folder above itself is not: its files have come, or will. Raises DataError for a folder that
    cannot be listed.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir(), entry.is_file()) for entry in found)
    except OSError as error:
        place = error.filename or folder
        raise DataError(f"{place}: cannot be listed ({error.strerror}). Make it readable, or move it away.") from error
    for name, is_folder, is_file in entries:
        if is_folder:
            yield from files_below(folder / name, above | {real})
        elif is_file:
            yield folder / name


def check_names(paths: Iterable[Path]) -> None:
    """Raise DataError for the first path that is not UTF-8: it could be written neither to JSON nor to the screen."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{os.fsencode(path)!r}: its name is not UTF-8. Rename it, and folders above it."
            ) from error


def read_json(path: Path, advice: str, where: str = "") -> Any:
    """Read a JSON file in UTF-8; `where` names it in messages. Raises DataError, ending in `advice`, if it cannot."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{where or path}: cannot be read as JSON ({error}). {advice}") from error


def json_object(content: Union[str, bytes], where: str, advice: str) -> Dict[str, Any]:
    """Parse a JSON object; `where` names it. Raises DataError, ending in `advice`, for anything else."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: cannot be read as JSON ({error}). {advice}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds a {type(found).__name__}, a JSON object is needed. {advice}")
    return found


def read_json_lines(path: Path, advice: str, where: str = "") -> List[Tuple[str, Dict[str, Any]]]:
    """The objects of a list that has one on each line, each behind the words that name its line in messages.

    Empty lines are left out. Raises DataError, ending in `advice`, for a file that is no UTF-8 text, and for a line that
    is no object.
    """
    try:
        # Not `splitlines`, which also splits at characters that JSON allows inside a text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where or path}: cannot be read as UTF-8 text ({error}). {advice}") from error
    places = ((f"line {number} of {path}", line) for number, line in enumerate(lines, 1) if line.strip())
    return [(place, json_object(line, place, advice)) for place, line in places]


def read_facts(folder: Path, advice: str) -> Dict[str, Any]:
    """What dataset.json of a folder records; empty where there is none. Raises DataError, ending in `advice`."""
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    facts = read_json(path, advice)
    if not isinstance(facts, dict):
        raise DataError(f"{path}: holds a {type(facts).__name__}, an object is needed. {advice}")
    return facts


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that a reader sees it whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def remove_leftovers(path: Path) -> None:
    """Remove the `.NAME.PID.tmp` beside a file or folder that processes of this host left when they were killed.

    For whoever is about to write `path`, which only one process of all hosts does at a time: where the number is of no
    process here, it is not of a process elsewhere that still writes either.
    """
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = temporary.name[len(path.name) + 2 : -len(".tmp")]
        if not number.isdigit() or _is_running(int(number)):
            continue
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's, or no number of a process: not ours to remove
    return True


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_tensor(path: Path, tensor) -> None:
    """Save one plain tensor. The bytes depend on nothing but the tensor."""
    write_bytes(path, tensor_bytes(tensor))


def tensor_bytes(tensor) -> bytes:
    import torch

    buffer = io.BytesIO()
    # A clone: saving a view would write the whole storage behind it. A buffer: a file name would become content.
    torch.save(tensor.detach().cpu().contiguous().clone(), buffer)
    return buffer.getvalue()


def sha256_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
