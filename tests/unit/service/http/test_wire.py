# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client sends: understood as it was meant, or refused with a reason."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elivepatch.model.build import Builder
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service.http.wire import MAX_BODY_BYTES, BuildBody, ExpectationBody, PatchBody, display_name
from elivepatch.service.jobs.catalogue import build_key
from elivepatch.service.jobs.records import job_key, keep_request, request_from
from elivepatch.service.store import Store, digest_of

LARGE = b"x" * (MAX_BODY_BYTES // 2 + 1)


def body(**changes: object) -> dict[str, object]:
    content = base64.b64encode(b"--- a/x\n+++ b/x\n").decode()
    return {"kernel": "6.1.0-50-cloud-amd64", "patches": [{"name": "fix.patch", "content": content}]} | changes


def uploaded(digest: Digest) -> bytes:
    return {digest_of(content): content for content in (b"uploaded", LARGE)}[digest]


def test_a_request_is_read_as_it_was_meant() -> None:
    request = BuildBody.model_validate(
        body(expectations=[{"command": "/proc/meminfo", "pattern": "X+"}], trial=False, check_only=True)
    ).request(uploaded)
    assert request.release == "6.1.0-50-cloud-amd64"
    assert [(patch.name, patch.content) for patch in request.series.patches] == [("fix.patch", b"--- a/x\n+++ b/x\n")]
    assert request.expectations[0].shell == "cat /proc/meminfo"
    assert (request.trial, request.check_only) == (False, True)


def test_a_patch_that_is_named_by_its_digest_makes_the_same_request() -> None:
    sent, named = (
        BuildBody.model_validate(body(patches=[{"name": "a.patch"} | rest])).request(uploaded)
        for rest in ({"content": base64.b64encode(b"uploaded").decode()}, {"sha256": digest_of(b"uploaded")})
    )
    assert sent == named
    assert build_key(Digest("a" * 64), sent) == build_key(Digest("a" * 64), named)


def test_patches_that_are_named_may_not_be_larger_than_patches_that_are_sent() -> None:
    patch = {"name": "x", "sha256": digest_of(LARGE)}
    assert BuildBody.model_validate(body(patches=[patch])).request(uploaded).series.patches[0].content == LARGE
    with pytest.raises(UsageError) as refused:
        BuildBody.model_validate(body(patches=[patch, patch])).request(uploaded)
    assert refused.value.problem.code == "request-too-large"


def test_a_request_may_name_its_builder() -> None:
    plain = BuildBody.model_validate(body()).request(uploaded)
    assert (plain.builder, plain.paranoid) == (Builder.OBJECTS, False)
    chosen = BuildBody.model_validate(body(builder="reference", paranoid=True)).request(uploaded)
    assert (chosen.builder, chosen.paranoid) == (Builder.REFERENCE, True)


@given(st.sampled_from(Builder), st.booleans())
def test_a_request_is_kept_with_its_builder(builder: Builder, paranoid: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store.in_directory(Path(directory))
        request = BuildBody.model_validate(body(builder=builder.value, paranoid=paranoid)).request(uploaded)
        kept = keep_request(request, store)
        assert request_from(json.loads(json.dumps(kept)), store) == request
        older = {key: value for key, value in kept.items() if key not in {"builder", "paranoid"}}
        assert request_from(older, store).builder is Builder.OBJECTS


def test_a_check_with_a_rewrite_is_another_job_than_one_without(tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    plain, rewriting = (
        BuildBody.model_validate(body(check_only=True, rewrite=rewrite)).request(uploaded) for rewrite in (False, True)
    )
    assert (plain.rewrite, rewriting.rewrite) == (False, True)
    kept = keep_request(rewriting, store)
    assert request_from(json.loads(json.dumps(kept)), store) == rewriting
    assert not request_from({key: value for key, value in kept.items() if key != "rewrite"}, store).rewrite
    assert job_key(Digest("a" * 64), plain) != job_key(Digest("a" * 64), rewriting)


def test_the_builder_is_part_of_the_build_key() -> None:
    facts = Digest("a" * 64)
    requests = [
        BuildBody.model_validate(body(builder=builder.value, paranoid=paranoid)).request(uploaded)
        for builder in Builder
        for paranoid in (False, True)
    ]
    assert len({build_key(facts, request) for request in requests}) == len(requests)


@pytest.mark.parametrize(
    "wrong",
    [
        {"builder": "make"},
        {"builder": None},
        {"paranoid": "yes"},
        {"patches": []},
        {"patches": [{"name": "x", "content": ""}] * 513},
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
        BuildBody.model_validate(body(kernel=kernel)).request(uploaded)


@pytest.mark.parametrize("content", ["!", "QQ", "QQ==\n", "QUJD QUJD", "Q===", "é"])
def test_what_is_no_base64_is_refused(content: str) -> None:
    with pytest.raises(UsageError) as refused:
        PatchBody(name="x", content=content).source_patch(uploaded)
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
