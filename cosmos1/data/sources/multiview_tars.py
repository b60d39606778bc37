# SPDX-License-Identifier: Apache-2.0
"""Recordings of the driving data set: one tar per clip, and captions as T5 embeddings in tars of their own.

Members of `<clip>.tar`, all prefixed `<clip>.`: `<camera>.mp4`, `<camera>.json` (time stamps), `egomotion.npz`,
`live_egomotion.npz`, `rig.json`. Captions: `<caption folder>/<chunk>/mapping.json` maps "<clip>.<camera>" to a tar with
the member `<clip>.<camera>.bin` (a pickled list of float16 arrays, one per chunk); the .json beside that tar holds the
described frames. Pickles are read with a loader that makes arrays and plain values only.
"""

import io
import json
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from cosmos1.data.files import check_names, files_below, json_object
from cosmos1.data.geometry.rigs import pose_in_rig
from cosmos1.data.geometry.rotations import rotation_of_quaternion
from cosmos1.data.geometry.trajectories import EgoTrack, check_track
from cosmos1.data.plain_pickle import ARRAY_BUILDERS, load_plain_pickle
from cosmos1.data.sources.multiview_clips import Caption, MultiviewClip, read_timestamps, usable_track, view_timestamps
from cosmos1.data.text_rows import checked_text_rows
from cosmos1.errors import DataError

AGAIN = "Get the file again."
SHORTEST_TRACK_SECONDS = 20.0
CAPTION_ROOT = "qwen_t5_tars"
TRACK_COLUMNS = ("timestamp", "x", "y", "z", "qw", "qx", "qy", "qz")


class TarClips:
    """The clips of a folder of tars, found at any depth, with their captions.

    Raises DataError when there is no tar or no mapping of captions, and when two tars have one name.
    """

    def __init__(self, folder: Path, caption_folder: Path):
        self.paths = _tars_by_name(folder)
        if not self.paths:
            raise DataError(f"--dataset_path {folder}: no <clip>.tar in it or below.")
        self.captions = _read_mappings(caption_folder)

    def names(self) -> List[str]:
        return sorted(self.paths)

    def read(self, name: str, cameras: List[str]) -> MultiviewClip:
        """Read a clip without its frames; its videos are extracted for a moment to be checked.

        Raises DataError for members that are missing or damaged and for what `view_timestamps` finds. Ego motion that
        cannot be used is no error here: `track_problem` says why.
        """
        path = self.paths[name]
        with _open(path) as archive:
            members = set(archive.getnames())
            present = [camera for camera in cameras if {f"{name}.{camera}.mp4", f"{name}.{camera}.json"} <= members]
            if len(present) < len(cameras):
                absent = ", ".join(camera for camera in cameras if camera not in present)
                raise DataError(f"clip {name}: {path} has no video or time stamps of {absent}; present: {present}.")
            stated = {camera: _times(archive, name, camera) for camera in cameras}
            track, problem = None, ""
            if f"{name}.egomotion.npz" in members:
                track, problem = usable_track(lambda: read_egomotion(archive, name))
        with _extracted(path, name, cameras) as videos:
            timestamps = view_timestamps(name, videos, stated)
        found = {camera: self._caption(name, camera) for camera in cameras}
        windows = [window for _, window in found.values() if window is not None]
        return MultiviewClip(
            name,
            timestamps,
            {camera: rows for camera, (rows, _) in found.items()},
            lambda: _extracted(path, name, cameras),
            track,
            problem,
            windows[0] if windows else None,
        )

    def _caption(self, name: str, camera: str) -> "Tuple[Optional[Caption], Optional[Tuple[int, int]]]":
        """The rows (n, 1024) of the first chunk's caption and the frames that it describes."""
        path = self.captions.get(f"{name}.{camera}")
        if path is None:
            return None, None
        member = f"{name}.{camera}.bin"
        with _open(path) as archive:
            chunks = load_plain_pickle(_read(archive, member), f"{path}: {member}", ARRAY_BUILDERS)
        if not isinstance(chunks, list) or not chunks:
            raise DataError(f"{path}: {member} holds no list of arrays.")
        return checked_text_rows(chunks[0], f"{path}: {member}"), _window(path.with_suffix(".json"), name)


def _tars_by_name(folder: Path) -> Dict[str, Path]:
    paths = [path for path in files_below(folder) if path.suffix.lower() == ".tar"]
    check_names(paths)
    found: Dict[str, Path] = {}
    for path in paths:
        if not found.setdefault(path.stem, path).samefile(path):
            raise DataError(
                f"--dataset_path {folder}: {found[path.stem]} and {path} are both the clip {path.stem}. Members are found "
                f"by the clip's name, so do not rename: remove one, or prepare the folders apart."
            )
    return found


def _read_mappings(folder: Path) -> Dict[str, Path]:
    """Caption tar by "<clip>.<camera>"; entries whose tar or its .json is not there are dropped."""
    found: Dict[str, Path] = {}
    mappings = [path for path in files_below(folder) if path.name == "mapping.json"]
    if not mappings:
        raise DataError(f"--caption_tars {folder}: no mapping.json in it or below.")
    for mapping in mappings:
        for key, stated in json_object(mapping.read_bytes(), str(mapping), AGAIN).items():
            # Paths are those of the machine that wrote them: only the part below the caption folder counts.
            relative = str(stated).rpartition(f"{CAPTION_ROOT}/")[2]
            candidates = [folder / relative, mapping.parent / relative, mapping.parent.parent / relative]
            usable = [path for path in candidates if path.exists() and path.with_suffix(".json").exists()]
            if usable:
                found[key] = usable[0]
    return found


