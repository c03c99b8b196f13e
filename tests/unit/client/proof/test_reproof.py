# SPDX-License-Identifier: GPL-2.0-or-later
"""A reproof: another server makes the same bytes from the proof, or the difference is named."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from assembled import Assembled, assembled
from fake_backend import KERNEL
from simulated_host import KEY

from elivepatch.client.proof.reproof import Reproof, reprove
from elivepatch.client.server.api import ServerClient
from elivepatch.model.errors import ElivepatchError
from elivepatch.model.progress import silent
from elivepatch.model.series import SourcePatch
from elivepatch.settings import ClientSettings
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.statement import Statement

PATCH = SourcePatch("fix.patch", b"sleep 0\nproved again")
HERS = "urn:elivepatch:server:"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def client(server: Assembled) -> Iterator[ServerClient]:
    token = server.http.headers["Authorization"].removeprefix("Bearer ")
    with ServerClient(ClientSettings(token=token), transport=server.http._transport) as found:
        yield found


@pytest.fixture
def own(server: Assembled) -> dict[str, Any]:
    """The document of the statement that the server made of its own livepatch."""
    job = server.done(PATCH.content.decode(), expectations=[{"command": "x", "pattern": "y"}])["id"]
    module, proof = (server.http.get(f"/v1/builds/{job}/{what}").content for what in ("module", "proof"))
    return verify_livepatch(proof, module, [server.services.key.public]).document


@pytest.fixture
def document(own: dict[str, Any]) -> dict[str, Any]:
    """The same, as if the host's own server had made it."""
    changed = deepcopy(own)
    changed["predicate"]["runDetails"]["builder"]["id"] = f"{HERS}{KEY.public.fingerprint}"
    return changed


def again(client: ServerClient, document: dict[str, Any], *pinned: Any) -> Reproof:
    return reprove(client, Statement.of(document), [PATCH], pinned, silent)


def refusal(client: ServerClient, document: dict[str, Any], *sources: SourcePatch) -> str:
    with pytest.raises(ElivepatchError) as caught:
        reprove(client, Statement.of(document), sources, (), silent)
    assert caught.value.problem.message.count(". ") == 0
    return caught.value.problem.code


def test_the_same_bytes_are_made_by_a_job_of_its_own(
    server: Assembled, client: ServerClient, document: dict[str, Any]
) -> None:
    made = again(client, document)
    assert made.identical
    assert made.job != document["predicate"]["runDetails"]["metadata"]["invocationId"]
    asked = server.services.resources.jobs.get(made.job)
    assert asked is not None
    assert asked.request["expectations"] == [], "they do not change the bytes"


def test_the_server_that_built_it_is_no_other_server(client: ServerClient, own: dict[str, Any]) -> None:
    assert refusal(client, own, PATCH) == "same-server"


def test_a_patch_that_the_server_lacks_is_named(client: ServerClient, document: dict[str, Any]) -> None:
    definition = document["predicate"]["buildDefinition"]
    definition["externalParameters"]["patches"][0]["sha256"] = "ef" * 32
    definition["resolvedDependencies"][0]["digest"]["sha256"] = "ef" * 32
    assert refusal(client, document) == "source-missing"


def test_a_patch_of_another_series_is_refused(client: ServerClient, document: dict[str, Any]) -> None:
    assert refusal(client, document, SourcePatch("other.patch", b"other")) == "other-series"


@pytest.mark.parametrize(("release", "code"), [("6.6.6-other", "kernel-unknown"), (KERNEL.release, "other-build")])
def test_a_server_without_that_kernel_says_so(
    client: ServerClient, document: dict[str, Any], release: str, code: str
) -> None:
    document["predicate"]["buildDefinition"]["externalParameters"]["kernel"] = release
    document["predicate"]["runDetails"]["elivepatch_livepatch"] |= {"release": release, "build_id": "99" * 20}
    assert refusal(client, document, PATCH) == code


def test_other_bytes_are_explained_by_the_materials_that_differ(
    server: Assembled, client: ServerClient, document: dict[str, Any]
) -> None:
    document["subject"][0]["digest"]["sha256"] = "00" * 32
    materials = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    toolchain = next(one for one in materials if one["annotations"]["kind"] == "toolchain")
    theirs, toolchain["digest"]["sha256"] = toolchain["digest"]["sha256"], "01" * 32
    made = again(client, document, server.services.key.public)
    assert not made.identical
    assert made.differences == (
        f"toolchain bookworm: {'01' * 32} in the proof only",
        f"toolchain bookworm: {theirs} at this server only",
    )


def test_what_a_server_says_is_compared_only_if_its_key_is_pinned(
    client: ServerClient, document: dict[str, Any]
) -> None:
    document["subject"][0]["digest"]["sha256"] = "00" * 32
    made = again(client, document, KEY.public)
    assert (made.identical, made.differences) == (False, ())
    assert made.why_unknown == "The livepatch is not signed by a server that this host trusts."


def test_a_series_that_cannot_be_built_there_ends_with_the_servers_own_words(
    client: ServerClient, document: dict[str, Any]
) -> None:
    broken = SourcePatch("fix.patch", b"compile-error")
    definition = document["predicate"]["buildDefinition"]
    definition["externalParameters"]["patches"][0]["sha256"] = broken.digest
    definition["resolvedDependencies"][0]["digest"]["sha256"] = broken.digest
    assert refusal(client, document, broken) == "compile-error"
