# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes from a web view of a git repository that serves commits as mails: BASE/patch/?id=COMMIT, as cgit does."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx2

from elivepatch.advisory.fixes.fixes import PATCH_MAX, Fix, Wanted, dated, order_of
from elivepatch.advisory.records.record import Findings
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.series import SourcePatch

_TIMEOUT_S = 30.0


class HttpFixes:
    """One web view. Redirects are not followed: the policy names this server and no other."""

    doubt = ""

    def __init__(self, base: str, *, transport: httpx2.BaseTransport | None = None) -> None:
        self.name = base.rstrip("/")
        local = _checked(self.name)
        self._client = httpx2.Client(
            timeout=_TIMEOUT_S, follow_redirects=False, trust_env=not local, transport=transport
        )

    def concerns(self, wanted: Wanted) -> bool:
        """Return whether there are commits to ask for."""
        return bool(wanted.commits)

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Do nothing: one commit is one request."""

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix's commits as mails.

        An answer that is not the mail of that very commit sets the fix aside. Raises EnvironmentFault if the
        server does not answer.
        """
        patches: list[SourcePatch] = []
        for commit in wanted.commits:
            content = self._fetch(commit.id)
            if content is None or not content.startswith(f"From {commit.id} ".encode()):
                what = "has no such commit" if content is None else "answers something else than that commit"
                findings.add("mirror-behind", self.name, f"It {what}: {commit.id[:12]}, which fixes {wanted.cve}.")
                return None
            patches.append(SourcePatch(f"{commit.id[:12]}.patch", content))
        if not patches:
            return None
        dates = [dated(patch.content) or datetime.now(tz=UTC) for patch in patches]
        return Fix(cve=wanted.cve, patches=tuple(patches), origin=self.name, dated=max(dates), order=order_of(wanted))

    def _fetch(self, commit: str) -> bytes | None:
        """Return the place's answer for a commit, None if it has none or the answer is too large."""
        content = bytearray()
        try:
            with self._client.stream("GET", f"{self.name}/patch/", params={"id": commit}) as got:
                if got.status_code == httpx2.codes.NOT_FOUND:
                    return None
                if got.status_code != httpx2.codes.OK:
                    raise self._unusable(f"status {got.status_code}")
                for piece in got.iter_bytes():
                    content += piece
                    if len(content) > PATCH_MAX:
                        return None
        except httpx2.HTTPError as error:
            raise self._unusable(str(error)[:200] or type(error).__name__) from error
        return bytes(content)

    def _unusable(self, how: str) -> EnvironmentFault:
        return EnvironmentFault(
            "fix-source",
            f"{self.name} cannot be asked for fixes: {how}.",
            advice="Try it with another program; a local mirror does not depend on the network.",
        )


def _checked(base: str) -> bool:
    """Return whether the place is this machine; raises UsageError for one that is not reached over TLS otherwise."""
    try:
        url = httpx2.URL(base)
        host = url.host
        local = host == "localhost" or _is_loopback(host)
    except (httpx2.InvalidURL, ValueError) as error:
        raise _bad(base) from error
    if url.scheme not in {"https", "http"} or not host or (url.scheme == "http" and not local) or url.userinfo:
        raise _bad(base)
    return local


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bad(base: str) -> UsageError:
    return UsageError(
        "fix-source",
        f"{base[:120]!r} is not a place that fixes can be fetched from.",
        advice="Give a URL that begins with https:// (http:// on this machine only) and carries no password.",
    )
