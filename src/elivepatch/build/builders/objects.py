# SPDX-License-Identifier: GPL-2.0-or-later
"""The builder `objects`: it compiles only the objects that a series changes, against a base that was never built.

create-diff-object compares the original with the patched object. We check everything that it ignores: the bytes that
the host runs, layouts, symbol positions, sealed entries. docs/adr/0002 says why this builder is the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.account.account import Account, take_account
from elivepatch.build.account.original import write_original
from elivepatch.build.account.settlement import Carried, settle
from elivepatch.build.builders.common import BuildSteps
from elivepatch.build.checks.fidelity import Located, check_fidelity, locate
from elivepatch.build.checks.layout.check import check_layouts, each_once
from elivepatch.build.checks.module import Expected, check_entries, check_module
from elivepatch.build.checks.references import DiffObject, check_references
from elivepatch.build.checks.switches import switch_notes
from elivepatch.build.checks.unwind import check_tables
from elivepatch.build.escapes.find import NewCode
from elivepatch.build.objects.additions import compile_added
from elivepatch.build.objects.apply import Applied
from elivepatch.build.objects.compile import Compiler, Original
from elivepatch.build.objects.diff import Difference, DiffTool, ignored_names, overrides, symbol_table
from elivepatch.build.objects.explain import Explainer
from elivepatch.build.objects.reach import Reach
from elivepatch.kernel.compile_units import Unit
from elivepatch.kernel.elf import ElfFile, Symbol
from elivepatch.kernel.symbols import Block
from elivepatch.model.build import BuildOutcome, Explained, Note, PatchedFunction
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, Problem
from elivepatch.model.series import PatchSeries

VERSION = 3
"""Increased when the same input would give other bytes; part of every build key."""


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of the series that changed."""

    unit: Unit
    located: Located
    difference: Difference
    overrides: tuple[str, ...]
    notes: tuple[Note, ...]

    @property
    def parent(self) -> str:
        return self.unit.parents[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsBuilder(BuildSteps):
    """Builds livepatches for one base, one job an instance."""

    def build(
        self, series: PatchSeries, *, name: str, work_dir: Path, check_only: bool = False, atomic_replace: bool = True
    ) -> BuildOutcome:
        """Build the livepatch `name` from `series` in the empty directory `work_dir`.

        With `check_only` nothing is linked. With `atomic_replace` the livepatch replaces all earlier ones when it is
        enabled. The outcome's problem says what is wrong with the series. Raises EnvironmentFault if something else is
        broken.
        """
        try:
            return self._build(
                series, name=name, work_dir=work_dir, check_only=check_only, atomic_replace=atomic_replace
            )
        except BuildStopped as stopped:
            found = Explainer(series, self.base.tree).explain(stopped.problem)
            return BuildOutcome(problem=found, seconds=dict(self.seconds))

    def _build(
        self, series: PatchSeries, *, name: str, work_dir: Path, check_only: bool, atomic_replace: bool
    ) -> BuildOutcome:
        prepared = self.prepare(series, work_dir)
        reached, applied = prepared.reached, prepared.applied
        with self.timed("compile", f"compiling {len(reached.units)} object(s), original and patched"):
            compiler = self.compiler()
            objects, explained = self._objects(reached, applied, compiler, name, work_dir)
            added = compile_added(
                reached.added, compiler=compiler, base=self.base, layer=applied.layer, work_dir=work_dir
            )
        if not objects:
            raise BuildStopped(_no_change(f"{_sources(reached)}: the compiled code is the same.", explained))
        if not any(one.difference.changed for one in objects):
            raise BuildStopped(_no_change(f"{_sources(reached)}: no function of the kernel is replaced.", explained))
        outputs = [*[one.difference.output for one in objects], *[one.path for one in added]]
        notes = (
            *reached.notes,
            *_notes(objects),
            *[one.note for one in added],
            *Explainer(prepared.series, self.base.tree).notes(_replaced(objects)),
        )
        check_references(outputs, self.base)
        with self.timed("escapes", "following what the new code hands out"):
            parents = [*[one.parent for one in objects], *[one.parent for one in added]]
            codes = [
                NewCode(path=path, parent=parent, resolved=DiffObject(path).resolved())
                for path, parent in zip(outputs, parents, strict=True)
            ]
            notes = (*notes, *self.outliving(codes, prepared.series))
        if check_only:
            check_entries(_symbols(objects), self.base.parent)
            planned = tuple(self._planned(objects))
            return BuildOutcome(functions=planned, notes=notes, seconds=dict(self.seconds), explained=explained)
        with self.timed("link", "linking the module"):
            module = self.linker().link(outputs, name=name, atomic_replace=atomic_replace, work_dir=work_dir)
        with self.timed("check", "checking the module against the kernel"):
            check_tables(ElfFile(module), map(ElfFile, outputs))
            functions = check_module(module, name, self.base, _expected(objects), _blocks(objects))
        return BuildOutcome(
            module=module, functions=functions, notes=notes, seconds=dict(self.seconds), explained=explained,
            checks=_checks(objects, outputs=len(outputs), functions=len(functions)),
        )  # fmt: skip

    def _objects(
        self, reached: Reach, applied: Applied, compiler: Compiler, name: str, work_dir: Path
    ) -> tuple[list[_Object], tuple[Explained, ...]]:
        """Return the objects that change, and what rules explain of the other differences."""
        # Threads that start sandboxes must live until these end (the sandbox dies with the thread that made it).
        with ThreadPoolExecutor(max_workers=self.jobs) as pool, ThreadPoolExecutor(max_workers=self.jobs) as helpers:

            def one(number: int, unit: Unit) -> tuple[_Object | None, tuple[Explained, ...]]:
                original = compiler.original(unit)
                # A source that merely includes a changed file may not use the changed part.
                if unit.source in reached.indirect and compiler.reads_the_same(unit, original, applied.layer):
                    return None, ()
                return self._object(unit, original, compiler, applied, name, work_dir / f"object-{number}", helpers)

            pending = [pool.submit(one, number, unit) for number, unit in enumerate(reached.units)]
            done = [future.result() for future in pending]
        objects = [made for made, _ in done if made is not None]
        return objects, tuple(rule for _, explained in done for rule in explained)

    def _object(
        self,
        unit: Unit,
        original: Original,
        compiler: Compiler,
        applied: Applied,
        name: str,
        directory: Path,
        pool: ThreadPoolExecutor,
    ) -> tuple[_Object | None, tuple[Explained, ...]]:
        """Compile, compare and check one object; return None for it if its code does not change."""
        directory.mkdir()
        plain_pending = pool.submit(compiler.plain, unit, original)
        try:
            patched = compiler.patched(unit, original, applied.layer, directory)
        finally:
            plain = ElfFile(plain_pending.result())
        parent = self.base.parent(unit.parents[0])
        located = locate(plain, parent, source=unit.source, parent=unit.parents[0])
        layouts = pool.submit(
            check_layouts,
            original=original.sectioned,
            patched=patched,
            source=unit.source,
            sandbox=self.helper(),
            cancellation=self.cancellation,
        )
        try:
            account = take_account(original.sectioned, patched, self.base.struct_sizes)
            difference = self._compare(unit, account, original, patched, located, name, directory)
        except BuildStopped:
            # create-diff-object then finds changed data or sizes; the changed layout is their cause.
            if isinstance(layout_problem := layouts.exception(), BuildStopped):
                raise layout_problem from None
            raise
        finally:
            layouts.exception()
        skipped = overrides(ElfFile(patched))
        explained = settle(account, source=unit.source, carried=_carried(difference), ignored=ignored_names(skipped))
        if difference is None:
            if skipped:
                sentence = f"{unit.source}: nothing changes except what the series itself leaves out: "
                raise BuildStopped(problem("no-change", f"{sentence}{', '.join(skipped)}."))
            return None, explained
        notes = (*layouts.result(), *_switch_notes(unit, patched, difference))
        check_fidelity(plain, parent, located, difference.changed, source=unit.source, parent=unit.parents[0])
        return _Object(unit, located, difference, skipped, notes), explained

    def _compare(
        self,
        unit: Unit,
        account: Account,
        original: Original,
        patched: Path,
        located: Located,
        name: str,
        directory: Path,
    ) -> Difference | None:
        marked = write_original(account, directory / "original.o")
        tool = DiffTool(sandbox=self.helper(), struct_sizes=self.base.struct_sizes, cancellation=self.cancellation)
        return tool.compare(
            original=marked,
            compiled=original.sectioned,
            patched=patched,
            source=unit.source,
            parent=unit.parents[0],
            table=symbol_table(self.base.parent(unit.parents[0]), located.block, located.discarded),
            symvers=self.base.tree / "Module.symvers",
            name=name,
            work_dir=directory,
        )

    def _planned(self, objects: list[_Object]) -> Iterator[PatchedFunction]:
        for one in objects:
            parent = self.base.parent(one.parent)
            for function in one.difference.changed:
                position = parent.position(one.located.functions[function])
                yield PatchedFunction(object=one.parent, name=function, sympos=position, source=one.unit.source)


def _checks(objects: list[_Object], *, outputs: int, functions: int) -> dict[str, int]:
    """Return what the checks of `_object` and `_build` looked at."""
    return {
        "fidelity": sum(len(one.difference.changed) for one in objects),
        "layout": len(objects),
        "account": len(objects),
        "references": outputs,
        "entries": functions,
    }


def _carried(difference: Difference | None) -> Carried:
    if difference is None:
        return Carried(None, frozenset())
    return Carried(ElfFile(difference.output), frozenset(difference.changed))


def _no_change(sentence: str, explained: tuple[Explained, ...]) -> Problem:
    listed = "\n".join(f"{one.source}: {one.rule}: {one.what}" for one in explained)
    return problem("no-change", sentence, excerpt=listed)


def _sources(reached: Reach) -> str:
    return ", ".join(unit.source for unit in reached.units)


def _replaced(objects: list[_Object]) -> dict[str, frozenset[str]]:
    return {one.unit.source: frozenset((*one.difference.changed, *one.difference.added)) for one in objects}


def _symbols(objects: list[_Object]) -> Iterator[tuple[str, Symbol]]:
    return ((one.parent, one.located.functions[name]) for one in objects for name in one.difference.changed)


def _expected(objects: list[_Object]) -> list[Expected]:
    return [
        Expected(one.parent, one.unit.source, one.located.functions[function])
        for one in objects
        for function in one.difference.changed
    ]


def _notes(objects: list[_Object]) -> Iterator[Note]:
    yield from each_once(one.notes for one in objects)
    for one in objects:
        if one.overrides:
            message = f"{one.unit.source} makes the tools ignore their own rules: {', '.join(one.overrides)}."
            yield Note(code="override", message=message)
        if DiffObject(one.difference.output).has_callbacks:
            message = f"{one.unit.source} has callbacks, and a livepatch that replaces this one runs none of them."
            yield Note(code="callbacks", message=f"{message} Unload this one before another replaces it.")


def _switch_notes(unit: Unit, patched: Path, difference: Difference) -> Iterator[Note]:
    functions = {*difference.changed, *difference.added}
    return switch_notes(ElfFile(patched), ElfFile(difference.output), functions=functions, source=unit.source)


def _blocks(objects: list[_Object]) -> dict[str, list[Block]]:
    blocks: dict[str, list[Block]] = {}
    for one in objects:
        blocks.setdefault(one.parent, []).append(one.located.block)
    return blocks
