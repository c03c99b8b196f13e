# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that Debian builds from its source with further patches: which they are, and these patches in order."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outside import OutsideSandbox

from elivepatch.build.archive import featureset
from elivepatch.build.archive.apt import Archive, Package
from elivepatch.build.archive.featureset import Featureset, featureset_of, fetch_featureset, read_series
from elivepatch.files.digest import sha256
from elivepatch.model.errors import EnvironmentFault, Problem

PLACE = "debian/patches-rt"
FIRST = "--- a/kernel/lock.c\n+++ b/kernel/lock.c\n@@ -1,2 +1,2 @@\n-spin\n+sleep\n end\n"
SECOND = "--- a/kernel/lock.c\n+++ b/kernel/lock.c\n@@ -1,2 +1,2 @@\n-sleep\n+sleep and inherit\n end\n"
GONE = "--- a/kernel/old.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"
GOOD = {
    f"{PLACE}/series": "0001-sleep.patch\n0002-inherit.patch -p1 # comment\n",
    f"{PLACE}/0001-sleep.patch": FIRST,
    f"{PLACE}/0002-inherit.patch": SECOND,
    "debian/patches/series": "other.patch\n",
}


def headers(depends: str) -> Package:
    return Package(name="linux-headers", version="1", sha256="0" * 64, size_bytes=1, depends=depends)


@pytest.mark.parametrize(
    ("depends", "name"),
    [
        ("linux-headers-6.1.0-50-common-rt (= 6.1.176-1), linux-kbuild-6.1 (>= 6.1.176-1)", "rt"),
        ("linux-base (>= 4.12~), linux-headers-6.12.107+deb13-common-rt (= 6.12.107-1), gcc-14", "rt"),
        ("linux-headers-6.1.0-50-common-rt", "rt"),
        ("linux-headers-6.1.0-50-common (= 6.1.176-1), linux-kbuild-6.1", ""),
        ("linux-base-7.3.4+deb13-rt-amd64 (= 7.3.4-1), linux-headers-7.3.4+deb13-common (= 7.3.4-1)", ""),
        ("linux-headers-6.1.0-50-rt-amd64 (= 6.1.176-1)", ""),
        ("", ""),
    ],
)
def test_a_kernel_is_of_a_featureset_if_it_shares_the_headers_of_a_patched_source(depends: str, name: str) -> None:
    assert featureset_of(headers(depends)) == name


def changes(path: Path, files: Mapping[str, str], *more: tarfile.TarInfo) -> Path:
    """Make the archive of Debian's changes of a source package."""
    with tarfile.open(path, "w:xz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        for member in more:
            archive.addfile(member)
    return path


def fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], *more: tarfile.TarInfo
) -> Featureset:
    """Fetch the real-time patches of a source package that consists of `files`."""
    path = changes(tmp_path / "kept", files, *more)
    monkeypatch.setattr(featureset, "fetch_changes", lambda *_: ("linux_6.1.176-1.debian.tar.xz", path))
    place = tmp_path / "featureset"
    return fetch_featureset("rt", cast("Archive", None), headers(""), OutsideSandbox().sandbox, place)


def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], *more: tarfile.TarInfo
) -> Problem:
    with pytest.raises(EnvironmentFault) as caught:
        fetched(tmp_path, monkeypatch, files, *more)
    return caught.value.problem


def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    (made / "kernel").mkdir(parents=True)
    (made / "kernel/lock.c").write_text("spin\nend\n")
    (made / "kernel/old.c").write_text("old\n")
    return made


def test_the_patches_are_recorded_by_name_and_digest_with_the_archive_that_they_came_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fetched(tmp_path, monkeypatch, GOOD)
    assert (found.name, found.series) == ("rt", ("0001-sleep.patch", "0002-inherit.patch"))
    assert found.inputs == {
        "linux_6.1.176-1.debian.tar.xz": sha256((tmp_path / "kept").read_bytes()),
        f"{PLACE}/0001-sleep.patch": sha256(FIRST.encode()),
        f"{PLACE}/0002-inherit.patch": sha256(SECOND.encode()),
    }


