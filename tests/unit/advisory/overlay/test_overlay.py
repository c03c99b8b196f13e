# SPDX-License-Identifier: GPL-2.0-or-later
"""Contents of an overlay: each mistake in an entry is named and costs that entry alone."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.overlay.old_format import read_old_overlay
from elivepatch.advisory.overlay.overlay import Overlay, read_overlay, read_range
from elivepatch.advisory.overlay.plain_yaml import NotPlain, read_yaml

FILES = {"patches/oil.patch", "patches/light.patch", "patches/light.expect.c"}

GOOD = """\
overlay: 1
name: lamps
maintainer: Somebody <somebody@example.org>
patches:
  - id: oil
    title: fill the lamp
    files: [patches/oil.patch]
    cves: [CVE-2030-20001]
    kernels: [6.1.100..6.1.179, 5.10.*]
    order: 5
    licence: GPL-2.0-only
    author: An Author
  - id: light
    files:
      - patches/light.patch
    cves: [CVE-2030-20002, CVE-2030-20003]
    kernels: ["6.1.*"]
    requires: [oil]
    expect: ["/proc/lamp =~ light"]
    licence: GPL-2.0-only
    author: An Author
  - id: stable
    commit: 5c6375bced6147ec2e460ee3b653f4860d5ecdc2
    cves: [CVE-2030-20004]
    kernels: [..6.6]
    licence: GPL-2.0-only
    author: An Author
