# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP API, with the real database, store and engine, and a backend that builds nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from deadline import wait_until
from fake_backend import BASE_PATCHES, KERNEL, FakeBackend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from elivepatch.service.http.dependencies import Services
from elivepatch.service.http.routes import api
from elivepatch.service.http.server import assemble
from elivepatch.service.state_directory import TOKEN_FILE
from elivepatch.settings import ServerSettings

DEADLINE_S = 20.0
UNKNOWN = "0" * 16


@dataclass
class Service:
    """A server without its process."""

    http: TestClient
    backend: FakeBackend
    services: Services
    state: Path

    def ask(self, patch: str, **more: Any) -> httpx2.Response:
        content = base64.b64encode(patch.encode()).decode()
        body = {"kernel": KERNEL.release, "patches": [{"name": "a/fix.patch", "content": content}]} | more
        return self.http.post("/v1/builds", json=body)

    def done(self, patch: str, **more: Any) -> dict[str, Any]:
        """Ask, wait, and return the report."""
        answer = self.ask(patch, **more)
        assert answer.status_code in {200, 202}, answer.text
        return self.wait(answer.json()["id"])

    def wait(self, job: str) -> dict[str, Any]:
        def finished() -> dict[str, Any] | None:
            report = self.http.get(f"/v1/builds/{job}/report")
            assert report.status_code in {200, 409}
            document: dict[str, Any] = report.json()
            return document if report.status_code == 200 else None

        return wait_until(finished, within_s=DEADLINE_S)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    state = tmp_path_factory.mktemp("state")
    backend = FakeBackend(state / "runs.txt")
    services = assemble(ServerSettings(state_dir=state, requests_per_s=5000.0), backend)
    assert services.worker is not None
    services.worker.start()
    services.notifier.start()
    token = (state / TOKEN_FILE).read_text().strip()
    with TestClient(
        api.create(services), headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False
    ) as client:
        yield Service(client, backend, services, state)
    services.stopping.set()
    services.notifier.stop()
    services.resources.engine.stop()
    services.worker.stop()
    services.resources.close()


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert set(document) == {"type", "title", "status", "code", "kind", "message", "advice", "excerpt"}
    assert (document["code"], document["status"]) == (code, status)
    assert document["advice"]
    return document


def test_a_build_is_asked_for_followed_and_fetched(service: Service) -> None:
    asked = service.ask("sleep 0.2", expectations=[{"command": "/proc/meminfo", "pattern": "X"}])
    assert asked.status_code == 202
    job = asked.json()
    assert asked.headers["location"] == f"/v1/builds/{job['id']}"
    assert job["patches"] == [{"name": "fix.patch", "sha256": hashlib.sha256(b"sleep 0.2").hexdigest()}]
    report = service.wait(job["id"])
    assert report["result"] == "success"
    module = service.http.get(f"/v1/builds/{job['id']}/module")
    assert module.headers["content-type"] == "application/octet-stream"
    assert hashlib.sha256(module.content).hexdigest() == report["module_sha256"]
    for name in ("log", "console", "module"):
        got = service.http.get(f"/v1/builds/{job['id']}/{name}")
        digest = base64.b64encode(hashlib.sha256(got.content).digest()).decode()
        assert got.headers["repr-digest"] == f"sha-256=:{digest}:"
    stands = service.http.get(f"/v1/builds/{job['id']}").json()
    assert (stands["status"], stands["result"], stands["build_id"]) == ("done", "success", KERNEL.build_id)


def test_an_equal_request_is_answered_by_the_same_job(service: Service) -> None:
    first = service.ask("sleep 0\nequal")
    second = service.ask("sleep 0\nequal")
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    service.wait(first.json()["id"])
    assert service.ask("sleep 0\nequal").json()["id"] == first.json()["id"]


def test_an_equal_request_is_run_anew_where_the_first_ended_by_our_fault(service: Service) -> None:
    first = service.done("broken-environment")
    second = service.done("broken-environment")
    assert first["id"] != second["id"]
    assert first["problem"]["code"] == second["problem"]["code"] == "program-missing"


