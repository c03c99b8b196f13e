# SPDX-License-Identifier: GPL-2.0-or-later
"""The input of a job's trial, as the server keeps it: to run the trial again."""

from __future__ import annotations

from dataclasses import dataclass

from elivepatch.model.build import Livepatch, RequestReference
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.jobs import Job, Jobs
from elivepatch.service.jobs.records import livepatch_from
from elivepatch.service.jobs.trials.earlier import Found, find_earlier
from elivepatch.service.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTrial:
    """A trial that can run again: the livepatch, its module, what is expected of it, and the earlier livepatch."""

    livepatch: Livepatch
    module: bytes
    expectations: tuple[Expectation, ...]
    earlier: Found
    outcome: str
    """Outcome of the trial that is kept, `none` if there was none."""


def replay_command(job: str) -> str:
    """Return the command that runs the trial of a job again."""
    return f"elivepatch-server trial replay {job}"


def kept_trial(identifier: str, facts: Digest | None, jobs: Jobs, store: Store) -> KeptTrial:
    """Return the trial of a job; `facts` are those of the kernel's base now, None if they are not known.

    Raises UsageError if there is no such job or it has built nothing, EnvironmentFault if the module is gone.
    """
    job = _built(identifier, jobs)
    livepatch = livepatch_from((job.report or {})["livepatch"])
    try:
        module = store.get(livepatch.digest)
    except ElivepatchError as error:
        raise EnvironmentFault(
            "replay-gone",
            f"The module of job {job.id} is gone, so its trial cannot run again: {error.problem.message}",
            advice="Build the same patches again; the server keeps a module as long as its job (`keep_days`).",
        ) from error
    tried = (job.report or {}).get("trial") or {}
    return KeptTrial(
        livepatch=livepatch,
        module=module,
        expectations=RequestReference.from_json(job.request).expectations,
        earlier=find_earlier(job, facts, jobs, store) if facts is not None else Found(),
        outcome=tried.get("outcome", "none"),
    )


def _built(identifier: str, jobs: Jobs) -> Job:
    job = jobs.get(identifier)
    if job is None:
        raise UsageError(
            "replay-job",
            f"There is no job {identifier[:40]!r}.",
            advice="`elivepatch build` prints the job; the server removes old ones (`keep_days`).",
        )
    if job.report is None or job.report.get("livepatch") is None:
        how = "is not done" if job.result is None else f"ended with {job.result.value} before it had a livepatch"
        raise UsageError(
            "replay-job", f"Job {job.id} {how}.", advice="Only a job that has built a livepatch has a trial to replay."
        )
    return job