"""


def read(text: str) -> Overlay:
    return read_overlay(text.encode(), FILES.__contains__)


def entry(**changes: str | None) -> Overlay:
    fields = {
        "id": "oil",
        "files": "[patches/oil.patch]",
        "cves": "[CVE-2030-20001]",
        "kernels": "[6.1.100]",
        "licence": "GPL-2.0-only",
        "author": "An Author",
    } | changes
    lines = [f"    {key}: {value}" for key, value in fields.items() if value is not None]
    lines[0] = "  - " + lines[0].strip()
    return read("overlay: 1\nname: lamps\npatches:\n" + "\n".join(lines) + "\n")


def test_a_good_overlay_is_read_whole() -> None:
    overlay = read(GOOD)
    assert overlay.findings.named == []
    assert list(overlay.entries) == ["oil", "light", "stable"]
    light = overlay.entries["light"]
    assert light.cves == ("CVE-2030-20002", "CVE-2030-20003")
    assert light.expect[0].pattern == "light"
    assert [one.id for one in overlay.series(light)] == ["oil", "light"]
    assert overlay.entries["oil"].order == 5


def test_an_entry_fits_the_kernels_that_it_names() -> None:
    oil = read(GOOD).entries["oil"]
    fitting = {text: oil.fits(parse_kernel_version(text)) for text in ("6.1.99", "6.1.100", "6.1.179", "5.10.3", "6.6")}
    assert fitting == {"6.1.99": False, "6.1.100": True, "6.1.179": True, "5.10.3": True, "6.6": False}


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("6.1.176", ["6.1.176"], ["6.1.175", "6.1.177"]),
        ("6.1.*", ["6.1", "6.1-rc1", "6.1.999"], ["6.0.19", "6.2-rc1"]),
        ("6.1.3..6.6", ["6.1.3", "6.5.1", "6.6"], ["6.1.2", "6.6.1"]),
        ("..5.4", ["2.6.32", "5.4"], ["5.4.1"]),
        ("6.12..", ["6.12", "7.1"], ["6.11.9"]),
    ],
)
def test_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    found = read_range(text)
    assert found is not None
    assert all(found.contains(parse_kernel_version(one)) for one in inside)
    assert not any(found.contains(parse_kernel_version(one)) for one in outside)


@pytest.mark.parametrize("text", ["", "..", "6.1.0.1.2", "6.x", "x..6.1", "6.6..6.1", "6.1.3.*", "6.1-rc2.*", ">=6.1"])
def test_what_is_no_range(text: str) -> None:
    assert read_range(text) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": "a/b"}, "id"),
        ({"id": "[a]"}, "id"),
        ({"files": "[../../etc/passwd]"}, "outside"),
        ({"files": "[/etc/passwd]"}, "outside"),
        ({"files": "[patches/../oil.patch]"}, "outside"),
        ({"files": "[patches/gone.patch]"}, "not a file"),
        ({"files": "patches/oil.patch"}, "files"),
        ({"files": None}, "neither files nor a commit"),
        ({"commit": "5c6375bced6147ec2e460ee3b653f4860d5ecdc2"}, "both"),
        ({"files": None, "commit": "5c6375b"}, "whole commit id"),
        ({"cves": None}, "no CVE"),
        ({"cves": "[CVE-1]"}, "CVE-1"),
        ({"kernels": None}, "no kernel"),
        ({"kernels": '[">= 6.1"]'}, ">= 6.1"),
        ({"licence": None}, "licence"),
        ({"author": '" "'}, "author"),
        ({"order": "first"}, "order"),
        ({"order": "[1]"}, "order"),
        ({"expect": '["no expectation"]'}, "expectation"),
        ({"expect": '["x =~ ("]'}, "expect"),
        ({"license": "GPL"}, "unknown key 'license'"),
        ({"requires": "[nobody]"}, "nobody"),
        ({"requires": "[oil]"}, "needs it in turn"),
    ],
)
def test_a_mistake_in_an_entry_is_named_and_the_entry_left_out(changes: dict[str, str | None], named: str) -> None:
    overlay = entry(**changes)
    assert overlay.entries == {}
    assert overlay.findings.total == 1
    assert named in overlay.findings.named[0].message


def test_the_rest_goes_on() -> None:
    overlay = read(GOOD.replace("patches/light.patch", "patches/dark.patch"))
    assert list(overlay.entries) == ["oil", "stable"]
    assert overlay.findings.counts == {"overlay-entry": 1}


def test_what_requires_something_unusable_is_left_out_with_it() -> None:
    overlay = read(GOOD.replace("patches/oil.patch", "patches/water.patch"))
    assert list(overlay.entries) == ["stable"]
    assert overlay.findings.counts == {"overlay-entry": 1, "overlay-requires": 1}


def test_a_cycle_is_named_at_each_of_its_entries() -> None:
    overlay = read(GOOD.replace("    order: 5\n", "    order: 5\n    requires: [light]\n"))
    assert list(overlay.entries) == ["stable"]
    assert sorted(one.name for one in overlay.findings.named) == ["light", "oil"]
    assert overlay.findings.counts == {"overlay-cycle": 2}


def test_a_second_entry_of_the_same_id_is_left_out() -> None:
    overlay = read(GOOD.replace("id: stable", "id: oil"))
    assert list(overlay.entries) == ["oil", "light"]
    assert overlay.findings.counts == {"overlay-entry": 1}


def test_a_long_chain_of_requirements_is_no_burden() -> None:
    count = 5000
    lines = ["overlay: 1", "name: chain", "patches:"]
    for number in range(count):
        requires = f"[e{number + 1}]" if number + 1 < count else "[]"
        lines.append(
            f"  - {{id: e{number}, files: [patches/oil.patch], cves: [CVE-2030-20001], kernels: [6.1.100], "
            f"licence: GPL, author: A, requires: {requires}}}"
        )
    overlay = read("\n".join(lines))
    assert len(overlay.entries) == count
    assert [one.id for one in overlay.series(overlay.entries["e0"])][:2] == [f"e{count - 1}", f"e{count - 2}"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "name: lamps\npatches: []\n",
        "overlay: 2\nname: lamps\npatches: []\n",
        "overlay: 1\nname: ../x\npatches: []\n",
        "overlay: 1\nname: lamps\npatches: {}\n",
        "overlay: 1\nname: lamps\npatches: []\nhooks: [x]\n",
        "overlay: 1\nname: lamps\nmaintainer: [x]\npatches: []\n",
        "overlay: 1\nname: lamps\nname: lamp\npatches: []\n",
        "overlay: 1\nname: &a lamps\npatches: []\n",
        "overlay: 1\nname: lamps\npatches: *a\n",
        "overlay: 1\nname: !!python/object/apply:os.system [x]\npatches: []\n",
        "overlay: 1\n\tname: lamps\n",
        "overlay: 1\n---\noverlay: 1\n",
        "? [a]\n: b\n",
    ],
)
def test_a_file_that_cannot_be_trusted_as_a_whole_gives_nothing(text: str) -> None:
    overlay = read(text)
    assert overlay.entries == {}
    assert overlay.findings.counts == {"overlay-file": 1}


def test_scalars_stay_what_was_written() -> None:
    assert read_yaml(b"a: 6.10\nb: no\nc: 2030-01-01\nd: ~\ne:\nf: 0x10\n") == {
        "a": "6.10", "b": "no", "c": "2030-01-01", "d": "~", "e": "", "f": "0x10",
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 3000, b"a: " + b"x" * 2**21, b"{a: 1, a: 2}"])
def test_hostile_text_is_refused(content: bytes) -> None:
    with pytest.raises(NotPlain):
        read_yaml(content)


def test_a_nest_of_twenty_is_refused_before_it_hurts() -> None:
    with pytest.raises(NotPlain):
        read_yaml(b"[" * 30 + b"]" * 30)


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text: str) -> None:
    overlay = read(text)
    assert overlay.entries == {}
    assert overlay.findings.total == 1
    read_old_overlay(text.encode(errors="replace"), FILES.__contains__, "old")


OLD = """\
elivepatch_version: 0.1
# patches of 2019
- 4.18.1
    - patch_id: 1
      cve_id: CVE-2018-5390
      commit_id: 5c6375bced6147ec2e460ee3b653f4860d5ecdc2
      repository: https://git.example/linux.git
      comment: tcp: free batches
    - patch_id: 2
      cve_id: CVE-2018-5391
      path: patches/oil.patch
      license: GPL-2.0
    - patch_id: 3
      comment: closes nothing
    - patch_id: 4
      cve_id: CVE-2018-5392
      path: ../../etc/passwd
