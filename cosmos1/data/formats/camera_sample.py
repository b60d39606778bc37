# SPDX-License-Identifier: Apache-2.0
"""The files of a cached sample that say where its camera was, and where its pictures lie in the frame."""

from pathlib import Path
from typing import Any, Dict

import numpy as np

from cosmos1.data.formats.latent_sample import load_tensor
from cosmos1.data.geometry.cameras import CameraPath, check_poses
from cosmos1.errors import DataError

CAMERAS_PART = "cameras.pth"
PLUCKER_PART = "plucker_embeddings.pth"
NUM_RAY_CHANNELS = 6
CAMERA_NUMBERS = 16


def pack_cameras(path: CameraPath):
    """Tensor (F, 16) float64: fx, fy, cx, cy in target pixels, then the upper 3 x 4 of camera-to-world, row by row."""
    import torch

    return torch.from_numpy(np.concatenate([path.intrinsics, path.poses[:, :3].reshape(-1, 12)], axis=1))


def load_cameras(folder: Path, name: str, num_frames: int, height: int, width: int) -> CameraPath:
    """Read what `pack_cameras` made. Raises DataError for wrong shapes, NaN, or matrices that are no rotation."""
    where = f"{folder}: sample {name}: cameras"
    numbers = load_tensor(folder / f"{name}.{CAMERAS_PART}").double().numpy()
    if numbers.shape != (num_frames, CAMERA_NUMBERS):
        raise DataError(
            f"{where} has shape {numbers.shape}, ({num_frames}, {CAMERA_NUMBERS}) is needed: one camera for each of its "
            f"{num_frames} frames. Prepare this sample again."
        )
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    poses[:, :3] = numbers[:, 4:].reshape(-1, 3, 4)
    check_poses(poses, where)
    if not (np.isfinite(numbers).all() and (numbers[:, :2] > 0).all()):
        raise DataError(f"{where}: focal lengths must be finite and positive. Prepare this sample again.")
    return CameraPath(poses, numbers[:, :4], height, width)


def load_rays(folder: Path, name: str, num_frames: int, h: int, w: int) -> np.ndarray:
    """Read stored rays (F, 6, h, w). Raises DataError for another frame or channel count, another grid, or NaN."""
    import torch

    path = folder / f"{name}.{PLUCKER_PART}"
    if not path.exists():
        raise DataError(
            f"{folder}: sample {name} has neither {name}.{CAMERAS_PART} nor {name}.{PLUCKER_PART}. Prepare the folder "
            f"with data_prep/camera_control.py."
        )
    rays = load_tensor(path).float()
    expected = (num_frames, NUM_RAY_CHANNELS, h, w)
    if tuple(rays.shape) != expected:
        raise DataError(f"{path} has shape {tuple(rays.shape)}, {expected} is needed. Prepare this sample again.")
    if not torch.isfinite(rays).all():
        num_bad = int((~torch.isfinite(rays)).sum())
        raise DataError(f"{path}: {num_bad} values are NaN or infinite. Prepare this sample again.")
    return rays.numpy()


def load_placement(folder: Path, name: str, h: int, w: int) -> Dict[str, Any]:
    """image_size [4] int64 and padding_mask [1, h, w] float32 as stored; nothing for what has no file."""
    found: Dict[str, Any] = {}
    for part, shape in (("image_size", (1, 4)), ("padding_mask", (1, h, w))):
        path = folder / f"{name}.{part}.pth"
        if path.exists():
            tensor = load_tensor(path)
            if tuple(tensor.shape) != shape:
                raise DataError(
                    f"{path} has shape {tuple(tensor.shape)}, {shape} is needed. Prepare this sample again."
                )
            found[part] = tensor[0].long() if part == "image_size" else tensor.float()
    return found
