# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client sends: understood as it was meant, or refused with a reason."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elivepatch.model.errors import UsageError
from elivepatch.service.wire import BuildBody, ExpectationBody, PatchBody, display_name


def body(**changes: object) -> dict[str, object]:
    content = base64.b64encode(b"--- a/x\n+++ b/x\n").decode()
    return {"kernel": "6.1.0-50-cloud-amd64", "patches": [{"name": "fix.patch", "content": content}]} | changes


def test_a_request_is_read_as_it_was_meant() -> None:
    request = BuildBody.model_validate(
        body(expectations=[{"command": "/proc/meminfo", "pattern": "X+"}], trial=False, check_only=True)
    ).request()
    assert request.release == "6.1.0-50-cloud-amd64"
    assert [(patch.name, patch.content) for patch in request.series.patches] == [("fix.patch", b"--- a/x\n+++ b/x\n")]
    assert request.expectations[0].shell == "cat /proc/meminfo"
    assert (request.trial, request.check_only) == (False, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patches": []},
        {"patches": [{"name": "x", "content": ""}] * 513},
        {"patches": [{"name": "x"}]},
        {"patches": [{"name": 1, "content": ""}]},
        {"patches": "x"},
        {"kernel": None},
        {"trial": "yes"},
        {"force": True},
        {"expectations": [{"command": "x", "pattern": "x"}] * 65},
    ],
)
def test_a_request_of_another_shape_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BuildBody.model_validate(body(**wrong))


@pytest.mark.parametrize("kernel", ["", "../../etc", "6.1/../..", "6.1\n", "six", "6.1;reboot"])
def test_what_is_no_kernel_release_is_refused(kernel: str) -> None:
    with pytest.raises(UsageError):
        BuildBody.model_validate(body(kernel=kernel)).request()


@pytest.mark.parametrize("content", ["!", "QQ", "QQ==\n", "QUJD QUJD", "Q===", "é"])
def test_what_is_no_base64_is_refused(content: str) -> None:
    with pytest.raises(UsageError) as refused:
        PatchBody(name="x", content=content).source_patch()
    assert refused.value.problem.code == "base64"


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "(" * 2000 + ")" * 2000, "[", "(?P<x>a)(?P<x>b)"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError) as refused:
        ExpectationBody(command="x", pattern=pattern).expectation()
    assert refused.value.problem.code == "expectation"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("fix.patch", "fix.patch"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\x.diff", "x.diff"),
        ("../", ".."),
        ("", "patch"),
        ("///", "patch"),
        ("a\x1b[31mb\u202ecod.patch", "a[31mbcod.patch"),
        ("n" * 500, "n" * 120),
        ("Füße 修正.patch", "Füße 修正.patch"),
    ],
)
def test_a_patch_s_name_is_for_people_only(name: str, shown: str) -> None:
    assert display_name(name) == shown


@given(st.text())
def test_a_name_is_short_printable_and_without_a_slash(name: str) -> None:
    shown = display_name(name)
    assert 1 <= len(shown) <= 120
    assert "/" not in shown
    assert shown.isprintable()
