# SPDX-License-Identifier: Apache-2.0
"""Data modules for frames that were tokenised one by one (cosmos1/data/formats/frame_table.py), with their actions.

Both give windows of F consecutive frames of one episode and the F-1 actions between them; F = 2 is a pair: frame,
action, next frame. Latents for the diffusion networks, codes for the autoregressive ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cosmos1.conditioning.settings import NUM_TEXT_TOKENS, TEXT_WIDTH
from cosmos1.data.batches.ordered import OrderedDataModule
from cosmos1.data.batches.sampler import held_out_names
from cosmos1.data.formats.action_frames import (
    BRIDGE_CONTROL_RATE_HZ,
    NOT_RECORDED,
    ActionFrames,
    normalization_of,
    with_frames,
)
from cosmos1.data.formats.frame_table import PREPARE_WITH, FrameTable, open_frame_table
from cosmos1.data.formats.latent_sample import SPATIAL_FACTOR, check_latent, finish_sample
from cosmos1.data.formats.token_facts import VOCABULARY_SIZE, video2world_ids
from cosmos1.errors import ConfigError, DataError

PADDED_MULTIPLE = 128
PUBLISHED_COMPRESSION = [8, 16, 16]


@dataclass
class ActionWindows(OrderedDataModule):
    """Windows of `num_frames` frames. Held-out episodes come from `validation_path`, or else they are
    `validation_fraction` of the episodes. `action_convention`, when given, must be the one the folder records. `fps` is
    the robot's control rate; None: the one that the folder records of its source, or else 5, that of Bridge.
    """

    num_frames: int = 2
    validation_path: Optional[str] = None
    validation_fraction: float = 0.1
    action_convention: Optional[str] = None
    fps: Optional[float] = None

    def setup(self) -> None:
        """Open the folder and list the windows. Raises DataError or ConfigError; reads no frame."""
        if self.num_frames < 2:
            raise ConfigError(f"data.num_frames={self.num_frames}: an action needs a frame before it and one after it.")
        self._table = self._open(self.path)
        self.tokenizer = self._table.facts.get("tokenizer")
        names = [episode.name for episode in self._table.episodes]
        if self.validation_path:
            self._held_out_table, held_out = self._open(self.validation_path), None
            self._check_alike()
            self._train = self._table.window_starts(self.num_frames)
            self._num_held_out = len(self._held_out_table.episodes)
        else:
            self._held_out_table = self._table
            held_out = held_out_names(names, self.validation_fraction, self.seed)
            self._train = self._table.window_starts(self.num_frames, set(names) - held_out)
            self._num_held_out = len(held_out)
        self._held_out = self._held_out_table.window_starts(self.num_frames, held_out)
        if not self._train:
            longest = max(self._table.episodes, key=lambda episode: episode.length)
            raise DataError(
                f"{self.path}: a window needs {self.num_frames} frames, the longest episode is {longest.name} with "
                f"{longest.length}. Lower data.num_frames."
            )
        identity = [self._train, self.num_frames, self._table.frame_shape, self._convention(self._table)]
        self._begin(len(self._train), len(self._held_out), identity)

    def _open(self, path: str) -> FrameTable:
        table = open_frame_table(Path(path))
        self._check_frames(table)
        recorded = self._convention(table)
        if self.action_convention not in (None, recorded):
            raise DataError(
                f"{path}: its actions follow the convention {recorded}, data.action_convention={self.action_convention} is "
                f"asked for. Prepare the folder again with --action_convention {self.action_convention}."
            )
        return table

    def _check_alike(self) -> None:
        """Raise DataError unless frames and actions of the held-out table mean what those of training mean."""
        training, held_out = (self._meaning(table) for table in (self._table, self._held_out_table))
        different = [name for name in training if training[name] != held_out[name]]
        if different:
            found = "; ".join(f"{name}: {held_out[name]} here, {training[name]} in {self.path}" for name in different)
            raise DataError(
                f"data.validation_path={self.validation_path}: {found}. Prepare it with the options of the training data."
            )

    def _meaning(self, table: FrameTable) -> Dict[str, Any]:
        recorded = ("tokenizer", "compression", "action_convention", "action_scale", "action_offset")
        shapes = {"frames": table.frame_shape, "numbers per action": table.actions.shape[1]}
        return shapes | {name: table.facts.get(name) for name in recorded}

    def _check_frames(self, table: FrameTable) -> None:
        """Raise DataError unless the frames are of the kind that this module feeds."""
        raise NotImplementedError

    def _convention(self, table: FrameTable) -> str:
        return table.facts.get("action_convention", NOT_RECORDED)

    @property
    def frame_rate(self) -> float:
        """Frames per second, known after `setup`."""
        source = self._table.facts.get("source", {})
        return self.fps if self.fps is not None else float(source.get("fps", BRIDGE_CONTROL_RATE_HZ))

    def _frames_of_network(self, height: int, width: int) -> ActionFrames:
        normalization = normalization_of(self._table.facts)
        return ActionFrames(self._convention(self._table), height, width, self.frame_rate, **normalization)

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        facts = self._table.facts
        held_out = f"from {self._num_held_out} episodes of {self.validation_path or 'the folder'}, held out"
        meaning = facts.get("action_meaning", "no dataset.json; taken as they are")
        return [
            f"data: {self.path}: {self.num_train_samples} training windows of {self.num_frames} frames, episodes in the "
            f"folder: {len(self._table.episodes)}",
            f"data: {self.num_validation_samples} validation windows {held_out}",
            f"data: tokenizer {facts.get('tokenizer', 'not recorded')}, frame by frame, each {self._table.frame_shape}, "
            f"{self.frame_rate:g} per second",
            f"data: actions of {self._table.actions.shape[1]} numbers, convention "
            f'"{self._convention(self._table)}": {meaning}; scale {facts.get("action_scale", "none recorded")}',
        ]

    def _window(self, training: bool, index: int) -> tuple:
        """Table, first row, frames (F, ...) and actions (F-1, A) float32 of a window."""
        table, starts = (self._table, self._train) if training else (self._held_out_table, self._held_out)
        row = starts[index]
        actions = table.actions[row : row + self.num_frames - 1].clone().float()
        return table, row, table.frames(row, self.num_frames), actions


@dataclass
class ActionPairsDataModule(ActionWindows):
    """Latents and actions for the diffusion networks.

    The batch has the keys of LatentFolderDataModule: video [B, 16, F, h, w] of frames tokenised one by one, text
    embeddings of zeros with a mask of ones, fps, num_frames, image_size, padding_mask, sample_position; and action
    [B, F-1, A] float32, already scaled. The text has `num_text_tokens` rows of zeros; attention to equal rows gives the
    same result for any number of them, and fewer cost less.
    """

    num_text_tokens: int = NUM_TEXT_TOKENS

    def _check_frames(self, table: FrameTable) -> None:
        shape = table.frame_shape
        if len(shape) != 4 or shape[:2] != [16, 1] or not table.shards[0].is_floating_point():
            raise DataError(
                f"{table.folder}: frames are {tuple(shape)} of {table.shards[0].dtype}, latents (16, 1, h, w) are needed. "
                f"Prepare the folder with a continuous tokenizer (--tokenizer dct or cosmos_cv8x8x8)."
            )

    def setup(self) -> None:
        """Open the folder and list the windows. Raises DataError or ConfigError; reads no frame."""
        super().setup()
        channels, _, height, width = self._table.frame_shape
        self.sample_shape = [channels, self.num_frames, height, width]

    def state_dict(self, consumed_samples: int) -> Dict[str, Any]:
        """As the base class, with what generation must know of frames and actions."""
        _, _, height, width = self.sample_shape
        frames = self._frames_of_network(height * SPATIAL_FACTOR, width * SPATIAL_FACTOR)
        return with_frames(super().state_dict(consumed_samples), frames)

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        import torch

        table, row, frames_FC1HW, actions = self._window(training, index)
        latent_CFHW = frames_FC1HW[:, :, 0].transpose(0, 1).contiguous()
        check_latent(latent_CFHW, f"{table.folder}: frames from row {row}")
        text = torch.zeros(self.num_text_tokens, TEXT_WIDTH, dtype=torch.bfloat16)
        info = {"fps": self.frame_rate, "num_frames": self.num_frames}
        sample = finish_sample(latent_CFHW, text, torch.ones(len(text), dtype=torch.bfloat16), info, position)
        return {**sample, "action": actions}


@dataclass
class ActionTokensDataModule(ActionWindows):
    """Codes and actions for the autoregressive networks.

    The batch: tokens [B, S] and labels [B, S] int64, loss_mask [B, S] float32, action [B, F-1, A] float32,
    sample_position [B]. A sequence is begin-of-video, the codes of F frames row by row, and padding such that S is a
    multiple of 128; labels are the tokens shifted by one, and the loss takes all frames but the first.
    """

    def _check_frames(self, table: FrameTable) -> None:
        shape = table.frame_shape
        if len(shape) != 3 or shape[0] != 1 or table.shards[0].is_floating_point():
            raise DataError(
                f"{table.folder}: frames are {tuple(shape)} of {table.shards[0].dtype}, codes (1, h, w) are needed. "
                f"Prepare the folder with a discrete tokenizer. {PREPARE_WITH}"
            )

    def setup(self) -> None:
        """Open the folder and list the windows. Raises DataError or ConfigError; reads no frame."""
        super().setup()
        self.sample_shape = [self.num_frames, *self._table.frame_shape[1:]]

    @property
    def compression(self) -> Optional[List[int]]:
        """Pixel frames, rows and columns per token, None where dataset.json does not say."""
        return self._table.facts.get("compression")

    def state_dict(self, consumed_samples: int) -> Dict[str, Any]:
        """As the base class, with what generation must know of frames and actions."""
        _, rows, columns = self.compression or PUBLISHED_COMPRESSION
        _, h, w = self.sample_shape
        return with_frames(super().state_dict(consumed_samples), self._frames_of_network(h * rows, w * columns))

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        import torch

        table, row, frames_F1HW, actions = self._window(training, index)
        codes = frames_F1HW.long().flatten()
        if codes.min() < 0 or codes.max() >= VOCABULARY_SIZE:
            raise DataError(
                f"{table.folder}: frames from row {row}: codes run from {codes.min()} to {codes.max()}, allowed are 0 to "
                f"{VOCABULARY_SIZE - 1}. {PREPARE_WITH}"
            )
        ids = video2world_ids(codes, PADDED_MULTIPLE)
        codes_per_frame = len(codes) // self.num_frames
        loss_mask = torch.zeros(len(ids) - 1)
        # Position k predicts id k+1: the last code of the first frame predicts the first code of the second.
        loss_mask[codes_per_frame : len(codes)] = 1.0
        return {
            "tokens": ids[:-1],
            "labels": ids[1:],
            "loss_mask": loss_mask,
            "action": actions,
            "sample_position": torch.tensor(position, dtype=torch.int64),
        }
