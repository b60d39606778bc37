# SPDX-License-Identifier: Apache-2.0
"""Still pictures as arrays (H, W, 3) uint8 RGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from cosmos1.errors import DataError


def decode_picture(source: bytes | Path, where: str, advice: str, upright: bool = False) -> np.ndarray:
    """Decode a picture file, or the bytes of one, into (H, W, 3) uint8 RGB; alpha is composited over white.

    Pixels stay where they are stored, since intrinsics of cameras refer to that; with `upright` the picture is turned as
    its orientation tag says. `where` names the picture in messages. Raises DataError for what is no picture, ending in `advice`,
    and for grey of more than 8 bits, which would become white.
    """
    from PIL import Image, ImageOps

    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if picture.mode.startswith("I") or picture.mode == "F":
            raise DataError(
                f"{where}: is grey of more than 8 bits (mode {picture.mode}), as depth is stored; 8 bits per colour "
                f"are needed. Give the colour pictures, or convert these."
            )
        rgba = (ImageOps.exif_transpose(picture) if upright else picture).convert("RGBA")
    except (OSError, SyntaxError) as error:
        raise DataError(f"{where}: cannot be read as a picture ({type(error).__name__}). {advice}") from error
    white = Image.new("RGBA", rgba.size, "white")
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
