# SPDX-License-Identifier: GPL-2.0-or-later
"""The API answers every request that its published description allows as described, and never with a 5xx."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from assembled import Assembled, assembled
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from elivepatch.files.digest import sha256

pytestmark = [
    pytest.mark.integration,
    # Its strategies use the random module themselves.
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning"),
]

UPLOADED = b"sleep 0\nuploaded"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BOUNDED = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    state = tmp_path_factory.mktemp("described")
    with assembled(state, requests_per_s=100_000.0, tenant_limit=100_000, queue_limit=100_000) as found:
        found.done("sleep 0\ndescribed")
        found.http.put(f"/v1/patches/{sha256(UPLOADED)}", content=UPLOADED)
        yield found


def operations(server: Assembled) -> list[schemathesis.APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_dict(server.http.get("/v1/openapi.json").json())
    schema.app = server.http.app
    found = list(schema.get_all_operations())
    assert all(isinstance(one, Ok) for one in found), found
    return [one.ok() for one in found if isinstance(one, Ok)]


# Without a right token, nearly every request ends at the same line of code: few of them show it.
@pytest.mark.parametrize(
    ("token", "examples"),
    [("operator", 8), *(pytest.param(token, 3, marks=pytest.mark.extended) for token in ("none", "wrong"))],
)
def test_every_answer_is_one_that_is_described(server: Assembled, token: str, examples: int) -> None:
    given_token = {"operator": server.http.headers["authorization"], "none": None, "wrong": "Bearer elp_wrong"}[token]
    known = server.http.get("/v1/builds").json()["builds"][-1]["id"]
    asked = 0
    for operation, mode in itertools.product(operations(server), schemathesis.GenerationMode):

        @settings(BOUNDED, max_examples=examples)
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: schemathesis.Case[Any]) -> None:
            nonlocal asked
            asked += 1
            case.headers.pop("Authorization", None)
            if asked % 2 and "build" in case.path_parameters:
                case.path_parameters["build"] = known
            if asked % 2 and "sha256" in case.path_parameters:
                case.path_parameters["sha256"] = sha256(UPLOADED)
            answer = case.call(headers={"Authorization": given_token} if given_token is not None else {})
            case.validate_response(answer, checks=CHECKS)

        # An operation without parameters has no wrong request.
        with contextlib.suppress(*([Unsatisfiable] if mode is schemathesis.GenerationMode.NEGATIVE else [])):
            answers()
    assert asked > examples * 15
