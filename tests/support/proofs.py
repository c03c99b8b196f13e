# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about livepatches that were never built, as a server would make them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from elivepatch.model.build import Livepatch, Note, PatchedFunction, RequestReference
from elivepatch.model.kernel import BuildId, Digest, KernelIdentity, Release
from elivepatch.model.provenance import BASE, BASE_INPUT, CONFIGURATION, TOOLCHAIN, Material, Origin
from elivepatch.model.series import PatchReference, SeriesReference
from elivepatch.model.trial import (
    CalledFunction,
    DebugTrial,
    Expectation,
    NotLive,
    Observation,
    OverEarlier,
    SeenFunction,
    SeenOutside,
    TrialOutcome,
    TrialReport,
)
from elivepatch.trust.attestation import Run, attest
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.statement import Statement

FINISHED = datetime(2026, 11, 21, 2, 0, 20, tzinfo=UTC)
ORIGIN = Origin(
    version="0.1.0",
    builders={"objects": 3},
    checks={"sample": 800, "fidelity": 1, "layout": 1, "account": 1, "references": 1, "entries": 1},
    materials=(
        Material(kind=CONFIGURATION, name="6.1.0-50-cloud-amd64", digest=Digest("c0" * 32)),
        Material(kind=BASE, name="6.1.0-50-cloud-amd64", digest=Digest("ba" * 32)),
        Material(kind=BASE_INPUT, name="linux-source-6.1_6.1.176-1", digest=Digest("50" * 32)),
        Material(kind=TOOLCHAIN, name="bookworm", digest=Digest("70" * 32)),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts of a livepatch from which its statement is made."""

    name: str = "elp_a"
    module: bytes = b"\x7fELF and so on"
    release: str = "6.1.0-50-cloud-amd64"
    build_id: str = "0123456789abcdef0123456789abcdef01234567"
    series: tuple[str, ...] = ("a" * 64,)
    functions: tuple[PatchedFunction, ...] = (
        PatchedFunction(object="vmlinux", name="meminfo_proc_show", sympos=0, source="fs/proc/meminfo.c"),
    )
    replace: bool = True
    request: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    origin: Origin | None = ORIGIN
    finished: datetime = FINISHED
    rules: tuple[str, ...] = ()

    @property
    def livepatch(self) -> Livepatch:
        kernel = KernelIdentity(
            release=Release(self.release),
            build_id=BuildId(self.build_id),
            arch="x86_64",
            config_digest=Digest("c0" * 32),
            compiler="gcc-12",
        )
        return Livepatch(
            name=self.name,
            digest=Digest(hashlib.sha256(self.module).hexdigest()),
            size_bytes=len(self.module),
            kernel=kernel,
            build_key=Digest(hashlib.sha256(self.name.encode()).hexdigest()),
            functions=self.functions,
            notes=self.notes,
            origin=self.origin,
        )

    def trial(self, *, not_live: Iterable[str] = (), **more: Any) -> TrialReport:
        """Return the report of a trial of this livepatch that found no fault, changed by `more`."""
        whole = TrialReport(
            release=self.release,
            build_id=self.build_id,
            accelerator="tcg",
            observations=(),
            transition_s=0.42,
            reverted=True,
            reloaded=True,
            clean_log=True,
            seconds=11.6,
            problems=(),
            not_live=tuple(NotLive(object=one, why="the guest has no such hardware") for one in not_live),
            busy_rounds=(12, 9),
            over_earlier=OverEarlier(name="elp_0", result="replaced"),
            outside=SeenOutside(
                seen=True,
                phases=("before", "during", "after"),
                functions=tuple(
                    SeenFunction(object=one.object, name=one.name, redirected=True, leads_to_new=True, restored=True)
                    for one in self.functions
                ),
                compared_bytes=30 << 20,
                self_patched={"jump label": 7},
            ),
            functions=tuple(CalledFunction(object=one.object, function=one.name, calls=4) for one in self.functions),
            workload_seconds=10.8,
        )
        return replace(whole, **more)

    def statement(self, key: PublicKey, trial: TrialReport | None) -> Statement:
        """Return the statement that the server with this key makes."""
        request = RequestReference(
            release=Release(self.release),
            series=SeriesReference(tuple(PatchReference(f"{one[:6]}.patch", Digest(one)) for one in self.series)),
            replace=self.replace,
            trial=trial is not None,
            expectations=tuple(
                Expectation(command=one.command, pattern=one.pattern) for one in (trial.observations if trial else ())
            ),
            thorough=trial is not None and trial.debug is not None,
            **self.request,
        )
        run = Run(
            job="0123456789abcdef",
            started=self.finished.replace(second=0),
            finished=self.finished,
            outputs={"build.log": Digest("10" * 32), "console.log": Digest("c1" * 32)},
        )
        report = trial.as_dict() if trial is not None else None
        return attest(self.livepatch, request, run, key, trial=report, rules=self.rules)


def observation(*, met: bool = True, tried: bool = True, **seen: str) -> Observation:
    """Return the result of one expectation."""
    return Observation(
        command="lamp.expect.c" if seen else "/proc/meminfo", pattern="", before="", during="", after="", met=met,
        seen=seen, tried=tried,
    )  # fmt: skip


THOROUGH = DebugTrial(
    kernel="6.1.176-debug",
    outcome=TrialOutcome.PASSED,
    functions=(CalledFunction(object="vmlinux", function="meminfo_proc_show", calls=3),),
    seconds=61.2,
)