def test_what_is_looked_at_in_the_trial_makes_another_request(service: Service) -> None:
    plain = service.ask("sleep 0\ntrial")
    looked = service.ask("sleep 0\ntrial", expectations=[{"command": "x", "pattern": "y"}])
    unchecked = service.ask("sleep 0\ntrial", trial=False)
    assert len({answer.json()["id"] for answer in (plain, looked, unchecked)}) == 3


def named(*names: str) -> list[dict[str, str]]:
    digests = {**BASE_PATCHES, "theirs.patch": "56" * 32}
    return [{"name": name, "sha256": digests[name]} for name in names]


def test_what_a_kernel_was_built_with_is_compared_with_the_base_and_makes_no_other_request(service: Service) -> None:
    plain = service.ask("sleep 0").json()["id"]
    for names in (("our-driver.patch", "our-tuning.patch"), ("our-tuning.patch", "our-driver.patch")):
        assert service.ask("sleep 0", base_patches=named(*names)).json()["id"] == plain


@pytest.mark.parametrize(
    ("names", "how"),
    [
        (["our-driver.patch"], "it has our-tuning.patch besides."),
        (["our-driver.patch", "our-tuning.patch", "theirs.patch"], "it lacks theirs.patch."),
        (["theirs.patch"], "it lacks theirs.patch and it has our-driver.patch, our-tuning.patch besides."),
    ],
)
def test_a_base_that_was_made_with_other_patches_is_refused(service: Service, names: list[str], how: str) -> None:
    answer = service.ask("sleep 0", base_patches=named(*names))
    assert (answer.status_code, answer.json()["code"], answer.json()["kind"]) == (409, "base-patches", "host")
    assert answer.json()["message"].endswith(how)
    assert "--no-base-patches" in answer.json()["advice"]


def test_a_damaged_module_is_not_served_and_is_built_anew(service: Service) -> None:
    report = service.done("sleep 0\ndamage")
    digest = report["module_sha256"]
    (service.state / "store" / "sha256" / digest[:2] / digest).write_bytes(b"evil")
    problem(service.http.get(f"/v1/builds/{report['id']}/module"), 500, "blob-damaged")
    again = service.done("sleep 0\ndamage")
    assert again["id"] != report["id"]
    assert hashlib.sha256(service.http.get(f"/v1/builds/{again['id']}/module").content).hexdigest() == digest


def test_a_job_that_did_not_succeed_has_no_module(service: Service) -> None:
    report = service.done("verdict")
    assert (report["result"], report["problem"]["kind"], report["module_sha256"]) == ("failure", "verdict", None)
    problem(service.http.get(f"/v1/builds/{report['id']}/module"), 404, "file-unknown")
    assert service.http.get(f"/v1/builds/{report['id']}/log").status_code == 200


def test_the_files_of_a_job_are_not_there_before_it_is_done(service: Service) -> None:
    job = service.ask("sleep 30\nunfinished").json()["id"]
    for name in ("report", "log", "console", "module"):
        problem(service.http.get(f"/v1/builds/{job}/{name}"), 409, "build-not-done")
    assert service.http.delete(f"/v1/builds/{job}").status_code == 200
    report = service.wait(job)
    assert (report["result"], report["problem"]["code"]) == ("cancelled", "cancelled")
    assert service.http.delete(f"/v1/builds/{job}").json()["result"] == "cancelled"


def test_a_queued_job_is_cancelled_at_once(service: Service) -> None:
    running = service.ask("sleep 30\nin the way").json()["id"]
    queued = service.ask("sleep 0\nbehind").json()["id"]
    assert service.http.delete(f"/v1/builds/{queued}").json()["status"] == "done"
    service.http.delete(f"/v1/builds/{running}")
    service.wait(running)
    assert service.wait(queued)["result"] == "cancelled"


