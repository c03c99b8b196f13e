# SPDX-License-Identifier: GPL-2.0-or-later
"""Random changes of real sources are carried into the livepatch or refused, and the judge of that can fail."""

from __future__ import annotations

import json
import random
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.jobs.local_backend import LocalBackend
from journal import Journal
from mutants import CARRIED, LOST, again, figures, found_in, judged, run
from mutations import KINDS

pytestmark = pytest.mark.kernel

SOURCES = ("kernel/reboot.c", "drivers/block/loop.c")


@pytest.mark.extended
def test_no_mutant_of_a_sample_is_lost(backend: LocalBackend, base: Base, tmp_path: Path) -> None:
    journal = Journal.beside(tmp_path / "mutants.json", {})
    rows = list(run(journal, backend, base, Namespace(source=SOURCES, kind=KINDS, seed="sample"), 6))
    found = figures(rows, "sample")
    assert found["lost_mutants"] == []
    assert found["mutants"] == found["carried"] + found["refused"] == 6
    assert found["carried"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.extended
def test_a_change_that_the_module_does_not_have_is_lost_and_may_be_tried_again(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path, tmp_path: Path
) -> None:
    """The same build is judged twice: with its own module, and with that of another change of the same function."""
    texts: dict[str, str] = {}
    dice = random.Random(1)  # noqa: S311 - a fixed sequence
    places = [
        one for one in found_in(base_6_1, SOURCES[1], dice, texts)
        if (one.place, one.kind) == ("loop_set_status", "condition")
    ]  # fmt: skip
    outcomes = []
    patch = ""
    for number, one in enumerate(places[:: len(places) - 1]):
        work_dir = reachable_path / str(number)
        work_dir.mkdir()
        patch = one.patch(texts[SOURCES[1]])
        series = PatchSeries((SourcePatch("mutant.patch", patch.encode("latin-1")),))
        builder = ObjectsBuilder(base=base_6_1, toolchains=backend.toolchains, jobs=2)
        outcomes.append((builder.build(series, name="livepatch_mutant", work_dir=work_dir), work_dir))
    (first, place), (second, _) = outcomes
    assert judged(first, base_6_1, place)[0] == CARRIED
    assert first.module is not None
    assert second.module is not None
    shutil.copyfile(second.module, first.module)
    result, _, why = judged(first, base_6_1, place)
    assert (result, "is not the patched one" in why) == (LOST, True)
    (tmp_path / "mutants.json").write_text(json.dumps(wrongly_lost(base_6_1, patch)))
    assert again(backend, tmp_path / "mutants.json") == 0
    found = json.loads((tmp_path / "mutants.json").read_text())
    assert (found["carried"], found["lost"], found["lost_mutants"]) == (1, 0, [])
    assert found["by_kind"] == {"condition": {"carried": 1, "refused": 0, "lost": 0}}


def wrongly_lost(base: Base, patch: str) -> dict[str, Any]:
    """Return the figures of one mutant that an earlier judge called lost."""
    about = {"kernel": base.release, "source": SOURCES[1], "kind": "condition", "place": "loop_set_status"}
    return figures([about | {"result": LOST, "patch": patch, "code": "", "why": ""}], "sample")
