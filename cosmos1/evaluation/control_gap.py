# SPDX-License-Identifier: Apache-2.0
"""Is a control obeyed? Scores under the true control against scores under a shuffled one.

A network that obeys scores better under the true control; one that ignores it scores alike under both. The gap is the
mean under the true control minus the mean under the shuffled one.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from cosmos1.evaluation.metrics import json_value

Scores = Mapping[str, Optional[float]]


@dataclass(frozen=True)
class ControlScore:
    """What one number of a control metric means."""

    name: str
    title: str
    unit: str
    higher_is_better: bool


def compare_controls(scores: Sequence[ControlScore], videos: Sequence[Dict[str, Any]], **facts: Any) -> Dict[str, Any]:
    """The results of a control metric: mean of each score under the true and under shuffled controls, and their gap.

    Each of the `videos` has a "name", the scores "true", and "shuffled", a list of scores, each a dict by score name;
    values that are absent or None are left out of the means, as is the infinite PSNR of identical frames, which becomes
    None: JSON has no infinity. A mean of nothing is None. Other `facts` stand beside the means.

    Raises DataError, naming video and score, for NaN.
    """
    videos = [_checked(video, scores) for video in videos]
    true, shuffled = [video["true"] for video in videos], [other for video in videos for other in video["shuffled"]]
    metrics = {}
    for score in scores:
        means = [_mean(found, score.name) for found in (true, shuffled)]
        gap = None if None in means else means[0] - means[1]
        about = {"title": score.title, "unit": score.unit, "higher_is_better": score.higher_is_better}
        metrics[score.name] = {**about, "true": means[0], "shuffled": means[1], "gap": gap}
    return {"version": 1, "metrics": metrics, **facts, "videos": videos}


def _checked(video: Dict[str, Any], scores: Sequence[ControlScore]) -> Dict[str, Any]:
    """The entry of a video with scores that JSON can hold."""
    higher_is_better = {score.name for score in scores if score.higher_is_better}

    def checked(found: Scores, control: str) -> Scores:
        where = f"video {video['name']}, {control} control"
        return {
            name: None if value is None else json_value(value, f"{where}: {name}", name in higher_is_better)
            for name, value in found.items()
        }

    shuffled = [checked(found, "shuffled") for found in video["shuffled"]]
    return {**video, "true": checked(video["true"], "true"), "shuffled": shuffled}


def _mean(videos: Sequence[Scores], name: str) -> Optional[float]:
    values = [video[name] for video in videos if video.get(name) is not None]
    return statistics.fmean(values) if values else None


def report_controls(results: Dict[str, Any], output: Optional[Path]) -> None:
    """Print the means and the gap as a table, and write everything to `output`."""
    from rich.console import Console
    from rich.table import Table

    from cosmos1.data.files import write_json
    from cosmos1.evaluation.table import heading

    table = Table(title=f"{len(results['videos'])} videos")
    for column in ("score", "true control", "shuffled control", "gap"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for result in results["metrics"].values():
        values = ["-" if result[kind] is None else f"{result[kind]:.4g}" for kind in ("true", "shuffled", "gap")]
        table.add_row(heading(result), *values)
    Console().print(table)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, results)
        print(output)
