# SPDX-License-Identifier: GPL-2.0-or-later
"""The include graph of a base: kept durably, made again when damaged, and never read through a link."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_base import bare_base
from outside import OutsideSandbox

from elivepatch.build.objects.header_users import includes_of
from elivepatch.model.errors import EnvironmentFault


def leaves(output: Path) -> None:
    (output / "lines").write_text("fs/a.c:#include <linux/a.h>\n")
    (output / "headers").write_text("include/linux/a.h\n")


def test_the_graph_is_computed_once(tmp_path: Path) -> None:
    outside = OutsideSandbox(leaves=leaves, runs=False)
    for _ in range(2):
        assert includes_of(bare_base(tmp_path), outside.sandbox).users("include/linux/a.h") == {"fs/a.c"}
    assert len(outside.programs) == 1


@pytest.mark.parametrize("left", [b"", b"{}", b'{"resolved": {', bytes(100)])
def test_a_graph_that_a_power_cut_damaged_is_made_again(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "includes.json").write_bytes(left)
    outside = OutsideSandbox(leaves=leaves, runs=False)
    assert includes_of(bare_base(tmp_path), outside.sandbox).users("include/linux/a.h") == {"fs/a.c"}


def test_a_link_that_a_program_left_is_not_followed(tmp_path: Path) -> None:
    def linked(output: Path) -> None:
        leaves(output)
        (output / "lines").unlink()
        (output / "lines").symlink_to("/etc/passwd")

    with pytest.raises(EnvironmentFault):
        includes_of(bare_base(tmp_path), OutsideSandbox(leaves=linked, runs=False).sandbox)
    assert not (tmp_path / "includes.json").exists()
