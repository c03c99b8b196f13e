# SPDX-License-Identifier: GPL-2.0-or-later
"""The document about a kernel's sources: made on a server, kept by a client, read with suspicion."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_backend import SOURCES
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.sources import KernelSources, etag, source_map, vanilla_of
from elivepatch.model.errors import EnvironmentFault, UsageError


def test_it_comes_back_as_it_was_sent() -> None:
    assert KernelSources.decode(SOURCES.encode()) == SOURCES


def test_the_same_kernel_has_the_same_bytes_and_tag() -> None:
    assert etag(SOURCES.encode()) == etag(KernelSources.decode(SOURCES.encode()).encode())


def test_it_names_the_package_for_scanners() -> None:
    assert SOURCES.purl == "pkg:deb/debian/linux-image-6.1.0-50-cloud-amd64@6.1.176-1?arch=amd64"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"release": "../../etc"},
        {"build_id": "x"},
        {"vanilla": "6.1.176-1"},
        {"package_version": "1 2"},
        {"builder": ""},
        {"sources": {"../..": {"passwd": []}}},
        {"sources": {"fs": {"../x.c": []}}},
        {"sources": {"fs": {"x.c": ["a b"]}}},
        {"sources": {"fs": {"x.c": "vmlinux"}}},
        {"sources": []},
        {"changelog": {"version": "1"}},
        {"changelog": {"version": "1", "closed": {"x": "y"}, "elsewhere": {}, "own": {}, "reverted": {}}},
        {"changelog": {"version": "1\x1b[31m", "closed": {}, "elsewhere": {}, "own": {}, "reverted": {}}},
    ],
)
def test_a_document_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    content = json.dumps(json.loads(SOURCES.encode()) | change).encode()
    with pytest.raises(UsageError) as caught:
        KernelSources.decode(content)
    assert caught.value.problem.code == "kernel-sources"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_no_json_breaks_the_reader(value: Any) -> None:
    for content in (json.dumps(value), json.dumps({"vanilla": "6.1", "sources": value, "schema": value})):
        with pytest.raises(UsageError):
            KernelSources.decode(content.encode())


def test_a_source_that_others_include_is_in_their_modules_too() -> None:
    made = source_map(
        [("fs/a.c", ("vmlinux",)), ("net/b.c", ("bee",)), ("net/b.c", ("wasp",))],
        {"lib/inner.c": ("lib/middle.c",), "lib/middle.c": ("fs/a.c", "net/b.c", "lib/inner.c")},
        ["fs/a.c", "lib/inner.c", "lib/middle.c", "drivers/unbuilt.c", "../outside.c"],
    )
    assert made == {
        "fs/a.c": ("vmlinux",),
        "net/b.c": ("bee", "wasp"),
        "lib/inner.c": ("bee", "vmlinux", "wasp"),
        "lib/middle.c": ("bee", "vmlinux", "wasp"),
        "drivers/unbuilt.c": (),
    }


def test_a_kernels_vanilla_version_is_its_packages_or_what_its_release_begins_with() -> None:
    assert str(vanilla_of("6.1.0-50-cloud-amd64", "6.1.176-1")) == "6.1.176"
    assert str(vanilla_of("7.2.13-mine", "")) == "7.2.13"
    assert str(vanilla_of("7.3-rc2", "")) == "7.3-rc2"
    with pytest.raises(EnvironmentFault):
        vanilla_of("mine", "")
