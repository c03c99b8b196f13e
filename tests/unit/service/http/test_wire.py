# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies of requests: read as they were meant, or refused with a reason."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elivepatch.files.digest import sha256
from elivepatch.model.build import Builder, RequestReference
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.predicate import Predicate
from elivepatch.model.series import SERIES_LIMIT_BYTES, PatchReference, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.http.wire import BuildBody, PatchBody, check_size, display_name
from elivepatch.service.jobs.records import build_key, job_key

HALF = b"x" * (SERIES_LIMIT_BYTES // 2 + 1)


def body(**changes: object) -> dict[str, object]:
    content = base64.b64encode(b"--- a/x\n+++ b/x\n").decode()
    return {"kernel": "6.1.0-50-cloud-amd64", "patches": [{"name": "fix.patch", "content": content}]} | changes


def request_of(**changes: object) -> RequestReference:
    sent = BuildBody.model_validate(body(**changes))
    return sent.request(sent.source_patches())


def test_a_request_is_read_as_it_was_meant() -> None:
    request = request_of(expectations=[{"command": "/proc/meminfo", "pattern": "X+"}], trial=False, check_only=True)
    assert request.release == "6.1.0-50-cloud-amd64"
    assert [(patch.name, patch.digest) for patch in request.series.patches] == [
        ("fix.patch", sha256(b"--- a/x\n+++ b/x\n"))
    ]
    assert request.expectations[0].shell == "cat /proc/meminfo"
    assert (request.trial, request.check_only) == (False, True)


LAMP = {"name": "lamp.expect.sh", "source": "# elivepatch: seconds=9\nexit 1\n"}


def test_a_predicate_in_a_request_is_read_as_it_was_meant() -> None:
    (expectation,) = request_of(expectations=[{"command": "x", "pattern": "", "predicate": LAMP}]).expectations
    assert expectation == Expectation.of(Predicate(**LAMP))
    assert expectation.predicate is not None
    assert expectation.predicate.limits.seconds == 9


@pytest.mark.parametrize(
    "changes",
    [{"name": "../lamp.c"}, {"name": "lamp"}, {"source": ""}, {"source": "# elivepatch: hours=1\n"},
     {"source": "exit 1 # \ud800"}, {"source": "exit\0"}],
)  # fmt: skip
def test_what_is_no_predicate_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises((UsageError, ValidationError)):
        request_of(expectations=[{"command": "x", "pattern": "", "predicate": LAMP | changes}])


def test_the_body_has_the_fields_of_the_request_and_no_others() -> None:
    document = request_of().to_json()
    assert {one.alias or name for name, one in BuildBody.model_fields.items()} == set(document) | {"fresh", "priority"}


def test_a_patch_named_by_its_digest_makes_the_same_request_as_one_that_is_sent() -> None:
    sent, named = (
        request_of(patches=[{"name": "a.patch"} | rest])
        for rest in ({"content": base64.b64encode(b"uploaded").decode()}, {"sha256": sha256(b"uploaded")})
    )
    facts = Digest("a" * 64)
    assert sent.to_json() == named.to_json()
    assert job_key(build_key(facts, sent), sent) == job_key(build_key(facts, named), named)


def test_patches_named_by_digest_may_not_be_larger_than_patches_that_are_sent() -> None:
    named = PatchReference("x", sha256(HALF))
    check_size([SourcePatch("x", HALF)], {})
    check_size([named], {named.digest: len(HALF)})
    pairs: list[list[SourcePatch | PatchReference]] = [[named, named], [named, SourcePatch("x", HALF)]]
    for pair in pairs:
        with pytest.raises(UsageError) as refused:
            check_size(pair, {named.digest: len(HALF)})
        assert refused.value.problem.code == "request-too-large"


def test_a_request_may_name_its_builder() -> None:
    plain = request_of()
    assert (plain.builder, plain.paranoid) == (Builder.OBJECTS, False)
    chosen = request_of(builder="reference", paranoid=True)
    assert (chosen.builder, chosen.paranoid) == (Builder.REFERENCE, True)


def test_a_request_may_ask_for_another_copy() -> None:
    assert (request_of().copy, request_of(copy=2).copy) == (0, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"copy": -1},
        {"copy": 10},
        {"copy_": 1},
        {"builder": "make"},
        {"builder": None},
        {"paranoid": "yes"},
        {"patches": []},
        {"patches": [{"name": "x", "content": ""}] * 4097},
        {"patches": [{"name": "x"}]},
        {"patches": [{"name": "x", "content": "", "sha256": "a" * 64}]},
        {"patches": [{"name": "x", "sha256": "A" * 64}]},
        {"patches": [{"name": "x", "sha256": ""}]},
        {"patches": [{"name": "x", "sha256": None}]},
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
        request_of(kernel=kernel)


@pytest.mark.parametrize("content", ["!", "QQ", "QQ==\n", "QUJD QUJD", "Q===", "é"])
def test_what_is_no_base64_is_refused(content: str) -> None:
    with pytest.raises(UsageError) as refused:
        PatchBody(name="x", content=content).patch()
    assert refused.value.problem.code == "base64"


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
