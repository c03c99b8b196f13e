# SPDX-License-Identifier: GPL-2.0-or-later
"""Known exploitation and its probability order the answers; they never change a state."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from elivepatch.advisory.exposure.affected import assess_all
from elivepatch.advisory.exposure.priority import Ranking, read_epss, read_kev
from elivepatch.advisory.exposure.report import ranked
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.readers.collection import read_records
from elivepatch.model.errors import UsageError
from elivepatch.model.progress import silent

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
KEV = {
    "title": "catalogue",
    "count": 2,
    "vulnerabilities": [
        {"cveID": "CVE-2030-10008", "dateAdded": "2030-05-01", "dueDate": "2030-05-21"},
        {"cveID": "CVE-2030-99999", "dateAdded": "2030-05-02", "knownRansomwareCampaignUse": "Unknown"},
    ],
}
EPSS = "#model_version:v2030.01.01,score_date:2030-06-01T00:00:00+0000\ncve,epss,percentile\n"
EPSS += "CVE-2030-10003,0.00043,0.08\nCVE-2030-10005,0.91,0.99\n"


def test_the_catalogue_of_exploited_cves_is_read(tmp_path: Path) -> None:
    (tmp_path / "kev.json").write_text(json.dumps(KEV))
    assert read_kev(tmp_path / "kev.json") == {"CVE-2030-10008": "2030-05-01", "CVE-2030-99999": "2030-05-02"}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_scores_are_read_with_their_comment_line(tmp_path: Path, pack: type[bytes]) -> None:
    (tmp_path / "epss.csv").write_bytes(pack(EPSS.encode()))
    assert read_epss(tmp_path / "epss.csv") == {"CVE-2030-10003": 0.00043, "CVE-2030-10005": 0.91}


def test_exploited_cves_come_first_then_the_probable_then_the_severe() -> None:
    answers = assess_all(read_records(SMALL, progress=silent).effective(), parse_kernel_version("7.0.5"))
    ranking = Ranking(
        exploited={"CVE-2030-10008": "2030-05-01"}, probability={"CVE-2030-10003": 0.1, "CVE-2030-10005": 0.9}
    )
    order = [answer.record.id[-1] for answer in ranked(answers, ranking)]
    assert order == ["8", "5", "3", "2", "1", "4", "6", "7"]
    assert ranked(answers, Ranking(exploited={}, probability={})) == answers


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"vulnerabilities": [{}]}', b'{"vulnerabilities": 3}', b"[" * 100_000]
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kev.json").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_kev(tmp_path / "kev.json")
    assert caught.value.problem.code == "cve-ranking"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"a,b\n1,2\n",
        b"cve,epss\nCVE-2030-10001,x\n",
        b"cve,epss\nCVE-2030-10001,7\n",
        b"cve,epss\nCVE-2030-10001\n",
        b"cve,epss\nCVE-2030-10001,nan\n",
        b"\x1f\x8bbroken",
    ],
)
def test_what_are_no_scores_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epss.csv").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_epss(tmp_path / "epss.csv")
    assert caught.value.problem.code == "cve-ranking"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_kev(tmp_path / "missing")
