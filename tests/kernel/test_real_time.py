# SPDX-License-Identifier: GPL-2.0-or-later
"""A real-time kernel of Debian, whose patches only the source package has."""

from __future__ import annotations

from pathlib import Path

import pytest
from edits import Edit, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.kernel.config import parse_config
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial

pytestmark = [pytest.mark.kernel, pytest.mark.extended, pytest.mark.whole_kernel]

RELEASE = "6.1.0-50-rt-amd64"
"""Debian 12's last real-time kernel in its main archive, which no longer changes."""

# One of the patches adds this function; no other kernel has it.
REALTIME = Edit("kernel/ksysfs.c", 'return sprintf(buf, "%d\\n", 1);', 'return sprintf(buf, "%d\\n", 2);')


@pytest.fixture(scope="module")
def real_time(backend: LocalBackend) -> Base:
    return backend.base(backend.maker().add(RELEASE).release)


def test_the_base_is_made_with_the_patches_that_it_names(real_time: Base, base_6_1: Base) -> None:
    assert parse_config((real_time.tree / ".config").read_bytes()).enabled("PREEMPT_RT")
    patches = [name for name in real_time.packages if name.startswith("debian/patches-rt/")]
    assert len(patches) == 72
    assert "linux_6.1.176-1.debian.tar.xz" in real_time.packages
    assert real_time.fidelity["identical"] == real_time.fidelity["functions"] >= 200
    assert real_time.version == base_6_1.version
    assert not [name for name in base_6_1.packages if name.startswith("debian/")]


def test_the_kernel_without_these_patches_has_a_tree_without_them(real_time: Base, base_6_1: Base) -> None:
    assert REALTIME.old in (real_time.tree / REALTIME.path).read_text()
    assert REALTIME.old not in (base_6_1.tree / REALTIME.path).read_text()


def test_a_livepatch_of_a_function_that_a_patch_added_passes_its_trial(
    real_time: Base, backend: LocalBackend, settings: ServerSettings, reachable_path: Path
) -> None:
    builder = ObjectsBuilder(base=real_time, toolchains=backend.toolchains, jobs=2)
    work = reachable_path / "build"
    work.mkdir()
    built = builder.build(series_of(patch_of(real_time.tree, REALTIME)), name="livepatch_rt", work_dir=work)
    assert built.problem is None, built.problem
    assert built.module is not None
    report = run_trial(
        kernel=guest_kernel(real_time),
        livepatch=built.module,
        livepatch_name="livepatch_rt",
        parents=(),
        expectations=(Expectation(command="/sys/kernel/realtime", pattern="^2$"),),
        work_dir=reachable_path / "trial",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == ()
