# SPDX-License-Identifier: GPL-2.0-or-later
"""The include graph of a base: kept durably, made again when damaged, and never read through a link."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_base import bare_base
from outside import OutsideSandbox

from elivepatch.build.objects.header_users import includes_of
from elivepatch.kernel.compile_units import Units
from elivepatch.model.errors import EnvironmentFault


def leaves(output: Path) -> None:
    (output / "lines").write_text("fs/a.c:#include <linux/a.h>\n")
    (output / "headers").write_text("include/linux/a.h\n")
    (output / "files").write_text("include/linux/a.h\nfs/a.c\n")
    (output / "makefiles").write_text("fs/Makefile:obj-y := a.o\n")


@pytest.fixture(autouse=True)
def _base_without_objects(tmp_path: Path) -> None:
    Units({}, {}).save(tmp_path / "units.json")


def test_the_graph_is_computed_once(tmp_path: Path) -> None:
    outside = OutsideSandbox(leaves=leaves, runs=False)
    for _ in range(2):
        assert includes_of(bare_base(tmp_path), outside.sandbox).users("include/linux/a.h") == {"fs/a.c"}
    assert len(outside.programs) == 1


def test_a_program_of_the_build_includes_the_librarys_headers_not_the_kernels(tmp_path: Path) -> None:
    def programs(output: Path) -> None:
        leaves(output)
        (output / "lines").write_text(
            "lib/gen.c:#include <string.h>\nlib/gen.c:#include <linux/string.h>\nfs/a.c:#include <string.h>\n"
        )
        (output / "headers").write_text("include/linux/string.h\nlib/string.h\n")
        (output / "makefiles").write_text("lib/Makefile:hostprogs := gen\n")

    found = includes_of(bare_base(tmp_path), OutsideSandbox(leaves=programs, runs=False).sandbox)
    assert found.users("include/linux/string.h") == {"lib/gen.c", "fs/a.c"}
    assert found.users("lib/string.h") == {"fs/a.c"}


@pytest.mark.parametrize("left", [b"", b"{}", b'{"resolved": {', bytes(100)])
def test_a_graph_that_a_power_cut_damaged_is_made_again(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "generated").mkdir()
    (tmp_path / "graph.json").write_bytes(left)
    outside = OutsideSandbox(leaves=leaves, runs=False)
    assert includes_of(bare_base(tmp_path), outside.sandbox).users("include/linux/a.h") == {"fs/a.c"}


def test_a_link_that_a_program_left_is_not_followed(tmp_path: Path) -> None:
    def linked(output: Path) -> None:
        leaves(output)
        (output / "lines").unlink()
        (output / "lines").symlink_to("/etc/passwd")

    with pytest.raises(EnvironmentFault):
        includes_of(bare_base(tmp_path), OutsideSandbox(leaves=linked, runs=False).sandbox)
    assert not (tmp_path / "graph.json").exists()
