# SPDX-License-Identifier: GPL-2.0-or-later
"""Origin of a base's kernel, read from the base."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_base import bare_base

from elivepatch.build.base.provenance import package_version

DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("packages", "version"),
    [
        ({"linux-source-6.12_6.12.117-1": DIGEST, "base patch ours.patch": DIGEST}, "6.12.117-1"),
        ({"source linux-source-6.12.tar.xz": DIGEST}, ""),
        ({"source v6.12.117": DIGEST}, ""),
    ],
    ids=["a package", "an archive of that name", "a tag"],
)
def test_only_a_package_says_which_version_a_source_of_ones_own_is(
    tmp_path: Path, packages: dict[str, str], version: str
) -> None:
    assert package_version(bare_base(tmp_path, packages=packages)) == version


def test_a_stock_kernel_is_of_its_own_packages_version(tmp_path: Path) -> None:
    base = bare_base(tmp_path, "6.1.0-50-cloud-amd64", kind="stock", version="6.1.176-1")
    assert package_version(base) == "6.1.176-1"
