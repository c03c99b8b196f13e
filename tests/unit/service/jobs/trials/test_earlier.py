# SPDX-License-Identifier: GPL-2.0-or-later
"""The livepatch that a job's trial finds live: that of the longest beginning of its series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_backend import KERNEL, FakeBackend

from elivepatch.model.build import BuildRequest
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.jobs.jobs import Job, Jobs, NewJob
from elivepatch.service.jobs.records import build_key, job_key, keep_request, report_of
from elivepatch.service.jobs.steps import JobSteps
from elivepatch.service.jobs.trials.kept import kept_trial
from elivepatch.service.store import Store


class House:
    """A worker without the engine that would call it."""

    def __init__(self, top: Path) -> None:
        self.database = open_database(sqlite_url(top / "db"))
        migrate(self.database)
        self.jobs, self.store = Jobs(self.database), Store.in_directory(top / "store")
        self.backend = FakeBackend(top / "runs.txt")
        self.steps = JobSteps(jobs=self.jobs, store=self.store, backend=self.backend, directory=top / "work")
        self.steps.sweep()

    def build(self, *patches: str, tenant: str = "default", **asked: Any) -> Job:
        """Build a series, and try it."""
        series = PatchSeries(tuple(SourcePatch("fix.patch", patch.encode()) for patch in patches))
        request = BuildRequest(release=KERNEL.release, series=series, **asked)
        key = build_key(self.backend.facts(request.release), request)
        submitted, _ = self.jobs.submit(
            NewJob(
                job_key=job_key(key, request, tenant),
                build_key=key,
                release=request.release,
                kernel_build_id=KERNEL.build_id,
                request=keep_request(request, self.store),
                tenant=tenant,
            )
        )
        self.steps.begin(submitted.id)
        built = self.steps.build(submitted.id)
        self.steps.publish(submitted.id, built, self.steps.trial(submitted.id, built))
        ended = self.jobs.get(submitted.id)
        assert ended is not None
        return ended

    def over(self, *patches: str, **asked: Any) -> dict[str, str] | None:
        """Build a series and return what its trial says of an earlier livepatch."""
        over: dict[str, str] | None = report_of(self.build(*patches, **asked))["trial"]["over_earlier"]
        return over


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.database.dispose()


def name_of(job: Job) -> str:
    name: str = report_of(job)["livepatch"]["name"]
    return name


def test_the_trial_of_a_longer_series_is_over_the_livepatch_of_its_longest_beginning(house: House) -> None:
    house.build("one")
    two = house.build("one", "two")
    assert house.over("one", "two", "three", "four") == {"name": name_of(two), "result": "replaced", "words": ""}


def test_an_earlier_livepatch_that_was_loaded_beside_others_counts_too(house: House) -> None:
    one = house.build("one", replace=False)
    over = house.over("one", "two")
    assert over is not None
    assert over["name"] == name_of(one)


def test_a_series_of_one_patch_has_nothing_to_replace(house: House) -> None:
    house.build("one")
    assert house.over("two") is None


@pytest.mark.parametrize(
    ("earlier", "asked", "words"),
    [
        (("two",), {}, "has not built"),
        (("one",), {"replace": False}, "beside what is live"),
    ],
)
def test_a_report_gives_the_reason_if_no_earlier_livepatch_was_tried(
    house: House, earlier: tuple[str, ...], asked: dict[str, Any], words: str
) -> None:
    house.build(*earlier)
    over = house.over("one", "two", **asked)
    assert over is not None
    assert (over["name"], over["result"]) == ("", "not-tried")
    assert words in over["words"]


def test_the_livepatch_of_another_tenant_is_neither_used_nor_shown(house: House) -> None:
    house.build("one", tenant="other")
    over = house.over("one", "two")
    assert over is not None
    assert (over["result"], "has not built" in over["words"]) == ("not-tried", True)


def test_a_job_keeps_what_its_trial_needs(house: House) -> None:
    one, two = house.build("one"), house.build("one", "two")
    facts = house.backend.facts(KERNEL.release)
    kept = kept_trial(two.id, facts, house.jobs, house.store)
    assert kept.livepatch.name == name_of(two)
    assert kept.module == house.store.get(kept.livepatch.digest)
    assert kept.earlier.livepatch is not None
    assert kept.earlier.livepatch.name == name_of(one)
    assert kept.outcome == "passed"
    assert report_of(two)["trial"]["replay"] == f"elivepatch-server trial replay {two.id}"


def test_a_job_without_a_trial_to_replay_says_so(house: House, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no job 'nonesuch'"):
        kept_trial("nonesuch", None, house.jobs, house.store)
    with pytest.raises(UsageError, match="ended with failure before it had a livepatch"):
        kept_trial(house.build("compile-error").id, None, house.jobs, house.store)
    one = house.build("one")
    (stored,) = (tmp_path / "store").rglob(report_of(one)["livepatch"]["digest"])
    stored.unlink()
    with pytest.raises(EnvironmentFault, match="is gone"):
        kept_trial(one.id, None, house.jobs, house.store)
