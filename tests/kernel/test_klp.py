# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own klp-build as a second opinion, on a small kernel of 7.2."""

from __future__ import annotations

from pathlib import Path

import pytest
from edits import Edit, after, before, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.klp import KlpBuilder
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.model.build import BuildOutcome
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.series import PatchSeries
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial
from kinds import KINDS
from small_kernels import small_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

NAME = "livepatch_klp"
SHOW = "fs/proc/loadavg.c"


@pytest.fixture(scope="module")
def base(backend: LocalBackend) -> Base:
    return small_kernel(backend, "7.2")


def built(
    builder: type[KlpBuilder | ObjectsBuilder], backend: LocalBackend, base: Base, series: PatchSeries, place: Path
) -> BuildOutcome:
    place.mkdir()
    return builder(base=base, toolchains=backend.toolchains, jobs=2).build(series, name=NAME, work_dir=place)


def test_both_builders_replace_the_same_functions_of_two_modules_and_of_vmlinux(
    backend: LocalBackend, base: Base, reachable_path: Path, tmp_path: Path, settings: ServerSettings
) -> None:
    kinds = [KINDS[name] for name in ("one line", "line shift", "two modules")]
    series = PatchSeries(tuple(patch for kind in kinds for patch in kind.series(base.tree).patches))
    objects = built(ObjectsBuilder, backend, base, series, reachable_path / "objects")
    klp = built(KlpBuilder, backend, base, series, reachable_path / "klp")
    assert (objects.problem, klp.problem) == (None, None)
    assert klp.functions == objects.functions
    assert {one.object for one in klp.functions} == {VMLINUX, "loop", "minix"}
    assert klp.module is not None
    report = run_trial(
        kernel=guest_kernel(base),
        livepatch=klp.module,
        livepatch_name=NAME,
        parents=["loop", "minix"],
        expectations=[Expectation.parse("/proc/loadavg =~ ^load ")],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == (), report.problems


REFUSED = {
    "compile-error": Edit(SHOW, "get_avenrun(avnrun, FIXED_1/200, 0);", "get_avenrun(avnrun, FIXED_1/200);"),
    "no-change": Edit(SHOW, "	unsigned long avnrun[3];\n", "	unsigned long avnrun[3]; /* three */\n"),
    "init-only": before(SHOW, "	pde_make_permanent(pde);\n", '	pr_info("made\\n");\n'),
    "data-layout": after("fs/minix/minix.h", "struct minix_inode_info {\n", "	int first;\n"),
}


@pytest.mark.parametrize(
    "code",
    [pytest.param(one, marks=[pytest.mark.extended] if one in {"no-change", "init-only"} else []) for one in REFUSED],
)
def test_what_klp_build_would_let_pass_or_say_in_words_of_its_own_is_told(
    backend: LocalBackend, base: Base, reachable_path: Path, code: str
) -> None:
    series = series_of(patch_of(base.tree, REFUSED[code]))
    outcome = built(KlpBuilder, backend, base, series, reachable_path / "klp")
    assert outcome.problem is not None
    assert outcome.problem.code == code


def test_a_source_with_tracepoints_can_be_changed(backend: LocalBackend, base: Base, reachable_path: Path) -> None:
    """Each tracepoint that is used leaves its name in the object, and in no linked kernel."""
    edit = after("mm/vmscan.c", "	tsk->flags |= PF_MEMALLOC | PF_KSWAPD;\n", "	cond_resched();\n")
    outcome = built(ObjectsBuilder, backend, base, series_of(patch_of(base.tree, edit)), reachable_path / "objects")
    assert outcome.problem is None
    assert [one.name for one in outcome.functions] == ["kswapd"]
