# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of hosts: kept by token and name, shown to accounts that may see the tenant, refused if malformed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from assembled import Assembled, assembled
from fake_backend import KERNEL
from query_plans import recorded

from elivepatch.service.access.accounts import Role
from elivepatch.service.db.hosts import HostReports
from elivepatch.service.db.tables import hosts
from elivepatch.service.retention import Retention

SAID = {
    "kernel": KERNEL.release,
    "build_id": KERNEL.build_id,
    "result": "closed",
    "problem": "",
    "livepatches": ["elp_1"],
    "open": 3,
    "closed": 2,
    "needs_reboot": 1,
}


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def server(one_server: Assembled) -> Assembled:
    with one_server.services.resources.database.begin() as connection:
        connection.execute(sa.delete(hosts))
    return one_server


def names(server: Assembled, headers: dict[str, str] | None = None, query: str = "") -> list[str]:
    return [one["name"] for one in server.http.get(f"/v1/hosts{query}", headers=headers).json()["hosts"]]


def test_the_last_word_of_a_host_counts(server: Assembled) -> None:
    web = server.token("web-1", Role.HOST, kernel=KERNEL.release)
    assert server.http.put("/v1/hosts/web-1", json=SAID, headers=web).status_code == 200
    server.http.put("/v1/hosts/web-1", json=SAID | {"result": "nothing-to-do", "open": None}, headers=web)
    (kept,) = server.http.get("/v1/hosts").json()["hosts"]
    assert kept.pop("seen_at")
    assert kept == SAID | {
        "result": "nothing-to-do", "open": None, "name": "web-1", "tenant": "default", "token": "web-1",
    }  # fmt: skip


def test_hosts_of_one_name_and_two_tokens_are_two(server: Assembled) -> None:
    for token in ("one", "two"):
        server.http.put("/v1/hosts/web", json=SAID, headers=server.token(token, Role.HOST))
    assert names(server) == ["web", "web"]


def test_they_are_listed_in_pages(server: Assembled) -> None:
    for name in ("c", "a", "b"):
        server.http.put(f"/v1/hosts/{name}", json=SAID)
    first = server.http.get("/v1/hosts?limit=2").json()
    assert ([one["name"] for one in first["hosts"]], first["next"]) == (["a", "b"], "b/operator")
    assert names(server, query="?limit=2&after=b/operator") == ["c"]


def test_a_tenant_does_not_learn_of_another_s_hosts(server: Assembled) -> None:
    server.http.put("/v1/hosts/red-1", json=SAID, headers=server.token("red", Role.HOST, tenant="red"))
    assert names(server, server.token("watcher-red", Role.APPROVER, tenant="red")) == ["red-1"]
    assert names(server, server.token("watcher-blue", Role.APPROVER, tenant="blue")) == []
    assert names(server) == ["red-1"]


def test_a_token_that_is_bound_to_a_kernel_reports_for_that_one_only(server: Assembled) -> None:
    other = server.token("other", Role.HOST, kernel="6.12.1-amd64")
    assert server.http.put("/v1/hosts/web", json=SAID, headers=other).json()["code"] == "role-insufficient"


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel": "../x"}, {"build_id": "xyz"}, {"result": "fine"}, {"problem": "<b>"}, {"livepatches": ["a b"]},
        {"livepatches": ["a"] * 65}, {"open": -1}, {"closed": "2"}, {"needs_reboot": 10**9}, {"more": 1},
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(server: Assembled, wrong: dict[str, Any]) -> None:
    assert server.http.put("/v1/hosts/web", json=SAID | wrong).status_code == 422
    assert names(server) == []


def test_the_stalest_host_of_a_token_goes_when_there_are_too_many(server: Assembled) -> None:
    reports = HostReports(server.services.resources.database)
    server.http.put("/v1/hosts/b", json=SAID)  # of another token
    for name in ("a", "b", "a", "c"):
        reports.record("image", name, "default", SAID, limit=2)
    assert [(one["name"], one["token"]) for one in server.http.get("/v1/hosts").json()["hosts"]] == [
        ("a", "image"), ("b", "operator"), ("c", "image"),
    ]  # fmt: skip


def test_a_host_that_does_not_report_any_more_ages_out(server: Assembled) -> None:
    for name in ("gone", "young"):
        server.http.put(f"/v1/hosts/{name}", json=SAID)
    old = datetime.now(UTC) - timedelta(days=61)
    with server.services.resources.database.begin() as connection:
        connection.execute(sa.update(hosts).where(hosts.c.name == "gone").values(seen_at=old))
    assert Retention(server.services.resources).sweep()["hosts"] == 1
    assert names(server) == ["young"]


def test_an_operator_removes_a_host(server: Assembled) -> None:
    server.http.put("/v1/hosts/web", json=SAID)
    server.http.put("/v1/hosts/web", json=SAID, headers=server.token("twin", Role.HOST))
    assert server.http.delete("/v1/hosts/web?token=twin").json() == {"removed": 1}
    assert server.http.delete("/v1/hosts/web").json() == {"removed": 1}
    answer = server.http.delete("/v1/hosts/web")
    assert (answer.status_code, answer.json()["code"]) == (404, "host-unknown")
    assert [entry["action"] for entry in server.http.get("/v1/audit").json()["entries"]].count("host.remove") == 2


def test_only_an_operator_removes_hosts(server: Assembled) -> None:
    server.http.put("/v1/hosts/web", json=SAID)
    for role in Role:
        if role is not Role.OPERATOR:
            answer = server.http.delete("/v1/hosts/web", headers=server.token(f"no-{role.value}", role))
            assert answer.json()["code"] == "role-insufficient"
    assert names(server) == ["web"]


def test_pages_of_hosts_are_read_by_an_index(server: Assembled) -> None:
    reports = HostReports(server.services.resources.database)
    with recorded(server.services.resources.database) as recorder:
        for tenant in (None, "default"):
            reports.page(tenant, after=("web", "token"), limit=200)
    plans = [plan for plan in recorder.plans() if "hosts" in plan]
    assert len(plans) == 2
    for plan in plans:
        assert "SEARCH hosts USING INDEX ix_hosts_" in plan
        assert "TEMP B-TREE" not in plan
