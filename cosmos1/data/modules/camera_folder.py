# SPDX-License-Identifier: Apache-2.0
"""Data module for cached latents with cameras, as data_prep/camera_control.py writes them.

The batch is that of `LatentFolderDataModule` (image_size and padding_mask as stored) and
    plucker_embeddings [B, t, 6, h, w] float32: the line of sight of every latent cell, one map per latent frame,
    moment then direction, in the axes of the first camera; zero where padded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional

import numpy as np

from cosmos1.data.formats.camera_sample import CAMERAS_PART, load_cameras, load_placement, load_rays
from cosmos1.data.formats.latent_sample import SPATIAL_FACTOR
from cosmos1.data.geometry.cameras import TEMPORAL_FACTOR, latent_frames, plucker_embeddings
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import ConfigError, DataError
from cosmos1.models.tokenizers.video import TEMPORAL_FACTORS


@dataclass
class CameraFolderDataModule(LatentFolderDataModule):
    """Feeds a folder of cached latents with cameras.

    Rays are computed from `[i].cameras.pth`; a folder without it may hold `[i].plucker_embeddings.pth` for every pixel
    frame. `metres_per_unit` divides all translations; None scales each clip so that its two farthest cameras are 1
    apart, as the released recipe does. `frame_alignment` "first" takes the cameras of the first t pixel frames, as the
    released checkpoint did, instead of those of the latent frames.
    """

    metres_per_unit: Optional[float] = None
    frame_alignment: Literal["latent", "first"] = "latent"

    def setup(self) -> None:
        """Find and split the samples; read the cameras of the first. Raises DataError or ConfigError."""
        super().setup()
        check_scale(self.metres_per_unit)
        self._load(self._folder, (self._train + self._validation)[0], 0)

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        scale = "each clip's largest camera distance" if self.metres_per_unit is None else f"{self.metres_per_unit:g}"
        return [
            *super().describe(),
            f"data: camera rays at {self.frame_alignment} frames, translations divided by {scale}",
        ]

    def _load(self, folder: Path, name: str, position: int) -> Dict[str, Any]:
        import torch

        sample = super()._load(folder, name, position)
        num_frames, (_, t, h, w) = int(sample["num_frames"]), sample["video"].shape
        sample |= load_placement(folder, name, h, w)
        factor = TEMPORAL_FACTORS.get(self.tokenizer, TEMPORAL_FACTOR)
        of_latents = latent_frames(num_frames, factor)
        frames = of_latents if self.frame_alignment == "latent" else np.arange(min(t, num_frames))
        if len(frames) != t:
            raise DataError(
                f"{folder}: sample {name}: {num_frames} pixel frames give {len(frames)} latent frames with tokenizer "
                f"{self.tokenizer or 'not recorded'}, but video_latent has {t}. Prepare this sample again."
            )
        rays_F6hw = self._rays(folder, name, num_frames, h, w)
        rays_t6hw = torch.from_numpy(np.ascontiguousarray(rays_F6hw[frames]))
        sample["plucker_embeddings"] = rays_t6hw * (1 - sample["padding_mask"])
        return sample

    def _rays(self, folder: Path, name: str, num_frames: int, h: int, w: int) -> np.ndarray:
        """Rays (F, 6, h, w) float32 of all pixel frames, computed or as stored."""
        if (folder / f"{name}.{CAMERAS_PART}").exists():
            path = load_cameras(folder, name, num_frames, h * SPATIAL_FACTOR, w * SPATIAL_FACTOR)
            return plucker_embeddings(path, h, w, self.metres_per_unit)
        if self.metres_per_unit is not None:
            raise ConfigError(
                f"data.metres_per_unit={self.metres_per_unit}: sample {name} of {folder} has stored rays, scaled "
                f"already, and no {name}.{CAMERAS_PART}. Set it to None, or prepare the folder again."
            )
        return load_rays(folder, name, num_frames, h, w)


def check_scale(metres_per_unit: Optional[float]) -> None:
    """Raise ConfigError for a number by which translations cannot be divided."""
    if metres_per_unit is not None and not metres_per_unit > 0:
        raise ConfigError(f"data.metres_per_unit={metres_per_unit}: give a positive number, or None.")
