# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of CVEs from the web view of a git repository."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx2
import pytest
from wanted_fix import DIFF, wanted

from elivepatch.advisory.fixes.fixes import (
    PATCH_MAX,
    Fix,
)
from elivepatch.advisory.fixes.http import HttpFixes
from elivepatch.advisory.records.record import Findings
from elivepatch.model.errors import EnvironmentFault, UsageError

Responder = Callable[[httpx2.Request], httpx2.Response]


class TestHttp:
    def find(self, answer: Responder, findings: Findings | None = None) -> Fix | None:
        source = HttpFixes("https://git.example/stable.git/", transport=httpx2.MockTransport(answer))
        return source.find(wanted(("b" * 40, "6.1.120")), findings if findings is not None else Findings())

    def test_the_mail_of_the_commit_is_the_source_patch(self) -> None:
        asked: list[httpx2.Request] = []

        def answer(request: httpx2.Request) -> httpx2.Response:
            asked.append(request)
            mail = f"From {'b' * 40} Mon Sep 17 00:00:00 2001\nDate: Thu, 2 May 2030 12:00:00 +0000\n\n"
            return httpx2.Response(200, content=mail.encode() + DIFF)

        fix = self.find(answer)
        assert fix is not None
        assert fix.patches[0].content.endswith(DIFF)
        assert fix.dated == datetime(2030, 5, 2, 12, tzinfo=UTC)
        assert str(asked[0].url) == f"https://git.example/stable.git/patch/?id={'b' * 40}"

    @pytest.mark.parametrize(
        ("status", "content"),
        [
            (404, b""),
            (200, b"<html>Bad commit"),
            (200, b"From " + b"c" * 40 + b" Mon\n"),
            (200, b"x" * (PATCH_MAX + 1)),
        ],
    )
    def test_another_answer_than_that_commit_is_set_aside(self, status: int, content: bytes) -> None:
        findings = Findings()
        assert self.find(lambda _: httpx2.Response(status, content=content), findings) is None
        assert findings.counts == {"mirror-behind": 1}

    @pytest.mark.parametrize("status", [302, 500, 403])
    def test_a_redirect_is_not_followed_and_an_error_is_one(self, status: int) -> None:
        with pytest.raises(EnvironmentFault):
            self.find(lambda _: httpx2.Response(status, headers={"Location": "https://elsewhere.example/"}))

    @pytest.mark.parametrize(
        "base", ["http://git.example/x", "ftp://git.example/x", "https://user:pass@git.example/x", "x", "https://"]
    )
    def test_a_place_that_is_not_reached_safely_is_refused(self, base: str) -> None:
        with pytest.raises(UsageError):
            HttpFixes(base)

    def test_this_machine_needs_no_tls(self) -> None:
        for base in ("http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]/x"):
            HttpFixes(base)
