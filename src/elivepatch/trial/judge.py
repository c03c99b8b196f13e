# SPDX-License-Identifier: GPL-2.0-or-later
"""From what the guest said and logged to a verdict on one livepatch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from elivepatch.model.errors import Kind, Problem
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.expectations import PHASES, Observed, observe
from elivepatch.trial.guest_protocol import Records, Step
from elivepatch.trial.kernel_log import headline, tail, trouble

_STAGES = (  # the last record that came, and what the guest was doing after it
    ("unload.2", "after the second unloading"),
    ("gone.2", "in the second unloading"),
    ("disable.2", "in the second transition back"),
    ("settled.2", "while the livepatch was enabled the second time"),
    ("load.2", "in the second transition"),
    ("unload.1", "while the livepatch was loaded again"),
    ("log.after", "while the livepatch was unloaded"),
    ("log.during", "after the livepatch was disabled"),
    ("disable.1", "in the transition back"),
    ("settled.1", "while the livepatch was enabled"),
    ("load.1", "in the transition"),
    ("log.before", "while the livepatch was loaded"),
    ("begin", "before the livepatch was loaded"),
)
_EXCERPT_LINES = 60
_LINE_LIMIT = 400
_EVERY_STEP = tuple(f"{step}.{turn}" for turn in (1, 2) for step in ("load", "settled", "disable", "gone", "unload"))
_EVERY_LOG = ("log.before", "log.during", "log.after", "log.rest")
_NO_LIVEPATCH = 1  # status of `settled` in init.sh
_BUSYBOX_PREFIX = re.compile(r"^(?:insmod: can't insert|rmmod: can't unload module) '[^']*': ")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEnd:
    """How the guest that ran the case ended. `console` is what it logged since the case's beginning."""

    console: str
    status: int
    timed_out: bool
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialVerdict:
    """What is found out about one livepatch. `clean_log` needs a log that came to its end."""

    observed: tuple[Observed, ...]
    transition_s: float | None
    reverted: bool
    reloaded: bool
    clean_log: bool
    unloaded_parents: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _CaseReview:
    """The records of one case and the problems found in them so far."""

    scope: str
    records: Records
    guest_end: GuestEnd
    problems: list[Problem] = field(default_factory=list)

    def add(self, code: str, message: str, advice: str, excerpt: str = "") -> None:
        lines = [line[:_LINE_LIMIT] for line in excerpt.strip("\n").splitlines()[:_EXCERPT_LINES]]
        self.problems.append(
            Problem(code=code, kind=Kind.FAILURE, message=message, advice=advice, excerpt="\n".join(lines))
        )

    def log(self, name: str) -> str:
        return self.records.text(self.scope, f"log.{name}")

    def step(self, key: str) -> Step | None:
        return self.records.step(self.scope, key)

    def ok(self, key: str) -> bool:
        step = self.step(key)
        return step is not None and step.ok

    def failed(self, key: str) -> Step | None:
        """Return a step that came and did not succeed."""
        step = self.step(key)
        return None if step is None or step.ok else step

    @property
    def done(self) -> bool:
        return self.records.has(self.scope, "done")

    @property
    def stage(self) -> str:
        return next((stage for key, stage in _STAGES if self.records.has(self.scope, key)), "before the trial began")


def judge(scope: str, case: TrialCase, records: Records, guest_end: GuestEnd, missing: Sequence[str]) -> TrialVerdict:
    """Return the verdict on the case whose records have `scope`; `missing` are parents the kernel's package lacks."""
    review = _CaseReview(scope, records, guest_end)
    refused = [p for p in map(module_name, case.parents) if review.failed(f"module.{p}")]
    unloaded = (*missing, *refused)
    observed = observe(scope, case, records)
    clean_log = _scan(review)
    if not review.done:
        _unfinished(review, clean_log=clean_log)
    _first_load(review)
    problems = [problem for each in observed for problem in each.problems()]
    review.problems += [_excused(problem, unloaded) for problem in problems]
    _first_revert(review)
    _second_turn(review)
    if not review.problems and not _complete(review, observed):
        review.add(
            "trial-lost",
            "Records of the guest are missing or garbled, so it is not known what the livepatch did.",
            "Try once more; if it happens again, the patched code damages the guest.",
            tail(guest_end.console),
        )
    return TrialVerdict(
        observed=observed,
        transition_s=_transition_s(review) if review.ok("settled.1") else None,
        reverted=review.ok("gone.1") and all(each.reverted for each in observed),
        reloaded=review.ok("settled.2"),
        clean_log=clean_log and review.done,
        unloaded_parents=unloaded,
        problems=tuple(review.problems),
    )


def _complete(review: _CaseReview, observed: Sequence[Observed]) -> bool:
    """Return whether every step was seen to succeed, so that passing never rests on what did not come."""
    steps = all(review.ok(step) for step in _EVERY_STEP)
    logs = all(review.records.has(review.scope, log) for log in _EVERY_LOG)
    return steps and logs and all(set(each.matches) == set(PHASES) for each in observed)


def _transition_s(review: _CaseReview) -> float | None:
    started = review.records.clock_s(review.scope, "started.1")
    finished = review.records.clock_s(review.scope, "finished.1")
    return None if started is None or finished is None else round(max(0.0, finished - started), 2)


