# SPDX-License-Identifier: Apache-2.0
"""Results as people read them: numbers, headings, and the table on the terminal."""

from typing import Any, Dict, Optional

ROWS_SHOWN = 40


def number(value: Optional[float]) -> str:
    """Four digits after the point, or two from 10 on; None stands for the infinite value of identical videos."""
    if value is None:
        return "identical"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def deviation(summary: Dict[str, Any]) -> str:
    """The standard deviation with as many digits as the mean; empty where one video has none."""
    if summary["std"] is None:
        return ""
    return f"{summary['std']:.2f}" if abs(summary["mean"]) >= 10 else f"{summary['std']:.4f}"


def heading(summary: Dict[str, Any]) -> str:
    """Name, unit, and an arrow towards the better values."""
    unit = f" ({summary['unit']})" if summary["unit"] else ""
    return f"{summary['title']}{unit} {'↑' if summary['higher_is_better'] else '↓'}"


def show(results: Dict[str, Any]) -> None:
    """Print the scores as a table, then what was not compared and what must be known to read the numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    pairwise = {name: summary for name, summary in results["metrics"].items() if "mean" in summary}
    console = Console()
    table = Table(title=f"{len(results['videos'])} videos")
    table.add_column("video", overflow="fold")
    for summary in pairwise.values():
        table.add_column(heading(summary), justify="right")
    for video in results["videos"][:ROWS_SHOWN]:
        table.add_row(escape(video["name"]), *(number(video["scores"][name]) for name in pairwise))
    if len(results["videos"]) > ROWS_SHOWN:
        table.add_row(f"... and {len(results['videos']) - ROWS_SHOWN} more", *("" for _ in pairwise))
    table.add_section()
    table.add_row("mean", *(number(summary["mean"]) for summary in pairwise.values()))
    table.add_row("std", *(deviation(summary) for summary in pairwise.values()))
    if pairwise:
        console.print(table)
    for summary in results["metrics"].values():
        if "value" in summary:
            console.print(f"{heading(summary)}: {number(summary['value'])} over {summary['num_samples']} samples")
    for label, names in (("missing from --generated", results["missing"]), ("no reference for", results["extra"])):
        if names:
            console.print(f"{label} ({len(names)}): {', '.join(names)}", markup=False, highlight=False)
    for note in results["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
