# SPDX-License-Identifier: Apache-2.0
"""report.html: the scores, and every pair of videos side by side. It needs no network and no other program.

Styles and script are inside the page; videos and contact sheets are referred to by path relative to it.
"""

import os
from html import escape
from pathlib import Path
from typing import Any, Dict, List, Optional
from urllib.parse import quote

from cosmos1.evaluation.report_style import SCRIPT, STYLE
from cosmos1.evaluation.table import deviation, heading, number

REPORT_FILE = "report.html"
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 560, 64, 4


def write_report(results: Dict[str, Any], output: Path) -> None:
    """Write report.html for `results` (what `evaluate` returns) into the folder `output`."""
    from cosmos1.data.files import write_bytes

    pairwise = {name: summary for name, summary in results["metrics"].items() if "mean" in summary}
    body = [
        _header(results),
        '<section class="cards">',
        *(_card(summary) for summary in results["metrics"].values()),
        "</section>",
        _notes(results),
        _table(results["videos"], pairwise),
        *(_video_section(index, video, pairwise, output) for index, video in enumerate(results["videos"])),
    ]
    page = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Evaluation of {escape(results['generated'])}</title><style>{STYLE}</style></head><body><main>",
        *body,
        f"</main><script>{SCRIPT}</script></body></html>\n",
    ]
    write_bytes(output / REPORT_FILE, "\n".join(page).encode())


def _header(results: Dict[str, Any]) -> str:
    count = len(results["videos"])
    options = {name: value for name, value in results["options"].items() if value not in (None, False)}
    if "latent_l2" not in results["metrics"]:
        options.pop("tokenizer")
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in options.items())
    return (
        f"<header><h1>Evaluation of {count} video{'s' if count != 1 else ''}</h1><dl>"
        f"<dt>generated</dt><dd>{escape(results['generated'])}</dd>"
        f"<dt>reference</dt><dd>{escape(results['reference'])}</dd>{facts}</dl></header>"
    )


def _card(summary: Dict[str, Any]) -> str:
    if "value" in summary:
        value, below = summary["value"], f"{summary['num_samples']} samples in each set"
    else:
        value = summary["mean"]
        spread = "" if summary["std"] is None else f"± {deviation(summary)} over "
        below = f"{spread}{summary['num_videos']} video{'s' if summary['num_videos'] != 1 else ''}"
    better = "higher" if summary["higher_is_better"] else "lower"
    unit = f"<small>{escape(summary['unit'])}</small>" if summary["unit"] else ""
    return (
        f'<div class="card"><h2>{escape(summary["title"])}<span>{better} is better</span></h2>'
        f'<p class="value">{number(value)} {unit}</p><p class="quiet">{below}</p></div>'
    )


def _notes(results: Dict[str, Any]) -> str:
    lines = list(results["notes"])
    for text, names in (
        ("reference videos without a generated one", results["missing"]),
        ("generated videos without a reference", results["extra"]),
    ):
        if names:
            lines.append(f"{text} ({len(names)}), not compared: {', '.join(names)}")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if lines else ""


def _table(videos: List[Dict[str, Any]], pairwise: Dict[str, Dict[str, Any]]) -> str:
    """One row per video; a click on a heading sorts. Bars show where a value lies between the worst and the best."""
    if not pairwise:
        return ""
    heads = "".join(
        f'<th class="number"><button>{escape(heading(summary))}</button></th>' for summary in pairwise.values()
    )
    rows = []
    for index, video in enumerate(videos):
        cells = "".join(_cell(video["scores"][name], videos, name, summary) for name, summary in pairwise.items())
        rows.append(f'<tr><td><a href="#video-{index}">{escape(video["name"])}</a></td>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th><button>video</button></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: Optional[float], videos: List[Dict[str, Any]], name: str, summary: Dict[str, Any]) -> str:
    if value is None:
        return '<td class="number" data-value="Infinity">identical</td>'
    values = [video["scores"][name] for video in videos if video["scores"][name] is not None]
    low, high = min(values), max(values)
    share = (value - low) / (high - low) if high > low else 1.0
    goodness = share if summary["higher_is_better"] else 1.0 - share
    style = f"--share:{8 + 92 * goodness:.0f}%" if high > low else ""
    return f'<td class="number" data-value="{value!r}"><i style="{style}"></i>{number(value)}</td>'


def _video_section(index: int, video: Dict[str, Any], pairwise: Dict[str, Dict[str, Any]], output: Path) -> str:
    scores = "".join(
        f"<span><b>{escape(summary['title'])}</b> {number(video['scores'][name])} {escape(summary['unit'])}</span>"
        for name, summary in pairwise.items()
    )
    players = "".join(
        f'<figure><video src="{_link(video[role], output)}" muted loop playsinline controls preload=metadata></video>'
        f"<figcaption>{role}</figcaption></figure>"
        for role in ("generated", "reference")
    )
    charts = "".join(_chart(pairwise[name], values) for name, values in video["per_frame"].items())
    sheet = quote(f"contact_sheets/{Path(video['name']).stem}.png")
    size = f"{video['num_frames']} frames, {video['height']} x {video['width']}, {video['fps']:g} fps"
    return (
        f'<section class="video" id="video-{index}" data-seconds="{video["num_frames"] / max(video["fps"], 1e-3):.4f}">'
        f'<h2>{escape(video["name"])}<span>{size}</span><button class="play">Play both</button></h2>'
        f'<p class="scores">{scores}</p><div class="pair">{players}</div><div class="charts">{charts}</div>'
        f'<img src="{sheet}" alt="generated, reference and difference, frame by frame" loading="lazy"></section>'
    )


def _link(path: str, output: Path) -> str:
    return escape(quote(os.path.relpath(path, output)))


def _chart(summary: Dict[str, Any], values: List[Optional[float]]) -> str:
    """A small line over the frames; frames without a finite value leave a gap."""
    finite = [value for value in values if value is not None]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    inner_width, inner_height = CHART_WIDTH - 2 * CHART_MARGIN, CHART_HEIGHT - 2 * CHART_MARGIN
    parts, pen_is_down = [], False
    for frame, value in enumerate(values):
        if value is None:
            pen_is_down = False
            continue
        x = CHART_MARGIN + inner_width * frame / max(len(values) - 1, 1)
        y = CHART_MARGIN + inner_height * (1 - (value - low) / (high - low) if high > low else 0.5)
        parts.append(f"{'L' if pen_is_down else 'M'}{x:.1f} {y:.1f}")
        pen_is_down = True
    return (
        f"<figure><figcaption>{escape(heading(summary))} by frame <span>{number(low)} to {number(high)}</span></figcaption>"
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" preserveAspectRatio="none"><path d="{"".join(parts)}"/>'
        f'<line class="now" x1="0" x2="0" y1="0" y2="{CHART_HEIGHT}"/></svg></figure>'
    )
