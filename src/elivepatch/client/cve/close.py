# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve close`: everything that the policy chooses and that can be a livepatch, in one, loaded here."""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.verdicts import FixOutcome, FixVerdict, remembered
from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import Choice, series_of
from elivepatch.client import commands
from elivepatch.client.commands.livepatch import apply
from elivepatch.client.cve.cumulative import Cumulative, build_cumulative, expectations_of
from elivepatch.client.cve.plan import CloseSession, planned, tell_plan
from elivepatch.client.cve.update import asking_in_time
from elivepatch.client.livepatch.store import Store
from elivepatch.client.server.connection import connection_words
from elivepatch.client.server.follow import Patience
from elivepatch.client.server.patch_files import write_whole
from elivepatch.client.server.report import Report
from elivepatch.commandline import build_parser
from elivepatch.model.errors import EnvironmentFault, ExitStatus, UsageError
from elivepatch.model.series import SourcePatch
from elivepatch.output import Output


@dataclass(slots=True, kw_only=True)
class CloseResult:
    """What a run did. `applied` is what `elivepatch apply` said, None where nothing was to be loaded here."""

    planned: CloseSession
    made: Cumulative
    files: dict[str, Path] = field(default_factory=dict)
    applied: dict[str, Any] | None = None

    @property
    def newly(self) -> list[str]:
        """The CVEs that were not closed before and are in the livepatch."""
        return [fix.cve for fix in self.made.kept] if self.made.report is not None else []

    def document(self) -> dict[str, Any]:
        """Return the run for machines."""
        report = self.made.report
        return self.planned.document() | {
            "closed_now": self.newly,
            "left_out": [
                {"id": fix.cve, "code": problem.code, "reason": problem.message} for fix, problem in self.made.culprits
            ],
            "livepatch": None
            if report is None
            else {
                "name": report.livepatch_name,
                "module_sha256": report.module_sha256,
                "functions": self.made.functions,
                "trial": report.trial,
                "job": report.id,
            },
            "files": {what: str(file) for what, file in self.files.items()},
            "applied": self.applied,
        }


