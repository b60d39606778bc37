# SPDX-License-Identifier: Apache-2.0
"""Reader of LeRobot datasets, versions 2.0, 2.1 and 3.0: one episode at a time, rows and pictures of the same frames.

Version 2 has a parquet and an mp4 file per episode; version 3 has several episodes in each. Rows are found by their
episode_index, because some files of version 3 record the wrong file for the first episode of a file.
"""

import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from cosmos1.data.files import read_json, read_json_lines
from cosmos1.data.pictures import decode_picture
from cosmos1.errors import ConfigError, DataError

VERSIONS = ("v2.0", "v2.1", "v3.0")
LARGEST_TIME_DIFFERENCE = 1e-4
ALTERNATIVES = " | "


@dataclass(frozen=True)
class LeRobotEpisode:
    """One episode as the metadata describes it. `texts` are its tasks, alternatives apart."""

    index: int
    length: int
    texts: Tuple[str, ...]
    data_file: Path
    meta: Dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class LeRobotDataset:
    """An open dataset; see :func:`open_lerobot`."""

    root: Path
    info: Dict[str, Any]
    episodes: List[LeRobotEpisode]

    @property
    def version(self) -> str:
        return self.info["codebase_version"]

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    def picture_keys(self) -> List[str]:
        """Names of the cameras."""
        return [name for name, feature in self.info["features"].items() if feature["dtype"] in ("video", "image")]

    def column(self, episode: LeRobotEpisode, key: str) -> np.ndarray:
        """Values (T, D) float64 of a numeric feature. Raises ConfigError for an unknown one, DataError for bad rows."""
        numeric = [name for name in self.info["features"] if name not in self.picture_keys()]
        if key not in numeric:
            raise ConfigError(f'{self.root}: there is no numeric feature "{key}". There is: {", ".join(numeric)}.')
        values = np.array(self._rows(episode, key), np.float64).reshape(episode.length, -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise DataError(f"{episode.data_file}: episode {episode.index}: {key}: row {bad[0]} holds NaN or infinity.")
        return values

    def frames(self, episode: LeRobotEpisode, key: str) -> np.ndarray:
        """Pictures (T, H, W, 3) uint8 RGB of a camera, one per row. Raises ConfigError or DataError."""
        if key not in self.picture_keys():
            raise ConfigError(f'{self.root}: there is no camera "{key}". There is: {", ".join(self.picture_keys())}.')
        if self.info["features"][key]["dtype"] == "image":
            return np.stack([_decode_picture(item, episode, self.root) for item in self._rows(episode, key)])
        from cosmos1.data.video import read_frames_at

        path, start = self._video(episode, key)
        stated = np.array(self._rows(episode, "timestamp"), np.float64)
        # Late in a long episode float32, which is how times are stored, is coarser than the difference allowed.
        step = float(np.spacing(np.float32(stated.max(initial=0))))
        return read_frames_at(path, start + stated, max(LARGEST_TIME_DIFFERENCE, step))

    def _video(self, episode: LeRobotEpisode, key: str) -> Tuple[Path, float]:
        """The file of a camera and the second at which the episode begins in it."""
        template, meta = self.info["video_path"], episode.meta
        if self.version == "v3.0":
            numbers = {name: meta[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            return self.root / template.format(video_key=key, **numbers), meta[f"videos/{key}/from_timestamp"]
        chunk = episode.index // self.info["chunks_size"]
        named = template.format(video_key=key, episode_chunk=chunk, episode_index=episode.index)
        return self.root / named, 0.0

    def _rows(self, episode: LeRobotEpisode, key: str) -> List[Any]:
        import pyarrow.compute

        table = _read_parquet(episode.data_file, (key, "episode_index", "frame_index"))
        rows = table.filter(pyarrow.compute.field("episode_index") == episode.index).to_pylist()
        rows.sort(key=lambda row: row["frame_index"])
        if len(rows) != episode.length:
            raise DataError(
                f"{episode.data_file}: episode {episode.index} has {len(rows)} rows, its metadata say {episode.length}. "
                f"Get the dataset again."
            )
        return [row[key] for row in rows]


def open_lerobot(root: Path) -> LeRobotDataset:
    """Read the metadata of a dataset.

    Raises DataError for an unknown version or files that are missing or damaged, ConfigError without pyarrow.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("LeRobot datasets are read with pyarrow, which is not installed: pip install pyarrow")
    info = _read_info(root / "meta" / "info.json")
    entries = _episodes_v3(root) if info["codebase_version"] == "v3.0" else _episodes_v2(root)
    files = _files_of_episodes(root) if info["codebase_version"] == "v3.0" else {}
    episodes = []
    for entry in sorted(entries, key=lambda entry: entry["episode_index"]):
        index = entry["episode_index"]
        if info["codebase_version"] == "v3.0":
            path = files.get(index)
        else:
            chunk = index // info["chunks_size"]
            path = root / info["data_path"].format(episode_chunk=chunk, episode_index=index)
        if path is None or not path.is_file():
            raise DataError(f"{root}: no file under data/ holds episode {index} ({path}). Get the dataset again.")
        texts = tuple(part.strip() for task in entry["tasks"] for part in task.split(ALTERNATIVES) if part.strip())
        episodes.append(LeRobotEpisode(index, entry["length"], texts, path, entry))
    return LeRobotDataset(root, info, episodes)


def _read_info(path: Path) -> Dict[str, Any]:
    info = read_json(path, "Give the folder that holds meta/, data/.")
    missing = [key for key in ("codebase_version", "fps", "features", "chunks_size", "data_path") if key not in info]
    if missing:
        raise DataError(f"{path}: has no key {', '.join(missing)}. Get the dataset again.")
    if info["codebase_version"] not in VERSIONS:
        raise DataError(
            f"{path}: codebase_version {info['codebase_version']}; versions {', '.join(VERSIONS)} can be read. Convert the "
            f"dataset with LeRobot's own converter."
        )
    return info


def _episodes_v2(root: Path) -> List[Dict[str, Any]]:
    path = root / "meta" / "episodes.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Get the dataset again.")
    return [entry for _, entry in read_json_lines(path, "Get the dataset again.")]


def _episodes_v3(root: Path) -> List[Dict[str, Any]]:
    paths = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not paths:
        raise DataError(f"{root / 'meta' / 'episodes'}: no chunk-*/file-*.parquet. Get the dataset again.")
    entries = []
    for path in paths:
        names = tuple(name for name in _parquet_names(path) if not name.startswith("stats/"))
        entries += _read_parquet(path, names).to_pylist()
    return entries


def _files_of_episodes(root: Path) -> Dict[int, Path]:
    """Which data file holds each episode, by what the files themselves say."""
    found: Dict[int, Path] = {}
    for path in sorted((root / "data").glob("chunk-*/file-*.parquet")):
        for index in _read_parquet(path, ("episode_index",))["episode_index"].unique().to_pylist():
            if index in found:
                raise DataError(f"episode {index} is both in {found[index]} and in {path}. Get the dataset again.")
            found[index] = path
    return found


def _parquet_names(path: Path) -> List[str]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: is no whole parquet file ({error}). Get it again, or finalise its writer.") from error


@lru_cache(maxsize=4)
def _read_parquet(path: Path, columns: Tuple[str, ...]):
    """A table with these columns; kept for the next episode of the same file."""
    import pyarrow.parquet

    names = _parquet_names(path)
    absent = [name for name in columns if name not in names]
    if absent:
        raise DataError(f"{path}: has no column {', '.join(absent)} (columns: {', '.join(names)}).")
    try:
        # The file itself, not a dataset of folders: "chunk-000" is no partition.
        return pyarrow.parquet.ParquetFile(path).read(columns=list(dict.fromkeys(columns)))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}). Get it again.") from error


def _decode_picture(item: Any, episode: LeRobotEpisode, root: Path) -> np.ndarray:
    """A picture stored as {"bytes": ..., "path": ...}."""
    where = f"{episode.data_file}: episode {episode.index}: a picture"
    try:
        source = item.get("bytes") or root / item["path"]
    except (AttributeError, TypeError, KeyError) as error:
        raise DataError(f"{where} is {item!r:.80}, bytes or a path are needed. Get the dataset again.") from error
    return decode_picture(source, where, "Get the dataset again, or choose another camera.")
