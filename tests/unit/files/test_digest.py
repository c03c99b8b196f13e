# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests: known values, whole files, and one spelling for equal facts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.files.digest import sha256, sha256_file, sha256_json

# FIPS 180-4's own example.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_known_text_has_its_known_digest() -> None:
    assert sha256(b"abc") == ABC


@given(st.binary(max_size=5000))
def test_a_file_has_the_digest_of_its_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "file"
    path.write_bytes(content)
    assert sha256_file(path) == sha256(content)


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "missing")


def test_equal_facts_have_equal_digests_whatever_the_order_of_their_keys() -> None:
    assert sha256_json({"a": 1, "b": [True, None]}) == sha256_json({"b": [True, None], "a": 1})


def test_different_facts_have_different_digests() -> None:
    assert len({sha256_json(facts) for facts in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, ["a", 1])}) == 5


def test_a_cache_key_stays_the_same_from_release_to_release() -> None:
    # Caches on disk are found again by these digits: another spelling of the JSON would make all of them useless.
    assert sha256_json({"release": "6.1.0", "files": ["a", "b"]}) == sha256(
        b'{"files": ["a", "b"], "release": "6.1.0"}'
    )
