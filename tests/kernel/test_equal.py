# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of change come out the same from single objects and from kpatch-build on the whole kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.model.build import Builder, BuildRequest
from elivepatch.model.series import PatchSeries
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from equal import NAME, own_kernel, try_module
from kinds import KINDS, TESTED

pytestmark = [pytest.mark.kernel, pytest.mark.extended]


@pytest.fixture(scope="module")
def own(backend: LocalBackend) -> Base:
    """A small 6.12 with a patch of its operator's."""
    return own_kernel(backend)


def test_the_paranoid_are_given_what_both_builders_make_of_three_kinds_and_it_works(
    backend: LocalBackend, own: Base, settings: ServerSettings, reachable_path: Path
) -> None:
    """One series, because kpatch-build takes half a minute for each."""
    patches = tuple(patch for name in TESTED for patch in KINDS[name].series(own.tree).patches)
    request = BuildRequest(release=own.release, series=PatchSeries(patches), paranoid=True)
    (reachable_path / "work").mkdir()
    context = BuildContext(base=own, toolchains=backend.toolchains, jobs=2)
    outcome = build_with_selected(request, context, name=NAME, work_dir=reachable_path / "work")
    assert outcome.problem is None, f"{outcome.problem}\n{outcome.problem.excerpt}"
    assert {function.object for function in outcome.functions} == {"vmlinux", "loop", "minix"}
    assert outcome.module == reachable_path / "work" / Builder.OBJECTS / f"{NAME}.ko"
    assert "second-builder" in [note.code for note in outcome.notes]
    reference = replace(outcome, module=reachable_path / "work" / Builder.REFERENCE / f"{NAME}.ko")
    expected = KINDS["several functions"]
    assert try_module(own, expected, reference, reachable_path / "trial", settings.cache_dir) == []
