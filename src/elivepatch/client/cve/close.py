# SPDX-License-Identifier: GPL-2.0-or-later
"""Closing CVEs: one livepatch of every fix that the policy chooses and that goes with the others, loaded or saved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.verdicts import FixOutcome, FixVerdict, remembered
from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import Choice, refuse, series_of
from elivepatch.client.cve.cumulative import Cumulative, build_cumulative, expectations_of
from elivepatch.client.cve.inputs import server_time_limit
from elivepatch.client.cve.options import CloseOptions
from elivepatch.client.cve.plan import CloseSession, open_plan, print_plan
from elivepatch.client.cve.verdict_client import timestamp
from elivepatch.client.livepatch.apply import ApplyOptions, apply
from elivepatch.client.livepatch.store import Store
from elivepatch.client.options import ChangeOptions
from elivepatch.client.proof.files import proof_beside
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.patch_files import write_whole
from elivepatch.client.server.report import Report
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.series import SourcePatch
from elivepatch.model.trial import TrialOutcome
from elivepatch.output import Output


@dataclass(slots=True, kw_only=True)
class CloseResult:
    """The result of a run. `applied` is the document of the load, None if nothing was to be loaded here."""

    session: CloseSession
    made: Cumulative
    files: dict[str, Path] = field(default_factory=dict)
    applied: dict[str, Any] | None = None

    @property
    def newly(self) -> list[str]:
        """The CVEs that were not closed before and are in the livepatch."""
        return [fix.cve for fix in self.made.kept] if self.made.report is not None else []

    @property
    def livepatch_name(self) -> str | None:
        """Name of the livepatch; a host that keeps an earlier module of that name loaded a copy with another name."""
        loaded = self.applied["livepatch"] if self.applied is not None else None
        built = self.made.report.livepatch_name if self.made.report is not None else None
        return loaded["name"] if loaded is not None else built

    def document(self) -> dict[str, Any]:
        """Return the run for machines."""
        report = self.made.report
        return self.session.document() | {
            "closed_now": self.newly,
            "left_out": [
                {"id": fix.cve, "code": problem.code, "reason": problem.message} for fix, problem in self.made.culprits
            ],
            "livepatch": None
            if report is None
            else {
                "name": self.livepatch_name,
                "module_sha256": report.module_sha256,
                "functions": self.made.functions,
                "trial": _accelerator(report),
                "trial_outcome": None if report.trial is None else str(report.trial.outcome),
                "job": report.id,
            },
            "files": {what: str(file) for what, file in self.files.items()},
            "applied": self.applied,
        }


def close_cves(options: CloseOptions, output: Output) -> None:
    """Plan, build one livepatch of everything chosen, then load it here or save it for another host."""
    if options.plan.release is not None and options.output is None:
        raise UsageError(
            "usage",
            "A livepatch for another host cannot be loaded here.",
            advice="Save it with -o FILE, then load it there with `elivepatch load`.",
        )
    with ExitStack() as stack:
        with server_time_limit(options.plan.settings):
            session = stack.enter_context(open_plan(options.plan, output))
        result = close(session, options, output, around_building=lambda: server_time_limit(options.plan.settings))
    print_result(result, output)
    result.session.require_complete()


def close(
    session: CloseSession,
    options: CloseOptions,
    output: Output,
    *,
    around_building: Callable[[], AbstractContextManager[object]],
    time_left_s: Callable[[], float] = lambda: math.inf,
) -> CloseResult:
    """Carry a plan out; raises what building and loading raise, after every verdict on the way was remembered.

    `around_building` is held while the server is asked, and not while the kernel is changed. When the load begins,
    `time_left_s` bounds the seconds that it waits for the server, as the settings do.
    """
    fixes = [fix for _, fix in session.plan.chosen()]
    carried = _carried(session) if fixes else ()
    with around_building():
        cumulative = build_cumulative(session.client, [_named(fix) for fix in fixes], carried)
        _remember(session, cumulative, carried)
    result = CloseResult(session=session, made=cumulative)
    if cumulative.report is None:
        return result
    if options.output is not None:
        with around_building():
            result.files = _save(session, cumulative.report, options.output)
    else:
        result.applied = _apply(cumulative.kept, carried, options, output, limit_s=time_left_s())
        for fix in cumulative.kept:
            session.plan.decide(fix.cve, Choice.CLOSED, f"closed now by {result.livepatch_name}")
    return result


def print_result(result: CloseResult, output: Output) -> None:
    """Print the result of a run."""
    if output.as_json:
        output.document(result.document())
        return
    print_plan(result.session, output)
    output.line()
    report = result.made.report
    if report is None:
        if result.session.complete:
            output.line("Nothing to do: there is no fix to bring in.")
        return
    trial = report.trial
    output.line(
        f"{result.livepatch_name}: {len(result.newly)} CVEs closed by {result.made.functions} functions, "
        + ("not tried" if trial is None else f"trial {trial.outcome} on {trial.accelerator}")
    )
    for one in trial.not_live if trial is not None else ():
        output.line(f"  {one.object} was not live in the trial: {one.why}")
    for what, file in result.files.items():
        output.line(f"  {what}: {file}")
    if result.applied is not None:
        output.line("It is live." if result.applied["loaded"] else "It was live already.")


def _accelerator(report: Report) -> str | None:
    """Return the accelerator of a trial that passed, None without one."""
    trial = report.trial
    return trial.accelerator if trial is not None and trial.outcome is TrialOutcome.PASSED else None


def _named(fix: Fix) -> Fix:
    """Return the fix with patches that people recognise: a commit's id alone does not name the CVE it closes."""
    patches = tuple(
        patch if patch.name.startswith("CVE-") else SourcePatch(f"{fix.cve}-{patch.name}", patch.content)
        for patch in fix.patches
    )
    return replace(fix, patches=patches)


