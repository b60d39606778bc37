# SPDX-License-Identifier: Apache-2.0
"""Videos with instructions: the two folder layouts, and which clips of which video get which text.

    <root>/videos/<id>.mp4    <root>/instructions/<id>.json   {"language_instruction_0": "<text>", ...}
or the annotations of a Bridge tree, whose `texts` are the instructions.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from cosmos1.data.command_line import first_names, use_each
from cosmos1.data.sources.bridge import list_annotations, read_episode
from cosmos1.data.sources.clip_plan import PlannedVideo, draw_starts, list_mp4_files, usable_videos
from cosmos1.errors import DataError

Sampling = Literal["first", "random", "all"]


@dataclass(frozen=True)
class InstructedVideo:
    """One video and its instructions, the wanted one first."""

    name: str
    path: Path
    texts: tuple[str, ...]


def read_instruction_folder(root: Path, key: str, sampling: Sampling) -> tuple[list[InstructedVideo], list[str]]:
    """Pair the videos of a folder with their instruction files, in name order.

    `key` names the instruction in the JSON; unless `sampling` is "first", the keys that differ from it in the number at
    the end count too. Returns one line per video that cannot be used and per instruction file without a video. Raises
    DataError when a folder is missing or no pair is left.
    """
    folders = root / "videos", root / "instructions"
    if not all(folder.is_dir() for folder in folders):
        missing = " and ".join(str(folder) for folder in folders if not folder.is_dir())
        raise DataError(
            f"--dataset_path {root}: missing {missing}. An instruction dataset has {folders[0]}/<id>.mp4 and "
            f"{folders[1]}/<id>.json; for a Bridge tree add --bridge_split train."
        )
    paths = list_mp4_files(folders[0])

    def read(path: Path) -> InstructedVideo:
        return InstructedVideo(path.name, path, read_instructions(folders[1] / f"{path.stem}.json", key, sampling))

    videos, problems = use_each(paths, read)
    names = {path.stem for path in paths}
    orphans = sorted(path.name for path in folders[1].glob("*.json") if path.stem not in names)
    if orphans:
        shown = first_names(orphans)
        problems.append(f"{folders[1]}: {len(orphans)} instruction files have no video ({shown}); not used.")
    if not videos:
        raise DataError("\n".join([*problems, f"{root}: no video has an instruction, nothing to do."]))
    return videos, problems


def read_instructions(path: Path, key: str, sampling: Sampling) -> tuple[str, ...]:
    """The instruction under `key`, and the other numbered ones if wanted. Raises DataError naming file and key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such file; its video has no instruction. Write it, or remove the video."
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}. Mend the JSON.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    if not isinstance(content, dict) or key not in content:
        keys = ", ".join(f'"{name}"' for name in content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f'{path} has no key "{key}" (keys: {keys}). Pass --instruction_key, or rename the key.')
    stem = key.rstrip("0123456789")
    siblings = [name for name in content if stem != key and re.fullmatch(re.escape(stem) + r"\d+", name)]
    wanted = [key] if sampling == "first" else [key, *sorted(set(siblings) - {key})]
    for name in wanted:
        if not isinstance(content[name], str) or not content[name].strip():
            raise DataError(f'{path}: "{name}" is {content[name]!r}; a text that is not empty is needed.')
    return tuple(content[name].strip() for name in wanted)


def read_bridge_instructions(
    root: Path, split: str, camera: int, action_dim: int, sampling: Sampling
) -> tuple[list[InstructedVideo], list[str]]:
    """The videos and texts of a Bridge split; as :func:`read_instruction_folder`."""

    def read(path: Path) -> InstructedVideo:
        episode = read_episode(root, path, action_dim)
        texts = episode.texts[:1] if sampling == "first" else episode.texts
        if not texts or not all(texts):
            raise DataError(f"{path}: texts is {list(episode.texts)}; a text that is not empty is needed.")
        return InstructedVideo(f"{path.stem}/rgb.mp4", episode.video(camera), texts)

    videos, problems = use_each(list_annotations(root, split), read)
    if not videos:
        raise DataError("\n".join([*problems, f"{root}: split {split}: no episode can be used, nothing to do."]))
    return videos, problems


def plan_instructions(
    videos: list[InstructedVideo], num_frames: int, num_chunks: int, seed: int, sampling: Sampling, strict: bool
) -> tuple[list[PlannedVideo], list[str]]:
    """Probe every video and settle its clips and their texts.

    A video with fewer than `num_chunks` different clips gives each of them once; others give `num_chunks` drawn with
    replacement. Each clip gets the first text, one drawn text ("random"), or appears once with each text ("all").
    Raises what :func:`usable_videos` raises.
    """
    usable, left_out = usable_videos([video.path for video in videos], num_frames, strict)
    planned: list[PlannedVideo] = []
    next_index = 0
    for index, info, length in usable:
        video = videos[index]
        last_start = length - num_frames
        if last_start + 1 < num_chunks:
            starts = tuple(range(last_start + 1))
        else:
            starts = draw_starts(video.name, last_start, num_chunks, seed)
        for text, chosen in _texts_of_clips(video, starts, seed, sampling):
            planned.append(PlannedVideo(info, text, chosen, next_index, video.name))
            next_index += len(chosen)
    return planned, left_out


def _texts_of_clips(video: InstructedVideo, starts: tuple[int, ...], seed: int, sampling: Sampling) -> list[tuple]:
    """Pairs (text, starts of its clips)."""
    if sampling != "random" or len(video.texts) == 1:
        return [(text, starts) for text in (video.texts if sampling == "all" else video.texts[:1])]
    drawn = draw_starts(f"texts of {video.name}", len(video.texts) - 1, len(starts), seed)
    # `draw_starts` sorts; the texts must not follow the order of the clips.
    order = np.random.RandomState([seed % 2**32, len(starts)]).permutation(len(starts))
    chosen = [drawn[place] for place in order]
    groups = [(text, [s for s, c in zip(starts, chosen) if c == number]) for number, text in enumerate(video.texts)]
    return [(text, tuple(group)) for text, group in groups if group]


def with_frame_rate(planned: list[PlannedVideo], fps: float) -> list[PlannedVideo]:
    """The same plan with another frame rate recorded than the containers declare."""
    return [replace(video, info=replace(video.info, fps=fps)) for video in planned]
