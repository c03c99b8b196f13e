# SPDX-License-Identifier: GPL-2.0-or-later
"""Selection of the builder for a request, and comparison with a second builder (docs/adr/0009)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.builders import klp, objects, reference
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.klp_tree import unsupported_reason as klp_unsupported_reason
from elivepatch.build.builders.proposal import Proposer
from elivepatch.build.checks.equality import differences, read_facts
from elivepatch.build.checks.host_notes import host_notes
from elivepatch.build.escapes.notes import OUTLIVES
from elivepatch.kernel.permanence import make_stay
from elivepatch.model.build import Builder, BuildOutcome, BuildRequest, Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import Problem
from elivepatch.model.series import PatchSeries

VERSIONS = {
    Builder.OBJECTS.value: objects.VERSION,
    Builder.KLP.value: klp.VERSION,
    Builder.REFERENCE.value: reference.VERSION,
}
"""Part of every build key."""

_EXCERPT_LINES = 40
# Each builds the whole kernel, which takes hours and tens of gigabytes for a distribution's configuration.
_WHOLE: dict[Builder, Callable[[Base], str | None]] = {
    Builder.REFERENCE: reference.unsupported_reason,
    Builder.KLP: klp_unsupported_reason,
}


def build_with_selected(request: BuildRequest, context: BuildContext, *, name: str, work_dir: Path) -> BuildOutcome:
    """Build the livepatch `name` in the empty directory `work_dir` by the builder that the request selects.

    With `request.paranoid` a second builder builds it too, and a difference is the outcome's problem. A check always
    uses `objects`, the only builder that can stop before it has made a module. Raises as builders do.
    """
    if request.check_only:
        return _checked(request, context, name, work_dir)
    if (unfit := _unfit(request.builder, context.base)) is not None:
        return BuildOutcome(problem=unfit)
    if not request.paranoid:
        return _lasting(_build(request.builder, request, context, name, work_dir))
    second = second_builder(request.builder, context.base)
    if isinstance(second, Problem):
        return BuildOutcome(problem=second)
    outcomes = []
    for builder in (request.builder, second):
        place = work_dir / builder.value
        place.mkdir(mode=0o755)
        outcomes.append(_build(builder, request, context, name, place))
    return _lasting(compare_outcomes(request.builder, outcomes[0], second, outcomes[1], context.base))


def _lasting(outcome: BuildOutcome) -> BuildOutcome:
    """Return the outcome; if its code hands out what outlives the livepatch, the kernel will keep its module."""
    if outcome.module is not None and any(note.code == OUTLIVES for note in outcome.notes):
        make_stay(outcome.module)
    return outcome


def _checked(request: BuildRequest, context: BuildContext, name: str, work_dir: Path) -> BuildOutcome:
    """Check the series. If it is stopped and the request asks for a rewrite, find a series that would not be."""
    rounds = count()

    def check(series: PatchSeries) -> tuple[BuildOutcome, Path]:
        place = work_dir / f"check-{next(rounds)}"
        place.mkdir(mode=0o755)
        return _build(Builder.OBJECTS, replace(request, series=series), context, name, place), place / "layer"

    outcome, layer = check(request.series)
    if outcome.problem is None or not request.rewrite:
        return outcome
    proposal = Proposer(tree=context.base.tree, check=check).propose(request.series, outcome.problem, layer)
    return replace(outcome, proposal=proposal)


def second_builder(first: Builder, base: Base) -> Builder | Problem:
    """Return the builder to compare `first` with, or why no second builder supports this base."""
    if first is not Builder.OBJECTS:
        return Builder.OBJECTS
    unfit: list[Problem] = []
    for builder in _WHOLE:
        found = _unfit(builder, base)
        if found is None:
            return builder
        unfit.append(found)
    return replace(
        unfit[0], message=f"No second builder supports {base.release}.", excerpt="\n".join(one.message for one in unfit)
    )


def _unfit(builder: Builder, base: Base) -> Problem | None:
    if builder is Builder.OBJECTS:
        return None
    reason = "it is a distribution's, which is never built whole" if base.kind != "custom" else _WHOLE[builder](base)
    if reason is None:
        return None
    return problem("builder-unfit", f"The builder {builder} cannot build for {base.release}: {reason}.")


def _build(builder: Builder, request: BuildRequest, context: BuildContext, name: str, work_dir: Path) -> BuildOutcome:
    makers: dict[Builder, type[objects.ObjectsBuilder | klp.KlpBuilder | reference.ReferenceBuilder]] = {
        Builder.OBJECTS: objects.ObjectsBuilder,
        Builder.KLP: klp.KlpBuilder,
        Builder.REFERENCE: reference.ReferenceBuilder,
    }
    made = makers[builder].within(context)
    outcome = made.build(
        request.series, name=name, work_dir=work_dir, check_only=request.check_only, atomic_replace=request.replace
    )
    notes = (*outcome.notes, *host_notes(outcome, context.base))
    return replace(outcome, notes=notes, builders={builder.value: VERSIONS[builder.value]})


def compare_outcomes(
    first: Builder, outcome: BuildOutcome, second: Builder, other: BuildOutcome, base: Base
) -> BuildOutcome:
    """Return the first builder's outcome if the second one's agrees with it, else a problem with the differences."""
    seconds = outcome.seconds | {f"{second}.{stage}": spent for stage, spent in other.seconds.items()}
    if outcome.problem is not None:
        return replace(outcome, seconds=seconds)
    differing = _differing(outcome, other, base, bytewise=Builder.KLP not in {first, second})
    if differing:
        excerpt = "\n".join([f"- {first}", f"+ {second}", *differing[:_EXCERPT_LINES]])
        message = f"The builders {first} and {second} make different livepatches of the series."
        return BuildOutcome(problem=problem("builders-differ", message, excerpt=excerpt), seconds=seconds)
    note = Note(code="second-builder", message=f"The builder {second} made the same livepatch as {first}.")
    return replace(
        outcome, notes=(*outcome.notes, note), seconds=seconds, builders=outcome.builders | other.builders,
        checks=outcome.checks | {"second-builder": len(outcome.functions)},
    )  # fmt: skip


def _differing(outcome: BuildOutcome, other: BuildOutcome, base: Base, *, bytewise: bool) -> list[str]:
    """Return the differences: of all facts if the same tools made both, else of the functions replaced."""
    if other.problem is not None:
        return [f"+ [{other.problem.code}] {other.problem.message}"]
    if outcome.module is None or other.module is None:
        return []
    if bytewise:
        one, two = (read_facts(path, base.struct_sizes) for path in (outcome.module, other.module))
        return differences(one, two)
    mine, its = ({(one.object, one.name, one.sympos) for one in made.functions} for made in (outcome, other))
    return [f"{'-' if one in mine else '+'} {one[0]}:{one[1]},{one[2]}" for one in sorted(mine ^ its)]