def _carried(session: CloseSession) -> tuple[SourcePatch, ...]:
    """Return the texts of all live source patches, in order; raises HostError if one is gone."""
    machine = session.kernel.machine
    if machine is None:
        return ()
    store = Store.of(machine.host)
    return tuple(store.source(one) for one in dict.fromkeys(patch for entry in session.live for patch in entry.series))


def _remember(session: CloseSession, cumulative: Cumulative, carried: Sequence[SourcePatch]) -> None:
    """Remember the fixes that did not go with the others, so that they are not tried again with the same ones."""
    client = session.client
    beside = tuple(patch.digest for patch in series_of(cumulative.kept, carried))
    for fix, problem in cumulative.culprits:
        known = client.verdicts.by_cve.get(fix.cve) or FixVerdict(patches=fix.digests, builder=client.builder)
        verdict = replace(known, asked=True, problem=remembered(problem), beside=beside, at=timestamp())
        client.remember(fix.cve, verdict)
        if verdict.outcome is FixOutcome.COVERED:
            session.plan.decide(fix.cve, Choice.NOTHING_TO_DO, "another fix brings the same change")
        else:
            reason = f"it does not go with the others: {problem.message} [{problem.code}]"
            refuse(session.plan, fix.cve, verdict, reason)


def _save(session: CloseSession, report: Report, module: Path) -> dict[str, Path]:
    """Save module, proof and report as `elivepatch load` reads them; the module last."""
    if report.module_sha256 is None:
        raise _no_module()
    server, digest, follower = session.client.server, report.module_sha256, JobFollower(session.client.progress)
    content = follower.retry(lambda: server.download(report.id, "module", digest))
    proof = follower.retry(lambda: server.proof(report.id))
    files = {
        "report": (module.with_name(f"{module.name}.report.json"), json.dumps(report.document, indent=2).encode()),
        "proof": (proof_beside(module), proof),
        "module": (module, content),
    }
    for file, content in files.values():
        write_whole(file, content)
    return {what: file for what, (file, _) in files.items()}


def _apply(
    fixes: Sequence[Fix], carried: Sequence[SourcePatch], options: CloseOptions, output: Output, *, limit_s: float
) -> dict[str, Any]:
    """Load the livepatch by `apply`: the server has the answer to the same request already."""
    live = {patch.digest for patch in carried}
    new = [patch for patch in series_of(fixes, ()) if patch.digest not in live]
    settings = replace(options.plan.settings, limit_s=min(options.plan.settings.limit_s, limit_s))
    how = ApplyOptions(change=ChangeOptions(settings=settings), base_patches=options.plan.base_patches)
    reason = f"apply {', '.join(patch.name for patch in new)}"
    return apply(new, expectations_of(fixes), how, reason=reason, progress=output.progress).document()


def _no_module() -> EnvironmentFault:
    return EnvironmentFault(
        "server-answer", "The server built a livepatch and hands no module out.", advice="Check the server's version."
    )
