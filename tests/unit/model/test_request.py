# SPDX-License-Identifier: GPL-2.0-or-later
"""The build request: one spelling in JSON, and each field in exactly the key that depends on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.files.digest import sha256
from elivepatch.model.build import Builder, BuildRequest, Decides, RequestReference, patches_of
from elivepatch.model.kernel import Digest
from elivepatch.model.series import BasePatch, PatchReference, PatchSeries, SeriesReference, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.records import build_key, job_key, keep_request, request_from
from elivepatch.service.store import Store

FACTS = Digest("a" * 64)
PLAIN = BuildRequest(release="6.1.0", series=PatchSeries((SourcePatch("one.patch", b"one"),)))
CHANGED: dict[str, Any] = {
    "release": "6.1.1",
    "series": PatchSeries((SourcePatch("two.patch", b"two"),)),
    "expectations": (Expectation(command="x", pattern="y"),),
    "trial": False,
    "thorough": True,
    "check_only": True,
    "replace": False,
    "rewrite": True,
    "builder": Builder.KLP,
    "paranoid": True,
    "copy": 2,
    "base_patches": (BasePatch("base.patch", Digest("b" * 64)),),
}
"""Another value for each field; a new field needs one here."""
IN_BUILD_KEY = {"series", "replace", "builder", "paranoid", "copy"}
IN_JOB_KEY_ALONE = {"expectations", "trial", "thorough", "check_only", "rewrite"}
IN_NO_KEY = {"release", "base_patches"}

digests = st.binary(min_size=1, max_size=4).map(sha256)
requests = st.builds(
    RequestReference,
    release=st.sampled_from(["6.1.0", "6.12.107+deb13-cloud-amd64"]),
    series=st.lists(st.builds(PatchReference, st.text(), digests), max_size=3).map(
        lambda patches: SeriesReference(tuple(patches))
    ),
    expectations=st.lists(st.builds(Expectation, command=st.just("/proc/meminfo"), pattern=st.just("X+"))).map(tuple),
    trial=st.booleans(),
    thorough=st.booleans(),
    check_only=st.booleans(),
    replace=st.booleans(),
    rewrite=st.booleans(),
    builder=st.sampled_from(Builder),
    paranoid=st.booleans(),
    copy=st.integers(0, 9),
    base_patches=st.lists(st.builds(BasePatch, st.text(), digests), max_size=2).map(tuple),
)


@pytest.mark.parametrize("name", CHANGED)
def test_each_field_is_in_exactly_the_keys_that_depend_on_it(name: str) -> None:
    other = replace(PLAIN, **{name: CHANGED[name]})
    assert getattr(other, name) != getattr(PLAIN, name)
    assert (build_key(FACTS, other) != build_key(FACTS, PLAIN)) == (name in IN_BUILD_KEY)
    # With the same build key: the job key takes the fields that decide bytes from there.
    assert (job_key(FACTS, other) != job_key(FACTS, PLAIN)) == (name in IN_JOB_KEY_ALONE)


def test_each_field_is_listed_here_once() -> None:
    names = [one.name for one in fields(BuildRequest)]
    assert sorted(names) == sorted(CHANGED) == sorted([*IN_BUILD_KEY, *IN_JOB_KEY_ALONE, *IN_NO_KEY])
    assert sorted(PLAIN.to_json()) == sorted({*names, "kernel", "patches"} - {"release", "series"})


def test_a_field_that_does_not_declare_what_it_decides_has_no_key() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Longer(BuildRequest):
        speed: int = field(default=0)

    with pytest.raises(TypeError, match="speed"):
        Longer(release="6.1.0", series=PLAIN.series).deciding(Decides.BYTES)


def test_facts_of_the_base_and_tenants_have_keys_of_their_own() -> None:
    assert build_key(Digest("b" * 64), PLAIN) != build_key(FACTS, PLAIN)
    assert job_key(FACTS, PLAIN, "red") != job_key(FACTS, PLAIN, "blue")


def test_names_of_patches_are_in_no_key() -> None:
    renamed = replace(PLAIN, series=PatchSeries((SourcePatch("other.patch", b"one"),)))
    assert (build_key(FACTS, renamed), job_key(FACTS, renamed)) == (build_key(FACTS, PLAIN), job_key(FACTS, PLAIN))


@given(requests)
def test_a_request_is_read_back_as_it_was_written(request: RequestReference) -> None:
    assert RequestReference.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize("name", CHANGED)
def test_a_request_is_kept_with_the_bytes_of_its_patches(name: str, tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    request = replace(PLAIN, **{name: CHANGED[name]})
    assert request_from(json.loads(json.dumps(keep_request(request, store))), store) == request


def test_a_request_that_an_older_server_kept_is_read(tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    kept = {
        "release": "6.1.0",
        "patches": [{"name": "one.patch", "digest": store.put(b"one")}],
        "expectations": [],
        "trial": True,
        "check_only": False,
        "replace": True,
    }
    assert request_from(kept, store) == PLAIN
    assert patches_of(kept) == (PatchReference("one.patch", sha256(b"one")),)


def test_a_patch_is_hashed_once() -> None:
    patch = SourcePatch("one.patch", b"one")
    assert patch.digest is patch.digest
