# SPDX-License-Identifier: GPL-2.0-or-later
"""The drawing of where the time goes says what bench/results.json says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

import plot

NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def row(name: str, seconds: float, **stages: float) -> dict[str, Any]:
    return {"name": name, "median_s": seconds} | ({"stages": stages} if stages else {})


def drawn(*rows: dict[str, Any]) -> ET.Element:
    return ET.fromstring(plot.draw({"rows": list(rows)}))  # noqa: S314 - our own drawing


def texts(drawing: ET.Element) -> list[str]:
    return [one.text or "" for one in drawing.iterfind(".//svg:text", NAMESPACE)]


def test_the_drawing_in_the_documentation_is_of_the_last_run() -> None:
    assert plot.DRAWING.read_text() == plot.draw(json.loads(plot.RESULTS.read_text())), "run bench/plot.py"


def test_every_row_has_a_bar_with_its_median() -> None:
    drawing = drawn(row("one", 0.4), row("two", 123.4))
    assert {"one", "two", "0.4", "123.4"} <= set(texts(drawing))
    widths = [float(one.get("width", "")) for one in drawing.iterfind(".//svg:rect", NAMESPACE)][1:]
    assert widths == sorted(widths)


def test_a_warm_build_is_split_into_its_stages_and_a_cold_one_is_not() -> None:
    shown = texts(drawn(row("x.warm", 3.0, compile=1.0, link=2.0), row("x.cold", 300.0, tree=298.0, link=2.0)))
    assert {"compile", "link"} <= set(shown)
    assert "tree" not in shown


def test_longer_stages_are_wider() -> None:
    drawing = drawn(row("x.warm", 3.0, compile=1.0, link=2.0))
    compiled, linked = (
        next(
            one
            for one in drawing.iterfind(".//svg:rect", NAMESPACE)
            if (one.findtext("svg:title", "", NAMESPACE)).startswith(stage)
        )
        for stage in ("compile", "link")
    )
    assert float(linked.get("width", "")) == pytest.approx(2 * float(compiled.get("width", "")), abs=0.2)
