# SPDX-License-Identifier: GPL-2.0-or-later
"""The server hands out a proof with each module, from the record of its job, and no module without one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from assembled import Assembled, assembled
from proofs import ORIGIN

from elivepatch.model.provenance import SOURCE_PATCH
from elivepatch.service.access.accounts import Role
from elivepatch.service.db.tables import builds
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.statement import Statement

Proved = Callable[..., Statement]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def proved(server: Assembled) -> Proved:
    """Build, fetch module and proof, and verify them as a host does."""

    def build(patch: str, **request: Any) -> Statement:
        job = server.done(patch, **request)["id"]
        module, proof = (server.http.get(f"/v1/builds/{job}/{what}").content for what in ("module", "proof"))
        assert server.http.get(f"/v1/builds/{job}/proof").content == proof, "it is the same each time"
        statement = verify_livepatch(proof, module, [server.services.key.public])
        assert statement.job == job
        return statement

    return build


def test_a_proof_has_the_request_the_materials_the_tools_and_the_outputs(proved: Proved) -> None:
    statement = proved("sleep 0\nof a proof", replace=False, copy=2)
    series = hashlib.sha256(b"sleep 0\nof a proof").hexdigest()
    assert [(one.kind, one.name, one.digest) for one in statement.materials[:1]] == [
        (SOURCE_PATCH, "fix.patch", series)
    ]
    assert statement.materials[1:] == ORIGIN.materials
    assert (statement.parameters["copy"], statement.replace) == (2, False)
    assert statement.tools == {"elivepatch": ORIGIN.version, "objects": "1"}
    assert statement.checks == ORIGIN.checks
    assert statement.livepatch["notes"][0]["code"] == "inlined"
    outputs = statement.document["predicate"]["runDetails"]["byproducts"]
    assert [one["name"] for one in outputs] == ["build.log", "console.log"]
    assert statement.started <= statement.finished


def test_a_proof_has_what_was_expected_of_the_trial_and_what_became_of_it(proved: Proved) -> None:
    statement = proved("sleep 0\nexpected", expectations=[{"command": "/proc/meminfo", "pattern": "X+"}])
    assert statement.parameters["expectations"] == [{"command": "/proc/meminfo", "pattern": "X+", "predicate": None}]
    trial = statement.trial_document
    assert (trial["outcome"], trial["accelerator"], trial["observed"], trial["debug"]) == ("passed", "tcg", None, None)
    assert [one["met"] for one in trial["reported"]["expectations"]] == [True]
    assert trial["reported"]["transition_ms"] == 500


def test_a_thorough_trial_is_in_the_proof_and_so_is_that_there_was_no_debugging_kernel(proved: Proved) -> None:
    debug = proved("sleep 0\nthorough", thorough=True).trial_document["debug"]
    assert (debug["kernel"], debug["outcome"], debug["functions"][0]["calls"]) == ("6.1.176-debug", "passed", 3)
    debug = proved("no-debug-kernel\nthorough", thorough=True).trial_document["debug"]
    assert (debug["outcome"], debug["why_not"]) == (None, "the server has none")


def test_a_second_builder_is_named(proved: Proved) -> None:
    assert set(proved("sleep 0\nparanoid", paranoid=True).tools) == {"elivepatch", "objects", "another"}


def test_a_trial_is_left_out_only_with_the_right_to_do_so_and_the_proof_says_it(
    server: Assembled, proved: Proved
) -> None:
    patcher = server.token("untried", Role.PATCHER)
    refused = server.ask("sleep 0\nuntried", patcher, trial=False)
    assert (refused.status_code, refused.json()["code"]) == (403, "role-insufficient")
    assert server.ask("sleep 0\nuntried", patcher, trial=False, check_only=True).status_code == 202, "makes no module"
    statement = proved("sleep 0\nuntried", trial=False)
    assert statement.trial_document == {
        "outcome": "none", "accelerator": None, "reported": None, "observed": None, "debug": None,
    }  # fmt: skip


@pytest.mark.parametrize("what", ["verdict", "broken-environment"])
def test_a_job_without_a_module_has_no_proof(server: Assembled, what: str) -> None:
    job = server.done(what)["id"]
    answer = server.http.get(f"/v1/builds/{job}/proof")
    assert (answer.status_code, answer.json()["code"]) == (404, "file-unknown")


def test_a_livepatch_of_which_there_can_be_no_proof_is_an_error_of_the_server_and_not_a_success(
    server: Assembled,
) -> None:
    report = server.done("unprovable")
    assert (report["result"], report["problem"]["code"]) == ("error", "proof-contradiction")
    assert report["module_sha256"] is None
    assert server.http.get(f"/v1/builds/{report['id']}/module").status_code == 404
    assert server.done("unprovable")["id"] != report["id"], "the next request tries again"


def test_a_module_of_a_job_that_kept_too_little_for_a_proof_is_not_handed_out(server: Assembled) -> None:
    job = server.done("sleep 0\nof an older server")["id"]
    with server.services.resources.database.begin() as connection:
        report = connection.execute(sa.select(builds.c.report).where(builds.c.id == job)).scalar_one()
        del report["livepatch"]["origin"]
        connection.execute(sa.update(builds).where(builds.c.id == job).values(report=report))
    for what in ("module", "proof"):
        answer = server.http.get(f"/v1/builds/{job}/{what}")
        assert (answer.status_code, answer.json()["code"]) == (410, "proof-missing")
        assert "Request the same build again" in answer.json()["advice"]
