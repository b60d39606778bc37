# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and JSON that says what is wrong with it."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Dict

from cosmos1.errors import DataError


def read_json(path: Path, advice: str, where: str = "") -> Any:
    """Read a JSON file in UTF-8; `where` names it in messages. Raises DataError, ending in `advice`, if it cannot."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{where or path}: cannot be read as JSON ({error}). {advice}") from error


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
