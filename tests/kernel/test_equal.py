# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of change come out the same from single objects and from kpatch-build on the whole kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.build.base import Base
from elivepatch.build.builders.choice import Workbench, build_as_asked
from elivepatch.model.build import Builder, BuildRequest
from elivepatch.service.building import BuildingWorkshop
from elivepatch.settings import ServerSettings
from equal import build_pair, own_kernel, try_module
from kinds import FOUR, KINDS

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def own(workshop: BuildingWorkshop) -> Base:
    """A small 6.12 with a patch of its operator's."""
    return own_kernel(workshop)


@pytest.mark.parametrize("name", FOUR)
def test_both_builders_make_the_same_livepatch_and_it_works(
    workshop: BuildingWorkshop, own: Base, settings: ServerSettings, reachable_path: Path, name: str
) -> None:
    kind = KINDS[name]
    pair = build_pair(workshop, own, kind, reachable_path)
    assert pair.problems == []
    assert pair.differing == []
    assert pair.objects.functions
    assert try_module(own, kind, pair.reference, reachable_path / "trial", settings.cache_dir) == []


def test_the_paranoid_are_given_what_both_make(workshop: BuildingWorkshop, own: Base, reachable_path: Path) -> None:
    request = BuildRequest(release=own.release, series=KINDS["new file"].series(own.tree), paranoid=True)
    bench = Workbench(base=own, toolchains=workshop.toolchains, jobs=2)
    outcome = build_as_asked(request, bench, name="livepatch_test", work_dir=reachable_path)
    assert outcome.problem is None, outcome.problem
    assert outcome.module is not None
    assert outcome.module.parent.name == Builder.OBJECTS
    assert [note.code for note in outcome.notes] == ["second-builder"]


def test_the_reference_refuses_with_the_codes_of_the_others(
    workshop: BuildingWorkshop, own: Base, reachable_path: Path
) -> None:
    comment = KINDS["new file"]._replace(edits=KINDS["line shift"].edits[:1], added=())
    request = BuildRequest(release=own.release, series=comment.series(own.tree), builder=Builder.REFERENCE)
    bench = Workbench(base=own, toolchains=workshop.toolchains, jobs=2)
    outcome = build_as_asked(request, bench, name="livepatch_test", work_dir=reachable_path)
    assert outcome.problem is not None
    assert outcome.problem.code == "no-change"
