# SPDX-License-Identifier: Apache-2.0
"""Scenes of posed pictures: nerfstudio folders (`transforms.json` beside `images/`) and the zip files of DL3DV.

Zips are read in place; nothing is extracted. A scene is one sequence of pictures in the natural order of their names,
and each picture's pose is found by its `file_path`, never by its place in the list.
"""

import json
import math
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from cosmos1.data.files import check_names, files_below
from cosmos1.data.geometry.cameras import CameraPath, check_poses, opencv_from_opengl
from cosmos1.data.pictures import decode_picture
from cosmos1.errors import DataError

TRANSFORMS = "transforms.json"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
LARGEST_ASPECT_DIFFERENCE = 0.01
LARGE_DISTORTION = 0.1


@dataclass(frozen=True)
class Scene:
    """Pictures and cameras of one scene, in the order of time."""

    name: str
    source: Path
    """A folder, or a zip file."""
    pictures: List[str]
    """Paths inside the source."""
    cameras: CameraPath
    """For pictures of the size that transforms.json states, whatever the size of the files."""
    height: int
    width: int
    """Size of the files."""
    warnings: List[str]

    def read_frames(self, start: int, count: int) -> np.ndarray:
        """Frames (count, H, W, 3) uint8 RGB; alpha is composited over white. Raises DataError for a bad picture."""
        frames = []
        with _Files(self.source) as files:
            for picture in self.pictures[start : start + count]:
                frames.append(_decode(files.read(picture), f"{self.source}: {picture}"))
                if frames[-1].shape[:2] != (self.height, self.width):
                    raise DataError(
                        f"{self.source}: {picture} is {frames[-1].shape[0]} x {frames[-1].shape[1]}, the first picture "
                        f"of the scene is {self.height} x {self.width}. Give pictures of one size."
                    )
        return np.stack(frames)


