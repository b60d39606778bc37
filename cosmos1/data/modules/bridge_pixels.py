# SPDX-License-Identifier: Apache-2.0
"""Data module that reads a Bridge tree directly: short windows of raw pixels with their actions, nothing prepared.

The batch is a dict of CPU tensors (B micro batch, F frames, A numbers per action):
    pixels [B, 3, F, H, W] float32 in [-1, 1]; action [B, F-1, A] float32, scaled by the convention;
    t5_text_embeddings [B, 512, 1024] bfloat16 zeros; t5_text_mask [B, 512] ones; fps [B] float32; num_frames [B] int64;
    image_size [B, 4] int64; padding_mask [B, 1, H/8, W/8] zeros; sample_position [B] int64.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.data.batches.ordered import OrderedDataModule
from cosmos1.data.files import read_facts
from cosmos1.data.formats.action_frames import (
    BRIDGE_CONTROL_RATE_HZ,
    ActionFrames,
    normalization_of,
    with_frames,
)
from cosmos1.data.formats.latent_sample import LATENT_CHANNELS, SPATIAL_FACTOR
from cosmos1.data.geometry.actions import ACTION_CONVENTIONS, BRIDGE_ACTION_DIM
from cosmos1.data.sources.bridge import (
    Episode,
    actions_between,
    check_convention,
    check_frame_count,
    check_poses,
    read_episodes,
)
from cosmos1.errors import ConfigError, DataError

PATCHED_FACTOR = 2 * SPATIAL_FACTOR


@dataclass
class BridgePixelsDataModule(OrderedDataModule):
    """Windows of `num_frames` frames, every `sequence_interval`-th, from the episodes under `path`.

    A window starts at every frame that leaves room for it (held-out windows at every `val_start_frame_interval`-th).
    The tree's own folders are the splits; without `validation_split` nothing is held out. Pictures are stretched to
    `video_size`. One of `cam_ids` is drawn per sample. `action_convention` is a name of
    geometry.actions.ACTION_CONVENTIONS; with `accumulate_action` motions are seen from the window's first frame.
    `fps` is the robot's control rate; None: that of the tree's dataset.json (data_prep/lerobot.py), or else 5, that of
    Bridge, whose mp4 files declare 3.

    Each frame becomes one latent frame: the tokenizer sees frames one by one. The text has `num_text_tokens` rows of
    zeros; attention to equal rows gives the same result for any number of them, and fewer cost less.
    """

    split: Literal["train", "val", "test"] = "train"
    validation_split: Optional[Literal["train", "val", "test"]] = "val"
    num_frames: int = 2
    sequence_interval: int = 1
    val_start_frame_interval: int = 1
    video_size: List[int] = field(default_factory=lambda: [256, 320])
    cam_ids: List[int] = field(default_factory=lambda: [0])
    action_convention: Literal["json", "scaled", "scaled_binary"] = "scaled"
    action_dim: int = BRIDGE_ACTION_DIM
    accumulate_action: bool = False
    fps: Optional[float] = None
    num_text_tokens: int = NUM_TEXT_TOKENS

    def setup(self) -> None:
        """Read all annotations and list the windows. Raises DataError or ConfigError; no video is opened."""
        self._check_settings()
        # The frames become latents one by one, and pixels go with any tokenizer.
        height, width = self.video_size
        self.sample_shape = [LATENT_CHANNELS, self.num_frames, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR]
        self.tokenizer = None
        root = Path(self.path)
        self._source = read_facts(root, "Make the tree again, or remove the file.")
        self._train, self._skipped = read_episodes(root, self.split, self.action_dim)
        self._train_windows = self._windows(self._train, self.split, 1)
        self._held_out: List[Episode] = []
        self._held_out_windows: List[Tuple[int, int]] = []
        if self.validation_split:
            self._held_out, skipped = read_episodes(root, self.validation_split, self.action_dim)
            self._skipped += skipped
            self._held_out_windows = self._windows(self._held_out, self.validation_split, self.val_start_frame_interval)
        for episode in self._train + self._held_out:
            check_poses(episode, self.action_convention)
            for camera in self.cam_ids:
                episode.video(camera)
        identity = [
            [[episode.name, episode.num_frames] for episode in self._train],
            [self.num_frames, self.sequence_interval, self.video_size, self.cam_ids],
            [self.action_convention, self.accumulate_action],
        ]
        self._begin(len(self._train_windows), len(self._held_out_windows), identity)

    def _check_settings(self) -> None:
        check_convention(self.action_convention, self.action_dim, self.sequence_interval, self.accumulate_action)
        if self.num_frames < 2 or self.sequence_interval < 1 or self.val_start_frame_interval < 1 or not self.cam_ids:
            raise ConfigError(
                f"data.num_frames={self.num_frames}, sequence_interval={self.sequence_interval}, "
                f"val_start_frame_interval={self.val_start_frame_interval}, cam_ids={self.cam_ids}: a window needs at "
                f"least 2 frames, intervals of at least 1 and a camera."
            )
        if len(self.video_size) != 2 or any(side < 16 or side % PATCHED_FACTOR for side in self.video_size):
            raise ConfigError(
                f"data.video_size={self.video_size}: height and width must be multiples of {PATCHED_FACTOR}. Use "
                f"[256,320]."
            )

    def _windows(self, episodes: List[Episode], split: str, step: int) -> List[Tuple[int, int]]:
        """(episode, first frame) of every complete window, by episode and frame."""
        reach = (self.num_frames - 1) * self.sequence_interval
        windows = [
            (number, start)
            for number, episode in enumerate(episodes)
            for start in range(0, episode.num_frames - reach, step)
        ]
        if not windows:
            longest = max(episodes, key=lambda episode: episode.num_frames)
            raise DataError(
                f"{self.path}: split {split}: a window needs {reach + 1} frames, the longest episode is {longest.name} "
                f"with {longest.num_frames}. Lower data.num_frames or data.sequence_interval."
            )
        return windows

    def window_episodes(self) -> List[int]:
        """Number of the episode of each training window, in their order."""
        return [number for number, _ in self._train_windows]

    @property
    def frame_rate(self) -> float:
        """Frames per second of the robot's control, known after `setup`."""
        return self.fps if self.fps is not None else float(self._source.get("fps", BRIDGE_CONTROL_RATE_HZ))

    def state_dict(self, consumed_samples: int) -> Dict[str, Any]:
        """As the base class, with what generation must know of frames and actions."""
        recorded = not all(episode.has_poses for episode in self._train)
        frames = ActionFrames(
            self.action_convention,
            *self.video_size,
            self.frame_rate,
            self.sequence_interval,
            self.accumulate_action,
            **(normalization_of(self._source) if recorded else {}),
        )
        return with_frames(super().state_dict(consumed_samples), frames)

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        rule, (height, width) = ACTION_CONVENTIONS[self.action_convention], self.video_size
        held_out = f"from {len(self._held_out)} episodes of {self.validation_split}" if self._held_out else "held out"
        return [
            f"data: {self.path}: {self.num_train_samples} training windows of {self.num_frames} frames, "
            f"{self.sequence_interval} apart, from {len(self._train)} episodes of {self.split}",
            f"data: {self.num_validation_samples} validation windows {held_out}",
            f"data: raw pixels, {height} x {width}, {self.frame_rate:g} frames per second, cameras {self.cam_ids}",
            f'data: actions of {self.action_dim} numbers, convention "{self.action_convention}": {rule.meaning}'
            + ("; seen from the first frame" if self.accumulate_action else ""),
            *(f"data: skipped: {line}" for line in self._skipped),
        ]

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        import torch

        from cosmos1.data.video import frames_to_tensor

        episodes, windows = self._train, self._train_windows
        if not training:
            episodes, windows = self._held_out, self._held_out_windows
        number, start = windows[index]
        episode = episodes[number]
        frames = [start + step * self.sequence_interval for step in range(self.num_frames)]
        pictures = read_window(episode, self._camera(training, position), frames, self.video_size)
        action = actions_between(episode, frames, self.action_convention, self.accumulate_action)
        height, width = self.video_size
        return {
            "pixels": frames_to_tensor(pictures)[0],
            "action": torch.from_numpy(action).float(),
            "t5_text_embeddings": torch.zeros(self.num_text_tokens, TEXT_WIDTH, dtype=torch.bfloat16),
            "t5_text_mask": torch.ones(self.num_text_tokens, dtype=torch.bfloat16),
            "image_size": torch.tensor([height, width, height, width], dtype=torch.int64),
            "fps": torch.tensor(self.frame_rate, dtype=torch.float32),
            "num_frames": torch.tensor(self.num_frames, dtype=torch.int64),
            "padding_mask": torch.zeros(1, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR),
            "sample_position": torch.tensor(position, dtype=torch.int64),
        }

    def _camera(self, training: bool, position: int) -> int:
        """Draw the camera of a sample; for held-out samples it depends on their place in the list alone."""
        import torch

        from cosmos1.parallel.randomness import SampleRandomness

        if len(self.cam_ids) == 1:
            return self.cam_ids[0]
        draw = SampleRandomness(self.seed, torch.tensor([position]))
        purpose = "camera" if training else "held-out camera"
        return self.cam_ids[int(draw.integers(purpose, 0, len(self.cam_ids) - 1))]


def read_window(episode: Episode, camera: int, frames: List[int], size: List[int]):
    """Decode frames (F, H, W, 3) uint8 of an episode, stretched to `size` (height, width).

    `frames` rise. Raises DataError when the video declares another number of frames than the annotation has states, or
    cannot be decoded that far.
    """
    import numpy as np

    from cosmos1.data.video import iterate_frames, probe_video, resize_frames

    path = episode.video(camera)
    declared = probe_video(path).num_frames
    if declared:
        check_frame_count(episode, camera, declared)
    wanted, found = set(frames), []
    for number, picture in enumerate(iterate_frames(path)):
        if number in wanted:
            found.append(picture)
        if number == frames[-1]:
            break
    if len(found) < len(frames):
        check_frame_count(episode, camera, number + 1)
    return resize_frames(np.stack(found), *size)
