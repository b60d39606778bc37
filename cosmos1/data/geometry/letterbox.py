# SPDX-License-Identifier: Apache-2.0
"""Pictures of any shape in a frame of fixed size: scaled to its height, then padded or cropped evenly at the sides.

The aspect ratio is kept, so that focal lengths and rays stay true.
"""

from dataclasses import dataclass

import numpy as np

from cosmos1.data.geometry.cameras import CameraPath


@dataclass(frozen=True)
class Letterbox:
    """Where the content lies in the target picture, in pixels. Negative padding means that much is cut off."""

    height: int
    width: int
    content_height: int
    content_width: int

    @property
    def left(self) -> int:
        return int((self.width - self.content_width) / 2)

    @property
    def right(self) -> int:
        return self.width - self.content_width - self.left

    @property
    def image_size(self) -> "list[int]":
        """Target height and width, then those of the visible content."""
        return [self.height, self.width, self.content_height, min(self.content_width, self.width)]


def letterbox(source_height: int, source_width: int, height: int, width: int) -> Letterbox:
    """Place a picture so that it fills the target's height; sizes are rounded half up."""
    scale = height / source_height
    return Letterbox(height, width, int(scale * source_height + 0.5), int(scale * source_width + 0.5))


def letterbox_frames(frames: np.ndarray, box: Letterbox) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 to (T, height, width, 3): bicubic with antialiasing, padded by reflection."""
    import torch
    from torch.nn.functional import interpolate

    size = (box.content_height, box.content_width)
    if frames.shape[1:3] != size:
        channels_first = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
        resized = interpolate(channels_first, size=size, mode="bicubic", antialias=True, align_corners=False)
        frames = resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    first = max(-box.left, 0)
    frames = frames[:, :, first : first + min(box.width, box.content_width)]
    return np.pad(frames, ((0, 0), (0, 0), (max(box.left, 0), max(box.right, 0)), (0, 0)), mode="reflect")


def padding_mask(box: Letterbox, h: int, w: int) -> np.ndarray:
    """Mask (1, h, w) float32 on a grid over the target picture, 1 where padded; nearest neighbour, index floor(i W/w)."""
    pixels = np.arange(w) * box.width // w
    padded = (pixels < box.left) | (pixels >= box.left + box.content_width)
    return np.broadcast_to(padded, (1, h, w)).astype(np.float32)


def letterbox_cameras(path: CameraPath, box: Letterbox) -> CameraPath:
    """The same cameras for the target picture: focal lengths scaled, the principal point moved by the padding."""
    scale_x, scale_y = box.content_width / path.width, box.content_height / path.height
    intrinsics = path.intrinsics * [scale_x, scale_y, scale_x, scale_y] + [0, 0, box.left, 0]
    return CameraPath(path.poses, intrinsics, box.height, box.width)
