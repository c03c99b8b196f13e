# SPDX-License-Identifier: GPL-2.0-or-later
"""The client and a server's answers: what makes sense is understood, nothing else is believed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Refused, Unreachable
from elivepatch.model.build import Builder, BuildRequest, Result
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, ExitStatus, Problem, TrustError, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.settings import ClientSettings

JOB = "0123456789abcdef"
PROBLEM = {"code": "data-changed", "kind": "verdict", "message": "No.", "advice": "Do not.", "excerpt": "+x"}
REPORT: dict[str, Any] = {
    "id": JOB,
    "status": "done",
    "result": "success",
    "kernel": "6.1.0-50-cloud-amd64",
    "build_id": "ab" * 20,
    "functions": [{"object": "vmlinux", "name": "f", "sympos": 0, "source": "f.c"}],
    "problem": None,
    "notes": [],
    "livepatch": {"name": "livepatch_f"},
    "module_sha256": hashlib.sha256(b"module").hexdigest(),
    "seconds": {},
    "trial": None,
}
REQUEST = BuildRequest(
    release="6.1.0",
    series=PatchSeries((SourcePatch("fix.patch", b"\xff\x00"),)),
    expectations=(Expectation(command="x", pattern="y"),),
)

Handler = Callable[[httpx2.Request], httpx2.Response]


def api(handler: Handler, **changes: Any) -> ServerClient:
    return ServerClient(ClientSettings(token="elp_secret", **changes), transport=httpx2.MockTransport(handler))


def always(status: int = 200, **answer: Any) -> Handler:
    return lambda _: httpx2.Response(status, **answer)


def problem(document: dict[str, Any], status: int) -> Handler:
    return always(status, json=document, headers={"Content-Type": "application/problem+json"})


def test_a_request_is_sent_as_the_server_reads_it() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(202, json={"id": JOB})

    assert api(handler).submit(REQUEST) == JOB
    assert json.loads(seen[0].content) == {
        "kernel": "6.1.0",
        "patches": [{"name": "fix.patch", "content": "/wA="}],
        "expectations": [{"command": "x", "pattern": "y"}],
        "trial": True,
        "thorough": False,
        "check_only": False,
        "replace": True,
        "rewrite": False,
        "builder": "objects",
        "paranoid": False,
        "copy": 0,
        "base_patches": [],
    }
    assert seen[0].headers["authorization"] == "Bearer elp_secret"
    api(handler).submit(REQUEST, fresh=True, automatic=True)
    assert json.loads(seen[1].content) == json.loads(seen[0].content) | {"fresh": True, "priority": "automatic"}
    api(handler).submit(replace(REQUEST, builder=Builder.REFERENCE, paranoid=True))
    assert json.loads(seen[2].content) == json.loads(seen[0].content) | {"builder": "reference", "paranoid": True}


def test_no_token_means_no_header() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        assert "authorization" not in request.headers
        return httpx2.Response(200, json={"kernels": []})

    assert ServerClient(ClientSettings(), transport=httpx2.MockTransport(handler)).kernels() == []


def test_a_report_of_success_is_understood() -> None:
    report = api(always(json=REPORT)).report(JOB)
    assert (report.result, report.livepatch_name, report.exit_status) == (Result.SUCCESS, "livepatch_f", ExitStatus.OK)
    assert report.document == REPORT


@pytest.mark.parametrize(
    ("result", "kind", "status"),
    [
        ("failure", "verdict", 3),
        ("failure", "failure", 1),
        ("failure", "usage", 2),
        ("error", "error", 4),
        ("error", "trust", 5),
        ("error", "host", 6),
        ("cancelled", "error", 4),
    ],
)
def test_the_exit_status_says_how_a_job_ended(result: str, kind: str, status: int) -> None:
    document = REPORT | {
        "result": result,
        "problem": PROBLEM | {"kind": kind},
        "livepatch": None,
        "module_sha256": None,
    }
    assert api(always(json=document)).report(JOB).exit_status == status


@pytest.mark.parametrize(
    "change",
    [
        {"id": "f" * 16},
        {"result": "won"},
        {"result": "failure"},
        {"problem": PROBLEM},
        {"problem": {"code": "x"}},
        {"livepatch": {"name": "../../etc/cron.d/x"}},
        {"livepatch": {"name": 5}},
        {"livepatch": {}},
        {"module_sha256": "../../x"},
        {"module_sha256": 5},
        {"functions": None},
        {"functions": [{"name": "f"}]},
        {"functions": [{"object": "vmlinux", "name": "f", "sympos": float("inf"), "source": "f.c"}]},
        {"notes": [5]},
        {"trial": {"x": 1}},
        {"kernel": None},
    ],
)
def test_a_report_that_makes_no_sense_is_not_believed(change: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentFault) as refused:
        api(always(content=json.dumps(REPORT | change).encode())).report(JOB)
    assert refused.value.problem.code == "server-answer"


def test_the_server_s_own_words_are_passed_on() -> None:
    with pytest.raises(Refused) as refused:
        api(problem(PROBLEM | {"status": 422}, 422)).kernels()
    assert (refused.value.problem.code, refused.value.problem.kind.exit_status) == ("data-changed", 3)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_whose_server_is_away_is_a_server_that_is_away(status: int) -> None:
    with pytest.raises(Unreachable):
        api(always(status, html="<h1>Bad Gateway</h1>")).kernels()


def test_a_server_that_is_about_to_stop_is_a_server_that_is_away() -> None:
    with pytest.raises(Unreachable):
        api(problem(PROBLEM | {"code": "server-stopping", "kind": "error"}, 503)).kernels()


@pytest.mark.parametrize(
    "error", [httpx2.ConnectError("refused"), httpx2.ReadTimeout("slow"), httpx2.RemoteProtocolError("cut off")]
)
def test_a_server_that_does_not_answer_is_named_with_advice(error: Exception) -> None:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    with pytest.raises(Unreachable) as refused:
        api(handler).kernels()
    told = refused.value.problem
    assert told.kind.exit_status == ExitStatus.SERVICE
    assert "http://127.0.0.1:8440" in told.message
    assert "elivepatch-server serve" in told.advice


@pytest.mark.parametrize("setting", ["server_ca", "client_certificate"])
def test_files_for_tls_that_cannot_be_used_are_told(tmp_path: Path, setting: str) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    for file in (tmp_path / "bad.pem", tmp_path / "none.pem"):
        options: dict[str, Any] = {setting: str(file)}
        with pytest.raises(UsageError, match="cannot be used"):
            ServerClient(ClientSettings(url="https://localhost:1", **options))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (httpx2.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "http://"),
        (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), "server_ca"),
        (httpx2.RemoteProtocolError("Server disconnected without sending a response."), "https://"),
    ],
)
def test_tls_on_one_side_only_is_told_as_such(error: Exception, advice: str) -> None:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    with pytest.raises(Unreachable) as refused:
        api(handler).kernels()
    assert advice in refused.value.problem.advice


@pytest.mark.parametrize(
    "handler",
    [
        always(text="hello"),
        always(json=[]),
        always(json={}),
        always(json={"kernels": 5}),
        always(json={"kernels": [{"release": "../x"}]}),
        always(301, headers={"Location": "http://evil.invalid/"}),
        always(404, text="nginx"),
        always(418, json=PROBLEM),
        always(content=b"[" * 100_000),
        always(content=b"\xff"),
        problem({"code": 1}, 400),
        always(content=b"x" * 33 * 1024 * 1024),
    ],
)
def test_garbage_is_not_believed(handler: Handler) -> None:
    with pytest.raises(EnvironmentFault) as refused:
        api(handler).kernels()
    assert refused.value.problem.code == "server-answer"
    assert refused.value.problem.kind.exit_status == ExitStatus.SERVICE


ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(answer=ANSWERS, key=st.sampled_from(sorted(REPORT)), status=st.sampled_from([200, 202, 400, 404, 500, 503]))
def test_no_answer_makes_the_client_fail_without_a_sentence(answer: Any, key: str, status: int) -> None:
    told: list[Problem] = []
    for document in (answer, REPORT | {key: answer}):
        for content_type in ("application/json", "application/problem+json"):
            content = json.dumps(document).encode()
            client = api(always(status, content=content, headers={"Content-Type": content_type}))
            for ask in (client.kernels, lambda: client.submit(REQUEST), lambda: client.report(JOB)):  # noqa: B023
                try:
                    ask()
                except ElivepatchError as error:
                    told.append(error.problem)
    assert all(isinstance(problem, Problem) for problem in told)


def digest(content: bytes) -> dict[str, str]:
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"}


def test_a_file_is_what_its_digest_says() -> None:
    module = hashlib.sha256(b"module").hexdigest()
    assert api(always(content=b"module")).download(JOB, "module", Digest(module)) == b"module"
    assert api(always(content=b"log", headers=digest(b"log"))).download(JOB, "log") == b"log"


@pytest.mark.parametrize("arrived", [b"", b"modul", b"Module", b"module and more"])
def test_a_file_that_was_cut_off_or_changed_is_not_taken(arrived: bytes) -> None:
    module = hashlib.sha256(b"module").hexdigest()
    for client, expected in (
        (api(always(content=arrived, headers=digest(b"module"))), None),
        # The digest of the report counts, not the one in the answer.
        (api(always(content=arrived, headers=digest(arrived))), Digest(module)),
    ):
        with pytest.raises(TrustError) as refused:
            client.download(JOB, "module", expected)
        assert refused.value.problem.code == "download-digest"
        assert refused.value.problem.kind.exit_status == ExitStatus.TRUST


@pytest.mark.parametrize("header", [{}, {"Repr-Digest": "sha-512=:AA==:"}, {"Repr-Digest": "sha-256=:!:"}])
def test_a_file_without_a_digest_is_not_taken(header: dict[str, str]) -> None:
    with pytest.raises(EnvironmentFault):
        api(always(content=b"log", headers=header)).download(JOB, "log")


def stream(*lines: str) -> Handler:
    return always(content="\n".join(lines).encode(), headers={"Content-Type": "text/event-stream"})


def test_events_are_understood() -> None:
    told = stream(
        ": ping", "", "id: 1", "event: state", 'data: {"status": "queued"}', "",
        "id: 2", "event: progress", 'data: {"stage": "link", "message": "links", "fraction": 0.5}', "",
        "id: 3", "event: something-new", "data: 5", "", "",
    )  # fmt: skip
    events = list(api(told).events(JOB, after=0))
    assert [event.id for event in events] == [1, 2, 3]
    assert [event.progress for event in events] == [None, Event(stage="link", message="links", fraction=0.5), None]


def test_the_server_is_told_which_event_was_the_last() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["last-event-id"] == "41"
        return httpx2.Response(200, headers={"Content-Type": "text/event-stream"})

    assert list(api(handler).events(JOB, after=41)) == []


@pytest.mark.parametrize(
    "handler",
    [
        always(text="no events"),
        stream("id: x", "data: 1", "", ""),
        stream("id: 1", "event: progress", "data: {}", "", ""),
        stream("id: 1", "event: progress", "data: [", "", ""),
        stream("id: 1", "event: progress", f'data: {{"stage": "", "message": "", "fraction": 1{"0" * 400}}}', "", ""),
        stream("data: " + "x" * 2_000_000, "", ""),
    ],
)
def test_events_that_make_no_sense_are_not_believed(handler: Handler) -> None:
    with pytest.raises(EnvironmentFault) as refused:
        list(api(handler).events(JOB, after=0))
    assert refused.value.problem.code == "server-answer"


@pytest.mark.parametrize("url", ["", "x", "ftp://host", "http://", "file:///etc/passwd", "http://[", "http://h:port"])
def test_what_is_no_server_is_said_to_be_none(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        api(always(), url=url)
    assert refused.value.problem.code == "url"


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ümlaut"])
def test_what_is_no_token_is_never_sent(token: str) -> None:
    with pytest.raises(UsageError):
        ServerClient(ClientSettings(token=token))


@pytest.mark.parametrize("job", ["", "../x", "0123456789ABCDEF", JOB + "0"])
def test_what_is_no_job_is_never_asked_for(job: str) -> None:
    client = api(always(json=REPORT))
    for ask in (client.is_done, client.report, lambda name: list(client.events(name, after=0))):
        with pytest.raises(UsageError):
            ask(job)


def test_a_request_that_is_too_large_is_not_sent() -> None:
    series = PatchSeries((SourcePatch("x", b"x" * (24 * 1024 * 1024 + 1)),))
    with pytest.raises(UsageError) as refused:
        api(always(json={"id": JOB})).submit(BuildRequest(release="6.1.0", series=series))
    assert refused.value.problem.code == "request-too-large"
