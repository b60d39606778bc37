# SPDX-License-Identifier: Apache-2.0
"""One picture that compares videos: a row per video, a column per moment."""

import os
from pathlib import Path
from typing import Any, List, Mapping, Sequence

from cosmos1.errors import ConfigError

GAP, MARGIN, FONT_SIZE = 4, 12, 15
BACKGROUND, INK, QUIET_INK = (255, 255, 255), (30, 41, 59), (100, 116, 139)


def write_contact_sheet(
    path: Path, rows: Mapping[str, Any], num_columns: int = 6, tile_width: int = 208, title: str = ""
) -> None:
    """Write a labelled grid of frames as a png (or as the type that the ending of `path` names).

    Args:
        path: the picture; its folder is made when missing, an older file is replaced in one step.
        rows: label -> uint8 RGB frames [T, H, W, 3], top to bottom, such as "real", "before", "after". All rows must
            have the same H and W; the columns are moments spread evenly over the shortest row, so that the frames of a
            column belong together.
        num_columns: how many moments; fewer when the shortest row has fewer frames.
        tile_width: width of one frame in pixels; larger frames are scaled down, smaller ones are kept.
        title: a line above the grid.

    Raises ConfigError when rows are empty, are not uint8 [T, H, W, 3], or differ in size.
    """
    from PIL import Image, ImageDraw, ImageFont

    _check(rows)
    moments = _moments(min(len(frames) for frames in rows.values()), num_columns)
    height, width = next(iter(rows.values())).shape[1:3]
    tile = (min(tile_width, width), round(height * min(tile_width, width) / width))
    font = ImageFont.load_default(size=FONT_SIZE)
    left = MARGIN + GAP * 2 + max(round(font.getlength(label)) for label in rows)
    top = MARGIN + (2 * FONT_SIZE if title else 0) + FONT_SIZE + 2 * GAP
    pitch = (tile[0] + GAP, tile[1] + GAP)
    size = (left + len(moments) * pitch[0] - GAP + MARGIN, top + len(rows) * pitch[1] - GAP + MARGIN)

    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, font)
    for column, moment in enumerate(moments):
        center = left + column * pitch[0] + tile[0] // 2
        draw.text((center, top - GAP), f"frame {moment}", QUIET_INK, font, anchor="mb")
    for row, (label, frames) in enumerate(rows.items()):
        draw.text((left - 2 * GAP, top + row * pitch[1] + tile[1] // 2), label, INK, font, anchor="rm")
        for column, moment in enumerate(moments):
            picture = Image.fromarray(frames[moment]).resize(tile, Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + column * pitch[0], top + row * pitch[1]))
    _save(sheet, Path(path))


def _check(rows: Mapping[str, Any]) -> None:
    if not rows:
        raise ConfigError("a contact sheet needs at least one row of frames; none was given")
    sizes = {}
    for label, frames in rows.items():
        shape = tuple(frames.shape)
        if str(frames.dtype) != "uint8" or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ConfigError(
                f'row "{label}" is {frames.dtype} {shape}; frames must be uint8 (T, H, W, 3), T at least 1'
            )
        sizes[label] = shape[1:3]
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"the rows of a contact sheet differ in (height, width): {sizes}; resize them to one size")


def _moments(num_frames: int, num_columns: int) -> Sequence[int]:
    """Frame indices spread evenly from the first to the last."""
    count = max(min(num_columns, num_frames), 1)
    moments: List[int] = [round(index * (num_frames - 1) / max(count - 1, 1)) for index in range(count)]
    return moments


def _save(sheet: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.tmp{path.suffix}")
    sheet.save(partial, optimize=True)
    os.replace(partial, path)
