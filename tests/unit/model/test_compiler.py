# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of compilers: what twelve distributions write into a kernel's configuration, and into its objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.compiler import is_command, parse_compiler

# CONFIG_CC_VERSION_TEXT of shipped kernels and first lines of `--version`; the command and the version in them, and the
# text in .comment, where the two are not the same words.
TEXTS = [
    ("debian-12", "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-12", "12.2.0"),
    ("debian-13", "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0", "x86_64-linux-gnu-gcc-14", "14.2.0"),
    ("debian-11", "gcc-10 (Debian 10.2.1-6) 10.2.1 20210110", "gcc-10", "10.2.1"),
    ("ubuntu", "x86_64-linux-gnu-gcc-13 (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0", "x86_64-linux-gnu-gcc-13", "13.3.0"),
    ("fedora", "gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "gcc", "14.2.1"),
    ("rhel-9", "gcc (GCC) 11.4.1 20230605 (Red Hat 11.4.1-2)", "gcc", "11.4.1"),
    ("elrepo", "gcc (GCC) 8.3.1 20191121 (Red Hat 8.3.1-5)", "gcc", "8.3.1"),
    (
        "rhel-cross",
        "x86_64-redhat-linux-gcc (GCC) 8.3.1 20191121 (Red Hat 8.3.1-5)",
        "x86_64-redhat-linux-gcc",
        "8.3.1",
    ),
    ("arch", "gcc (GCC) 14.2.1 20240910", "gcc", "14.2.1"),
    ("nixos", "gcc (GCC) 13.3.0", "gcc", "13.3.0"),
    ("amazon-2", "gcc10-gcc (GCC) 10.5.0 20230707 (Red Hat 10.5.0-1)", "gcc10-gcc", "10.5.0"),
    ("gentoo", "gcc (Gentoo 13.3.1_p20240614 p17) 13.3.1 20240614", "gcc", "13.3.1"),
    ("gentoo-chost", "x86_64-pc-linux-gnu-gcc (Gentoo 10.2.0-r2 p3) 10.2.0", "x86_64-pc-linux-gnu-gcc", "10.2.0"),
    ("sles-15", "gcc (SUSE Linux) 7.5.0", "gcc", "7.5.0"),
    (
        "tumbleweed",
        "gcc (SUSE Linux) 11.2.1 20211124 [revision 7510c23c1ec53aa4a62705f0384079661342ff7b]",
        "gcc",
        "11.2.1",
    ),
    ("alpine", "gcc (Alpine 14.2.0) 14.2.0", "gcc", "14.2.0"),
]


@pytest.mark.parametrize(("text", "command", "number"), [entry[1:] for entry in TEXTS], ids=[one[0] for one in TEXTS])
def test_the_compiler_of_each_distribution_is_understood(text: str, command: str, number: str) -> None:
    found = parse_compiler(text)
    assert found is not None
    assert (found.family, found.command, found.number) == ("gcc", command, number)
    assert f"{command} {found.version}" == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("clang version 19.1.7", "19.1.7"),
        ("Ubuntu clang version 18.1.3 (1ubuntu1)", "18.1.3"),
        ("Debian clang version 19.1.7 (3)", "19.1.7"),
    ],
)
def test_clang_does_not_print_its_command(text: str, number: str) -> None:
    found = parse_compiler(text)
    assert found is not None
    assert (found.family, found.command, found.version, found.number) == ("clang", "", text, number)


@pytest.mark.parametrize(
    "text",
    ["", "n", "gcc", "gcc-12", "gcc (Debian)", "gcc Debian 12.2.0", "gcc (Debian 12) twelve", "-gcc (GCC) 1.2",
     "/usr/bin/gcc (GCC) 1.2", "gcc (GCC) 1.2\nmore", "icc (ICC)", "gcc (x) 1.2" + "x" * 500],
)  # fmt: skip
def test_what_no_compiler_prints_is_nothing(text: str) -> None:
    assert parse_compiler(text) is None


@given(st.text(max_size=500))
def test_any_text_is_either_nothing_or_named_in_full(text: str) -> None:
    found = parse_compiler(text)
    if found is not None:
        assert text == f"{found.command} {found.version}".lstrip()
        assert found.number in found.version
        assert is_command(found.command) or found.family == "clang"


@pytest.mark.parametrize("name", ["", "-c", "a b", "../gcc", "gcc;id", "gcc\n", "$(id)", "gcc/x", "é"])
def test_a_path_an_option_or_a_script_is_no_command(name: str) -> None:
    assert not is_command(name)