def _window(path: Path, name: str) -> Optional[Tuple[int, int]]:
    """First and last frame of the first chunk, from the lowest view of the clip."""
    try:
        views = json.loads(path.read_text())[name]
        _, _, starts, ends = views[min(views, key=int)]
        return int(starts[0]), int(ends[0])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: no caption frames of clip {name} ({error!r}).") from error


def _times(archive: tarfile.TarFile, name: str, camera: str) -> np.ndarray:
    return read_timestamps(_read(archive, f"{name}.{camera}.json"), f"clip {name}: {camera}.json")


def read_egomotion(archive: tarfile.TarFile, name: str) -> EgoTrack:
    """The offline ego motion, of the rig. Raises DataError when it is too short, has gaps, or is of no known sensor."""
    where = f"clip {name}: egomotion.npz"
    table = _read_table(_read(archive, f"{name}.egomotion.npz"), where)
    missing = [column for column in TRACK_COLUMNS if column not in table]
    if missing:
        raise DataError(f"{where}: has no column {', '.join(missing)}.")
    try:
        columns = [np.array(table[column], np.float64) for column in TRACK_COLUMNS]
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: a column holds something else than numbers ({error}).") from error
    track = EgoTrack(columns[0].astype(np.int64), np.stack(columns[1:4], axis=1), np.stack(columns[4:], axis=1))
    check_track(track, where)
    seconds = float(track.times_us[-1] - track.times_us[0]) / 1e6
    if seconds < SHORTEST_TRACK_SECONDS:
        raise DataError(f"{where}: {seconds:.1f} s of ego motion, at least {SHORTEST_TRACK_SECONDS:g} s are needed.")
    frames = sorted({str(frame) for frame in table.get("coordinate_frame", ["rig"])})
    if frames == ["rig"]:
        return track
    rig = f"{name}.rig.json"
    return _of_rig(
        track, frames, _sensor_poses(json_object(_read(archive, rig), f"clip {name}: {rig}", AGAIN), rig), where
    )


def _sensor_poses(rig: Dict[str, Any], where: str) -> Dict[str, np.ndarray]:
    """Pose (4, 4) of each sensor in the rig, as `pose_in_rig` gives it. Raises DataError for what is no rig."""
    try:
        nominals = {sensor["name"]: sensor.get("nominalSensor2Rig_FLU") for sensor in rig["rig"]["sensors"]}
        return {name: pose_in_rig(at["t"], at["roll-pitch-yaw"]) for name, at in nominals.items() if at is not None}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'{where}: has no "rig" with "sensors" of name and nominalSensor2Rig_FLU: t, roll-pitch-yaw ({error!r}). Get the '
            f"clip again."
        ) from error


def _of_rig(track: EgoTrack, frames: List[str], sensors: Dict[str, np.ndarray], where: str) -> EgoTrack:
    """Move poses of a sensor to the rig that carries it."""
    from scipy.spatial.transform import Rotation

    if len(frames) > 1 or frames[0] not in sensors:
        raise DataError(f"{where}: poses are of {frames}; the rig's sensors are {sorted(sensors)}.")
    sensor = sensors[frames[0]]
    # The sensor's own axes are forward, left, up: undo the turn to optical axes.
    rotation = sensor[:3, :3] @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0.0]])
    world_from_sensor = rotation_of_quaternion(track.quaternions)
    world_from_rig = world_from_sensor @ rotation.T
    positions = track.positions - np.einsum("nij,j->ni", world_from_rig, sensor[:3, 3])
    quaternions = Rotation.from_matrix(world_from_rig).as_quat()[:, [3, 0, 1, 2]]
    return EgoTrack(track.times_us, positions, quaternions)


def _read_table(content: bytes, where: str) -> Dict[str, List[Any]]:
    """Columns by name of an npz with `labels_keys` (K,) and `labels_data` (N, K), which are pickled object arrays."""
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            keys, data = (_read_array(archive.read(f"{name}.npy"), where) for name in ("labels_keys", "labels_data"))
        return {str(key): list(column) for key, column in zip(keys, np.asarray(data).T)}
    except DataError:
        raise
    except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{where}: needs labels_keys and labels_data ({error!r}).") from error


def _read_array(content: bytes, where: str) -> np.ndarray:
    """One .npy. Object arrays are unpickled by the restricted loader."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject:
        return np.load(io.BytesIO(content))
    return np.asarray(load_plain_pickle(stream.read(), where, ARRAY_BUILDERS)).reshape(shape)


@contextmanager
def _extracted(path: Path, name: str, cameras: List[str]) -> Iterator[Dict[str, Path]]:
    """The videos of a clip as files in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, _open(path) as archive:
        # The names of the members, which messages about damaged videos repeat.
        videos = {camera: Path(folder) / f"{name}.{camera}.mp4" for camera in cameras}
        for video in videos.values():
            video.write_bytes(_read(archive, video.name))
        yield videos


def _open(path: Path) -> tarfile.TarFile:
    try:
        archive = tarfile.open(path)  # noqa: SIM115, the caller closes it
        archive.getmembers()  # A file that was cut opens, and shows it only when it is listed.
        return archive
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be read as a tar file ({error}). Get it again.") from error


def _read(archive: tarfile.TarFile, member: str) -> bytes:
    try:
        return archive.extractfile(member).read()
    except (KeyError, OSError, tarfile.TarError, AttributeError) as error:
        raise DataError(f"{archive.name}: member {member} cannot be read ({error}). Get the file again.") from error
