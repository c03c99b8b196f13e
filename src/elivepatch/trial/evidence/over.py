# SPDX-License-Identifier: GPL-2.0-or-later
"""Load of the livepatch while an earlier one is live: it replaces that one in one transition, as on a host.

The kernel frees a livepatch that is replaced (Documentation/livepatch/cumulative-patches.rst). A livepatch that works
alone may not work then: the kernel refuses it, or the earlier one has left state behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from elivepatch.model.trial import OverEarlier
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.evidence.kernel_log import tail
from elivepatch.trial.evidence.objects import words_of
from elivepatch.trial.guest_protocol import Records

_STEPS = ("load.3", "settled.3", "live.3", "disable.3", "gone.3", "unload.3")
_ADVICE = "Hosts load it so. Look for state that the earlier livepatch keeps (struct klp_state) or leaves behind."


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of the livepatch that only shows over an earlier one; `late` if a busy machine may be the cause."""

    message: str
    excerpt: str
    late: bool = False
    advice: str = _ADVICE


def over_earlier_of(scope: str, case: TrialCase, records: Records) -> OverEarlier | None:
    """Return whether the livepatch has replaced the earlier one of the case; None if the case has none."""
    if case.earlier is None:
        return None
    name = module_name(case.earlier.name)
    if case.stays:
        words = "the livepatch stays in memory, so it is loaded once"
        return OverEarlier(name=name, result="not-tried", words=words)
    fault = next(over_faults(scope, case, records), None)
    if fault is not None:
        return OverEarlier(name=name, result="failed", words=fault.message)
    if over_tried(scope, case, records) and all(records.ok(scope, key) for key in _STEPS):
        return OverEarlier(name=name, result="replaced")
    early = next((step for key in ("load.0", "settled.0") if (step := records.failed(scope, key))), None)
    words = f"the earlier livepatch cannot be loaded here: {words_of(early)}" if early else "the trial ended before"
    return OverEarlier(name=name, result="not-tried", words=words)


def over_tried(scope: str, case: TrialCase, records: Records) -> bool:
    """Return whether the earlier livepatch was live, so that every later step must have its record."""
    return case.earlier is not None and not case.stays and records.ok(scope, "settled.0")


def over_complete(scope: str, case: TrialCase, records: Records) -> bool:
    """Return whether no record of this part of the trial is missing."""
    if case.earlier is None or case.stays:
        return True
    if not over_tried(scope, case, records):
        return any(records.failed(scope, key) for key in ("load.0", "settled.0"))
    return records.has(scope, "log.over") and all(records.ok(scope, key) for key in _STEPS)


def over_faults(scope: str, case: TrialCase, records: Records) -> Iterator[Fault]:
    """Yield the faults that were seen over the earlier livepatch, the first one first."""
    if case.earlier is None:
        return
    name, rest = module_name(case.earlier.name), tail(records.text(scope, "log.rest"))
    if step := records.failed(scope, "load.3"):
        yield Fault(
            message=f"The kernel refuses to load the livepatch while {name} is live: {words_of(step)}.", excerpt=rest
        )
    if step := records.failed(scope, "settled.3"):
        yield Fault(
            message=f"The transition from {name} to the livepatch does not end: a task never leaves a patched "
            "function.",
            excerpt=step.words,
            late=True,
        )
    live = records.step(scope, "live.3")
    if live is not None and live.words.split() != [module_name(case.name)]:
        yield Fault(
            message=f"The livepatch does not replace {name}: {', '.join(live.words.split())[:300] or 'nothing'} is "
            "live afterwards.",
            excerpt=rest,
        )
    for key, what in (
        ("disable.3", "cannot be disabled"),
        ("gone.3", "has a transition back that does not end"),
        ("unload.3", "cannot be unloaded"),
    ):
        if step := records.failed(scope, key):
            yield Fault(
                message=f"The livepatch {what} after it has replaced {name}.", excerpt=step.words, late=key == "gone.3"
            )
