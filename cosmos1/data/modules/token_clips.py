# SPDX-License-Identifier: Apache-2.0
"""Data module of the Video2World networks: token and text files written by data_prep/autoregressive_video2world_dataset.py.

The batch is a dict of CPU tensors (B micro batch, n = t*h*w video tokens, S = 1 + n padded to a multiple of 64):
    tokens [B, S] int64: begin of video, the clip in the order t, h, w, padding; labels [B, S] int64, the next token;
    loss_mask [B, S] float32, 1 where the label is one of the n video tokens (labels elsewhere are 0);
    t5_text_embeddings [B, 512, 1024] as stored; sample_position [B] int64, the global sample position (for validation:
    the place in the held-out list).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cosmos1.data.formats.latent_sample import load_tensor, pad_text
from cosmos1.data.formats.token_facts import (
    VOCABULARY_SIZE,
    describe_grid,
    read_token_facts,
    video2world_layout,
    video2world_sample,
)
from cosmos1.data.modules.clip_tokens import ClipTokensDataModule
from cosmos1.errors import DataError

SPLITS = ("train", "test", "val")


@dataclass
class TokenClipsDataModule(ClipTokensDataModule):
    """Feeds `train_video_[i].pt`, `train_prompt_[i].pt`, shuffled per epoch and resumable; held out are the `val` files.

    `pad_to_multiple_of` must be that of the network. The files of the `test` split are left alone.
    """

    pad_to_multiple_of: int = 64

    def setup(self) -> None:
        """Find the samples. Raises DataError; reads no sample but the first."""
        self._folder = Path(self.path)
        self._planned = _read_metadata(self._folder)
        self._names = {split: _finished_names(self._folder, split, self._planned[split]) for split in SPLITS}
        for split in ("train", "val"):
            if not self._names[split]:
                raise DataError(
                    f"data.path={self.path}: no finished {split} sample ({split}_video_[i].pt with {split}_prompt_[i].pt); "
                    f"metadata.json plans {self._planned[split]}. Prepare the folder again with --resume."
                )
        first = self._folder / f"{self._names['train'][0]}.pt"
        self._note_facts(read_token_facts(self._folder), len(_codes_of(first, None)), str(first))
        identity = [self._names["train"], self._num_tokens, self._facts.plan_sha256]
        self._begin(len(self._names["train"]), len(self._names["val"]), identity)

    def describe(self) -> List[str]:
        """Return one line per fact for the log of the run."""
        counts = {split: len(names) for split, names in self._names.items()}
        length = video2world_layout(self._num_tokens, self.pad_to_multiple_of).sequence_length
        lines = [
            f"data: {self.path}: {counts['train']} training samples (clips)",
            f"data: {counts['val']} validation and {counts['test']} test samples",
            f"data: {describe_grid(self._facts, self._num_tokens)}, sequence length {length}",
            f"data: tokenizer {self._facts.tokenizer_name()}, text encoder {self._facts.text_encoder or 'not recorded'}",
        ]
        if counts != self._planned:
            lines.append(
                f"data: WARNING: {sum(counts.values())} of {sum(self._planned.values())} samples are finished; prepare "
                f"the folder with --resume to complete it"
            )
        return lines

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        import torch

        name = self._names["train" if training else "val"][index]
        codes = _codes_of(self._folder / f"{name}.pt", self._num_tokens)
        prompt = self._folder / f"{name.replace('video', 'prompt')}.pt"
        text = load_tensor(prompt)
        text, _ = pad_text(text, torch.ones(len(text)), str(prompt))
        return video2world_sample(codes, self.pad_to_multiple_of, position) | {"t5_text_embeddings": text}


def _codes_of(path: Path, num_tokens: Optional[int]):
    """Load one file and return its video tokens (n,) int64, after checking everything else that it holds.

    Raises DataError naming the file; with `num_tokens`, also when it holds another number of them.
    """
    from cosmos1.models.tokenizers.token_grid import check_ids

    ids = load_tensor(path)
    if ids.ndim != 1 or ids.is_floating_point() or len(ids) < 2:
        raise DataError(f"{path}: holds {ids.dtype} of shape {tuple(ids.shape)}, a row of integer ids is needed.")
    ids = ids.long()
    layout = video2world_layout(1)
    if int(ids[0]) != layout.begin_of_video:
        raise DataError(f"{path}: starts with id {int(ids[0])}, {layout.begin_of_video} (begin of video) is needed.")
    num_padding = int((ids.flip(0) != layout.padding_token).int().argmax())
    codes = ids[1 : len(ids) - num_padding]
    if not len(codes) or num_tokens not in (None, len(codes)):
        raise DataError(
            f"{path}: {len(codes)} video tokens, {num_tokens or 'at least 1'} are needed. Every clip of a run has one "
            f"grid: prepare all with one size, length and compression factor."
        )
    check_ids(codes, VOCABULARY_SIZE, str(path))
    return codes


def _read_metadata(folder: Path) -> Dict[str, int]:
    """Return the planned number of samples per split from metadata.json."""
    path = folder / "metadata.json"
    again = "Prepare the folder with data_prep/autoregressive_video2world_dataset.py."
    if not path.is_file():
        raise DataError(f"data.path={folder}: there is no file {path}. {again}")
    try:
        found = json.loads(path.read_text())
        return {split: int(found[f"{split}_samples"]) for split in SPLITS}
    except (ValueError, KeyError, TypeError) as error:
        keys = ", ".join(f"{split}_samples" for split in SPLITS)
        raise DataError(f"{path}: needs the whole numbers {keys} ({error!r}). {again}") from error


def _finished_names(folder: Path, split: str, count: int) -> List[str]:
    names = [f"{split}_video_{index}" for index in range(count)]
    return [
        name
        for name in names
        if all((folder / f"{part}.pt").exists() for part in (name, name.replace("video", "prompt")))
    ]