def test_the_patches_are_applied_in_the_order_of_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = GOOD | {f"{PLACE}/series": f"{GOOD[f'{PLACE}/series']}0003-gone.patch\n", f"{PLACE}/0003-gone.patch": GONE}
    source = tree(tmp_path)
    fetched(tmp_path, monkeypatch, files).apply(source, OutsideSandbox().sandbox)
    assert (source / "kernel/lock.c").read_text() == "sleep and inherit\nend\n"
    assert [path.name for path in (source / "kernel").iterdir()] == ["lock.c"], "no .orig, no .rej, no empty file"


@pytest.mark.parametrize(
    "order", [("0002-inherit.patch", "0001-sleep.patch"), ("0001-sleep.patch", "0003-fuzzy.patch")]
)
def test_a_patch_that_does_not_apply_exactly_refuses_the_base_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    """The third one would apply if a line around the change might differ."""
    fuzzy = "--- a/kernel/lock.c\n+++ b/kernel/lock.c\n@@ -1,2 +1,2 @@\n-sleep\n+dream\n ends\n"
    files = GOOD | {f"{PLACE}/series": "\n".join(order), f"{PLACE}/0003-fuzzy.patch": fuzzy}
    found = fetched(tmp_path, monkeypatch, files)
    with pytest.raises(EnvironmentFault) as caught:
        found.apply(tree(tmp_path), OutsideSandbox().sandbox)
    assert caught.value.problem.code == "featureset-patches"
    wrong = {"0002-inherit.patch", "0003-fuzzy.patch"}.intersection(order).pop()
    assert wrong in caught.value.problem.message
    assert "FAILED" in caught.value.problem.excerpt


def test_a_kernel_of_no_featureset_keeps_its_source(tmp_path: Path) -> None:
    outside = OutsideSandbox()
    Featureset().apply(tree(tmp_path), outside.sandbox)
    assert outside.programs == []
    assert Featureset().inputs == {}


@pytest.mark.parametrize("missing", ["series", "0002-inherit.patch"])
def test_a_source_package_without_what_its_series_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    problem = refusal(
        tmp_path, monkeypatch, {name: text for name, text in GOOD.items() if not name.endswith(f"{PLACE}/{missing}")}
    )
    assert problem.code == "featureset-patches"
    assert f"{PLACE}/{missing}" in problem.message


def test_a_source_package_without_patches_of_the_featureset_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = refusal(tmp_path, monkeypatch, {"debian/patches/series": "other.patch\n"})
    assert problem.code == "featureset-patches"
    assert "linux_6.1.176-1.debian.tar.xz" in problem.message


def test_a_patch_that_is_a_link_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tarfile.TarInfo(f"{PLACE}/0002-inherit.patch")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = {name: text for name, text in GOOD.items() if "inherit" not in name}
    assert refusal(tmp_path, monkeypatch, files, link).code == "sandbox-output"


@pytest.mark.parametrize(
    ("series", "names"),
    [
        (b"a.patch\nb.patch\n", ("a.patch", "b.patch")),
        (b"# all\n\n  a.patch  -p1  # why\nrt/b.patch", ("a.patch", "rt/b.patch")),
        (b"0001-a_B+c.patch\t#1\n", ("0001-a_B+c.patch",)),
    ],
)
def test_a_series_lists_patches_in_order(series: bytes, names: tuple[str, ...]) -> None:
    assert read_series(series, PLACE) == names


@pytest.mark.parametrize(
    "series",
    [b"", b"# nothing\n", b"../a.patch\n", b"/etc/passwd\n", b"rt/../../a\n", b"-R\n", b"a.patch -p0\n",
     b"a.patch -R\n", b"a#b\n", b"a.patch\na.patch\n", b"a b c\n", b"a;id\n", b"a$(id)\n", b"\xff\n",
     "é.patch\n".encode(), b"a\0b\n",
     b"".join(b"%d\n" % number for number in range(2001))],
)  # fmt: skip
def test_a_series_with_anything_else_is_refused(series: bytes) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        read_series(series, PLACE)
    assert caught.value.problem.code == "featureset-patches"


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(["a", "../", "-p1", "#", " ", "\n", "\t", "b/", "\r"])).map(
        lambda parts: "".join(parts).encode()
    )
)
def test_no_series_leads_out_of_its_directory_or_becomes_an_option(series: bytes) -> None:
    try:
        names = read_series(series, PLACE)
    except EnvironmentFault:
        return
    assert names
    for name in names:
        assert not name.startswith(("/", "-"))
        assert ".." not in name.split("/")
        assert len(name.split()) == 1
