# SPDX-License-Identifier: Apache-2.0
"""Data modules for folders of video tokens with control signals: `[i].video_tokens.pth` beside text, info and signals.

Written by data_prep/camera_control.py and data_prep/multiview.py with a discrete tokenizer. The batches are those of
`TokenClipsDataModule` (B micro batch, n video tokens, S positions) and the signals of each module below.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from cosmos1.conditioning.settings import TRAJECTORY_VALUES
from cosmos1.data.formats.camera_sample import CAMERAS_PART, load_cameras
from cosmos1.data.formats.latent_sample import TEXT_PARTS, TOKENS_PART, load_tensor, pad_text, read_info
from cosmos1.data.formats.multiview_sample import check_trajectories, load_vector, load_view_text
from cosmos1.data.formats.token_facts import VOCABULARY_SIZE, video2world_sample
from cosmos1.data.geometry.cameras import TEMPORAL_FACTOR, plucker_embeddings
from cosmos1.data.geometry.letterbox import letterbox, padding_mask
from cosmos1.data.modules.camera_folder import check_scale
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import DataError


@dataclass
class TokenFolderDataModule(LatentFolderDataModule):
    """What these modules share. `latent_shape`, when given, is the grid [t, h, w] of the files."""

    pad_to_multiple_of: int = 64

    def _parts(self) -> Sequence[str]:
        return ("info.json", TOKENS_PART, *TEXT_PARTS)

    def _first_shape(self, name: str) -> List[int]:
        return list(self._tokens(self._folder, name, self.latent_shape).shape)

    def _tokens(self, folder: Path, name: str, expected: Optional[List[int]]):
        """Ids (t, h, w) int64 of a sample, views one after another. Raises DataError for anything else."""
        from cosmos1.models.tokenizers.token_grid import check_ids

        where = f"{folder}: sample {name}: video_tokens"
        ids = load_tensor(folder / f"{name}.{TOKENS_PART}")
        if ids.is_floating_point() or ids.ndim != 3 or expected not in (None, list(ids.shape)):
            needed = "integers (t, h, w)" if expected is None else f"integers {tuple(expected)} as in the first sample"
            raise DataError(f"{where}: {ids.dtype} {tuple(ids.shape)}, {needed} are needed. Prepare this sample again.")
        check_ids(ids, VOCABULARY_SIZE, where)
        return ids.long()

    @property
    def compression(self) -> Optional[List[int]]:
        """Pixel frames, rows and columns per token, None where dataset.json does not say."""
        return self._facts.get("compression")

    def _frames_per_token(self) -> int:
        return (self.compression or [TEMPORAL_FACTOR])[0]


@dataclass
class CameraTokensDataModule(TokenFolderDataModule):
    """Adds plucker_tokens [B, n, 6 r] float32: the rays of the r pixel frames of each token (`rays_of_tokens`).

    `metres_per_unit` divides all translations; None scales each clip so that its two farthest cameras are 1 apart.
    """

    metres_per_unit: Optional[float] = None

    def setup(self) -> None:
        """Find and split the samples; read the cameras of the first. Raises DataError or ConfigError."""
        super().setup()
        check_scale(self.metres_per_unit)
        self._load(self._folder, (self._train + self._validation)[0], 0)

    def _parts(self) -> Sequence[str]:
        return (*super()._parts(), CAMERAS_PART)

    def _load(self, folder: Path, name: str, position: int) -> Dict[str, Any]:
        import torch

        where = f"{folder}: sample {name}"
        tokens_thw = self._tokens(folder, name, self._shape)
        text, _ = pad_text(*(load_tensor(folder / f"{name}.{part}") for part in TEXT_PARTS), where)
        sample = video2world_sample(tokens_thw.flatten(), self.pad_to_multiple_of, position)
        rays = torch.from_numpy(self._rays(folder, name, *tokens_thw.shape))
        return sample | {"t5_text_embeddings": text, "plucker_tokens": rays}

    def _rays(self, folder: Path, name: str, t: int, h: int, w: int) -> np.ndarray:
        """Rays (n, 6 r) of all tokens, zero where padded."""
        info = read_info(folder / f"{name}.info.json")
        num_frames, r = int(info["num_frames"]), self._frames_per_token()
        height, width = int(info["target_height"]), int(info["target_width"])
        if num_frames != 1 + (t - 1) * r:
            raise DataError(
                f"{folder}: sample {name}: {num_frames} pixel frames, {t} frames of tokens need {1 + (t - 1) * r}. Prepare "
                "this sample again."
            )
        cameras = load_cameras(folder, name, num_frames, height, width)
        mask = padding_mask(letterbox(int(info["height"]), int(info["width"]), height, width), h, w)
        return rays_of_tokens(plucker_embeddings(cameras, h, w, self.metres_per_unit) * (1 - mask), r)


def rays_of_tokens(rays_F6hw: np.ndarray, frames_per_token: int) -> np.ndarray:
    """Rays (n, 6 r) float32 of tokens in the order t, h, w, from those of 1 + (t - 1) r pixel frames.

    The 6 numbers of the first frame of a token come first. A token of the first latent frame shows one pixel frame,
    whose rays are repeated r times.
    """
    first = np.repeat(rays_F6hw[:1], frames_per_token - 1, axis=0)
    rays = np.concatenate([first, rays_F6hw])
    _, channels, h, w = rays.shape
    rays_tr6hw = rays.reshape(-1, frames_per_token, channels, h, w)
    ordered = rays_tr6hw.transpose(0, 3, 4, 1, 2)
    return np.ascontiguousarray(ordered.reshape(-1, frames_per_token * channels), dtype=np.float32)


@dataclass
class MultiviewTokensDataModule(TokenFolderDataModule):
    """Orders the tokens of all views by time, view, row, column. Adds view_indices [B, V] int64, the row of the view
    embedding of each view, and `with_trajectory` trajectory [B, 192] float32.

    The text is as stored: [B, 512, 1024] for all views, or [B, V*512, 1024]. `cameras` are the names of the views in the
    order of the view embedding; None: the order recorded in the folder.
    """

    cameras: Optional[List[str]] = None
    with_trajectory: bool = False

    def setup(self) -> None:
        """Find and split the samples, settle the order of the views. Raises DataError."""
        super().setup()
        if self.with_trajectory:
            check_trajectories(self._folder, self._train)
            check_trajectories(self._validation_folder, self._validation)
        first = (self._train + self._validation)[0]
        recorded = read_info(self._folder / f"{first}.info.json").get("views") or []
        self._num_views = len(recorded)
        if not recorded or self._shape[0] % self._num_views:
            raise DataError(
                f"{self.path}: sample {first}: {self._shape[0]} frames of tokens and {self._num_views} views; the frames "
                "must be a multiple of the views. Prepare the folder with data_prep/multiview.py."
            )
        frames, h, w = self._shape
        self.sample_shape = [frames // self._num_views, self._num_views, h, w]
        self._cameras = list(self.cameras) if self.cameras is not None else list(recorded)
        self._load(self._folder, first, 0)

    @property
    def num_views(self) -> int:
        """Camera views in one sample, known after `setup`."""
        return self._num_views

    @property
    def view_names(self) -> List[str]:
        """Camera of each row of the view embedding, known after `setup`."""
        return self._cameras

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        trajectory = "with" if self.with_trajectory else "without"
        return [*super().describe(), f"data: views {', '.join(self._cameras)}; {trajectory} trajectories"]

    def _load(self, folder: Path, name: str, position: int) -> Dict[str, Any]:
        import torch

        views = read_info(folder / f"{name}.info.json").get("views") or []
        if len(views) != self._num_views or not set(views) <= set(self._cameras):
            raise DataError(
                f"{folder}: sample {name}: has the views {', '.join(views)}; needed are {self._num_views} of "
                f"{', '.join(self._cameras)} (data.cameras). Prepare the folder with one rig."
            )
        tokens_Vthw = self._tokens(folder, name, self._shape).unflatten(0, (self._num_views, -1))
        codes = tokens_Vthw.transpose(0, 1).flatten()
        sample = video2world_sample(codes, self.pad_to_multiple_of, position)
        sample["t5_text_embeddings"], _ = load_view_text(folder, name, self._num_views)
        sample["view_indices"] = torch.tensor([self._cameras.index(view) for view in views])
        if self.with_trajectory:
            sample["trajectory"] = load_vector(folder, name, "trajectory", TRAJECTORY_VALUES)
        return sample