def _excused(problem: Problem, unloaded: Sequence[str]) -> Problem:
    """Return the problem, with a hint where code that is not loaded may be what was to be seen."""
    if not unloaded:
        return problem
    hint = f" {', '.join(unloaded)} could not be loaded in the guest, so the patched code may not have run."
    return Problem(
        code=problem.code, kind=problem.kind, message=problem.message, advice=problem.advice + hint,
        excerpt=problem.excerpt,
    )  # fmt: skip


def _scan(review: _CaseReview) -> bool:
    """Look for trouble in the kernel's log and return whether there is none.

    What is logged while the unpatched kernel runs the commands is theirs: a command may be there to show the fault.
    The same commands may then show it again once the livepatch is disabled.
    """
    parts = ["during", "rest"] if trouble(review.log("before")) else ["during", "after", "rest"]
    refused = review.failed("load.1") or review.failed("load.2")  # then the complaints are that problem's excerpt
    found = next(filter(None, (trouble(review.log(part), complaints=not refused) for part in parts)), "")
    what = "The kernel's log shows trouble after the livepatch was loaded"
    if not found and not review.done:
        found = trouble(review.guest_end.console)
        what = f"The kernel failed {review.stage}"
    if not found:
        return True
    advice = "Read the trace: a function of the patch is usually in it. The whole log is kept with the trial."
    if not review.records.has(review.scope, "log.before"):
        advice = "It happened on the unpatched kernel: expect something that a kernel without the livepatch survives."
    elif any(word in found for word in ("stall", "lockup", "blocked for")):
        advice += " On an overloaded machine a stall can be the machine's; try again when it is idle."
    review.add("trial-kernel-log", f"{what}: {headline(found)}.", advice, found)
    return False


def _unfinished(review: _CaseReview, *, clean_log: bool) -> None:
    """Say that the guest did not get to the end of the case; a death with a cause in the log is told already."""
    guest_end = review.guest_end
    if guest_end.timed_out:
        review.add(
            "trial-timeout",
            f"The trial was not over after {guest_end.limit_s:.0f} s; the guest hung {review.stage}.",
            "A patched function probably waits or loops for ever; look at the console log of the trial.",
            tail(guest_end.console),
        )
    elif clean_log:
        how = f"was ended (QEMU's status {guest_end.status})" if guest_end.status else "restarted"
        review.add(
            "trial-lost",
            f"The guest {how} {review.stage} and left no reason in its log.",
            "Try once more; if it happens again, the patched code or an expectation's command brings the guest down.",
            tail(guest_end.console),
        )


def _first_load(review: _CaseReview) -> None:
    loaded, settled = review.failed("load.1"), review.failed("settled.1")
    if loaded:
        review.add(
            "trial-load",
            f"The kernel refuses to load the livepatch: {_words(loaded)}.",
            "The kernel's log says why. A symbol or version that differs means that the base is another kernel's.",
            tail(review.log("rest")),
        )
    elif settled and settled.status == _NO_LIVEPATCH:
        review.add(
            "trial-load",
            "The module was loaded, but no livepatch of its name appeared.",
            "It registers no livepatch, or one with another name.",
            tail(review.log("rest")),
        )
    elif settled:
        review.add(
            "trial-transition",
            "The transition does not end: a task never leaves a patched function.",
            "The tasks in the way are listed with their stacks. Patch what they call, not the function they wait in.",
            settled.words,
        )


def _first_revert(review: _CaseReview) -> None:
    disabled, gone, unloaded = review.failed("disable.1"), review.failed("gone.1"), review.failed("unload.1")
    if disabled:
        review.add(
            "trial-not-reverted",
            f"The livepatch cannot be disabled: {_words(disabled)}.",
            "The kernel keeps a livepatch enabled that was forced or that another one is built on.",
        )
    elif gone:
        review.add(
            "trial-not-reverted",
            "The transition back does not end: a task never leaves a patched function.",
            "The tasks in the way are listed with their stacks.",
            gone.words,
        )
    elif unloaded:
        review.add(
            "trial-unload",
            f"The disabled livepatch cannot be unloaded: {_words(unloaded)}.",
            "Something still refers to the module: a timer, an open file, a callback that was not taken back.",
            tail(review.log("rest")),
        )


def _second_turn(review: _CaseReview) -> None:
    for key, what in (
        ("load.2", "it cannot be loaded a second time"),
        ("settled.2", "its second transition does not end"),
        ("disable.2", "it cannot be disabled a second time"),
        ("gone.2", "its second transition back does not end"),
        ("unload.2", "it cannot be unloaded a second time"),
    ):
        failed = review.failed(key)
        if failed:
            review.add(
                "trial-unload" if key == "unload.2" else "trial-reload",
                f"The livepatch worked once, but {what}.",
                "The first turn left something behind: look for state that loading makes and unloading does not undo.",
                f"{failed.words.strip()}\n{tail(review.log('rest'))}",
            )


def _words(step: Step) -> str:
    """Return what a program of the guest said, without the file names that mean nothing outside."""
    reason = _BUSYBOX_PREFIX.sub("", " ".join(step.words.split()))
    return reason[:300].rstrip(".") or f"status {step.status}"
