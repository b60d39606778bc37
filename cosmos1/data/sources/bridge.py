# SPDX-License-Identifier: Apache-2.0
"""Reader of the Bridge / IRASim tree of robot episodes, which refuses what would train a wrong motion.

    <root>/annotation/{train,val,test}/<episode>.json     texts, videos, state T x 7, action (T-1) x 7, gripper T
    <root>/videos/{train,val,test}/<episode>/rgb.mp4       T frames; beside it, optional, state.npy (T, 8)

Trees of other robots have the same layout. Where actions have another width, or the annotation says
"action_kind": "recorded", states need not be poses, and only shapes and values are checked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from cosmos1.data.command_line import first_names
from cosmos1.data.files import check_names, read_json
from cosmos1.data.geometry.actions import ACTION_CONVENTIONS, BRIDGE_ACTION_DIM, bridge_actions
from cosmos1.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "val", "test")
LARGEST_ACTION_DIFFERENCE = 1e-4
STATE_FILE_WIDTH = 8


@dataclass(frozen=True)
class Episode:
    """One checked annotation. `state` (T, S), `action` (T-1, A) and `gripper` (T,) are float64."""

    name: str
    annotation: Path
    texts: Tuple[str, ...]
    videos: Tuple[Path, ...]
    state: "np.ndarray"
    action: "np.ndarray"
    gripper: "np.ndarray"
    has_poses: bool = True
    """Whether states are poses from which actions can be computed; otherwise actions are recorded numbers."""

    @property
    def text(self) -> str:
        """The instruction; empty where the annotation has none."""
        return self.texts[0] if self.texts else ""

    @property
    def num_frames(self) -> int:
        return len(self.state)

    def video(self, camera: int) -> Path:
        """File of a camera. Raises DataError when the episode has no such camera."""
        if not 0 <= camera < len(self.videos):
            raise DataError(
                f"{self.annotation}: camera {camera} is asked for, but {len(self.videos)} are listed under "
                f'"videos". Use 0 to {len(self.videos) - 1} (data.cam_ids, --camera).'
            )
        return self.videos[camera]


def read_episodes(root: Path, split: str, action_dim: int = BRIDGE_ACTION_DIM) -> Tuple[List[Episode], List[str]]:
    """Read every annotation of a split, in the order of episode numbers; no video is opened.

    Returns the episodes and one line for each that is skipped because it has fewer than two frames. Raises ConfigError
    for an unknown split, and DataError naming the file for anything that is missing or does not fit together.
    """
    episodes, skipped = [], []
    for path in list_annotations(root, split):
        episode = read_episode(root, path, action_dim)
        if episode.num_frames < 2:
            skipped.append(f"{path}: {episode.num_frames} frames, a motion needs 2; skipped")
        else:
            episodes.append(episode)
    if not episodes:
        raise DataError("\n".join([*skipped, f"{root}: split {split} has no episode of two or more frames."]))
    return episodes, skipped


def list_annotations(root: Path, split: str) -> List[Path]:
    """Annotation files of a split, by number where all names are numbers. Raises ConfigError or DataError."""
    if split not in SPLITS:
        raise ConfigError(f'there is no split "{split}". Use one of {", ".join(SPLITS)}.')
    folder = root / "annotation" / split
    paths = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
    if not paths:
        there = [name for name in SPLITS if any((root / "annotation" / name).glob("*.json"))]
        state = "is empty" if folder.is_dir() else "does not exist"
        raise DataError(
            f"{folder} {state}; splits that exist under {root}: {', '.join(there) or 'none'}. Give the folder that "
            f"holds annotation/ and videos/."
        )
    check_names(paths)
    _check_video_folders(root, split, {path.stem for path in paths})
    return sorted(paths, key=lambda path: (not path.stem.isdigit(), int(path.stem) if path.stem.isdigit() else 0, path))


def _check_video_folders(root: Path, split: str, annotated: "set[str]") -> None:
    folder = root / "videos" / split
    if not folder.is_dir():
        return  # The annotations may name videos elsewhere; each is checked when it is read.
    filmed = {path.name for path in folder.iterdir() if path.is_dir()}
    unknown, missing = sorted(filmed - annotated), sorted(annotated - filmed)
    if unknown:
        raise DataError(
            f"{root}: split {split}: {len(unknown)} video folders have no annotation ({first_names(unknown)}), and "
            f"{len(missing)} annotations have no video folder ({first_names(missing)}). Download the missing files, or move "
            f"the others away."
        )


def read_episode(root: Optional[Path], path: Path, action_dim: int = BRIDGE_ACTION_DIM) -> Episode:
    """Read and check one annotation. Raises DataError naming the episode, what was found and what is needed.

    Without `root` its videos are not looked for, and the episode has none.
    """
    raw = _read_annotation(path)
    where = f"{path}: episode {path.stem}"
    arrays = {key: _array(raw[key], f"{where}: {key}") for key in ("state", "action", "continuous_gripper_state")}
    state, action, gripper = arrays.values()
    length = len(state)
    if action.size == 0:
        action = action.reshape(0, action_dim)
    if len(action) != length - 1 or gripper.shape != (length,):
        raise DataError(
            f"{where}: {length} states need {length - 1} actions and {length} gripper values, found {len(action)} and "
            f"{len(gripper)}. Get the annotation again, or remove the episode."
        )
    has_poses = action_dim == BRIDGE_ACTION_DIM and raw.get("action_kind", "pose") == "pose"
    state_dim = BRIDGE_ACTION_DIM if has_poses else None
    for key, array, width in (("state", state, state_dim), ("action", action, action_dim)):
        if array.ndim != 2 or (width is not None and array.shape[1] != width):
            raise DataError(
                f"{where}: {key} has shape {array.shape}, rows of {width or 'equal length'} are needed. For a robot "
                f"with other actions set their width (data.action_dim, --action_dim)."
            )
    if has_poses and length > 1:
        _check_actions(where, state, action)
    videos = _video_paths(root, path, raw["videos"]) if root else ()
    return Episode(path.stem, path, _texts(raw, where), videos, state, action, gripper, has_poses)


def _read_annotation(path: Path) -> Dict[str, Any]:
    needed = ("state", "action", "continuous_gripper_state", "videos")
    raw = read_json(path, "Get the annotation again.")
    missing = [key for key in needed if not isinstance(raw, dict) or key not in raw]
    if missing:
        raise DataError(f"{path}: has no key {', '.join(missing)}. A Bridge annotation has {', '.join(needed)}.")
    return raw


def _array(rows: Any, where: str) -> "np.ndarray":
    import numpy as np

    try:
        array = np.array(rows, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: is no table of numbers with rows of one length ({error}).") from error
    if array.ndim == 0:
        raise DataError(f"{where}: is {rows!r}, a list with one row per frame is needed.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
    if len(bad):
        raise DataError(f"{where}: row {bad[0]} holds NaN or infinity: {rows[bad[0]]}. Remove the episode.")
    return array


def _check_actions(where: str, state: "np.ndarray", action: "np.ndarray") -> None:
    """Catch mix-ups of frames and conventions: the recorded actions must be the motion between the states."""
    import numpy as np

    expected = bridge_actions(state, state[:, 6])
    difference = np.abs(action - expected)
    # An angle of -pi and one of pi are the same turn.
    difference[:, 3:6] = np.minimum(difference[:, 3:6], 2 * np.pi - difference[:, 3:6])
    step = int(difference.max(axis=1).argmax())
    if difference[step].max() > LARGEST_ACTION_DIFFERENCE:
        raise DataError(
            f"{where}: action {step} is {_numbers(action[step])}, but the states give {_numbers(expected[step])} (motion in "
            f"the frame of the earlier state, then the gripper bit of the later one). The file follows another "
            f"convention: convert it, or set the width of its actions (data.action_dim) if they are no poses."
        )


def _numbers(row: "np.ndarray") -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in row) + "]"


def _video_paths(root: Path, annotation: Path, entries: Any) -> Tuple[Path, ...]:
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{annotation}: videos is {entries!r}, a list with one entry per camera is needed.")
    return tuple(_video_path(root, annotation, entry) for entry in entries)


def _video_path(root: Path, annotation: Path, entry: Any) -> Path:
    named = entry.get("video_path") if isinstance(entry, dict) else None
    if not isinstance(named, str) or not (root / named).is_file():
        raise DataError(
            f"{annotation}: lists the video {named}, but there is no file {root / str(named)}. Download it, or remove "
            f"the episode."
        )
    return root / named


def _texts(raw: Dict[str, Any], where: str) -> Tuple[str, ...]:
    texts = raw.get("texts", [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: texts is {texts!r}, a list of strings is needed.")
    return tuple(text.strip() for text in texts)


def actions_between(episode: Episode, frames: List[int], convention: str, from_first: bool = False) -> "np.ndarray":
    """Actions (len(frames) - 1, A), scaled, between consecutive frames of a window.

    `convention` is a name of ACTION_CONVENTIONS; "json" needs frames that follow one another and is the only one for
    actions that are not Bridge's (see :func:`check_convention`).
    """
    import numpy as np

    rule = ACTION_CONVENTIONS[convention]
    if not rule.recomputed:
        return episode.action[frames[0] : frames[-1]]
    gripper = episode.gripper if rule.continuous_gripper else episode.state[:, 6]
    return bridge_actions(episode.state[frames], gripper[frames], from_first) * np.array(rule.scale)


def check_convention(convention: str, action_dim: int, interval: int = 1, from_first: bool = False) -> None:
    """Raise ConfigError for a convention that does not exist, or that cannot give the actions asked for."""
    if convention not in ACTION_CONVENTIONS:
        raise ConfigError(f'there is no action convention "{convention}". Use {", ".join(ACTION_CONVENTIONS)}.')
    recomputed = ACTION_CONVENTIONS[convention].recomputed
    if recomputed and action_dim != BRIDGE_ACTION_DIM:
        raise ConfigError(
            f'action convention "{convention}" computes actions of {BRIDGE_ACTION_DIM} numbers from poses; '
            f'action_dim={action_dim} needs the recorded actions: use the convention "json".'
        )
    if not recomputed and (interval > 1 or from_first):
        raise ConfigError(
            f'action convention "{convention}" has one recorded action per frame: with sequence_interval={interval}, '
            f'accumulate_action={from_first} the motion must be recomputed. Use the convention "scaled".'
        )


def check_poses(episode: Episode, convention: str) -> None:
    """Raise DataError when the convention computes actions from poses and the episode has none."""
    if ACTION_CONVENTIONS[convention].recomputed and not episode.has_poses:
        raise DataError(
            f"{episode.annotation}: its actions are recorded numbers, not motions between poses; the convention "
            f'"{convention}" cannot be computed. Use the convention "json".'
        )


def check_frame_count(episode: Episode, camera: int, num_frames: int) -> None:
    """Raise DataError unless the video has as many frames as the annotation has states."""
    if num_frames != episode.num_frames:
        path = episode.video(camera)
        raise DataError(
            f"episode {episode.name}: {path} has {num_frames} frames but {episode.annotation} lists "
            f"{episode.num_frames} states. One of both is cut or belongs to another episode: get them again, or remove "
            f"the episode."
        )


def read_state_file(episode: Episode) -> "Optional[np.ndarray]":
    """The array (T, 8) of `state.npy` beside the first video, None without one. Raises DataError on another shape.

    Its roll differs from the annotation's by pi and its gripper bit has another time base: do not mix the two.
    """
    import numpy as np

    path = episode.videos[0].parent / "state.npy"
    if not path.exists():
        return None
    try:
        state = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an array ({error}). Get it again, or delete it.") from error
    if state.shape != (episode.num_frames, STATE_FILE_WIDTH):
        raise DataError(
            f"episode {episode.name}: {path} has shape {state.shape}, ({episode.num_frames}, {STATE_FILE_WIDTH}) is "
            f"needed: one row per frame. Get it again, or delete it."
        )
    return state
