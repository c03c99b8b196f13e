# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdict on one livepatch, from the guest's records and its kernel log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from elivepatch.model.errors import Kind, Problem
from elivepatch.model.trial import ModuleChange, ModuleReload, NotLive, OverEarlier
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.evidence.changes import all_came, busy_rounds_of, changes_of, lost_modules
from elivepatch.trial.evidence.expectations import PHASES, Observed, observe
from elivepatch.trial.evidence.kernel_log import headline, tail, trouble
from elivepatch.trial.evidence.objects import came_back, not_live, reloads_of, words_of
from elivepatch.trial.evidence.over import over_complete, over_earlier_of, over_faults, over_tried
from elivepatch.trial.evidence.predicates import ObservedPredicate
from elivepatch.trial.guest_protocol import Records, Step
from elivepatch.trial.workload import guest_records

_ONCE = tuple(f"{step}.1" for step in ("load", "settled", "disable", "gone"))
_STAGES = (  # the last record that arrived, and what the guest did after it
    ("unload.3", "after the livepatch had replaced an earlier one"),
    ("settled.3", "while the livepatch was live in place of an earlier one"),
    ("load.3", "in the transition from an earlier livepatch"),
    ("settled.0", "while the livepatch was loaded over an earlier one"),
    ("started.0", "while an earlier livepatch was loaded"),
    ("unload.2", "after the second unloading"),
    ("gone.2", "in the second unloading"),
    ("disable.2", "in the second transition back"),
    ("log.reload", "in the second transition back"),
    ("log.again", "while a module that the livepatch changes was unloaded and loaded again"),
    ("log.late", "while the livepatch was enabled the second time"),
    ("log.second", "while a module that the livepatch changes was loaded after it"),
    ("settled.2", "while the livepatch was enabled the second time"),
    ("load.2", "in the second transition"),
    ("unload.1", "while the livepatch was loaded again"),
    ("log.armed", "after the livepatch was disabled and stayed in memory"),
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
_EVERY_LOG = ("log.before", "log.during", "log.after", "log.again", "log.reload", "log.rest")
_NO_LIVEPATCH = 1  # status of `settled` in init.sh
_SLOW = "Try again when the machine of the trial has less to do: `elivepatch build --fresh` asks for a new trial."


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEnd:
    """End of the guest that ran the case. `console` is its log since the case began.

    `slow`: the machine did not run the guest at a normal pace, so nothing that took too long is the livepatch's fault.
    """

    console: str
    status: int
    timed_out: bool
    limit_s: float
    slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialVerdict:
    """Verdict on one livepatch. `clean_log` is True only if the whole log arrived."""

    observed: tuple[Observed | ObservedPredicate, ...]
    transition_s: float | None
    reverted: bool
    reloaded: bool
    clean_log: bool
    unloaded_parents: tuple[str, ...]
    not_live: tuple[NotLive, ...]
    module_reloads: tuple[ModuleReload, ...]
    module_changes: tuple[ModuleChange, ...]
    busy_rounds: tuple[int, ...]
    over_earlier: OverEarlier | None
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _CaseReview:
    """The records of one case and the problems found in them so far."""

    scope: str
    records: Records
    guest_end: GuestEnd
    problems: list[Problem] = field(default_factory=list)

    def add(self, code: str, message: str, advice: str, excerpt: str = "", *, kind: Kind = Kind.FAILURE) -> None:
        lines = [line[:_LINE_LIMIT] for line in excerpt.strip("\n").splitlines()[:_EXCERPT_LINES]]
        self.problems.append(Problem(code=code, kind=kind, message=message, advice=advice, excerpt="\n".join(lines)))

    def add_late(self, code: str, message: str, advice: str, excerpt: str = "") -> None:
        """Add a problem of time: on a slow machine it is the machine's, and says nothing about the livepatch."""
        if self.guest_end.slow:
            self.add("trial-slow", f"The machine was too busy for a trial: {_lower(message)}", _SLOW, excerpt,
                     kind=Kind.ERROR)  # fmt: skip
        else:
            self.add(code, message, advice, excerpt)

    def log(self, name: str) -> str:
        return self.records.text(self.scope, f"log.{name}")

    def step(self, key: str) -> Step | None:
        return self.records.step(self.scope, key)

    def ok(self, key: str) -> bool:
        return self.records.ok(self.scope, key)

    def failed(self, key: str) -> Step | None:
        """Return the step if its record arrived and it failed."""
        return self.records.failed(self.scope, key)

    @property
    def done(self) -> bool:
        return self.records.has(self.scope, "done")

    @property
    def stage(self) -> str:
        return next((stage for key, stage in _STAGES if self.records.has(self.scope, key)), "before the trial began")


def judge(scope: str, case: TrialCase, records: Records, guest_end: GuestEnd, missing: Sequence[str]) -> TrialVerdict:
    """Return the verdict on the case with this `scope`; `missing` are the parents that the kernel's package lacks."""
    review = _CaseReview(scope, records, guest_end)
    refused = [p for p in map(module_name, case.parents) if review.failed(f"module.{p}")]
    unloaded = (*missing, *refused)
    gone = lost_modules(scope, case, records)
    observed = observe(scope, case, records, without=("again", "over") if gone else ())
    lost = guest_records.lost_before(scope, case.workload, records, guest_end.console) or _lost_unpatched(review)
    clean_log = lost is None and _scan(review)
    if lost is not None:
        review.problems.append(lost)
    elif not review.done:
        _unfinished(review, clean_log=clean_log)
    reloads = reloads_of(review.scope, case, records)
    changes = changes_of(scope, case, records, reloads)
    _first_load(review)
    _modules_late(review, changes)
    _expectations(review, observed, unloaded)
    _first_revert(review)
    _second_turn(review)
    _modules_again(review, reloads)
    for fault in over_faults(scope, case, records):
        (review.add_late if fault.late else review.add)("trial-over", fault.message, fault.advice, fault.excerpt)
    if not review.problems and not _complete(review, case, observed):
        review.add(
            "trial-lost",
            "Records of the guest are missing or garbled, so the effect of the livepatch is not known.",
            "Try again; if it happens again, the patched code damages the guest.",
            tail(guest_end.console),
            kind=Kind.ERROR,
        )
    return TrialVerdict(
        observed=observed,
        transition_s=_transition_s(review) if review.ok("settled.1") else None,
        reverted=review.ok("gone.1") and all(each.reverted for each in observed),
        reloaded=review.ok("settled.2"),
        clean_log=clean_log and review.done,
        unloaded_parents=unloaded,
        not_live=not_live(scope, case, records, missing),
        module_reloads=reloads,
        module_changes=changes,
        busy_rounds=busy_rounds_of(scope, records),
        over_earlier=over_earlier_of(scope, case, records),
        problems=tuple(review.problems),
    )


def _expectations(
    review: _CaseReview, observed: Sequence[Observed | ObservedPredicate], unloaded: Sequence[str]
) -> None:
    for each in observed:
        for problem in each.problems():
            if each.out_of_time and review.guest_end.slow:
                review.add_late(problem.code, problem.message, problem.advice, problem.excerpt)
            else:
                review.problems.append(_excused(problem, unloaded))


def _modules_late(review: _CaseReview, changes: Sequence[ModuleChange]) -> None:
    for one in changes:
        if (one.change, one.result) == ("loaded-late", "failed"):
            review.add(
                "trial-late",
                f"{one.module} cannot be loaded while the livepatch is live: {one.words}.",
                "A host that loads the module after the livepatch would lose it. The kernel's log gives the reason.",
                tail(review.log("late")),
            )


def _modules_again(review: _CaseReview, reloads: Sequence[ModuleReload]) -> None:
    """Report a module that came back without its change; one that this kernel cannot load again is no fault."""
    for one in reloads:
        if one.result == "unpatched":
            review.add(
                "trial-reload",
                f"{one.module} was unloaded and loaded again while the livepatch was live, and is not patched now.",
                "The kernel's log gives the reason, for example a symbol that the kernel did not find the second time.",
                tail(review.log("reload")),
            )


def _complete(review: _CaseReview, case: TrialCase, observed: Sequence[Observed | ObservedPredicate]) -> bool:
    """Return True if a record shows that every step succeeded: a missing record never counts as success."""
    stays, where = case.stays, (review.scope, case, review.records)
    gone = bool(lost_modules(*where))
    steps = all(review.ok(step) for step in (*(_ONCE if stays else _EVERY_STEP), "objects.1", "objects.2"))
    logs = all(review.records.has(review.scope, log) for log in (*_EVERY_LOG, *["log.armed"] * stays))
    phases = set(PHASES) - ({"again"} if stays or gone else set())
    phases -= set() if over_tried(*where) and not gone else {"over"}
    modules = came_back(*where) and all_came(*where) and over_complete(*where)
    worked = guest_records.complete(review.scope, case.workload, review.records)
    return steps and logs and modules and worked and all(each.phases == phases for each in observed)


def _transition_s(review: _CaseReview) -> float | None:
    started = review.records.clock_s(review.scope, "started.1")
    finished = review.records.clock_s(review.scope, "finished.1")
    return None if started is None or finished is None else round(max(0.0, finished - started), 2)


def _excused(problem: Problem, unloaded: Sequence[str]) -> Problem:
    """Return the problem, with a hint if the patched code may be in a module that is not loaded."""
    if not unloaded:
        return problem
    hint = f" {', '.join(unloaded)} could not be loaded in the guest, so the patched code may not have run."
    return Problem(
        code=problem.code, kind=problem.kind, message=problem.message, advice=problem.advice + hint,
        excerpt=problem.excerpt,
    )  # fmt: skip


def _scan(review: _CaseReview) -> bool:
    """Look for trouble in the kernel's log; return True if it has none.

    Messages of the unpatched kernel while it runs the commands do not count: a command may be there to show the fault.
    The same commands may show it again when the livepatch is disabled.
    """
    after = ["second", "again", "armed", "over", "rest"]
    parts = ["during", *after] if trouble(review.log("before")) else ["during", "after", *after]
    refused = any(
        review.failed(f"load.{turn}") for turn in (1, 2, 3)
    )  # then the messages are the excerpt of that problem
    found = next(filter(None, (trouble(review.log(part), complaints=not refused) for part in parts)), "")
    what = "The kernel's log shows trouble after the livepatch was loaded"
    if not found:
        # The livepatch core complains where a module is refused; `reloads_of` and `changes_of` explain that.
        found = trouble(review.log("late"), complaints=False) or trouble(review.log("reload"), complaints=False)
        what = "The kernel's log shows trouble after a module that the livepatch changes was unloaded and loaded again"
    if not found and not review.done:
        found = trouble(review.guest_end.console)
        what = f"The kernel failed {review.stage}"
    if not found:
        return True
    advice = "Read the trace: a function of the patch is usually in it. The whole log is kept with the trial."
    if any(word in headline(found) for word in ("stall", "lockup", "blocked for", "starved")):
        review.add_late("trial-kernel-log", f"{what}: {headline(found)}.", advice, found)
        return False
    review.add("trial-kernel-log", f"{what}: {headline(found)}.", advice, found)
    return False


def _lost_unpatched(review: _CaseReview) -> Problem | None:
    """Return the problem of a guest that died or hung before there was a livepatch, and not for want of a machine.

    That is no verdict on the patch, so its kind is ERROR.
    """
    end, records = review.guest_end, review.records
    if review.done or records.has(review.scope, "log.before") or not records.has(review.scope, "begin"):
        return None
    found = trouble(end.console)
    if end.slow if end.timed_out else end.status != 0 and not found:
        return None
    ended = f"hung for {end.limit_s:.0f} s" if end.timed_out else "ended"
    return Problem(
        code="trial-unpatched",
        kind=Kind.ERROR,
        message=f"The guest {ended} before the livepatch was loaded" + (f": {headline(found)}." if found else "."),
        advice="A changed module, or the command or predicate of an expectation, did it: expect what a kernel without "
        "the livepatch survives.",
        excerpt="\n".join(line[:_LINE_LIMIT] for line in (found or tail(end.console)).splitlines()),
    )


def _unfinished(review: _CaseReview, *, clean_log: bool) -> None:
    """Report that the guest did not complete the case, unless its log has reported the cause already."""
    guest_end = review.guest_end
    if guest_end.timed_out:
        review.add_late(
            "trial-timeout",
            f"The trial did not end within {guest_end.limit_s:.0f} s; the guest hung {review.stage}.",
            "A patched function probably waits or loops for ever; read the console log of the trial.",
            tail(guest_end.console),
        )
    elif clean_log:
        how = f"was ended (QEMU's status {guest_end.status})" if guest_end.status else "restarted"
        review.add(
            "trial-lost",
            f"The guest {how} {review.stage} and its log gives no reason.",
            "Try again; if it happens again, the patched code or the command of an expectation crashes the guest.",
            tail(guest_end.console),
            kind=Kind.ERROR if guest_end.status else Kind.FAILURE,
        )


def _first_load(review: _CaseReview) -> None:
    loaded, settled = review.failed("load.1"), review.failed("settled.1")
    if loaded:
        review.add(
            "trial-load",
            f"The kernel refuses to load the livepatch: {words_of(loaded)}.",
            "The kernel's log gives the reason. If a symbol or version differs, the base is that of another kernel.",
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
        review.add_late(
            "trial-transition",
            "The transition does not end: a task never leaves a patched function.",
            "The tasks in the way are listed with their stacks. Patch the functions they call, not the one that waits.",
            settled.words,
        )


def _first_revert(review: _CaseReview) -> None:
    disabled, gone, unloaded = review.failed("disable.1"), review.failed("gone.1"), review.failed("unload.1")
    if disabled:
        review.add(
            "trial-not-reverted",
            f"The livepatch cannot be disabled: {words_of(disabled)}.",
            "The kernel does not disable a livepatch that was forced, or on which another one is stacked.",
        )
    elif gone:
        review.add_late(
            "trial-not-reverted",
            "The transition back does not end: a task never leaves a patched function.",
            "The tasks in the way are listed with their stacks.",
            gone.words,
        )
    elif unloaded:
        review.add(
            "trial-unload",
            f"The disabled livepatch cannot be unloaded: {words_of(unloaded)}.",
            "Something still refers to the module: a timer, an open file, a callback that is still registered.",
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
            add = review.add_late if key in {"settled.2", "gone.2"} else review.add
            add(
                "trial-unload" if key == "unload.2" else "trial-reload",
                f"The livepatch worked once, but {what}.",
                "The first load left something behind: look for state that loading creates and unloading keeps.",
                f"{failed.words.strip()}\n{tail(review.log('rest'))}",
            )


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
