# SPDX-License-Identifier: Apache-2.0
"""The views of a rig, as the commands of both kinds of networks take and write them."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.errors import ConfigError
from cosmos1.generation.command import recorded_data
from cosmos1.generation.requests import Request

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cosmos1.data.geometry.rigs import Rig

CAMERA = "{camera}"


def view_paths(paths: "str | list[str]", rig: "Rig") -> "list[str]":
    """A path for each view of the rig: as many as are given, or one with the names of the cameras put in.

    Raises ConfigError for another number.
    """
    paths = [paths] if isinstance(paths, str) else paths
    if len(paths) == 1 and CAMERA in paths[0]:
        return [paths[0].replace(CAMERA, name) for name in rig.names]
    if len(paths) != len(rig.names):
        raise ConfigError(
            f"--conditioned_images: {len(paths)} for {len(rig.names)} views; give one for each of {', '.join(rig.names)}, in "
            f"this order, or one path with {CAMERA} in it"
        )
    return paths


def view_rows(options: argparse.Namespace, num_views: int, rig: "Rig") -> "list[int]":
    """Row of the view embedding of each camera: by name where training recorded names, else by place.

    Raises ConfigError for a rig that the network does not know.
    """
    names = recorded_data(options).get("cameras")
    if names is None and len(rig.names) != num_views:
        raise ConfigError(
            f"--rig {options.rig} has {len(rig.names)} cameras ({', '.join(rig.names)}), the network was trained with "
            f"{num_views} views; give the rig of the training data"
        )
    unknown = [name for name in rig.names if name not in (names or rig.names)]
    if unknown:
        raise ConfigError(f"--rig {options.rig} has the camera {unknown[0]}, the network knows {', '.join(names)}")
    return [(names or rig.names).index(name) for name in rig.names]


def view_texts(
    embed: "Callable[[list[str]], torch.Tensor]", rig: "Rig", captions: "list[list[str]]"
) -> "list[torch.Tensor]":
    """Text ``[1, V * 512, 1024]`` of each sample, as the training data have it: the description of the camera, then the
    caption. A sample without any caption has no text, zeros. ``embed`` gives rows ``[512, 1024]`` for each text."""
    import torch

    from cosmos1.data.preparing.view_text import multiview_text

    descriptions = [camera.description for camera in rig.cameras]
    wanted = sorted({*descriptions, *(caption for sample in captions for caption in sample if caption)})
    rows = dict(zip(wanted, embed(wanted)))
    lengths = {text: int(embedding.abs().sum(dim=1).count_nonzero()) for text, embedding in rows.items()}
    described = [rows[text][: lengths[text]].bfloat16() for text in descriptions]

    def text_of(sample: "list[str]"):
        if not any(sample):
            return torch.zeros(1, len(sample) * NUM_TEXT_TOKENS, TEXT_WIDTH)
        text, _ = multiview_text(described, [caption or None for caption in sample], lambda t: (rows[t], lengths[t]))
        return text[None].float()

    return [text_of(sample) for sample in captions]


def save_views(request: Request, rig: "Rig", views: "list[np.ndarray]", fps: float) -> None:
    """``FOLDER/<camera>/NAME.mp4`` of each view, beside ``FOLDER/NAME.mp4``."""
    from cosmos1.data.video import write_video

    path = request.save_path
    for name, frames in zip(rig.names, views):
        (path.parent / name).mkdir(exist_ok=True)
        write_video(path.parent / name / path.name, frames, fps)
