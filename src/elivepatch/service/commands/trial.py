# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server trial`: run the trial of a job again, or look round in its guest."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ElivepatchError, ExitStatus, Problem, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.trial import PHASES, TrialReport
from elivepatch.output import Output
from elivepatch.process import Cancellation
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.db.database import open_tables
from elivepatch.service.jobs.jobs import Jobs
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.service.jobs.trials.kept import KeptTrial, kept_trial
from elivepatch.service.resources import open_store
from elivepatch.service.state_directory import make_state_directory
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import TrialCase
from elivepatch.trial.shell import open_shell
from elivepatch.trial.workload.guest_files import NO_WORKLOAD

_TERMINAL = "/dev/tty"


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("trial", help="trials: replay", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    replay = actions.add_parser(
        "replay",
        help="run the trial of a job again, from what the server keeps",
        description="Run the trial of a job again, from what the server keeps: the module, the expectations and the "
        "livepatch that it replaced. The job and its report stay as they are.",
        allow_abbrev=False,
    )
    replay.add_argument("job", metavar="JOB", help="the job, as its report names it")
    replay.add_argument(
        "--interactive",
        action="store_true",
        help="open a shell in the guest on this terminal at --phase; `exit` or Ctrl-] ends the guest",
    )
    replay.add_argument(
        "--phase",
        choices=PHASES,
        help="with --interactive: before the livepatch is loaded, during it (the default), or after it was disabled",
    )
    replay.add_argument("--console", metavar="FILE", type=Path, help="keep the guest's console in this file")
    add_common(replay, _replay)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replay:
    """A kept trial that is about to run, in a directory of its own."""

    backend: LocalBackend
    kept: KeptTrial
    directory: Path
    output: Output

    def report(self) -> TrialReport:
        """Run the whole trial."""
        work_dir = self.directory / "guest"
        work_dir.mkdir()
        return self.backend.trial(
            self.kept.livepatch,
            self._module(),
            self.kept.expectations,
            work_dir=work_dir,
            console=self.directory / "console.log",
            progress=self.output.progress,
            cancellation=Cancellation.new(),
            earlier=self.kept.earlier.in_directory(self.directory),
        )

    def shell(self, phase: str, terminal: int) -> tuple[float, Problem | None]:
        """Give the guest's console to the terminal at `phase`; return the seconds, and a problem if it was not so."""
        base = self.backend.base(self.kept.livepatch.kernel.release)
        predicates = self.backend.predicates(base, self.kept.expectations, Cancellation.new())
        livepatch, expectations = self.kept.livepatch, self.kept.expectations
        case = TrialCase.of(
            self._module(), livepatch.name, livepatch.modules, expectations, NO_WORKLOAD, predicates=predicates
        )
        end = open_shell(
            kernel=guest_kernel(base),
            case=case,
            phase=phase,
            terminal=terminal,
            work_dir=self.directory,
            cache_dir=self.backend.cache_dir,
            progress=self.output.progress,
            programs=self.backend.guest_programs(),
        )
        return end.seconds, end.problem

    def _module(self) -> Path:
        module = self.directory / "livepatch.ko"
        module.write_bytes(self.kept.module)
        return module


def _replay(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    if arguments.phase is not None and not arguments.interactive:
        raise UsageError(
            "usage", "--phase is the place of a shell, so it needs --interactive.", advice="Add --interactive."
        )
    # First: a file or a session that cannot be opened should not cost a boot.
    _require_writable(arguments.console)
    terminal = _terminal() if arguments.interactive else None
    settings = settings_of(arguments)
    backend = LocalBackend(settings)
    kept = _kept(arguments.job, backend, settings)
    _require_same_kernel(kept, backend)
    with tempfile.TemporaryDirectory(prefix="elivepatch-replay-") as directory:
        replay = _Replay(backend=backend, kept=kept, directory=Path(directory), output=output)
        try:
            if terminal is None:
                return _whole(replay, arguments.job)
            return _interactive(replay, arguments.job, arguments.phase or "during", terminal)
        finally:
            console = replay.directory / "console.log"
            if arguments.console is not None and console.is_file():
                shutil.copyfile(console, arguments.console)
            if terminal is not None:
                os.close(terminal)


def _whole(replay: _Replay, job: str) -> ExitStatus:
    output, kept = replay.output, replay.kept
    report = replay.report()
    problem = report.problem
    found = {"job": job, "module_sha256": kept.livepatch.digest, "kept_outcome": kept.outcome}
    problems = [one.as_dict() for one in report.problems]
    output.document(found | {"interactive": False, "trial": report.as_dict() | {"problems": problems}})
    output.line(f"trial {report.outcome} in {report.seconds:.0f} s; the one that is kept: {kept.outcome}")
    for one in report.not_live:
        output.line(f"  {one.object} was not live in the guest: {one.why}")
    over = report.over_earlier or kept.earlier.not_tried()
    if over is not None:
        output.line(f"  {over.name or 'no earlier livepatch'}: {over.result}{f', {over.words}' if over.words else ''}")
    if problem is None:
        return ExitStatus.OK
    if not output.as_json:
        output.problem(problem)
    return problem.kind.exit_status


def _interactive(replay: _Replay, job: str, phase: str, terminal: int) -> ExitStatus:
    output = replay.output
    seconds, problem = replay.shell(phase, terminal)
    found = {"job": job, "module_sha256": replay.kept.livepatch.digest, "kept_outcome": replay.kept.outcome}
    shown = {"interactive": True, "phase": phase, "seconds": seconds}
    output.document(found | shown | {"problem": problem.as_dict() if problem is not None else None})
    if problem is None:
        output.line("The guest has ended. A session is no verdict: the job and its report are as before.")
        return ExitStatus.OK
    if not output.as_json:
        output.note(f"The guest did not reach the phase {phase}.")
        output.problem(problem)
    return problem.kind.exit_status


def _kept(job: str, backend: LocalBackend, settings: ServerSettings) -> KeptTrial:
    make_state_directory(settings.state_dir)
    database = open_tables(settings)
    try:
        jobs = Jobs(database)
        asked = jobs.get(job)
        facts: Digest | None = None
        if asked is not None:
            try:
                facts = backend.facts(asked.release)
            except ElivepatchError:
                facts = None  # there is no base: `_require_same_kernel` says so
        return kept_trial(job, facts, jobs, open_store(settings))
    finally:
        database.dispose()


def _require_same_kernel(kept: KeptTrial, backend: LocalBackend) -> None:
    """Raise EnvironmentFault or UsageError if the base is gone, or is that of another build of the kernel."""
    kernel = kept.livepatch.kernel
    base = backend.base(kernel.release)
    if base.identity.build_id != kernel.build_id:
        raise UsageError(
            "replay-gone",
            f"The livepatch is for another build of {kernel.release} than the base that is here now.",
            advice=f"Its build-id is {kernel.build_id}; `elivepatch-server kernel list` shows those that are here.",
        )


def _require_writable(file: Path | None) -> None:
    if file is None:
        return
    try:
        file.open("ab").close()
    except OSError as error:
        raise UsageError(
            "usage",
            f"{file} cannot be written: {error.strerror}.",
            advice="Give --console a file in a directory that you can write to.",
        ) from error


def _terminal() -> int:
    # Not standard output: that carries the JSON document, and may be a file.
    try:
        return os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise UsageError(
            "replay-terminal",
            f"--interactive needs a terminal, and {_TERMINAL} cannot be opened: {error.strerror}.",
            advice="Run the command from a terminal, for example with `ssh -t`.",
        ) from error
