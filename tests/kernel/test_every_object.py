# SPDX-License-Identifier: GPL-2.0-or-later
"""A few objects of each stock kernel, as `make every-object` compares them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext, BuildSteps
from elivepatch.build.sample.batch import ObjectBatches
from object_summary import summary

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

SOURCES = ("fs/eventfd.c", "crypto/rsa_helper.c", "lib/raid6/int4.c", "net/8021q/vlan_core.c", "net/8021q/vlanproc.c",
           "virt/kvm/eventfd.c", "arch/x86/lib/inat.c")  # fmt: skip
"""The last one is made from another file, and kbuild enters its directory twice."""
ASKS_FOR_OPTIONS = "fs/ntfs3/bitfunc.c"
"""Its Makefile asks which options gcc has; the stock 6.1 for clouds does not have it."""


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_each_object_is_made_the_same_in_each_way_and_is_what_the_kernel_holds(
    request: pytest.FixtureRequest, backend: Any, reachable_path: Path, kernel: str
) -> None:
    base: Base = request.getfixturevalue(f"base_{kernel.replace('.', '_')}")
    steps = BuildSteps.within(BuildContext(base=base, toolchains=backend.toolchains, jobs=2))
    every = ObjectBatches(base, steps.sandbox(), steps.compiler(), reachable_path)
    sources = (*SOURCES, *([ASKS_FOR_OPTIONS] if kernel == "6.12" else []))
    found = summary(base, every.rows([base.units.by_source[source] for source in sources]))
    assert (found["compared"], found["same"], found["differ"], found["failed"]) == (len(sources), len(sources), [], {})
    assert found["functions"] > 60
    assert found["functions_identical"] == found["functions"]
    assert found["after_make"] == ["arch/x86/lib/inat.c", "crypto/rsa_helper.c", "lib/raid6/int4.c"]
    assert {one["rule"] for one in found["exceptions"]} <= {"weak"}
