# SPDX-License-Identifier: GPL-2.0-or-later
"""Origin of a base's kernel, read from the base."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from bare_base import bare_base

from elivepatch.build.base.provenance import distribution_changelog, keep_changelog, package_version
from elivepatch.process import run

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


def package_of(tmp_path: Path, name: str, content: bytes) -> Path:
    """Make a Debian package with one file."""
    top = tmp_path / "top"
    (top / name).parent.mkdir(parents=True)
    (top / name).write_bytes(content)
    (top / "DEBIAN").mkdir()
    fields = {
        "Package": "linux-headers",
        "Version": "6.1.176-1",
        "Architecture": "all",
        "Maintainer": "A <a@b.example>",
    }
    lines = [f"{key}: {value}\n" for key, value in fields.items()]
    (top / "DEBIAN/control").write_text("".join([*lines, "Description: headers\n"]))
    run(["dpkg-deb", "--build", "--root-owner-group", top, tmp_path / "a.deb"]).check("Making a package")
    return tmp_path / "a.deb"


def test_the_changelog_stays_with_the_base_when_its_package_is_gone(tmp_path: Path) -> None:
    text = "linux (6.1.176-1) bookworm; urgency=medium\n"
    package = package_of(tmp_path, "usr/share/doc/linux-headers/changelog.Debian.gz", gzip.compress(text.encode()))
    base = bare_base(tmp_path)
    keep_changelog(package, base.directory)
    package.unlink()
    assert distribution_changelog(base) == text


def test_a_kernel_whose_package_has_no_changelog_has_none(tmp_path: Path) -> None:
    base = bare_base(tmp_path)
    keep_changelog(package_of(tmp_path, "usr/share/doc/linux-headers/copyright", b"GPL"), base.directory)
    assert distribution_changelog(base) is None


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9]], ids=["no gzip", "cut"])
def test_a_damaged_changelog_counts_as_none(tmp_path: Path, content: bytes) -> None:
    base = bare_base(tmp_path)
    (base.directory / "changelog.gz").write_bytes(content)
    assert distribution_changelog(base) is None
