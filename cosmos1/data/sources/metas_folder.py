# SPDX-License-Identifier: Apache-2.0
"""The folder layout of cosmos-predict1's training on raw pixels: videos, captions, and texts that were encoded already.

<root>/videos/<name>.mp4
<root>/metas/<name>.txt        the caption; a .json beside it is not read
<root>/t5_xxl/<name>.pickle    optional: T5 rows of the caption (or .pkl, .npy, .safetensors; data/text_rows.py)
"""

from pathlib import Path
from typing import Optional

from cosmos1.data.command_line import first_names, use_each
from cosmos1.data.sources.captions import read_caption_file
from cosmos1.data.sources.clip_plan import DescribedVideo, list_mp4_files
from cosmos1.data.text_rows import ROW_FILE_SUFFIXES, read_text_rows
from cosmos1.errors import DataError

VIDEOS, CAPTIONS, TEXT_ROWS = "videos", "metas", "t5_xxl"


def is_metas_folder(root: Path) -> bool:
    """Whether a folder has the part of the layout that holds texts."""
    return (root / CAPTIONS).is_dir() or (root / TEXT_ROWS).is_dir()


def read_metas_folder(root: Path, default_prompt: Optional[str]) -> tuple[list[DescribedVideo], list[str]]:
    """Pair the videos of a folder with their captions and T5 rows, in name order; every file of rows is checked.

    A video needs one of both, or the default prompt where it has neither. Returns one line per video whose text is
    missing or damaged, and per kind of file that belongs to no video. Raises DataError when videos/ is missing or no
    video is left.
    """
    folder = root / VIDEOS
    if not folder.is_dir():
        raise DataError(
            f"--dataset_path {root}: missing {folder}. A folder with {CAPTIONS}/ or {TEXT_ROWS}/ has "
            f"{folder}/<name>.mp4, {root / CAPTIONS}/<name>.txt and, optionally, {root / TEXT_ROWS}/<name>.pickle."
        )
    paths = list_mp4_files(folder)
    videos, problems = use_each(paths, lambda path: _describe(root, path, default_prompt))
    problems += _unused(root, {path.stem for path in paths})
    if not videos:
        raise DataError("\n".join([*problems, f"{root}: no video has a text, nothing to do."]))
    return videos, problems


def _describe(root: Path, path: Path, default_prompt: Optional[str]) -> DescribedVideo:
    caption = root / CAPTIONS / f"{path.stem}.txt"
    found = [root / TEXT_ROWS / f"{path.stem}{suffix}" for suffix in ROW_FILE_SUFFIXES]
    found = [candidate for candidate in found if candidate.exists()]
    if len(found) > 1:
        raise DataError(f"{path}: has {len(found)} texts, {' and '.join(map(str, found))}. Keep one of them.")
    text = read_caption_file(caption) if caption.exists() else ""
    if found:
        read_text_rows(found[0])
        return DescribedVideo(path, text, has_caption=bool(text), text_rows=found[0])
    if caption.exists() and not text:
        raise DataError(f"{caption}: is empty; its video has no text. Write the caption, or remove the video.")
    if not caption.exists() and default_prompt is None:
        raise DataError(
            f"{caption}: there is no such file, and no {root / TEXT_ROWS}/{path.stem}.pickle; its video has no text. "
            f"Write one, or give --prompt for all such videos."
        )
    return DescribedVideo(path, text or str(default_prompt), has_caption=bool(text))


def _unused(root: Path, names: set[str]) -> list[str]:
    """One line per kind of file that no video of these names goes with."""
    lines = []
    for folder, suffixes in ((CAPTIONS, (".txt",)), (TEXT_ROWS, ROW_FILE_SUFFIXES)):
        files = [path for path in (root / folder).glob("[!.]*") if path.suffix.lower() in suffixes]
        orphans = sorted(path.name for path in files if path.stem not in names)
        if orphans:
            lines.append(f"{root / folder}: {len(orphans)} files have no video ({first_names(orphans)}); not used.")
    beside = sorted(path.name for path in root.glob("[!.]*") if path.suffix.lower() == ".mp4")
    if beside:
        lines.append(f"{root}: {len(beside)} videos are not in {VIDEOS}/ ({first_names(beside)}); not used.")
    return lines