- 4.19
    - patch_id: 1
      cve_id: CVE-2018-5390
      path: patches/light.patch
    what is this line
"""


def test_the_file_of_2019_is_read_where_it_can_be_understood() -> None:
    overlay = read_old_overlay(OLD.encode(), FILES.__contains__, "old")
    assert {name: (one.cves, one.files, one.commit[:4]) for name, one in overlay.entries.items()} == {
        "4.18.1-1": (("CVE-2018-5390",), (), "5c63"),
        "4.18.1-2": (("CVE-2018-5391",), ("patches/oil.patch",), ""),
        "4.19-1": (("CVE-2018-5390",), ("patches/light.patch",), ""),
    }
    assert overlay.entries["4.18.1-1"].fits(parse_kernel_version("4.18.1"))
    assert not overlay.entries["4.18.1-1"].fits(parse_kernel_version("4.18.2"))
    assert overlay.findings.counts == {"overlay-entry": 2, "overlay-line": 1}


def test_an_entry_may_expect_what_a_predicate_of_the_overlay_sees() -> None:
    expected = '["/proc/lamp =~ light", patches/light.expect.c, "cat /x.c =~ y"]'
    overlay = entry(expect=expected)
    assert overlay.findings.named == []
    oil = overlay.entries["oil"]
    assert [one.command for one in oil.expect] == ["/proc/lamp", "cat /x.c"]
    assert oil.predicates == ("patches/light.expect.c",)


@pytest.mark.parametrize("path", ["../light.c", "/etc/light.sh", "patches/gone.c", "a b.c", "-.sh/../x.c"])
def test_a_predicate_that_is_no_file_of_the_overlay_costs_its_entry(path: str) -> None:
    overlay = entry(expect=f'["{path}"]')
    assert overlay.entries == {}
    assert overlay.findings.total == 1


def test_a_pattern_that_compiles_for_minutes_costs_its_entry_and_seconds() -> None:
    slow = [f"x =~ (?i){number}" + "[a-\U0010ffff]" * 90 for number in range(32)]
    started = time.monotonic()
    overlay = entry(expect=json.dumps(slow, ensure_ascii=False))
    assert overlay.entries == {}
    assert "cannot be compiled" in overlay.findings.named[0].message
    assert time.monotonic() - started < 30
