# SPDX-License-Identifier: GPL-2.0-or-later
"""Proofs: a host accepts what a pinned server signed for these bytes, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs import THOROUGH, Facts, observation

from elivepatch.model.errors import TrustError
from elivepatch.trust import canonical
from elivepatch.trust.dsse import pre_authentication
from elivepatch.trust.envelope import MAX_BYTES, PAYLOAD_TYPE, sign_proof, verify_envelope, verify_livepatch
from elivepatch.trust.keys import PublicKey, ServerKey
from elivepatch.trust.statement import Statement

KEY = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
FACTS = Facts()
MODULE = FACTS.module
TRIED = FACTS.trial(observations=(observation(), observation(before="open", during="closed", after="open")))
STATEMENT = FACTS.statement(KEY.public, TRIED)
PROOF = sign_proof(KEY, STATEMENT)


def signed(document: Any, key: ServerKey = KEY, kind: str = PAYLOAD_TYPE) -> bytes:
    """Return a proof with any document, signed as if it were a statement."""
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    signature = base64.b64encode(key.sign(pre_authentication(kind, body))).decode()
    return json.dumps(
        {
            "payload": base64.b64encode(body).decode(),
            "payloadType": kind,
            "signatures": [{"keyid": key.public.fingerprint, "sig": signature}],
        }
    ).encode()


def refusal(proof: bytes, module: bytes = MODULE) -> str:
    """Return the code with which a host refuses a proof; it also says a sentence and gives advice."""
    with pytest.raises(TrustError) as caught:
        verify_livepatch(proof, module, [KEY.public])
    problem = caught.value.problem
    assert problem.message.count(". ") == 0
    assert problem.advice.endswith(".")
    return problem.code


def test_what_a_pinned_server_signed_is_read_back() -> None:
    assert verify_livepatch(PROOF, MODULE, [OTHER.public, KEY.public]) == STATEMENT


def test_the_same_statement_has_one_proof() -> None:
    assert sign_proof(KEY, STATEMENT) == PROOF


def test_a_proof_is_one_line_so_that_it_is_a_bundle_of_in_toto() -> None:
    assert PROOF.endswith(b"}\n")
    assert len(PROOF.splitlines()) == 1
    assert refusal(PROOF + PROOF) == "proof-malformed"


def test_a_server_that_is_not_pinned_is_not_believed() -> None:
    assert refusal(sign_proof(OTHER, FACTS.statement(OTHER.public, TRIED))) == "signature"


def test_a_pinned_server_cannot_speak_for_another_one() -> None:
    foreign = signed(STATEMENT.document, key=OTHER)
    with pytest.raises(TrustError) as caught:
        verify_livepatch(foreign, MODULE, [KEY.public, OTHER.public])
    assert caught.value.problem.code == "proof-builder"
    with pytest.raises(ValueError, match=KEY.public.fingerprint):
        sign_proof(OTHER, STATEMENT)


def test_a_host_that_trusts_nobody_says_how_to_enrol() -> None:
    with pytest.raises(TrustError) as caught:
        verify_livepatch(PROOF, MODULE, [])
    assert caught.value.problem.code == "not-enrolled"
    assert "elivepatch enroll" in caught.value.problem.advice


@pytest.mark.parametrize("module", [MODULE[:-1], MODULE[:-1] + b"!", b"", MODULE + b"\0"])
def test_a_proof_for_another_module_is_refused(module: bytes) -> None:
    assert refusal(PROOF, module) == "module-digest"


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = deepcopy(STATEMENT.document)
    change(document)
    return document


def details(document: dict[str, Any]) -> Any:
    return document["predicate"]["runDetails"]


def definition(document: dict[str, Any]) -> Any:
    return document["predicate"]["buildDefinition"]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another type of statement": (lambda it: it.update(_type="https://in-toto.io/Statement/v0.1"), "proof-type"),
    "an unknown predicate": (lambda it: it.update(predicateType="https://slsa.dev/provenance/v2"), "proof-type"),
    "no predicate": (lambda it: it.pop("predicateType"), "proof-type"),
    "another type of build": (lambda it: definition(it).update(buildType="urn:other:1"), "proof-type"),
    "a digest of another algorithm": (lambda it: it["subject"][0].update(digest={"sha512": "ab" * 64}), "proof-digest"),
    "two digests": (lambda it: it["subject"][0]["digest"].update(sha1="ab" * 20), "proof-malformed"),
    "two modules": (lambda it: it["subject"].append(it["subject"][0]), "proof-malformed"),
    "no module": (lambda it: it["subject"].clear(), "proof-malformed"),
    "a field that we do not know": (lambda it: details(it).update(other=1), "proof-malformed"),
    "a name that leads elsewhere": (
        lambda it: details(it)["elivepatch_livepatch"].update(name="../x"), "proof-malformed"
    ),
    "a number that is a truth": (
        lambda it: details(it)["elivepatch_livepatch"].update(size_bytes=True), "proof-malformed"
    ),
    "a trial that failed": (lambda it: details(it)["elivepatch_trial"].update(outcome="failed"), "proof-malformed"),
    "a time that does not exist": (
        lambda it: details(it)["metadata"].update(finishedOn="2026-02-31T00:00:00Z"), "proof-contradiction"
    ),
    "a size that is not the module's": (
        lambda it: details(it)["elivepatch_livepatch"].update(size_bytes=7), "module-size"
    ),
    "another name in the subject": (lambda it: it["subject"][0].update(name="elp_b.ko"), "proof-contradiction"),
    "another kernel than the request": (
        lambda it: definition(it)["externalParameters"].update(kernel="6.1.0"), "proof-contradiction"
    ),
    "other materials than the request": (
        lambda it: definition(it)["resolvedDependencies"].pop(0), "proof-contradiction"
    ),
    "no base": (lambda it: definition(it)["resolvedDependencies"].pop(2), "proof-contradiction"),
    "two configurations": (
        lambda it: definition(it)["resolvedDependencies"].append(definition(it)["resolvedDependencies"][1]),
        "proof-contradiction",
    ),
    "another builder than the request": (
        lambda it: definition(it)["externalParameters"].update(builder="klp"), "proof-contradiction"
    ),
    "one builder where two were asked for": (
        lambda it: definition(it)["externalParameters"].update(paranoid=True), "proof-contradiction"
    ),
    "no function": (lambda it: details(it)["elivepatch_livepatch"]["functions"].clear(), "proof-contradiction"),
    "a trial that was not asked for": (
        lambda it: definition(it)["externalParameters"].update(trial=False), "proof-contradiction"
    ),
    "no trial although one was asked for": (
        lambda it: details(it)["elivepatch_trial"].update(
            outcome="none", accelerator=None, reported=None, observed=None
        ),
        "proof-contradiction",
    ),
    "a trial that is empty": (lambda it: details(it)["elivepatch_trial"].update(reported=None), "proof-contradiction"),
    "no thorough trial although one was asked for": (
        lambda it: definition(it)["externalParameters"].update(thorough=True), "proof-contradiction"
    ),
    "an expectation that was not met": (
        lambda it: details(it)["elivepatch_trial"]["reported"]["expectations"][0].update(met=False),
        "proof-contradiction",
    ),
    "an expectation too few": (
        lambda it: details(it)["elivepatch_trial"]["reported"]["expectations"].pop(), "proof-contradiction"
    ),
    "passed although an object was not live": (
        lambda it: details(it)["elivepatch_trial"]["reported"]["not_live"].append({"object": "kvm", "why": "-"}),
        "proof-contradiction",
    ),
    "partly although nothing was missing": (
        lambda it: details(it)["elivepatch_trial"].update(outcome="partly"), "proof-contradiction"
    ),
    "calls of a function that it does not replace": (
        lambda it: details(it)["elivepatch_trial"]["reported"]["functions"][0].update(function="other"),
        "proof-contradiction",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_statement_that_cannot_be_true_is_refused_though_it_is_signed(what: str) -> None:
    change, code = WRONG[what]
    assert refusal(signed(changed(change))) == code


def test_the_same_statement_is_accepted_if_nothing_is_changed() -> None:
    assert verify_livepatch(signed(changed(lambda _: None)), MODULE, [KEY.public]) == STATEMENT


def test_another_spelling_of_a_signed_statement_is_refused_even_with_a_valid_signature() -> None:
    for body in (json.dumps(STATEMENT.document), json.dumps(STATEMENT.document, separators=(",", ":")) + " "):
        with pytest.raises(TrustError) as caught:
            Statement.decode(body.encode())
        assert caught.value.problem.code == "proof-malformed"


def test_a_signature_of_an_older_elivepatch_is_named_as_that() -> None:
    older = signed({"schema": 2, "name": "elp_a"}, kind="application/vnd.elivepatch.livepatch.v1+json")
    assert refusal(older) == "proof-type"
    with pytest.raises(TrustError, match="of an older elivepatch"):
        verify_livepatch(older, MODULE, [KEY.public])


def test_a_signature_over_another_type_of_payload_does_not_count() -> None:
    other = json.loads(signed(STATEMENT.document, kind="application/other"))
    assert refusal(json.dumps(other | {"payloadType": PAYLOAD_TYPE}).encode()) == "signature"
    assert refusal(json.dumps(other).encode()) == "proof-malformed"


@pytest.mark.parametrize("length", [0, 1, 100, len(PROOF) // 2, len(PROOF) - 2])
def test_a_proof_that_was_cut_off_is_refused(length: int) -> None:
    assert refusal(PROOF[:length]) == "proof-malformed"


def test_a_huge_proof_is_refused_before_it_is_read() -> None:
    assert refusal(b"[" * (MAX_BYTES + 1)) == "proof-malformed"
    assert refusal(signed(changed(lambda it: details(it).update(more="x" * (5 << 20))))) == "proof-malformed"


def test_a_statement_that_could_never_be_verified_is_not_signed() -> None:
    for wrong in (replace(FACTS, build_id="zz"), replace(FACTS, functions=()), replace(FACTS, name="x" * 56)):
        with pytest.raises(TrustError):
            wrong.statement(KEY.public, TRIED)


@pytest.mark.parametrize(
    "trial",
    [
        None,
        FACTS.trial(not_live=["kvm_intel"]),
        FACTS.trial(observations=(observation(met=False, tried=False, before="not tried"),)),
        FACTS.trial(outside=None, over_earlier=None, transition_s=None),
        FACTS.trial(debug=THOROUGH),
    ],
)
def test_every_outcome_of_a_trial_is_signed_and_read_back(trial: Any) -> None:
    about = FACTS.statement(KEY.public, trial)
    read = verify_livepatch(sign_proof(KEY, about), MODULE, [KEY.public])
    assert read == about
    assert read.trial.outcome == ("none" if trial is None else trial.outcome)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_instead_of_a_proof_are_a_trust_error(garbage: bytes) -> None:
    with pytest.raises(TrustError):
        verify_livepatch(garbage, MODULE, [KEY.public])
    with pytest.raises(TrustError):
        Statement.decode(garbage)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


PLACES = [path for path in places(STATEMENT.document) if path]


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_any_json_in_any_part_of_a_signed_statement_is_read_exactly_or_is_a_trust_error(
    path: tuple[Any, ...], value: object
) -> None:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    document = changed(change)
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    try:
        read = Statement.decode(body)
    except TrustError:
        return
    assert read.encode() == body
    assert read.document == document


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["payload", "payloadType", "signatures"]), JSON)
def test_any_json_in_any_field_of_an_envelope_is_a_trust_error(field: str, value: object) -> None:
    with pytest.raises(TrustError):
        verify_envelope(json.dumps(json.loads(PROOF) | {field: value}).encode(), [KEY.public])


def test_ten_thousand_changed_bytes_of_a_proof_change_nothing_that_it_says_or_are_refused() -> None:
    """Bits that no signature covers (key id, unused bits of base64's last digit) may change; the content may not."""
    chance = random.Random(15)  # noqa: S311 - the same tamperings each time
    accepted = 0
    for _ in range(10_000):
        tampered = bytearray(PROOF)
        tampered[chance.randrange(len(PROOF))] ^= chance.randrange(1, 256)
        try:
            assert verify_livepatch(bytes(tampered), MODULE, [KEY.public]) == STATEMENT
            accepted += 1
        except TrustError:
            continue
    assert accepted < 10_000 * 80 / len(PROOF), "only the key id and a few unused bits have no meaning"


def test_a_clock_that_was_set_back_during_the_job_makes_no_proof_impossible() -> None:
    back = changed(lambda it: details(it)["metadata"].update(finishedOn="2020-01-01T00:00:00Z"))
    assert verify_livepatch(signed(back), MODULE, [KEY.public]).finished.year == 2020


def test_every_bit_of_a_module_counts() -> None:
    for position in range(8 * len(MODULE)):
        tampered = bytearray(MODULE)
        tampered[position // 8] ^= 1 << position % 8
        assert refusal(PROOF, bytes(tampered)) == "module-digest"


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    with pytest.raises(TrustError):
        canonical.decode(deep, limit=1 << 20, what="statement")


def test_a_repeated_key_is_refused_because_two_readers_could_disagree() -> None:
    with pytest.raises(TrustError):
        canonical.decode(b'{"a":1,"a":2}', limit=100, what="statement")


@pytest.mark.parametrize("raw", [b"", b"\0" * 31, b"\xff" * 33])
def test_a_public_key_has_32_bytes(raw: bytes) -> None:
    with pytest.raises(TrustError):
        PublicKey(raw)


def test_the_digest_in_the_proof_is_that_of_the_module_file() -> None:
    assert STATEMENT.digest == hashlib.sha256(MODULE).hexdigest()