def events(service: Service, job: str, last: str | None = None) -> list[dict[str, str]]:
    headers = {"Last-Event-ID": last} if last is not None else {}
    with service.http.stream("GET", f"/v1/builds/{job}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_events_are_told_once_in_order_and_end_with_done(service: Service) -> None:
    job = service.ask("sleep 0.5\nevents").json()["id"]
    told = events(service, job)
    ids = [int(event["id"]) for event in told]
    assert ids == sorted(set(ids))
    assert [event["event"] for event in told].count("done") == 1
    assert json.loads(told[-1]["data"]) == {"status": "done", "result": "success"}
    assert any(json.loads(event["data"]).get("stage") == "link" for event in told)


def test_events_go_on_after_the_last_one_that_was_heard(service: Service) -> None:
    job = service.done("sleep 0.3\nresume")["id"]
    told = events(service, job)
    assert events(service, job, told[3]["id"]) == told[4:]
    assert events(service, job, told[-1]["id"]) == []
    problem(service.http.get(f"/v1/builds/{job}/events", headers={"Last-Event-ID": "x"}), 422, "request-invalid")


def test_jobs_are_listed_page_by_page(service: Service) -> None:
    for number in range(3):
        service.ask(f"sleep 0\nlisted {number}")
    first = service.http.get("/v1/builds", params={"limit": 2}).json()
    second = service.http.get("/v1/builds", params={"limit": 2, "before": first["next"]}).json()
    seen = [job["id"] for job in first["builds"] + second["builds"]]
    assert len(set(seen)) == 4
    problem(service.http.get("/v1/builds", params={"limit": 0}), 422, "request-invalid")
    problem(service.http.get("/v1/builds", params={"before": "x"}), 422, "request-invalid")


def test_kernels_health_and_version_are_told(service: Service) -> None:
    assert service.http.get("/v1/kernels").json() == {"kernels": [KERNEL.as_dict()]}
    assert service.http.get("/healthz").json() == {"status": "ok"}
    assert service.http.get("/v1/version").json()["api"] == "v1"


@pytest.mark.parametrize("token", [None, "", "wrong", "elp_" + "A" * 43, "x" * 100_000])
def test_all_but_health_and_version_want_a_token(service: Service, token: str | None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {"Authorization": "Basic eDp5"}
    for method, path in [
        ("GET", "/v1/kernels"),
        ("POST", "/v1/builds"),
        ("GET", "/v1/builds"),
        ("GET", f"/v1/builds/{UNKNOWN}"),
        ("DELETE", f"/v1/builds/{UNKNOWN}"),
        ("GET", f"/v1/builds/{UNKNOWN}/events"),
        ("GET", f"/v1/builds/{UNKNOWN}/module"),
        ("GET", "/v1/openapi.json"),
    ]:
        refused = service.http.request(method, path, headers=headers)
        document = problem(refused, 401, "token-refused" if token else "token-missing")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert document["kind"] == "error"
    for path in ("/healthz", "/v1/version"):
        assert service.http.get(path, headers=headers).status_code == 200


def test_what_does_not_exist_is_told_as_a_problem(service: Service) -> None:
    problem(service.http.get(f"/v1/builds/{UNKNOWN}"), 404, "build-unknown")
    problem(service.http.get(f"/v1/builds/{UNKNOWN}/events"), 404, "build-unknown")
    problem(service.http.get("/v1/builds/..%2f..%2fetc%2fpasswd"), 404, "not-found")
    problem(service.http.get("/v1/builds/ABC"), 422, "request-invalid")
    problem(service.http.get("/nothing"), 404, "not-found")
    refused = service.http.put("/v1/builds")
    problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"]
    problem(service.ask("x", kernel="6.9.9"), 404, "kernel-unknown")
    problem(service.ask("x", kernel="../x"), 422, "kernel-release")


def test_a_request_beyond_24_mib_is_refused(service: Service) -> None:
    limit = 24 * 1024 * 1024
    within, beyond = b" " * limit, b" " * (limit + 1)
    problem(service.http.post("/v1/builds", content=within), 422, "request-invalid")
    problem(service.http.post("/v1/builds", content=beyond), 413, "request-too-large")
    # In chunks there is no Content-Length to look at.
    problem(service.http.post("/v1/builds", content=iter([within, b" "])), 413, "request-too-large")


@pytest.mark.parametrize("token", [{}, {"Authorization": "Bearer wrong"}])
def test_only_requests_with_patches_may_be_large(service: Service, token: dict[str, str]) -> None:
    body = b'{"name": "' + b"x" * 300_000 + b'"}'
    for sent in (body, iter([body[:200_000], body[200_000:]])):
        problem(service.http.post("/v1/tokens", content=sent, headers=token), 413, "request-too-large")
    within = service.http.post("/v1/tokens", content=body[:200_000])
    problem(within, 422, "request-invalid")


def test_a_request_without_a_token_is_refused_before_its_body_is_read(service: Service) -> None:
    refused = service.http.post("/v1/builds", content=b"{", headers={"Authorization": "Bearer wrong"})
    problem(refused, 401, "token-refused")


def test_the_problem_of_a_malformed_request_does_not_repeat_the_request(service: Service) -> None:
    refused = service.http.post("/v1/builds", json={"kernel": 7, "patches": "s3cret" * 1000})
    document = problem(refused, 422, "request-invalid")
    assert "s3cret" not in refused.text
    assert "kernel" in document["message"]


def test_the_api_describes_every_answer_it_gives(service: Service) -> None:
    document = service.http.get("/v1/openapi.json").json()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert {"BuildBody", "PatchBody", "ReportAnswer"} <= named <= set(document["components"]["schemas"])
    assert set(document["paths"]) >= {"/v1/builds", "/v1/builds/{build}/events", "/v1/kernels", "/healthz"}
    for path, methods in document["paths"].items():
        if path in {"/healthz", "/readyz", "/v1/version"}:
            continue
        for operation in methods.values():
            assert {"401", "422"} <= set(operation["responses"])
            assert operation["security"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert "application/problem+json" in answer["content"], (path, status)


def test_no_page_of_the_server_loads_anything_from_elsewhere(service: Service) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        problem(service.http.get(path), 404, "not-found")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from([KERNEL.release, "6.9", "../x"]) | st.text(max_size=30),
        "patches": st.lists(
            st.fixed_dictionaries(
                {"name": st.text(max_size=20), "content": st.sampled_from(["", "eA==", "c2xlZXAgMA=="]) | st.text()}
            ),
            max_size=3,
        ),
    },
    optional={
        "expectations": st.lists(
            st.fixed_dictionaries({"command": st.text(max_size=20), "pattern": st.text(max_size=20)}), max_size=2
        ),
        "trial": st.booleans(),
        "check_only": st.booleans(),
    },
)
ENDLESS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def never_our_fault(response: httpx2.Response) -> None:
    assert 200 <= response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"


@ENDLESS
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@given(body=JSON | NEARLY)
def test_no_json_makes_the_server_fail(service: Service, body: Any) -> None:
    never_our_fault(
        service.http.post("/v1/builds", content=json.dumps(body), headers={"Content-Type": "application/json"})
    )


@ENDLESS
@given(body=st.binary(max_size=300) | st.sampled_from([b"[" * 200_000, b'"\\ud800"', b"1" * 5000, b'{"kernel":NaN}']))
def test_no_bytes_make_the_server_fail(service: Service, body: bytes) -> None:
    never_our_fault(service.http.post("/v1/builds", content=body, headers={"Content-Type": "application/json"}))


@ENDLESS
@given(
    path=st.text(alphabet=st.characters(codec="ascii", exclude_characters="?#"), max_size=40),
    query=st.text(max_size=20) | st.sampled_from(["limit=%ff", "before=-1&before=x"]),
)
def test_no_path_makes_the_server_fail(service: Service, path: str, query: str) -> None:
    never_our_fault(service.http.get(f"/v1/builds/{quote(path, safe='/%')}?{quote(query, safe='=&%')}"))


def test_a_pattern_that_compiles_for_minutes_is_refused_and_does_not_compile_here(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [f"(?i){number}" + "[\x01-\U0010ffff]" * 98 for number in range(64)]
    compile_here = re.compile

    def compiled(pattern: Any, flags: Any = 0) -> re.Pattern[Any]:
        assert pattern not in slow
        return compile_here(pattern, flags)

    monkeypatch.setattr(re, "compile", compiled)
    answer = service.ask("sleep 0", expectations=[{"command": "x", "pattern": one} for one in slow])
    assert (answer.status_code, answer.json()["code"]) == (422, "expectation")
    assert "cannot be compiled" in answer.json()["message"]


@pytest.mark.parametrize("path", ["/v1/builds/", "/v1/kernels/", "/healthz/"])
def test_no_answer_sends_a_client_to_the_address_that_a_request_names(service: Service, path: str) -> None:
    answer = service.http.get(path, headers={"Host": "elsewhere.example"}, follow_redirects=False)
    assert answer.status_code == 404
    assert "elsewhere" not in answer.text + str(answer.headers)
