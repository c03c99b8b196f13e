# SPDX-License-Identifier: GPL-2.0-or-later
"""Proposal of a changed series, if the series that was sent cannot be a livepatch, with the proof that it can be one.

Each problem goes to the rules of patch/rewrite. The series that a rule returns is checked as any series is, until a
check finds no problem or no rule fits. Nothing is applied: the result is a patch to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox.output import source_text
from elivepatch.model.build import BuildOutcome, Proposal, RewriteStep
from elivepatch.model.errors import Problem
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.lines import forget
from elivepatch.patch.parse import NOT_OF_THE_KERNEL, FileKind, TouchedFile
from elivepatch.patch.rewrite.calls import plain_static_calls, plain_static_keys, renamed_function
from elivepatch.patch.rewrite.data import exports_as_they_are, kept_static_local, plain_variables
from elivepatch.patch.rewrite.edits import Rule, Source, Unsafe, write_patch
from elivepatch.patch.rewrite.init import dropped_init
from elivepatch.patch.rewrite.tables import written_tables
from elivepatch.patch.selection import select
from elivepatch.process import run

ROUNDS = 8
"""Limit of problems of one series that are rewritten one after the other; each costs a compilation."""

NAME = "proposed.patch"

Check = Callable[[PatchSeries], tuple[BuildOutcome, Path]]
"""Checks a series; returns the outcome and the layer of patched files, which may be missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposer:
    """Proposes for one kernel's source `tree`."""

    tree: Path
    check: Check

    def propose(self, series: PatchSeries, found: Problem, layer: Path) -> Proposal:
        """Return a proposal in place of `series`, which the problem `found` stopped after it was applied as `layer`."""
        if not layer.is_dir():
            return Proposal(patch="", refusal="The series fails before it reaches the compiler.")
        selected = select(series, lambda path: source_text(self.tree, path))
        touched = [file for file in selected.touched if file.kind not in NOT_OF_THE_KERNEL]
        sources = self._sources(touched, layer)
        if left_out := sorted({file.path for file in touched} - sources.keys()):
            sentence = f"A proposal changes C files that exist before and after the series, unlike {left_out[0]}."
            return Proposal(patch="", refusal=sentence)
        steps: list[RewriteStep] = []
        for _ in range(ROUNDS):
            answer = next((made for rule in self._rules() if (made := rule(found, sources)) is not None), None)
            if answer is None:
                return Proposal(patch="", steps=tuple(steps), refusal=f"No rule rewrites this: {found.message}")
            if isinstance(answer, Unsafe):
                return Proposal(patch="", steps=tuple(steps), refusal=answer.reason)
            steps += answer.steps
            sources = dict(answer.sources)
            if all(source.old == source.new for source in sources.values()):
                return Proposal(patch="", steps=tuple(steps), refusal="The rewrite would leave nothing of the series.")
            content = write_patch(sources, steps).encode("latin-1")
            outcome, _ = self.check(PatchSeries((SourcePatch(NAME, content),)))
            if outcome.problem is None:
                return Proposal(patch=content.decode(), steps=tuple(steps))
            if outcome.problem.message == found.message:
                break
            found = outcome.problem
        return Proposal(patch="", steps=tuple(steps), refusal=f"Even after the rewrite: {found.message}")

    def _sources(self, touched: Sequence[TouchedFile], layer: Path) -> dict[str, Source]:
        sources = {}
        for file in touched:
            if file.kind not in {FileKind.SOURCE, FileKind.HEADER}:
                continue
            old, new = source_text(self.tree, file.path), source_text(layer, file.path)
            if old is not None and new is not None:
                sources[file.path] = Source(path=file.path, old=old, new=forget(new))
        return sources

    def _rules(self) -> tuple[Rule, ...]:
        return (
            plain_variables,
            exports_as_they_are,
            kept_static_local,
            dropped_init,
            renamed_function,
            plain_static_keys,
            plain_static_calls,
            written_tables(self._uses),
        )

    def _uses(self, member: str, tag: str) -> Sequence[str]:
        """Return the lines that name a member in the files that name a structure."""
        files = run(["grep", "-rlwZ", "--include=*.[ch]", "-e", tag, "."], cwd=self.tree, timeout_s=120).output
        if not files:
            return ()
        names = [name.decode(errors="surrogateescape") for name in files.split(b"\0") if name]
        found = []
        for start in range(0, len(names), 1000):
            done = run(["grep", "-nwH", "-e", member, "--", *names[start : start + 1000]], cwd=self.tree, timeout_s=60)
            found += done.text.splitlines()
        return [line.removeprefix("./") for line in found]
