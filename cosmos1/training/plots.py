# SPDX-License-Identifier: Apache-2.0
"""loss.png: is it learning, does it hold on unseen clips, and at which noise levels."""

import os
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

NUMBER = r"[0-9.]+(?:e[-+]?[0-9]+)?"
SIGMA_KEY = re.compile(rf"(val_)?loss_sigma_({NUMBER})_({NUMBER}|inf)")
TRAIN_COLOR, HELD_OUT_COLOR, QUIET_COLOR = "#2563eb", "#dc2626", "#64748b"

Rows = List[Dict[str, Any]]


def draw_loss(rows: Rows, path: Path, title: str = "") -> None:
    """Draw the loss of a run from the rows of its metrics.jsonl.

    Left: training loss, raw and smoothed, and held-out loss (val_loss). Right, when the rows have keys
    loss_sigma_<low>_<high>: the smoothed training loss of each band of noise levels sigma, and as dots the held-out
    loss of the same band (val_loss_sigma_...). Axes are logarithmic when the values span more than a factor of ten.
    The file is replaced in one step, so a viewer never sees half of it.
    """
    from matplotlib.figure import Figure

    bands = sigma_bands(rows)
    figure = Figure(figsize=(10 if bands else 6, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2 if bands else 1, squeeze=False)[0]
    _draw_total(axes[0], rows)
    if bands:
        _draw_bands(axes[1], rows, bands)
    for axis in axes:
        _tidy(axis)
    figure.suptitle(title, fontsize=10, color=QUIET_COLOR)
    partial = path.with_name(path.name + ".tmp")
    figure.savefig(partial, format="png")
    os.replace(partial, path)


def sigma_bands(rows: Rows) -> List[Tuple[float, float, str]]:
    """Bands of noise levels found in the keys of the rows: (low, high, "<low>_<high>"), sorted."""
    matches = {match.group(2, 3) for row in rows for match in map(SIGMA_KEY.fullmatch, row) if match}
    return sorted((float(low), float(high), f"{low}_{high}") for low, high in matches)


def series(rows: Rows, key: str) -> Tuple[List[int], List[float]]:
    """Steps and values of one key, without rows that lack it or hold null."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def smoothed(values: List[float]) -> List[float]:
    """Exponential mean over about a thirtieth of the run, corrected for its start."""
    keep = 1 - 1 / max(len(values) / 30, 1)
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(total / weight)
    return means


def _draw_total(axis: Any, rows: Rows) -> None:
    steps, values = series(rows, "loss")
    axis.plot(steps, values, color=TRAIN_COLOR, alpha=0.25, linewidth=0.8)
    axis.plot(steps, smoothed(values), color=TRAIN_COLOR, linewidth=1.8, label="training (smoothed)")
    steps, values = series(rows, "val_loss")
    if steps:
        axis.plot(steps, values, "o-", color=HELD_OUT_COLOR, markersize=4, linewidth=1.2, label="held out")
    axis.set_title("loss", loc="left", fontsize=11, fontweight="bold")


def _draw_bands(axis: Any, rows: Rows, bands: List[Tuple[float, float, str]]) -> None:
    from matplotlib import colormaps

    for index, (low, high, key) in enumerate(bands):
        color = colormaps["viridis"](0.9 * index / max(len(bands) - 1, 1))
        steps, values = series(rows, f"loss_sigma_{key}")
        axis.plot(steps, smoothed(values), color=color, linewidth=1.6, label=f"σ {low:g} – {high:g}")
        axis.plot(*series(rows, f"val_loss_sigma_{key}"), "o", color=color, markersize=4)
    held_out = any(name.startswith("val_loss_sigma_") for row in rows for name in row)
    note = "by noise level" + (" (dots: held out)" if held_out else "")
    axis.set_title(f"loss {note}", loc="left", fontsize=11, fontweight="bold")


def _tidy(axis: Any) -> None:
    values = [value for line in axis.lines for value in line.get_ydata()]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
    axis.set_xlabel("step", fontsize=9, color=QUIET_COLOR)
    axis.grid(True, alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=QUIET_COLOR)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)
