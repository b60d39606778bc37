# SPDX-License-Identifier: Apache-2.0
"""Small nerfstudio scenes for tests."""

import io
import json
import zipfile

import numpy as np
from PIL import Image

POSE = np.eye(4)


def png(height=20, width=32, value=128, mode="RGB"):
    buffer = io.BytesIO()
    colour = value if mode == "I;16" else (value,) * len(mode)
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def transforms(num_frames, poses=None, names=None, **changes):
    """The content of a transforms.json for pictures of 20 x 32; a change of None removes the key."""
    names = names or [f"images/frame_{number:05d}.png" for number in range(1, num_frames + 1)]
    frames = [
        {"file_path": name, "transform_matrix": np.asarray(POSE if poses is None else poses[index]).tolist()}
        for index, name in enumerate(names)
    ]
    content = {"w": 32, "h": 20, "fl_x": 25.0, "fl_y": 25.0, "cx": 16.0, "cy": 10.0, "frames": frames, **changes}
    return {key: value for key, value in content.items() if value is not None}


def write_zip(path, files):
    """Files by name; dicts are written as JSON."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, json.dumps(content) if isinstance(content, dict) else content)
    return path


def scene_files(num_frames, prefix="", **changes):
    files = {f"{prefix}images/frame_{number:05d}.png": png(value=number) for number in range(1, num_frames + 1)}
    return files | {f"{prefix}transforms.json": transforms(num_frames, **changes)}
