# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of the server: rate of requests, waiting builds, time that jobs and files are kept."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from assembled import assembled

from elivepatch.model.build import patches_of
from elivepatch.model.kernel import Digest
from elivepatch.service.access.accounts import Role
from elivepatch.service.db.tables import builds
from elivepatch.service.errors import LimitReached
from elivepatch.service.http.limits import RateLimiter
from elivepatch.service.jobs.engine import Execution
from elivepatch.service.jobs.jobs import Job
from elivepatch.service.retention import Retention


def test_a_bucket_fills_up_again_and_each_key_has_its_own() -> None:
    moment = [0.0]
    rate = RateLimiter(10.0, clock=lambda: moment[0])
    for _ in range(50):
        rate.take("a")
    with pytest.raises(LimitReached) as refused:
        rate.take("a")
    assert refused.value.retry_s == 1
    rate.take("b")
    moment[0] += 0.1
    rate.take("a")
    with pytest.raises(LimitReached):
        rate.take("a")


def test_requests_above_the_rate_are_refused_with_the_time_to_wait(tmp_path_factory: pytest.TempPathFactory) -> None:
    # One a second and five at once: on a slow machine some more pass while the others are refused.
    with assembled(tmp_path_factory.mktemp("state"), requests_per_s=1.0) as server:
        answers = [server.http.get("/v1/kernels") for _ in range(40)]
        assert [answer.status_code for answer in answers[:5]] == [200] * 5
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert int(refused.headers["retry-after"]) >= 1
        guesses = [server.http.get("/v1/kernels", headers={"Authorization": f"Bearer {n}"}) for n in range(40)]
        assert [answer.status_code for answer in guesses[:5]] == [401] * 5
        assert 429 in {answer.status_code for answer in guesses}
        assert server.http.get("/healthz").status_code == 200


def test_more_builds_than_may_wait_are_refused_and_known_ones_answered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with assembled(tmp_path_factory.mktemp("state"), tenant_limit=2, queue_limit=3) as server:
        red = server.token("red", Role.PATCHER, tenant="red")
        blue = server.token("blue", Role.PATCHER, tenant="blue")
        jobs = [server.ask(f"sleep 60\n{number}", red).json()["id"] for number in range(2)]
        refused = server.ask("sleep 60\n3", red)
        assert (refused.status_code, refused.json()["code"]) == (429, "too-many-builds")
        assert refused.headers["retry-after"]
        assert server.ask("sleep 60\n1", red).status_code == 200
        jobs.append(server.ask("sleep 60\n1", blue).json()["id"])
        assert server.ask("sleep 60\n2", blue).json()["code"] == "queue-full"
        for job in jobs:
            server.http.delete(f"/v1/builds/{job}")


def test_no_build_is_taken_where_the_disk_is_almost_full(tmp_path_factory: pytest.TempPathFactory) -> None:
    with assembled(tmp_path_factory.mktemp("state"), disk_reserve_mib=2**40) as server:
        refused = server.ask("sleep 0")
        assert (refused.status_code, refused.json()["code"]) == (507, "disk-full")
        ready = server.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "not-ready", "lacks": ["disk"]})


def test_what_is_old_goes_and_what_is_named_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    with assembled(tmp_path_factory.mktemp("state"), keep_days=90) as server:
        old, young = server.done("sleep 0\nold")["id"], server.done("sleep 0.3\nyoung")["id"]
        untried = server.done("sleep 0\nfails in its trial", expectations=[{"command": "x", "pattern": "never"}])
        waiting = server.ask("sleep 60\nwaiting").json()["id"]
        unnamed = server.services.resources.store.put(b"of nobody")
        fresh = server.services.resources.store.put(b"of nobody yet")
        jobs = {name: server.services.resources.jobs.get(name) for name in (old, young, waiting)}
        store = server.state / "store"
        for blob in store.rglob("*"):
            if blob.is_file() and blob.name != fresh:
                os.utime(blob, (time.time() - 2 * 24 * 3600,) * 2)
        ages = ((old, 100), (young, 8), (waiting, 200))
        with server.services.resources.database.begin() as connection:
            for name, days in ages:
                at = datetime.now(UTC) - timedelta(days=days)
                done = {} if name == waiting else {"done_at": at}
                connection.execute(sa.update(builds).where(builds.c.id == name).values(created_at=at, **done))
        removed = Retention(server.services.resources).sweep()
        assert (removed["jobs"], removed["executions"]) == (1, 2)
        assert server.http.get(f"/v1/builds/{old}").status_code == 404
        for what in ("module", "log", "console", "proof"):
            assert server.http.get(f"/v1/builds/{young}/{what}").status_code == 200
        kinds = [event.kind for event in server.services.resources.jobs.events_after(young, 0, limit=100)]
        assert kinds == ["state", "state", "done"]
        assert server.services.resources.engine.state(young).execution is Execution.UNKNOWN
        assert server.services.resources.jobs.get(waiting) is not None
        left = {blob.name for blob in store.rglob("*") if blob.is_file()}
        assert fresh in left
        assert untried["livepatch"]["digest"] in left, "its trial can be replayed"
        assert unnamed not in left
        for name in (young, waiting):
            assert set(_patches(jobs[name])) <= left
        gone = _patches(jobs[old])[0]
        assert gone not in left
        server.http.delete(f"/v1/builds/{waiting}")


def test_a_file_that_is_put_again_just_before_it_would_go_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    with assembled(tmp_path_factory.mktemp("state")) as server:
        digest = server.services.resources.store.put(b"again")
        blob = server.state / "store" / "sha256" / digest[:2] / digest
        os.utime(blob, (time.time() - 2 * 24 * 3600,) * 2)
        server.services.resources.store.put(b"again")
        assert server.services.resources.store.collect(set()) == 0
        assert blob.exists()


def test_a_thousand_keys_do_not_fill_the_memory() -> None:
    rate = RateLimiter(1.0)
    for number in range(20_000):
        rate.take(str(number))
    assert len(rate._buckets) <= 10_000


def _patches(job: Job | None) -> list[Digest]:
    """Return the digests of a job's patches."""
    assert job is not None
    return [patch.digest for patch in patches_of(job.request)]
