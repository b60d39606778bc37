# SPDX-License-Identifier: Apache-2.0
"""Data module for cached latents of several views, as data_prep/multiview.py writes them.

The batch is that of `LatentFolderDataModule` with (V views of a sample)
    video [B, 16, V*t, h, w], all latent frames of the first view, then of the second, ...;
    t5_text_embeddings [B, V*512, 1024] and t5_text_mask [B, V*512], or [B, 512, ...] where the text is shared;
    frame_repeat [B, V] float32: how many frames of each view repeat the one before;
    view_indices [B, V] int64: the row of the view embedding of each view;
    trajectory [B, 192] float32, only with `with_trajectory`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TRAJECTORY_VALUES
from cosmos1.data.formats.latent_sample import CONDITIONING_PART, check_latent, finish_sample, load_tensor, read_info
from cosmos1.data.formats.multiview_sample import check_trajectories, load_vector, load_view_text
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import ConfigError, DataError


@dataclass
class MultiviewFolderDataModule(LatentFolderDataModule):
    """Feeds a folder of cached latents of several views.

    `cameras` are the names of the views in the order of the network's view embedding; None: the order recorded in the
    folder. `views_per_sample` trains on that many views of each sample, drawn anew at every position of the run (view
    dropout); held-out samples use the first ones. `latent_shape`, when given, is [16, V*t, h, w] of the files.
    """

    cameras: Optional[List[str]] = None
    views_per_sample: Optional[int] = None
    with_trajectory: bool = False

    def setup(self) -> None:
        """Find and split the samples, settle the order of the views. Raises DataError or ConfigError."""
        super().setup()
        if self.with_trajectory:
            check_trajectories(self._folder, self._train)
            check_trajectories(self._validation_folder, self._validation)
        recorded = self._views_of(self._folder, self._train[0])
        self._cameras = list(self.cameras) if self.cameras is not None else recorded
        self._num_views = len(recorded)
        kept = self.views_per_sample
        if kept is not None and not 1 <= kept <= self._num_views:
            raise ConfigError(f"data.views_per_sample={kept}: the samples of {self.path} have {self._num_views} views.")
        channels, frames, h, w = self._shape
        self.sample_shape = [channels, frames // self._num_views * self.num_views, h, w]
        self._load(self._folder, self._train[0], 0)

    @property
    def num_views(self) -> int:
        """Camera views in one sample, known after `setup`."""
        return self.views_per_sample or self._num_views

    @property
    def view_names(self) -> List[str]:
        """Camera of each row of the view embedding, known after `setup`."""
        return self._cameras

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        kept = f"{self.views_per_sample} of them, drawn per sample" if self.views_per_sample else "all"
        trajectory = "with" if self.with_trajectory else "without"
        views = ", ".join(self._cameras)
        return [*super().describe(), f"data: views {views}; in a sample: {kept}; {trajectory} trajectories"]

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        sample = super()._load_sample(training, index, position)
        return _keep_views(sample, self._kept_views(training, position), self._num_views)

    def _kept_views(self, training: bool, position: int) -> List[int]:
        """Places, in rising order, of the views that a sample keeps."""
        if self.views_per_sample is None or not training:
            return list(range(self.views_per_sample or self._num_views))
        import torch

        from cosmos1.parallel.randomness import named_generator

        order = torch.randperm(self._num_views, generator=named_generator(self.seed, f"views/{position}"))
        return sorted(order[: self.views_per_sample].tolist())

    def _views_of(self, folder: Path, name: str) -> List[str]:
        info = read_info(folder / f"{name}.info.json")
        if not isinstance(info.get("views"), list) or not info["views"]:
            raise DataError(
                f'{folder}: sample {name}: {name}.info.json has no list "views" of camera names. Prepare the folder with '
                f"data_prep/multiview.py."
            )
        return info["views"]

    def _load(self, folder: Path, name: str, position: int) -> Dict[str, Any]:
        """Load a sample with all its views."""
        import torch

        where = f"{folder}: sample {name}"
        info = read_info(folder / f"{name}.info.json")
        views = self._views_of(folder, name)
        view_indices = self._view_indices(views, where)
        latent = load_tensor(folder / f"{name}.video_latent.pth")
        check_latent(latent, f"{where}: video_latent", self._shape, f"sample {self._train[0]}")
        if len(views) != self._num_views or latent.shape[1] % self._num_views:
            raise DataError(
                f"{where}: {len(views)} views and {latent.shape[1]} latent frames, but sample {self._train[0]} has "
                f"{self._num_views} views, and the frames must be a multiple of them. Prepare the folder with one rig."
            )
        text, mask = load_view_text(folder, name, len(views))
        sample = finish_sample(latent, text, mask, info, position)
        sample["view_indices"] = torch.tensor(view_indices, dtype=torch.int64)
        sample["frame_repeat"] = load_vector(folder, name, "frame_repeat", len(views))
        if self.require_conditioning_latent:
            sample["gt_latent"] = load_tensor(folder / f"{name}.{CONDITIONING_PART}")
            check_latent(sample["gt_latent"], f"{where}: conditioning_latent", list(latent.shape), "its video_latent")
        if self.with_trajectory:
            sample["trajectory"] = load_vector(folder, name, "trajectory", TRAJECTORY_VALUES)
        return sample

    def _view_indices(self, views: List[str], where: str) -> List[int]:
        """Row of the view embedding of each view."""
        unknown = [view for view in views if view not in self._cameras]
        if unknown:
            raise DataError(
                f"{where}: has the views {', '.join(unknown)}, but data.cameras are {', '.join(self._cameras)} "
                f"({len(self._cameras)} views). Add them to data.cameras, and set model.config.views.num_views."
            )
        return [self._cameras.index(view) for view in views]


def _keep_views(sample: Dict[str, Any], kept: List[int], num_views: int) -> Dict[str, Any]:
    """Cut a sample down to some of its views."""
    if len(kept) == num_views:
        return sample
    frames = sample["video"].shape[1] // num_views
    for key in ("video", "gt_latent"):
        if key in sample:
            folded = sample[key].unflatten(1, (num_views, frames))
            sample[key] = folded[:, kept].flatten(1, 2).contiguous()
    for key in ("t5_text_embeddings", "t5_text_mask"):
        if len(sample[key]) > NUM_TEXT_TOKENS:
            sample[key] = sample[key].unflatten(0, (num_views, NUM_TEXT_TOKENS))[kept].flatten(0, 1)
    for key in ("frame_repeat", "view_indices"):
        sample[key] = sample[key][kept]
    return sample
