# SPDX-License-Identifier: Apache-2.0
"""Small trees of arm episodes in the Bridge layout."""

import json
import shutil
from pathlib import Path

from cosmos1.data.demo_worlds.arm_world import write_arm_world

_written: dict = {}


def arm_tree(folder: Path, tmp_path_factory, **options) -> Path:
    """A fresh copy, in `folder`, of a tree with 4 + 2 episodes of 6 frames, 48 x 64; rendered once per set of options."""
    options = {"num_episodes": 4, "num_validation": 2, "num_frames": 6, "height": 48, "width": 64, **options}
    key = tuple(sorted(options.items()))
    if key not in _written:
        _written[key] = tmp_path_factory.mktemp("arm") / "tree"
        write_arm_world(_written[key], **options)
    return Path(shutil.copytree(_written[key], folder))


def change(tree: Path, episode: str, split: str = "train", **values) -> None:
    """Replace keys of an annotation; None deletes them."""
    path = tree / "annotation" / split / f"{episode}.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def read(tree: Path, episode: str, split: str = "train") -> dict:
    return json.loads((tree / "annotation" / split / f"{episode}.json").read_text())
