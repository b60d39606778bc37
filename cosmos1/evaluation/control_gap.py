# SPDX-License-Identifier: Apache-2.0
"""Is a control obeyed? Scores under the true control against scores under a shuffled one.

A network that obeys scores better under the true control; one that ignores it scores alike under both. The gap is the
mean under the true control minus the mean under the shuffled one.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

Scores = Mapping[str, Optional[float]]


@dataclass(frozen=True)
class ControlScore:
    """What one number of a control metric means."""

    name: str
    title: str
    unit: str
    higher_is_better: bool


def compare_controls(
    scores: Sequence[ControlScore], true: Sequence[Scores], shuffled: Optional[Sequence[Scores]]
) -> Dict[str, Dict[str, Any]]:
    """Mean of each score over the videos under the true and under the shuffled control, and their gap.

    Each video gives a dict by score name; values that are absent, None or not finite are left out of the means. A mean
    of nothing, and everything about an absent `shuffled`, is None.
    """
    results = {}
    for score in scores:
        means = [_mean(videos or [], score.name) for videos in (true, shuffled)]
        gap = None if None in means else means[0] - means[1]
        facts = {"title": score.title, "unit": score.unit, "higher_is_better": score.higher_is_better}
        results[score.name] = {**facts, "true": means[0], "shuffled": means[1], "gap": gap}
    return results


def _mean(videos: Sequence[Scores], name: str) -> Optional[float]:
    values = [video.get(name) for video in videos]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def show_controls(results: Dict[str, Dict[str, Any]], num_videos: int) -> None:
    """Print the means and the gap as a table."""
    from rich.console import Console
    from rich.table import Table

    from cosmos1.evaluation.table import heading

    table = Table(title=f"{num_videos} videos")
    for column in ("score", "true control", "shuffled control", "gap"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for result in results.values():
        values = ["-" if result[kind] is None else f"{result[kind]:.4g}" for kind in ("true", "shuffled", "gap")]
        table.add_row(heading(result), *values)
    Console().print(table)
