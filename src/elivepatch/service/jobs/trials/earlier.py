# SPDX-License-Identifier: GPL-2.0-or-later
"""The livepatch that a host probably has live when it loads the one of a job.

A host has its new livepatch built with everything that is live: a series begins with the patches that are live, in
order. So the earlier livepatch is the one of a beginning of the series, and the server has it if it has built it. A
request for a livepatch that is loaded beside others does not say what is live.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from elivepatch.model.build import Livepatch, RequestReference
from elivepatch.model.errors import ElivepatchError
from elivepatch.model.kernel import Digest
from elivepatch.model.series import SeriesReference
from elivepatch.model.trial import OverEarlier
from elivepatch.service.jobs.jobs import Job, Jobs
from elivepatch.service.jobs.records import build_key, livepatch_from
from elivepatch.service.store import Store
from elivepatch.trial.case import EarlierLivepatch

_BEGINNINGS = 64
"""Beginnings of a series that are looked for, the longest ones: a host adds few patches at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The earlier livepatch of a job and its module, or the reason why there is none (`why`).

    Both are missing for a series of one patch: there is nothing that it could replace.
    """

    livepatch: Livepatch | None = None
    module: bytes = b""
    why: str = ""

    def in_directory(self, directory: Path) -> EarlierLivepatch | None:
        """Write the module into `directory` and return the earlier livepatch for a trial, None if there is none."""
        if self.livepatch is None:
            return None
        path = directory / "earlier.ko"
        path.write_bytes(self.module)
        return EarlierLivepatch(livepatch=path, name=self.livepatch.name, parents=self.livepatch.modules)

    def not_tried(self) -> OverEarlier | None:
        """Return the reason for the report; None if there is an earlier livepatch, or nothing to be said."""
        return OverEarlier(name="", result="not-tried", words=self.why) if self.why else None


def find_earlier(job: Job, facts: Digest, jobs: Jobs, store: Store) -> Found:
    """Return the livepatch of the longest beginning of a job's series that this tenant has had built.

    `facts` are those of the kernel's base now. Another tenant's module is never used: the report would say that it
    exists.
    """
    request = RequestReference.from_json(job.request)
    if len(request.series.patches) < 2:
        return Found()
    if not request.replace:
        return Found(why="it is loaded beside what is live, and the request does not say what that is")
    if build_key(facts, request) != job.build_key:
        return Found(why="the kernel's base was made again since the livepatch was built")
    for key in _keys(facts, request):
        built = jobs.built(key, release=job.release, tenant=job.tenant)
        if built is None or built.report is None or built.module_digest is None:
            continue
        try:
            module = store.get(built.module_digest)
        except ElivepatchError:
            continue  # it was removed, or is damaged: the store reports that by itself
        return Found(livepatch=livepatch_from(built.report["livepatch"]), module=module)
    return Found(why="the server has not built a livepatch of an earlier part of the series")


def _keys(facts: Digest, request: RequestReference) -> Iterator[Digest]:
    """Yield the build keys of the beginnings of a series, the longest first; an earlier one may not have replaced."""
    patches = request.series.patches
    for length in range(len(patches) - 1, max(0, len(patches) - 1 - _BEGINNINGS), -1):
        beginning = SeriesReference(patches[:length])
        for replaces in (True, False):
            yield build_key(facts, replace(request, series=beginning, replace=replaces))
