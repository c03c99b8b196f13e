# SPDX-License-Identifier: GPL-2.0-or-later
"""A few objects of each stock kernel, as `make every-object` compares them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext, BuildSteps
from every_object import EveryObject
from object_summary import summary

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

SOURCES = ("fs/eventfd.c", "crypto/rsa_helper.c", "lib/raid6/int4.c", "net/8021q/vlan_core.c", "net/8021q/vlanproc.c",
           "virt/kvm/eventfd.c")  # fmt: skip


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_each_object_is_made_the_same_in_each_way_and_is_what_the_kernel_holds(
    request: pytest.FixtureRequest, backend: Any, reachable_path: Path, kernel: str
) -> None:
    base: Base = request.getfixturevalue(f"base_{kernel.replace('.', '_')}")
    steps = BuildSteps.within(BuildContext(base=base, toolchains=backend.toolchains, jobs=2))
    every = EveryObject(base, steps.sandbox(), steps.compiler(), reachable_path)
    found = summary(base, every.batch([base.units.by_source[source] for source in SOURCES]))
    assert (found["compared"], found["same"], found["differ"], found["failed"]) == (len(SOURCES), len(SOURCES), [], {})
    assert found["functions"] > 60
    assert found["functions_identical"] == found["functions"]
    assert found["after_make"] == ["crypto/rsa_helper.c", "lib/raid6/int4.c"]
    assert {one["rule"] for one in found["exceptions"]} <= {"weak"}
