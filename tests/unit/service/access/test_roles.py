# SPDX-License-Identifier: GPL-2.0-or-later
"""Rights: each role on each endpoint, tenants that do not see each other, the audit log."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from assembled import Assembled, assembled
from deadline import wait_until
from fake_backend import KERNEL

from elivepatch.service.access.accounts import Role
from elivepatch.service.access.audit import Audit
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.db.tables import tokens

UNKNOWN = "0" * 16
TRUSTED = b"sleep 0\ntrusted"

PUBLIC = {"GET /healthz", "GET /readyz", "GET /v1/version"}
CATALOGUE = {
    "GET /v1/kernels", "GET /v1/kernels/{release}/sources", "GET /v1/cve/records", "GET /v1/key",
    "GET /v1/openapi.json",
}  # fmt: skip
FOLLOW = {
    "GET /v1/builds", "GET /v1/builds/{build}", "GET /v1/builds/{build}/events", "GET /v1/builds/{build}/report",
    "GET /v1/builds/{build}/log", "GET /v1/builds/{build}/console", "GET /v1/builds/{build}/module",
    "GET /v1/builds/{build}/proof",
}  # fmt: skip
ASK = {"POST /v1/builds", "POST /v1/kernels", "PUT /v1/patches/{sha256}", "POST /v1/patches/missing"}
CANCEL = {"DELETE /v1/builds/{build}"}
TOKENS = {"GET /v1/tokens", "POST /v1/tokens", "DELETE /v1/tokens/{name}"}
REPORT = {"PUT /v1/hosts/{name}"}
MAY: dict[Role, set[str]] = {
    Role.HOST: CATALOGUE | FOLLOW | REPORT,
    Role.SUBMITTER: CATALOGUE | FOLLOW | REPORT | ASK | CANCEL,
    Role.PATCHER: CATALOGUE | FOLLOW | REPORT | ASK | CANCEL,
    Role.APPROVER: CATALOGUE | FOLLOW | {"GET /v1/hosts"},
    Role.OPERATOR: CATALOGUE
    | FOLLOW
    | REPORT
    | ASK
    | CANCEL
    | TOKENS
    | {"GET /v1/hosts", "DELETE /v1/hosts/{name}", "GET /v1/audit", "GET /metrics"},
    Role.WORKER: CATALOGUE | {"GET /metrics"},
}


KNOWN = {"release": KERNEL.release, "name": "nobody", "build": UNKNOWN, "sha256": "0" * 64}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    overlays = tmp_path_factory.mktemp("overlays")
    (overlays / "trusted.patch").write_bytes(TRUSTED)
    with assembled(tmp_path_factory.mktemp("state"), overlays=str(overlays)) as found:
        yield found


@pytest.fixture(scope="module")
def held(server: Assembled) -> dict[str, dict[str, str]]:
    return {role.value: server.token(f"matrix-{role.value}", role) for role in Role}


def test_the_matrix_has_every_endpoint_that_the_server_answers(server: Assembled) -> None:
    described = server.http.get("/v1/openapi.json").json()["paths"]
    found = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    # The description does not describe itself.
    assert found | {"GET /v1/openapi.json"} == PUBLIC | MAY[Role.OPERATOR]


@pytest.mark.parametrize("endpoint", sorted(PUBLIC | MAY[Role.OPERATOR]))
@pytest.mark.parametrize("role", [*Role, None])
def test_a_role_gets_what_it_may_and_nothing_else(
    server: Assembled, held: dict[str, dict[str, str]], role: Role | None, endpoint: str
) -> None:
    method, path = endpoint.split()
    path = path.format(**KNOWN)
    headers = held[role.value] if role is not None else {"Authorization": ""}
    answer = server.http.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)
    if endpoint in PUBLIC:
        assert answer.status_code == 200
    elif role is None:
        assert (answer.status_code, _code(answer)) == (401, "token-missing")
    elif endpoint in MAY[role]:
        # Let in, though an unknown job is then unknown and an empty body malformed.
        assert answer.status_code in {200, 404, 422}
    else:
        assert (answer.status_code, _code(answer)) == (403, "role-insufficient")


def _code(answer: httpx2.Response) -> str | None:
    """Return the code of a problem; for HEAD, whose answer has no body, the code of its status."""
    if answer.request.method == "HEAD":
        return {401: "token-missing", 403: "role-insufficient"}.get(answer.status_code)
    code: str = answer.json()["code"]
    return code


def test_a_submitter_may_ask_for_trusted_patches_only(server: Assembled) -> None:
    submitter = server.token("sub", Role.SUBMITTER)
    refused = server.ask("sleep 0\nmine", submitter)
    assert (refused.status_code, refused.json()["code"]) == (403, "patch-not-trusted")
    assert server.ask(TRUSTED.decode(), submitter).status_code == 202


def test_a_fresh_build_is_the_operator_s_to_ask_for(server: Assembled) -> None:
    patcher = server.token("fresh", Role.PATCHER)
    first = server.done("sleep 0\nfresh")
    assert server.ask("sleep 0\nfresh").json()["id"] == first["id"]
    assert server.ask("sleep 0\nfresh", patcher, fresh=True).status_code == 403
    again = server.done("sleep 0\nfresh", fresh=True)
    assert again["id"] != first["id"]
    assert server.ask("sleep 0\nfresh").json()["id"] == again["id"]


def test_tenants_do_not_learn_of_each_other(server: Assembled) -> None:
    red = server.token("red", Role.PATCHER, tenant="red")
    blue = server.token("blue", Role.PATCHER, tenant="blue")
    job = server.done("sleep 0\nof red", red)["id"]
    for path in ("", "/events", "/report", "/log", "/module", "/proof"):
        theirs = server.http.get(f"/v1/builds/{job}{path}", headers=blue)
        nobodys = server.http.get(f"/v1/builds/{UNKNOWN}{path}", headers=blue)
        assert (theirs.status_code, theirs.content) == (nobodys.status_code, nobodys.content) == (404, theirs.content)
    assert server.http.delete(f"/v1/builds/{job}", headers=blue).status_code == 404
    assert server.http.get("/v1/builds", headers=blue).json() == {"builds": [], "next": None}
    assert server.http.get(f"/v1/builds?before={job}", headers=blue).status_code == 404
    own = server.ask("sleep 0\nof red", blue)
    assert own.status_code == 202, "an answer that is there at once would show that another tenant asked"
    assert own.json()["id"] != job
    assert [one["id"] for one in server.http.get("/v1/builds", headers=red).json()["builds"]] == [job]
    assert server.http.get(f"/v1/builds/{job}").status_code == 200, "the operator sees every tenant's"


def test_the_numbers_of_events_count_the_job_s_own(server: Assembled) -> None:
    jobs = [server.done(f"sleep 0\ncounted {number}")["id"] for number in range(2)]
    for job in jobs:
        assert "id: 1\n" in server.http.get(f"/v1/builds/{job}/events").text.replace("\r", "")


def test_a_host_s_token_sees_its_own_kernel_only(server: Assembled) -> None:
    job = server.done("sleep 0\nfor a host")["id"]
    mine = server.token("host-1", Role.HOST, kernel=KERNEL.release)
    others = server.token("host-2", Role.HOST, kernel="6.12.1-amd64")
    assert server.http.get(f"/v1/builds/{job}/module", headers=mine).status_code == 200
    assert server.http.get(f"/v1/builds/{job}/module", headers=others).status_code == 404
    assert server.http.get("/v1/builds", headers=others).json()["builds"] == []


def test_a_token_is_shown_once_and_let_in_until_it_is_revoked(server: Assembled) -> None:
    made = server.http.post("/v1/tokens", json={"name": "once", "role": "patcher", "days": 3})
    assert made.status_code == 201
    token = made.json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert server.http.get("/v1/kernels", headers=headers).status_code == 200
    listed = server.http.get("/v1/tokens")
    assert token not in listed.text
    assert [one["role"] for one in listed.json()["tokens"] if one["name"] == "once"] == ["patcher"]
    assert token.encode() not in (server.state / "elivepatch.db").read_bytes()
    assert server.http.delete("/v1/tokens/once").json()["revoked_at"]
    assert server.http.get("/v1/kernels", headers=headers).json()["code"] == "token-refused"
    again = server.http.post("/v1/tokens", json={"name": "once", "role": "patcher"})
    assert (again.status_code, again.json()["code"]) == (409, "token-exists")


def test_a_token_that_expired_is_refused(server: Assembled) -> None:
    headers = server.token("brief", Role.HOST)
    with server.services.resources.database.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(sa.update(tokens).where(tokens.c.name == "brief").values(expires_at=past))
    assert server.http.get("/v1/kernels", headers=headers).json()["code"] == "token-refused"


@pytest.mark.parametrize("body", [{"name": "X", "role": "host"}, {"name": "x", "role": "king"}, {"name": "x"}])
def test_a_malformed_token_is_not_made(server: Assembled, body: dict[str, str]) -> None:
    assert server.http.post("/v1/tokens", json=body).status_code == 422


def test_what_was_done_is_in_the_audit_log(server: Assembled) -> None:
    patcher = server.token("audited", Role.PATCHER, tenant="noted")
    job = server.ask("sleep 30\naudited", patcher).json()["id"]
    server.ask("sleep 30\naudited", patcher)
    server.http.delete(f"/v1/builds/{job}", headers=patcher)
    entries = [entry for entry in _whole_log(server) if entry["subject"] == job]
    assert [(entry["who"], entry["tenant"], entry["action"]) for entry in entries] == [
        ("audited", "noted", "build.ask"),
        ("audited", "noted", "build.cancel"),
    ]


def _whole_log(server: Assembled) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = []
    after: int | None = 0
    while after is not None:
        page = server.http.get("/v1/audit", params={"after": after, "limit": 3}).json()
        entries += page["entries"]
        after = page["next"]
    return entries


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET who = 'nobody' WHERE number = 3",
        "DELETE FROM audit WHERE number = 3",
        "DELETE FROM audit WHERE number = 1",
        "UPDATE audit SET number = 99 WHERE number = 5",
        "UPDATE audit SET previous = digest WHERE number = 2",
    ],
)
def test_a_log_that_was_changed_does_not_verify(tmp_path_factory: pytest.TempPathFactory, change: str) -> None:
    file = tmp_path_factory.mktemp("audit") / "db"
    database = open_database(sqlite_url(file))
    migrate(database)
    log = Audit(database)
    for number in range(5):
        log.note(who="me", tenant="t", action="token.add", subject=f"x{number}")
    whole = log.verify()
    assert (whole.entries, whole.broken, whole.seen) == (5, None, True)
    with sqlite3.connect(file) as connection:
        connection.execute(change)
    connection.close()
    assert log.verify().broken is not None
    database.dispose()


def test_a_log_whose_end_was_cut_off_is_found_out_by_an_older_head(tmp_path_factory: pytest.TempPathFactory) -> None:
    database = open_database(sqlite_url(tmp_path_factory.mktemp("audit") / "db"))
    migrate(database)
    log = Audit(database)
    for number in range(3):
        log.note(who="me", tenant="t", action="token.add", subject=f"x{number}")
    head = log.verify().head
    log.note(who="me", tenant="t", action="token.add", subject="later")
    assert log.verify(head).seen
    with database.begin() as connection:
        connection.execute(sa.text("DELETE FROM audit WHERE number > 2"))
    assert not log.verify(head).seen
    database.dispose()


def _ended(server: Assembled, job: str) -> dict[str, Any]:
    """Return the state of a job when it is done."""

    def state() -> dict[str, Any] | None:
        found: dict[str, Any] = server.http.get(f"/v1/builds/{job}").json()
        return found if found["status"] == "done" else None

    return wait_until(state, within_s=30)


def test_tenants_take_turns_and_people_go_before_machines(server: Assembled) -> None:
    names = {name: server.token(f"turn-{name}", Role.PATCHER, tenant=f"turn-{name}") for name in ("many", "few")}
    blocking = server.ask("sleep 30\nblocking").json()["id"]
    wait_until(lambda: server.http.get(f"/v1/builds/{blocking}").json()["status"] == "running")
    asked = [("machine", server.ask("sleep 0\nmachine", names["few"], priority="automatic"))]
    asked += [(f"many-{n}", server.ask(f"sleep 0\nmany {n}", names["many"])) for n in range(4)]
    asked += [
        ("few-0", server.ask("sleep 0\nfew 0", names["few"])),
        ("few-1", server.ask("sleep 0\nfew 1", names["few"])),
    ]
    server.http.delete(f"/v1/builds/{blocking}")
    ended = {}
    for name, answer in asked:
        ended[name] = _ended(server, answer.json()["id"])["started_at"]
    order = sorted(ended, key=lambda name: ended[name])
    assert order == ["many-0", "few-0", "many-1", "few-1", "many-2", "many-3", "machine"]


def test_a_part_of_a_file_is_given_and_nothing_where_nothing_has_changed(server: Assembled) -> None:
    job = server.done("sleep 0\nranges")["id"]
    path = f"/v1/builds/{job}/module"
    whole = server.http.get(path)
    assert base64.b64encode(hashlib.sha256(whole.content).digest()).decode() in whole.headers["repr-digest"]
    for header, span in (("bytes=0-9", slice(0, 10)), ("bytes=10-", slice(10, None)), ("bytes=-7", slice(-7, None))):
        part = server.http.get(path, headers={"Range": header})
        assert (part.status_code, part.content) == (206, whole.content[span])
    beyond = server.http.get(path, headers={"Range": "bytes=999999-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range-not-satisfiable")
    for nonsense in ("bytes=-", "bytes=9-1", "lines=1-2", "bytes=0-1,4-5", "bytes=" + "9" * 99 + "-"):
        assert server.http.get(path, headers={"Range": nonsense}).status_code == 200
    unchanged = server.http.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_the_figures_tell_of_queue_results_and_steps(server: Assembled) -> None:
    server.done("sleep 0\nfigures")
    server.done("verdict")
    text = server.http.get("/metrics").text
    for line in (
        'elivepatch_jobs{status="queued"} 0.0',
        'elivepatch_jobs_ended_total{code="",result="success"}',
        'elivepatch_jobs_ended_total{code="data-changed",result="failure"}',
        'elivepatch_builds_asked_total{answer="new"}',
        'elivepatch_step_seconds_count{step="build"}',
        "elivepatch_workers 1.0",
        "elivepatch_disk_free_bytes",
    ):
        assert line in text, text
    assert server.http.get("/metrics").text.count("elivepatch_jobs_ended_total{") == text.count(
        "elivepatch_jobs_ended_total{"
    )