def close_cves(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """ClosePlan, build one livepatch of everything chosen and load it here, or save it for another host."""
    if arguments.kernel is not None and arguments.output is None:
        raise UsageError(
            "usage",
            "A livepatch for another host cannot be loaded here.",
            advice="Say with -o where it is to be saved, then load it there with `elivepatch load`.",
        )
    with ExitStack() as stack:
        with asking_in_time(arguments):
            made = stack.enter_context(planned(arguments, output))
        closed = close(made, arguments, output, around_building=lambda: asking_in_time(arguments))
    tell_closed(closed, output)
    return ExitStatus.OK


def close(
    made: CloseSession,
    arguments: argparse.Namespace,
    output: Output,
    *,
    around_building: Callable[[], AbstractContextManager[object]],
) -> CloseResult:
    """Carry a plan out; raises what building and loading raise, with everything learnt on the way remembered.

    `around_building` is held while the server is asked, and not while the kernel is changed.
    """
    fixes = [fix for _, fix in made.plan.chosen()]
    carried = _carried(made) if fixes else ()
    with around_building():
        cumulative = build_cumulative(made.judge, [_named(fix) for fix in fixes], carried)
        _remember(made, cumulative, carried)
    closed = CloseResult(planned=made, made=cumulative)
    if cumulative.report is None:
        return closed
    if arguments.output is not None:
        with around_building():
            closed.files = _save(made, cumulative.report, arguments.output)
    else:
        closed.applied = _apply(cumulative.kept, carried, arguments, output)
        for fix in cumulative.kept:
            made.plan.decide(fix.cve, Choice.CLOSED, f"closed now by {cumulative.report.livepatch_name}")
    return closed


def tell_closed(closed: CloseResult, output: Output) -> None:
    """Tell what a run did."""
    if output.as_json:
        output.document(closed.document())
        return
    tell_plan(closed.planned, output)
    output.line()
    report = closed.made.report
    if report is None:
        output.line("Nothing to do: there is no fix to bring in.")
        return
    tried = f"tried on {report.trial}" if report.trial is not None else "not tried"
    output.line(
        f"{report.livepatch_name}: {len(closed.newly)} CVEs closed by {closed.made.functions} functions, {tried}"
    )
    for what, file in closed.files.items():
        output.line(f"  {what}: {file}")
    if closed.applied is not None:
        output.line("It is live." if closed.applied["loaded"] else "It was live already.")


def _named(fix: Fix) -> Fix:
    """Return the fix with patches that people recognise: a commit's id alone does not say what it closes."""
    patches = tuple(
        patch if patch.name.startswith("CVE-") else SourcePatch(f"{fix.cve}-{patch.name}", patch.content)
        for patch in fix.patches
    )
    return replace(fix, patches=patches)


def _carried(made: CloseSession) -> tuple[SourcePatch, ...]:
    """Return the source patches of everything live, in order, with the texts that are kept; raises HostError."""
    machine = made.question.machine
    if machine is None:
        return ()
    store = Store.of(machine.host)
    return tuple(store.source(one) for one in dict.fromkeys(patch for entry in made.live for patch in entry.series))


def _remember(made: CloseSession, cumulative: Cumulative, carried: Sequence[SourcePatch]) -> None:
    """Note what did not go with the others, so that it is not tried again while these are the same."""
    beside = tuple(patch.digest for patch in series_of(cumulative.kept, carried))
    for fix, problem in cumulative.culprits:
        known = made.judge.verdicts.by_cve.get(fix.cve) or FixVerdict(patches=fix.digests, builder=made.judge.builder)
        made.judge.remember(fix.cve, replace(known, asked=True, problem=remembered(problem), beside=beside))
        if made.judge.verdicts.by_cve[fix.cve].outcome is FixOutcome.COVERED:
            made.plan.decide(fix.cve, Choice.NOTHING_TO_DO, "another fix brings the same change")
        else:
            reason = f"it does not go with the others: {problem.message} [{problem.code}]"
            made.plan.decide(fix.cve, Choice.NEEDS_REBOOT, reason)


def _save(made: CloseSession, report: Report, module: Path) -> dict[str, Path]:
    """Save module, signature and report, as `elivepatch load` wants them; the module last."""
    if report.module_sha256 is None:
        raise _no_module()
    digest, patience = report.module_sha256, Patience(made.judge.progress)
    content = patience.ask(lambda: made.judge.server.download(report.id, "module", digest))
    envelope = patience.ask(lambda: made.judge.server.envelope(report.id))
    files = {
        "report": (module.with_name(f"{module.name}.report.json"), json.dumps(report.document, indent=2).encode()),
        "signature": (module.with_name(f"{module.name}.sig"), envelope),
        "module": (module, content),
    }
    for file, content in files.values():
        write_whole(file, content)
    return {what: file for what, (file, _) in files.items()}


def _apply(
    fixes: Sequence[Fix], carried: Sequence[SourcePatch], arguments: argparse.Namespace, output: Output
) -> dict[str, Any]:
    """Load what was built by way of `elivepatch apply`: the server has the answer to the same request already."""
    live = {patch.digest for patch in carried}
    new = [patch for patch in series_of(fixes, ()) if patch.digest not in live]
    with tempfile.TemporaryDirectory(prefix="elivepatch-close-") as directory:
        files = []
        for number, patch in enumerate(new):
            place = Path(directory) / f"{number:04}"
            place.mkdir()
            files.append(place / patch.name)
            files[-1].write_bytes(patch.content)
        options = connection_words(arguments)
        options += [option for file in arguments.base_patches for option in ("--base-patch", str(file))]
        options += ["--no-base-patches"] if arguments.no_base_patches else []
        for one in expectations_of(fixes):
            options += ["--expect", f"{one.command} =~ {one.pattern}"]
        argv = ["apply", *options, "--json", "--", *map(str, files)]
        given = build_parser("elivepatch", "", commands, argv).parse_args(argv)
        said = io.StringIO()
        apply.run(given, Output(as_json=True, out=said, err=output.err))
    document: dict[str, Any] = json.loads(said.getvalue())
    return document


def _no_module() -> EnvironmentFault:
    return EnvironmentFault(
        "server-answer", "The server built a livepatch and hands no module out.", advice="Check the server's version."
    )