def find_scenes(folder: Path) -> Dict[str, Path]:
    """Return every *.zip below a folder and every folder that holds a transforms.json, by name, in the order of paths.

    Links to folders are followed. The name is the path below `folder`, without ".zip"; a scene that is `folder` itself
    has the folder's name. Raises DataError when there is no scene, when a zip and a folder have one name, and for a
    name that is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"--dataset_path {folder}: there is no such folder. Give the folder of the scenes.")
    scenes: Dict[str, Path] = {}
    files = list(files_below(folder))
    zips = [path for path in files if path.suffix.lower() == ".zip"]
    sources = sorted([*zips, *(path.parent for path in files if path.name == TRANSFORMS)])
    check_names(sources)
    for source in sources:
        name = folder.resolve().name
        if source != folder:
            relative = source.relative_to(folder)
            name = (relative.with_suffix("") if source.suffix.lower() == ".zip" else relative).as_posix()
        if name in scenes:
            raise DataError(
                f"--dataset_path {folder}: {scenes[name]} and {source} are both the scene {name}. Remove or rename one."
            )
        scenes[name] = source
    if not scenes:
        raise DataError(
            f"--dataset_path {folder}: no *.zip and no {TRANSFORMS} in it or below. Give the folder of DL3DV zips or of "
            f"nerfstudio scenes."
        )
    return scenes


def read_scene(source: Path, allow_unposed: bool = False, name: Optional[str] = None) -> Scene:
    """Read what a scene holds, without its pictures (only the size of the first). Its default name is that of the file.

    `allow_unposed` drops pictures without a pose and poses without a picture. Raises DataError for every other defect:
    unreadable zip, unsafe member names, missing parts, poses that are no rigid motion, lenses that are no pinhole.
    """
    name = name or (source.stem if source.suffix.lower() == ".zip" else source.name)
    with _Files(source) as files:
        root = _root(name, source, files.names)
        where = f"scene {name}: {TRANSFORMS}"
        transforms = _parse(files.read(root + TRANSFORMS), where)
        pictures = _list_pictures(name, source, root, files.names)
        frames = _match(name, pictures, transforms["frames"], allow_unposed)
        first = _decode(files.read(pictures[frames[0][0]]), f"{source}: {pictures[frames[0][0]]}")
    cameras = read_transforms({**transforms, "frames": [frame for _, frame in frames]}, where)
    aspect = first.shape[1] / first.shape[0] * cameras.height / cameras.width
    if abs(aspect - 1) > LARGEST_ASPECT_DIFFERENCE:
        raise DataError(
            f"{where}: w, h = {cameras.width}, {cameras.height}, but the pictures are {first.shape[1]} wide and "
            f"{first.shape[0]} high, another aspect ratio. Set w and h to the size for which fl_x, fl_y, cx, cy hold."
        )
    used = [pictures[stem] for stem, _ in frames]
    return Scene(name, source, used, cameras, first.shape[0], first.shape[1], _lens_warnings(transforms, where))


def read_transforms(transforms: Dict[str, Any], where: str) -> CameraPath:
    """The cameras of a transforms.json, in the order of its frames.

    Raises DataError for missing sizes or intrinsics, lenses that are no pinhole, and poses that are no rigid motion.
    """
    _check_frames(transforms, where)
    model = transforms.get("camera_model", "OPENCV")
    if model not in PINHOLE_MODELS:
        raise DataError(f"{where}: camera_model {model}; rays are those of a pinhole. Undistort the pictures first.")
    width, height = _stated_size(transforms, where)
    poses = _poses(transforms["frames"], where)
    check_poses(poses, where)
    intrinsics = np.array([_intrinsics(frame, transforms, width, where) for frame in transforms["frames"]])
    return CameraPath(opencv_from_opengl(poses), intrinsics, height, width)


class _Files:
    """The files of a folder or of a zip, by name."""

    def __init__(self, source: Path):
        self.source = source
        self.archive = None

    def __enter__(self) -> "_Files":
        if self.source.is_dir():
            self.names = [path.relative_to(self.source).as_posix() for path in files_below(self.source)]
            return self
        try:
            self.archive = zipfile.ZipFile(self.source)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.source}: cannot be read as a zip file ({error}). Get it again.") from error
        self.names = [name for name in self.archive.namelist() if not name.endswith("/")]
        for name in self.names:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name:
                raise DataError(f"{self.source}: refused, its member {name!r} points outside the archive.")
        return self

    def __exit__(self, *_) -> None:
        if self.archive is not None:
            self.archive.close()

    def read(self, name: str) -> bytes:
        try:
            return self.archive.read(name) if self.archive else (self.source / name).read_bytes()
        except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise DataError(f"{self.source}: {name} cannot be read ({error}). Get the scene again.") from error


def _root(scene: str, source: Path, names: List[str]) -> str:
    """The folder, inside the source, of the transforms.json nearest to the top: "" or "name/"."""
    found = [name for name in names if name.rsplit("/", 1)[-1] == TRANSFORMS]
    if not found:
        raise DataError(f"scene {scene}: {source} holds no {TRANSFORMS}. Scenes without poses cannot be used.")
    return min(found, key=lambda name: (name.count("/"), name))[: -len(TRANSFORMS)]


def _parse(content: bytes, where: str) -> Dict[str, Any]:
    try:
        transforms = json.loads(content)
    except ValueError:
        transforms = None
    _check_frames(transforms, where)
    return transforms


def _check_frames(transforms: Any, where: str) -> None:
    frames = transforms.get("frames") if isinstance(transforms, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise DataError(f'{where}: is not a JSON object with a list "frames" of poses. Get the scene again.')


def _number(stated: Dict[str, Any], key: str, where: str) -> float:
    try:
        return float(stated[key])
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {key} is {stated[key]!r}, a number is needed.") from error


def _stated_size(transforms: Dict[str, Any], where: str) -> Tuple[int, int]:
    missing = [key for key in ("w", "h", "fl_x", "fl_y", "cx", "cy") if not _has(transforms, key)]
    if missing:
        raise DataError(
            f"{where}: has no {', '.join(missing)}. Add the size in pixels (w, h) for which the intrinsics hold, and the "
            f"intrinsics; they are not guessed from the pictures."
        )
    width, height = (_number(transforms, key, where) for key in "wh")
    if not (1 <= width < math.inf and 1 <= height < math.inf):
        raise DataError(f"{where}: w, h = {width:g}, {height:g}; the size of the pictures in pixels is needed.")
    return int(width), int(height)


def _has(transforms: Dict[str, Any], key: str) -> bool:
    """Whether a value is stated for the scene or, as nerfstudio allows for intrinsics, for each frame."""
    return key in transforms or (key not in "wh" and all(key in frame for frame in transforms["frames"]))


def _lens_warnings(transforms: Dict[str, Any], where: str) -> List[str]:
    # Stated for the scene or, as nerfstudio allows, for each frame.
    stated = [holder for holder in (transforms, *transforms["frames"]) if "k1" in holder]
    k1 = max((_number(holder, "k1", where) for holder in stated), key=abs, default=0.0)
    if not abs(k1) <= LARGE_DISTORTION:
        return [f"{where}: k1 = {k1:g} is a large distortion, which the rays do not follow. Undistort the pictures."]
    return []


def _intrinsics(frame: Dict[str, Any], transforms: Dict[str, Any], width: int, where: str) -> List[float]:
    values = [_number(transforms | frame, key, where) for key in ("fl_x", "fl_y", "cx", "cy")]
    if not np.isfinite(values).all() or not 0.1 < values[0] / width < 20:
        raise DataError(
            f"{where}: fl_x = {values[0]:g} for pictures {width} wide. Focal lengths and principal point are needed in "
            f"pixels of w x h, not divided by them."
        )
    return values


def _list_pictures(scene: str, source: Path, root: str, names: List[str]) -> Dict[str, str]:
    """Pictures of the scene by file name without suffix; of images, images_2, images_4, ... the first that exists."""
    folders: Dict[str, Dict[str, str]] = {}
    for name in names:
        path = PurePosixPath(name[len(root) :])
        inside = name.startswith(root) and len(path.parts) == 2 and path.parts[0].startswith("images")
        if inside and path.suffix.lower() in PICTURE_SUFFIXES:
            folders.setdefault(path.parts[0], {})[path.stem] = name
    if not folders:
        raise DataError(f"scene {scene}: {source} has no pictures in {root}images/ (png or jpg).")
    return folders[min(folders, key=_natural)]


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _match(
    name: str, pictures: Dict[str, str], frames: List[Dict[str, Any]], allow_unposed: bool
) -> List[Tuple[str, Dict[str, Any]]]:
    """Pair picture names with their entries of transforms.json by `file_path`, in the natural order of the names."""
    posed = {PurePosixPath(str(frame.get("file_path"))).stem: frame for frame in frames}
    unposed = sorted(set(pictures) - set(posed), key=_natural)
    absent = sorted(set(posed) - set(pictures), key=_natural)
    problems = f"scene {name}: {len(pictures)} images but {len(frames)} poses"
    if len(posed) < len(frames):
        raise DataError(f"{problems}; some poses name the same file_path. Remove the repeated entries.")
    if unposed or absent:
        first = f"{pictures[unposed[0]]} has no entry" if unposed else f"{posed[absent[0]]['file_path']} has no file"
        if not allow_unposed or len(unposed) == len(pictures):
            raise DataError(
                f"{problems}; {len(unposed)} images have no entry in {TRANSFORMS} and {len(absent)} entries have no file "
                f"(first: {first}). Poses belong to pictures by file_path. Scene skipped; use --allow_unposed to drop "
                f"those frames."
            )
    return [(stem, posed[stem]) for stem in sorted(set(pictures) & set(posed), key=_natural)]


def _poses(frames: List[Dict[str, Any]], where: str) -> np.ndarray:
    matrices = []
    for frame in frames:
        try:
            matrix = np.array(frame["transform_matrix"], np.float64)
        except (KeyError, ValueError, TypeError):
            matrix = np.zeros(0)
        if matrix.shape != (4, 4):
            raise DataError(
                f"{where}: transform_matrix of {frame.get('file_path')} has shape {matrix.shape}, (4, 4) is needed."
            )
        matrices.append(matrix)
    return np.stack(matrices)


def _decode(content: bytes, where: str) -> np.ndarray:
    return decode_picture(content, where, "Get the scene again.")
