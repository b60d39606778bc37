# SPDX-License-Identifier: Apache-2.0
"""How report.html looks, and what it does: sorting the table, playing two videos together."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1e293b; --quiet: #64748b; --line: #e2e8f0;
  --accent: #2563eb; --bar: #dbeafe; --note: #fef3c7; }
@media (prefers-color-scheme: dark) { :root { --page: #0f172a; --card: #1e293b; --ink: #e2e8f0; --quiet: #94a3b8;
  --line: #334155; --accent: #60a5fa; --bar: #1e3a5f; --note: #422f06; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 8px; }
h2 { font-size: 16px; margin: 0; display: flex; align-items: baseline; gap: 12px; flex-wrap: wrap; }
h2 span, .quiet, figcaption, dt { color: var(--quiet); font-weight: 400; font-size: 13px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 16px; margin: 0; }
dt, dd { margin: 0; font-size: 14px; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 16px; margin: 24px 0; }
.card, section.video, table, .notes { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 16px 20px; }
.card h2 { justify-content: space-between; }
.card p { margin: 0; }
.value { font-size: 32px; font-weight: 650; font-variant-numeric: tabular-nums; }
.value small { font-size: 16px; font-weight: 400; color: var(--quiet); }
.notes { background: var(--note); padding: 10px 16px 10px 34px; margin: 24px 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%; overflow: hidden; }
th, td { padding: 7px 16px; text-align: left; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th button { all: unset; cursor: pointer; color: var(--quiet); font-size: 13px; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort] button { color: var(--accent); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td i { display: inline-block; width: 72px; height: 8px; margin-right: 12px; border-radius: 4px;
  background: linear-gradient(90deg, var(--accent) var(--share, 0%), var(--bar) var(--share, 0%)); }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section.video { margin-top: 24px; padding: 20px; }
.play { margin-left: auto; padding: 4px 14px; border: 1px solid var(--line); border-radius: 6px; cursor: pointer;
  background: var(--accent); color: var(--card); font: inherit; font-size: 13px; }
.scores { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 4px 0 12px; font-variant-numeric: tabular-nums; }
.scores b { font-weight: 400; color: var(--quiet); }
.pair, .charts { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.charts { margin: 12px 0; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; justify-content: space-between; }
video { display: block; width: 100%; max-height: 440px; border-radius: 6px; background: #000; }
svg { display: block; width: 100%; height: 64px; background: var(--page); border-radius: 6px; }
path { fill: none; stroke: var(--accent); stroke-width: 2; vector-effect: non-scaling-stroke; }
.now { stroke: var(--quiet); vector-effect: non-scaling-stroke; visibility: hidden; }
.video img { display: block; max-width: 100%; border-radius: 6px; }
@media (max-width: 700px) { .pair, .charts { grid-template-columns: 1fr; } }
"""

SCRIPT = """
for (const section of document.querySelectorAll("section.video")) {
  const videos = [...section.querySelectorAll("video")], button = section.querySelector(".play");
  const name = () => { button.textContent = videos.some(video => !video.paused) ? "Pause both" : "Play both"; };
  button.onclick = () => {
    const pause = videos.some(video => !video.paused);
    for (const video of videos) {
      if (pause) video.pause(); else { video.currentTime = 0; video.play(); }
    }
  };
  for (const video of videos) video.onplay = video.onpause = name;
  videos[1].ontimeupdate = () => {
    const share = Math.min(videos[1].currentTime / section.dataset.seconds, 1);
    for (const svg of section.querySelectorAll("svg")) {
      const line = svg.querySelector(".now"), x = 4 + share * (svg.viewBox.baseVal.width - 8);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.style.visibility = "visible";
    }
  };
}
const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
document.querySelectorAll("th button").forEach((button, column) => {
  button.onclick = () => {
    const head = button.parentElement, descending = head.ariaSort === "ascending";
    const order = (a, b) => column ? value(a, column) - value(b, column) : value(a, 0).localeCompare(value(b, 0));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = document.querySelector("tbody"), rows = [...body.rows].sort(order);
    body.append(...(descending ? rows.reverse() : rows));
  };
});
"""
