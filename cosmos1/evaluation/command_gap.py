# SPDX-License-Identifier: Apache-2.0
"""Scores of generated videos under their own command and under those of other videos.

A shuffled control need not be generated for this: a video that obeys its own command does not obey another's.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Dict

from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.control_gap import ControlScore, Scores, compare_controls, report_controls


def add_command_options(parser: argparse.ArgumentParser) -> None:
    """The options that these metrics share."""
    parser.add_argument("--output", type=Path, help="write the results to this .json")
    parser.add_argument("--num_shuffles", type=int, default=3, help="compare with so many commands of other videos")


def measure_commands(
    names: Sequence[str],
    score: Callable[[str, str], Scores],
    scores: Sequence[ControlScore],
    options: argparse.Namespace,
) -> Dict[str, Any]:
    """Score every video under its own command and under those of the next `--num_shuffles` videos; print and write.

    `score(video, command)` returns numbers by score name. Raises DataError for fewer than two videos and for NaN.
    """
    from cosmos1.progress import Progress

    if len(names) < 2:
        raise DataError(f"{len(names)} videos: at least 2 are needed to compare a command with that of another video.")
    if options.num_shuffles < 1:
        raise ConfigError(f"--num_shuffles {options.num_shuffles}: at least 1 is needed.")
    shifts = range(1, min(options.num_shuffles, len(names) - 1) + 1)
    progress = Progress(len(names), "videos")
    videos = []
    for index, name in enumerate(names):
        others = [score(name, names[(index + shift) % len(names)]) for shift in shifts]
        videos.append({"name": name, "true": score(name, name), "shuffled": others})
        progress.advance()
    results = compare_controls(scores, videos)
    report_controls(results, options.output)
    return results


def generated_videos(folder: Path) -> Dict[str, Path]:
    """The *.mp4 of a folder by name without suffix. Raises DataError when there is none."""
    videos = {path.stem: path for path in sorted(folder.glob("*.mp4")) if not path.name.startswith(".")}
    if not videos:
        raise DataError(f"--generated {folder}: no *.mp4 directly inside. Give the folder of the generated videos.")
    return videos


def check_moves(path: Path, num_frames: int) -> None:
    """Raise DataError for a generated video of a single frame, in which no motion can be seen."""
    if num_frames < 2:
        raise DataError(
            f"{path}: {num_frames} frame; a motion needs 2 or more. Generate longer videos, or take this one out of "
            f"--generated."
        )


def demo_world_seed(folder: Path, world: str) -> int:
    """The seed of a world that data_prep/demo_world.py wrote. Raises ConfigError for another folder, and another world."""
    try:
        facts = json.loads((folder / "world.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--demo_world: {folder}/world.json cannot be read ({error}).") from error
    if facts.get("world") != world:
        raise ConfigError(f'--demo_world: {folder} holds the world "{facts.get("world")}", not "{world}".')
    return int(facts["seed"])
