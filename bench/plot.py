# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw bench/results.json: the stages of a warm build by builder, and the time of every row.

usage: plot.py    (writes docs/where-the-time-goes.svg)
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
RESULTS, DRAWING = TOP / "bench/results.json", TOP / "docs/where-the-time-goes.svg"

WIDTH, LABELS, PAD, BAR, STEP = 860, 190, 24, 20, 30
STAGES = {
    "read": "#8d99ae", "apply": "#577590", "tree": "#b5838d", "kernel": "#b5838d", "compile": "#e09f3e",
    "link": "#9e2a2b", "check": "#335c67",
}  # fmt: skip
"""Stages that builders report, in the order of a build, with their colours."""

ROW = "#577590"
STYLE = "text{font:13px sans-serif;fill:#222}.h{font-weight:bold;font-size:15px}.n{fill:#555}.a{stroke:#ddd}"


def draw(results: Mapping[str, Any]) -> str:
    """Return the drawing of the rows of results.json as SVG."""
    rows = results["rows"]
    staged = [row for row in rows if row.get("stages") and not row["name"].endswith(".cold")]
    y, parts = PAD, []
    for section in (_stages(staged), _rows(rows)):
        height, drawn = section
        parts += [f'<g transform="translate(0 {y})">', *drawn, "</g>"]
        y += height + PAD
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
        "<title>Where the time goes</title>"
    )
    back = f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", back, *parts, "</svg>", ""])


def _stages(rows: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return height and elements of the bars of stages, all on one linear scale."""
    parts = [_text(PAD, 14, "The stages of a warm build, in seconds", "h")]
    longest = max((sum(row["stages"].values()) for row in rows), default=1.0)
    scale = (WIDTH - LABELS - 3 * PAD - 40) / longest
    shown = dict.fromkeys(stage for row in rows for stage, seconds in row["stages"].items() if seconds >= longest / 200)
    parts += _legend([stage for stage in STAGES if stage in shown], 36)
    for number, row in enumerate(rows):
        y, x = 56 + number * STEP, float(LABELS + PAD)
        parts.append(_label(row, y))
        for stage in STAGES:
            width = row["stages"].get(stage, 0.0) * scale
            if width >= 0.5:
                title = f"<title>{stage}: {row['stages'][stage]:.2f} s</title>"
                parts.append(_bar(x, y, width, STAGES[stage], title))
                x += width
        parts.append(_text(x + 6, y + 15, f"{sum(row['stages'].values()):.1f}", "n"))
    return 56 + len(rows) * STEP, parts


def _rows(rows: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return height and elements of the medians, on a logarithmic scale from a second on."""
    parts = [_text(PAD, 14, "The median of every row, in seconds (each line is ten times the one before)", "h")]
    decades = max(1, math.ceil(math.log10(max(row["median_s"] for row in rows))))
    unit = (WIDTH - LABELS - 3 * PAD - 40) / (decades + 0.5)
    height = 32 + len(rows) * STEP
    for decade in range(decades + 1):
        x = LABELS + PAD + (decade + 0.5) * unit
        parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="26" y2="{height}"/>')
    for number, row in enumerate(rows):
        y = 32 + number * STEP
        width = max(2.0, (math.log10(row["median_s"]) + 0.5) * unit)
        parts += [_label(row, y), _bar(LABELS + PAD, y, width, ROW)]
        parts.append(_text(LABELS + PAD + width + 6, y + 15, f"{row['median_s']:.1f}", "n"))
    return height, parts


def _legend(stages: Sequence[str], y: int) -> Iterator[str]:
    x = float(LABELS + PAD)
    for stage in stages:
        yield _bar(x, y - 11, 12, STAGES[stage], height=12)
        yield _text(x + 17, y, stage, "n")
        x += 34 + 8 * len(stage)


def _label(row: Mapping[str, Any], y: int) -> str:
    return _text(PAD, y + 15, row["name"])


def _bar(x: float, y: float, width: float, colour: str, inside: str = "", height: int = BAR) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}">{inside}</rect>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text{marked} x="{x:.1f}" y="{y}">{escape(text)}</text>'


def main() -> int:
    DRAWING.write_text(draw(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {DRAWING.relative_to(TOP)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
