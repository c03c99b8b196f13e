# SPDX-License-Identifier: GPL-2.0-or-later
"""Declared toolchains: each is complete, and is chosen by what the archive says before anything is made."""

from __future__ import annotations

import pytest

from elivepatch.build.archive.apt import distributions, suites
from elivepatch.build.roots.declared import Declaration, declarations
from elivepatch.model.compiler import CompilerText, parse_compiler


def text(line: str) -> CompilerText:
    found = parse_compiler(line)
    assert found is not None
    return found


def test_every_declared_toolchain_names_a_suite_a_compiler_and_what_the_sandbox_needs() -> None:
    for declaration in declarations().values():
        assert declaration.suite in suites()
        assert declaration.compiler in declaration.packages
        assert {"make", "patch", "binutils", "libelf-dev"} <= set(declaration.packages)
    assert "bubblewrap" in declarations()["debian-13"].packages
    assert [entry["minimum"] for entry in declarations()["debian-13"].unpack] == ["0.9.11"]


def test_every_alias_names_suites_that_are_read() -> None:
    for entry in distributions().values():
        assert set(entry["suites"]) <= suites().keys()


def test_the_date_of_a_suite_that_is_signed_regularly_must_be_valid() -> None:
    assert {name for name, dated in suites().items() if not dated} == {
        "bullseye", "bullseye-updates", "bullseye-security", "forky", "sid",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "line", "version", "makes"),
    [
        ("debian-11", "gcc-10 (Debian 10.2.1-6) 10.2.1 20210110", "10.2.1-6", True),
        ("debian-12", "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "12.2.0-14+deb12u1", True),
        ("debian-13", "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", "14.2.0-19", True),
        ("debian-13", "gcc-14 (Debian 14.2.0-19) 14.2.0", "14.2.0-19+b1", True),
        ("debian-sid-rust", "gcc-16 (Debian 16.2.0-4) 16.2.0", "16.2.0-5", False),
        ("debian-12", "gcc-12 (Debian 12.2.0-14) 12.2.0", "12.2.0-14+deb12u1", False),
        ("debian-13", "gcc-13 (Debian 14.2.0-19) 13.3.0", "14.2.0-19", False),
        ("debian-13", "gcc-14 (Ubuntu 14.2.0-19) 14.2.0", "14.2.0-19", False),
        ("debian-13", "Debian clang version 14.2.0 (19)", "14.2.0-19", False),
        ("debian-13-clang", "Debian clang version 19.1.7 (3+b1)", "1:19.1.7-3+b1", True),
        ("debian-13-clang", "Debian clang version 19.1.7 (3+b1)", "1:19.1.7-3", False),
        ("debian-13-clang", "Debian clang version 18.1.8 (3+b1)", "1:18.1.8-3+b1", False),
        ("debian-13-clang", "clang version 19.1.7", "1:19.1.7-3+b1", False),
        ("debian-13-clang", "Ubuntu clang version 19.1.7 (3+b1)", "1:19.1.7-3+b1", False),
        ("debian-13-clang", "gcc-19 (Debian 19.1.7-3) 19.1.7", "1:19.1.7-3", False),
    ],
)
def test_a_suite_makes_the_compiler_whose_package_it_has(name: str, line: str, version: str, makes: bool) -> None:
    declaration: Declaration = declarations()[name]
    assert declaration.makes(text(line), version) is makes
    assert declaration.may_make(text(line)) or not makes
