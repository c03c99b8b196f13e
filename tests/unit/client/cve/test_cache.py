# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of CVE data: verdicts are written one by one in linear time and survive a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.advisory.exposure.verdicts import FixVerdict
from elivepatch.client.cve.cache import CveCache
from elivepatch.model.kernel import Digest, Release

RELEASE = Release("6.1.0-50-cloud-amd64")


def verdict(number: int) -> FixVerdict:
    return FixVerdict(patches=(Digest(f"{number:064x}"),), builder=Digest("b" * 64), asked=True)


@pytest.fixture
def cache(tmp_path: Path) -> CveCache:
    return CveCache(tmp_path / "advisories")


def test_a_thousand_answers_write_a_thousand_lines_and_no_file_again(
    cache: CveCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr("elivepatch.client.cve.cache.write_atomic", lambda _, content: written.append(len(content)))
    for number in range(1000):
        cache.log_verdict(RELEASE, f"CVE-2030-{10000 + number}", verdict(number))
    assert written == []
    (log,) = (cache.directory / "verdicts").iterdir()
    assert log.stat().st_size < 1000 * 400
    assert len(cache.verdicts(RELEASE).by_cve) == 1000


def test_the_log_goes_over_the_file_and_is_emptied_when_all_are_written(cache: CveCache) -> None:
    known = cache.verdicts(RELEASE)
    known.by_cve["CVE-2030-10001"] = verdict(1)
    cache.keep_verdicts(known)
    cache.log_verdict(RELEASE, "CVE-2030-10001", verdict(2))
    found = cache.verdicts(RELEASE)
    assert found.by_cve["CVE-2030-10001"] == verdict(2)
    cache.keep_verdicts(found)
    assert [file.suffix for file in (cache.directory / "verdicts").iterdir()] == [".json"]
    assert cache.verdicts(RELEASE).by_cve == found.by_cve


def test_a_line_that_was_cut_off_or_damaged_costs_only_itself(cache: CveCache) -> None:
    cache.log_verdict(RELEASE, "CVE-2030-10001", verdict(1))
    (log,) = (cache.directory / "verdicts").iterdir()
    log.write_bytes(log.read_bytes() + log.read_bytes()[:40])
    cache.log_verdict(RELEASE, "CVE-2030-10002", verdict(2))
    for damaged in (b"[]\n", b"{}\n", b'{"schema": 9, "cve": "CVE-2030-10003", "verdict": {}}\n', b"\xff\n"):
        log.write_bytes(log.read_bytes() + damaged)
    assert sorted(cache.verdicts(RELEASE).by_cve) == ["CVE-2030-10001", "CVE-2030-10002"]
