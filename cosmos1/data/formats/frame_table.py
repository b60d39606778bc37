# SPDX-License-Identifier: Apache-2.0
"""A folder of frames that were tokenised one by one, and the action that leads from each frame to the next.

    actions.pt              (N, A) float32; the last row of each episode is NaN, so that rows align with frames
    tokenized-frames.pt     (N, 16, 1, h, w) bfloat16 latents, or (N, 1, h, w) int32 codes; large folders have several
                            files tokenized-frames-00000-of-00012.pt with consecutive rows
    state.pt, gripper.pt    (N, 8) and (N,) float32, for the record only
    episodes.json           one entry per episode: id, first_row, length, text       } absent in folders that other
    dataset.json            tokenizer, action convention and scale, frames per second } programs wrote

Frames are memory-mapped: nothing but the rows that are asked for is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from cosmos1.data.files import read_facts, read_json
from cosmos1.errors import DataError

if TYPE_CHECKING:
    import torch

FRAME_FILES = "tokenized-frames*.pt"
PREPARE_WITH = "Prepare the folder with data_prep/prepare_action_dataset.py."


@dataclass(frozen=True)
class EpisodeRows:
    """Rows `first_row` .. `first_row + length - 1` of the table are the frames of this episode."""

    name: str
    first_row: int
    length: int
    text: str = ""


@dataclass(frozen=True)
class FrameTable:
    """An open folder. `shards` are memory-mapped tensors whose rows follow one another."""

    folder: Path
    actions: "torch.Tensor"
    shards: "List[torch.Tensor]"
    episodes: List[EpisodeRows]
    facts: Dict[str, Any]

    @property
    def frame_shape(self) -> List[int]:
        return list(self.shards[0].shape[1:])

    def frames(self, first_row: int, count: int) -> "torch.Tensor":
        """Rows (count, *frame_shape) from `first_row` on, copied into memory."""
        import torch

        parts, start = [], 0
        for shard in self.shards:
            low, high = max(first_row - start, 0), min(first_row + count - start, len(shard))
            if low < high:
                parts.append(shard[low:high])
            start += len(shard)
        return torch.cat(parts).clone()

    def window_starts(self, num_frames: int, names: "set[str] | None" = None) -> List[int]:
        """First rows of all windows of `num_frames` consecutive frames of one episode, in row order.

        With `names` only of these episodes.
        """
        return [
            episode.first_row + offset
            for episode in self.episodes
            if names is None or episode.name in names
            for offset in range(episode.length - num_frames + 1)
        ]


def open_frame_table(folder: Path) -> FrameTable:
    """Open a folder and check that its files fit together. Raises DataError naming the file, the found and the needed."""
    if not folder.is_dir():
        raise DataError(f"data.path={folder}: there is no such folder. {PREPARE_WITH}")
    paths = sorted(folder.glob(FRAME_FILES))
    for path, name in ((folder / "actions.pt", "actions.pt"), (paths[0] if paths else None, "tokenized-frames.pt")):
        if path is None or not path.is_file():
            raise DataError(f"data.path={folder}: there is no {name}. {PREPARE_WITH}")
    facts = read_facts(folder, PREPARE_WITH)
    _check_number_of_shards(folder, paths, facts)
    actions = _load(folder / "actions.pt")
    if actions.ndim != 2:
        raise DataError(f"{folder / 'actions.pt'}: has shape {tuple(actions.shape)}, (N, A) is needed. {PREPARE_WITH}")
    shards = [_load(path) for path in paths]
    num_rows = sum(len(shard) for shard in shards)
    if num_rows != len(actions) or len({tuple(shard.shape[1:]) for shard in shards}) != 1:
        raise DataError(
            f"{folder}: {FRAME_FILES} hold {num_rows} frames of shapes {sorted({tuple(s.shape[1:]) for s in shards})}, "
            f"actions.pt {len(actions)} rows; there must be one row per frame and one shape. {PREPARE_WITH}"
        )
    episodes = _episodes(folder, actions)
    return FrameTable(folder, actions, shards, episodes, facts)


def _check_number_of_shards(folder: Path, paths: List[Path], facts: Dict[str, Any]) -> None:
    """The name of a shard tells how many there are."""
    _, _, total = paths[0].stem.rpartition("-of-")
    expected = int(total) if total.isdigit() else 1
    if len(paths) != expected:
        raise DataError(
            f"{folder}: {len(paths)} of {expected} files {FRAME_FILES} are there; the preparation was not finished, or "
            f"files of two are mixed. Complete it with --resume, or prepare the folder anew."
        )


def _load(path: Path) -> "torch.Tensor":
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: cannot be loaded as a tensor ({reason}). {PREPARE_WITH}") from error
    if not isinstance(tensor, torch.Tensor):
        raise DataError(f"{path}: holds a {type(tensor).__name__}, a tensor is needed. {PREPARE_WITH}")
    return tensor


def _episodes(folder: Path, actions: "torch.Tensor") -> List[EpisodeRows]:
    """Episodes as the NaN rows bound them; with episodes.json, which must agree, also their names and texts."""
    import torch

    missing = torch.isnan(actions)
    last_rows = torch.nonzero(missing.all(dim=1)).flatten().tolist()
    partly = torch.nonzero(missing.any(dim=1) & ~missing.all(dim=1)).flatten().tolist()
    infinite = torch.nonzero(torch.isinf(actions).any(dim=1)).flatten().tolist()
    if partly or infinite:
        row = (partly + infinite)[0]
        raise DataError(
            f"{folder / 'actions.pt'}: row {row} is {actions[row].tolist()}; a row is either finite or, after the last "
            f"frame of an episode, all NaN. {PREPARE_WITH}"
        )
    if not last_rows or last_rows[-1] != len(actions) - 1:
        raise DataError(
            f"{folder / 'actions.pt'}: row {len(actions) - 1} is not all NaN, but there is no frame after it that its "
            f"action could lead to. {PREPARE_WITH}"
        )
    starts = [0, *(row + 1 for row in last_rows[:-1])]
    spans = [[start, last - start + 1] for start, last in zip(starts, last_rows)]
    record = folder / "episodes.json"
    if not record.exists():
        return [EpisodeRows(str(number), *span) for number, span in enumerate(spans)]
    recorded = read_json(record, PREPARE_WITH)
    keys = ("id", "first_row", "length")
    well_formed = isinstance(recorded, list) and all(
        isinstance(entry, dict) and all(key in entry for key in keys) for entry in recorded
    )
    if not well_formed:
        raise DataError(f"{record}: a list of objects with {', '.join(keys)} is needed. {PREPARE_WITH}")
    if [[entry["first_row"], entry["length"]] for entry in recorded] != spans:
        raise DataError(
            f"{record}: lists {len(recorded)} episodes, the NaN rows of actions.pt bound {len(spans)} or "
            f"other ones; the files belong to two preparations. {PREPARE_WITH}"
        )
    return [EpisodeRows(entry["id"], *span, entry.get("text", "")) for entry, span in zip(recorded, spans)]
