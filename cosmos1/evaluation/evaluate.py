# SPDX-License-Identifier: Apache-2.0
"""Compare a folder of generated videos with a folder of references: scores, results.json, report.html.

results.json holds, beside what was compared and how: "metrics", by name, with the mean and standard deviation over the
videos, or the one value of a metric of sets; "videos", one entry per pair, with its scores and those of its frames.
JSON has no infinity: the PSNR of identical frames is null, and means are taken over the finite values. A score
that is NaN is refused.
"""

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

from cosmos1.errors import ConfigError, UserError
from cosmos1.evaluation.metrics import Score, frechet_distance, json_value
from cosmos1.evaluation.pairs import Alignment, VideoPair, find_pairs, read_pair
from cosmos1.evaluation.registry import Metric, MetricSettings, find_metric

if TYPE_CHECKING:
    import numpy as np

RESULTS_FILE = "results.json"
RESULTS_VERSION = 1
LARGEST_SHOWN_DIFFERENCE = 63  # in grey levels; shown four times as bright


@dataclass(frozen=True)
class Evaluation:
    """What is compared, by which metrics, and where the results go."""

    generated: Path
    reference: Path
    output: Path
    metrics: Tuple[str, ...]
    alignment: Alignment = field(default_factory=Alignment)
    settings: MetricSettings = field(default_factory=MetricSettings)


def evaluate(evaluation: Evaluation, show_progress: bool = False) -> Dict[str, Any]:
    """Compute the metrics over all pairs; writes results.json, report.html, contact_sheets/ and returns the results.

    Raises, before the first video is scored: ConfigError for an unknown metric, missing weights, or fewer than two
    pairs for a metric of sets; DataError for folders and videos that cannot be compared (see `find_pairs`). Later:
    the errors of damaged videos and of metrics that cannot take them, with the video's name; DataError for scores that
    are NaN.
    """
    from cosmos1.data.files import write_json
    from cosmos1.evaluation.report import REPORT_FILE, write_report
    from cosmos1.progress import Progress

    metrics = {name: find_metric(name) for name in evaluation.metrics}
    functions = {name: metric.prepare(evaluation.settings) for name, metric in metrics.items()}
    found = find_pairs(evaluation.generated, evaluation.reference, evaluation.alignment)
    _check_sets(metrics, len(found.pairs))
    sheets = evaluation.output / "contact_sheets"
    sheets.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS_FILE, REPORT_FILE):
        # They come last: a folder without them is unfinished.
        (evaluation.output / name).unlink(missing_ok=True)
    videos, features = [], {name: ([], []) for name, metric in metrics.items() if metric.of_sets}
    progress = Progress(len(found.pairs), "videos", show_progress)
    for pair in found.pairs:
        generated, reference = read_pair(pair)
        scores = {name: _score(pair, functions[name], generated, reference) for name in metrics if name not in features}
        for name, sets in features.items():
            sets[0].append(functions[name](generated))
            sets[1].append(functions[name](reference))
        _write_sheet(sheets / f"{Path(pair.name).stem}.png", generated, reference)
        videos.append(_video_entry(pair, scores, metrics))
        progress.advance()
    summaries = {name: _summary(name, metric, videos, features.get(name)) for name, metric in metrics.items()}
    results = {
        "version": RESULTS_VERSION,
        "generated": str(evaluation.generated),
        "reference": str(evaluation.reference),
        "options": asdict(evaluation.alignment) | asdict(evaluation.settings),
        "metrics": summaries,
        "videos": videos,
        "missing": found.missing,
        "extra": found.extra,
        "notes": found.notes + _notes(summaries, len(videos)),
    }
    write_json(evaluation.output / RESULTS_FILE, results)
    write_report(results, evaluation.output)
    return results


def _check_sets(metrics: Dict[str, Metric], num_pairs: int) -> None:
    names = [name for name, metric in metrics.items() if metric.of_sets]
    if names and num_pairs < 2:
        raise ConfigError(
            f"{', '.join(names)} compares sets of videos and needs at least 2 pairs; there is {num_pairs}. Add videos "
            f"or leave it out of --metrics"
        )


def _score(pair: VideoPair, function: Callable, generated: "np.ndarray", reference: "np.ndarray") -> Score:
    try:
        return function(generated, reference)
    except UserError as error:
        raise type(error)(f"{pair.name}: {error}") from error


def _write_sheet(path: Path, generated: "np.ndarray", reference: "np.ndarray") -> None:
    import numpy as np

    from cosmos1.evaluation.contact_sheet import write_contact_sheet

    difference = np.maximum(generated, reference) - np.minimum(generated, reference)
    difference = np.minimum(difference, LARGEST_SHOWN_DIFFERENCE) * np.uint8(4)
    write_contact_sheet(path, {"generated": generated, "reference": reference, "difference x 4": difference})


def _video_entry(pair: VideoPair, scores: Dict[str, Score], metrics: Dict[str, Metric]) -> Dict[str, Any]:
    def checked(name: str, value: float, where: str = "") -> "float | None":
        metric = metrics[name]
        return json_value(value, f"{pair.name}{where}: {metric.title}", metric.higher_is_better)

    return {
        "name": pair.name,
        "generated": str(pair.generated),
        "reference": str(pair.reference),
        "num_frames": pair.num_frames,
        "height": pair.height,
        "width": pair.width,
        "fps": pair.fps,
        "scores": {name: checked(name, score.value) for name, score in scores.items()},
        "per_frame": {
            name: [checked(name, value, f", frame {frame}") for frame, value in enumerate(score.per_frame)]
            for name, score in scores.items()
            if score.per_frame is not None
        },
    }


def _summary(name: str, metric: Metric, videos: List[Dict[str, Any]], sets: "Sequence[list] | None") -> Dict[str, Any]:
    summary = {"title": metric.title, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
    if sets is not None:
        import numpy as np

        generated, reference = (np.concatenate(features) for features in sets)
        shape = {"num_samples": len(generated), "num_features": generated.shape[1]}
        return summary | {"value": frechet_distance(generated, reference)} | shape
    values = [video["scores"][name] for video in videos if video["scores"][name] is not None]
    return summary | {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "num_videos": len(values),
    }


def _notes(summaries: Dict[str, Dict[str, Any]], num_videos: int) -> List[str]:
    notes = []
    for summary in summaries.values():
        title = summary["title"]
        if "num_samples" in summary and summary["num_samples"] <= summary["num_features"]:
            notes.append(
                f"{title}: {summary['num_samples']} samples of {summary['num_features']} features in each set; with so "
                f"few the value is biased upwards, so compare it only with values from equally many samples"
            )
        if summary.get("num_videos", num_videos) < num_videos:
            identical = num_videos - summary["num_videos"]
            notes.append(f"{title}: the mean leaves out videos without a finite value (identical ones): {identical}")
    return notes
