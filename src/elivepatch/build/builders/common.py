# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps shared by all builders: find a series' reach, apply it, provide compilers and linkers, report progress."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Self

from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.builders.prepared import check_numbers
from elivepatch.build.checks.layout.constants import constant_notes
from elivepatch.build.checks.layout.statics import check_statics
from elivepatch.build.checks.prototypes import check_prototypes
from elivepatch.build.escapes.find import NewCode, escapes_of
from elivepatch.build.escapes.notes import note_of
from elivepatch.build.objects.apply import Applied, apply_series
from elivepatch.build.objects.compile import Compiler
from elivepatch.build.objects.explain import Explainer
from elivepatch.build.objects.header_users import HeaderNames, NameUsers, includes_of
from elivepatch.build.objects.link import Linker
from elivepatch.build.objects.reach import Reach, reach
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.build.sandbox.output import source_text
from elivepatch.model.build import Note
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.model.series import PatchSeries
from elivepatch.patch.additions import read_additions
from elivepatch.patch.parse import FileKind, TouchedFile
from elivepatch.patch.selection import select
from elivepatch.process import Cancellation


@dataclass(frozen=True, slots=True)
class PreparedSeries:
    """A series after reading and application: its files, the objects it reaches, and the changed sources as a layer.

    `series` is what was applied of the series that was sent.
    """

    series: PatchSeries
    touched: tuple[TouchedFile, ...]
    reached: Reach
    applied: Applied


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """Input of every builder: the base and toolchains, the listener for progress, the cancellation.

    The output of the tools is appended to the file `log`. Unpatched objects are kept for the `tenant` alone.
    """

    base: Base
    toolchains: Toolchains
    jobs: int
    log: Path | None = None
    progress: Progress = silent
    cancellation: Cancellation | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSteps(BuildContext):
    """One job of a builder, for one base; `seconds` is the time of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def within(cls, context: BuildContext) -> Self:
        """Return a builder that works in this context."""
        return cls(**{one.name: getattr(context, one.name) for one in fields(BuildContext)})

    def prepare(self, series: PatchSeries, work_dir: Path) -> PreparedSeries:
        """Read and apply a series. Raises BuildStopped with the verdict if no livepatch can carry it."""
        sandbox = self.sandbox()

        @cache
        def applied() -> Applied:
            with self.timed("apply", f"applying to the source of {self.base.release}"):
                return apply_series(
                    selected.series,
                    selected.touched,
                    tree=self.base.tree,
                    sandbox=sandbox,
                    work_dir=work_dir,
                    cancellation=self.cancellation,
                )

        def name_users(header: str, sources: Collection[str]) -> NameUsers | None:
            names = HeaderNames(base=self.base, sandbox=sandbox)
            return names.users(header, applied().layer, sources)

        with self.timed("read", "reading the series"):
            selected = select(series, lambda path: source_text(self.base.tree, path))
            touched = selected.touched
            reached = reach(
                touched,
                self.base.units,
                self.base.tree,
                lambda header: includes_of(self.base, sandbox).users(header),
                read_additions(selected.series, touched),
                name_users,
            )
        self._check_numbers(touched, sandbox, applied().layer, work_dir)
        check_prototypes(touched, tree=self.base.tree, layer=applied().layer)
        constants = constant_notes(touched, tree=self.base.tree, layer=applied().layer)
        built = {unit.source for unit in reached.units}
        statics = check_statics(touched, tree=self.base.tree, layer=applied().layer, built=built)
        reached = replace(reached, notes=(*selected.notes, *reached.notes, *constants, *statics))
        return PreparedSeries(selected.series, touched, reached, applied())

    def _check_numbers(self, touched: Sequence[TouchedFile], sandbox: Sandbox, layer: Path, work_dir: Path) -> None:
        headers = [file.path for file in touched if file.kind is FileKind.HEADER and not file.added]
        if headers:
            includes = includes_of(self.base, sandbox)
            users = {user for header in headers for user in includes.users(header)}
            check_numbers(
                users, base=self.base, sandbox=sandbox, layer=layer, work_dir=work_dir, cancellation=self.cancellation
            )

    def sandbox(self) -> Sandbox:
        """Return the sandbox with the base's compiler. Raises EnvironmentFault if the toolchain has changed since."""
        return self.toolchains.sandbox(self.toolchains.of(self.base), transcript=self.log)

    def helper(self) -> Sandbox:
        """Return the sandbox with kpatch's tools, pahole and readelf."""
        return self.toolchains.sandbox(self.toolchains.helper(), transcript=self.log)

    def outliving(self, codes: Iterable[NewCode], series: PatchSeries) -> Iterator[Note]:
        """Yield a note if new code hands out what outlives the livepatch."""
        escapes = escapes_of(codes, self.base, sandbox=self.helper(), cancellation=self.cancellation)
        note = note_of(escapes, Explainer(series, self.base.tree).changed)
        if note is not None:
            yield note

    def compiler(self) -> Compiler:
        """Return the compiler of single objects of the base."""
        return Compiler(
            base=self.base,
            sandbox=self.sandbox(),
            patch_headers=self.toolchains.patch_headers(),
            cancellation=self.cancellation,
            tenant=self.tenant,
        )

    def linker(self) -> Linker:
        """Return the linker of modules for the base."""
        return Linker(
            base=self.base,
            sandbox=self.sandbox(),
            helper=self.helper(),
            patch_headers=self.toolchains.patch_headers(),
            jobs=self.jobs,
            cancellation=self.cancellation,
        )

    @contextmanager
    def timed(self, stage: str, message: str) -> Iterator[None]:
        """Report a stage and measure its time."""
        self.progress(Event(stage=stage, message=message))
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.monotonic() - started, 3)
