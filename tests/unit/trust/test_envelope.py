# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed livepatches: a host accepts what a pinned server signed for these bytes, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import TrustError
from elivepatch.model.kernel import BuildId, Digest, Release
from elivepatch.trust import canonical
from elivepatch.trust.envelope import sign_livepatch, verify_envelope, verify_livepatch
from elivepatch.trust.keys import PublicKey, ServerKey
from elivepatch.trust.statement import StatedTrial, Statement

KEY = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
MODULE = b"\x7fELF and so on"


def statement(module: bytes = MODULE) -> Statement:
    return Statement(
        name="elp_0123456789ab",
        digest=Digest(hashlib.sha256(module).hexdigest()),
        size_bytes=len(module),
        release=Release("6.1.0-50-cloud-amd64"),
        build_id=BuildId("ab" * 20),
        arch="x86_64",
        build_key=Digest("c" * 64),
        series=(Digest("d" * 64),),
        replace=True,
        functions=(PatchedFunction(object="vmlinux", name="meminfo_proc_show", sympos=0, source="fs/proc/meminfo.c"),),
    )


def test_what_a_pinned_server_signed_is_read_back() -> None:
    envelope = sign_livepatch(KEY, statement())
    assert verify_livepatch(envelope, MODULE, [OTHER.public, KEY.public]) == statement()


def test_the_same_statement_has_one_envelope() -> None:
    assert sign_livepatch(KEY, statement()) == sign_livepatch(KEY, statement())


def test_a_server_that_is_not_pinned_is_not_believed() -> None:
    with pytest.raises(TrustError) as caught:
        verify_livepatch(sign_livepatch(OTHER, statement()), MODULE, [KEY.public])
    assert caught.value.problem.code == "signature"


def test_a_host_that_trusts_nobody_says_how_to_enrol() -> None:
    with pytest.raises(TrustError) as caught:
        verify_livepatch(sign_livepatch(KEY, statement()), MODULE, [])
    assert caught.value.problem.code == "not-enrolled"
    assert "elivepatch enroll" in caught.value.problem.advice


@pytest.mark.parametrize(("module", "code"), [(MODULE[:-1], "module-size"), (MODULE[:-1] + b"!", "module-digest")])
def test_a_truncated_or_changed_module_is_refused(module: bytes, code: str) -> None:
    with pytest.raises(TrustError) as caught:
        verify_livepatch(sign_livepatch(KEY, statement()), module, [KEY.public])
    assert caught.value.problem.code == code


def test_a_signature_over_another_type_of_payload_does_not_count() -> None:
    body = statement().encode()
    kind = b"application/other"
    signature = KEY.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body))
    read = json.loads(sign_livepatch(KEY, statement()))
    read["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    with pytest.raises(TrustError):
        verify_envelope(json.dumps(read).encode(), [KEY.public])


def test_another_spelling_of_a_signed_statement_is_refused_even_with_a_valid_signature() -> None:
    body = json.dumps({"schema": 1, **statement().as_dict()}).encode()
    with pytest.raises(TrustError) as caught:
        Statement.decode(body)
    assert caught.value.problem.code == "statement-malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../evil"},
        {"name": "elp-dash"},
        {"name": "x" * 56},
        {"digest": "D" * 64},
        {"release": "6.1/../x"},
        {"build_id": "nothex" * 8},
        {"arch": "x86 64"},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"replace": 1},
        {"series": ["short"]},
        {"functions": [{"object": "vmlinux", "name": "a b", "sympos": 0, "source": ""}]},
        {"functions": [{"object": "vmlinux", "name": "f", "sympos": 0}]},
        {"functions": {}},
        {"schema": 2},
        {"schema": True},
    ],
    ids=str,
)
def test_an_impossible_field_is_refused_though_it_is_signed(change: dict[str, object]) -> None:
    body = canonical.encode({"schema": 1, **statement().as_dict(), **change})
    with pytest.raises(TrustError):
        Statement.decode(body)


def test_a_statement_that_could_never_be_verified_is_not_signed() -> None:
    from elivepatch.model.build import Livepatch
    from elivepatch.model.kernel import KernelIdentity

    kernel = KernelIdentity(
        release=Release("6.1.0"),
        build_id=BuildId("zz"),
        arch="x86_64",
        config_digest=Digest("0" * 64),
        compiler="gcc",
    )
    made = Livepatch(
        name="elp_1",
        digest=Digest("a" * 64),
        size_bytes=1,
        kernel=kernel,
        build_key=Digest("b" * 64),
        functions=(),
    )
    with pytest.raises(TrustError):
        Statement.of(made, series=[], replace=True)
    good = replace(made, kernel=replace(kernel, build_id=BuildId("ab" * 20)))
    assert Statement.of(good, series=[Digest("c" * 64)], replace=True).name == "elp_1"


def test_a_statement_says_how_the_trial_ended_and_what_was_not_live_in_it() -> None:
    tried = replace(statement(), trial=StatedTrial(outcome="partly", not_live=("kvm_intel",)))
    read = verify_livepatch(sign_livepatch(KEY, tried), MODULE, [KEY.public])
    assert read.trial == StatedTrial(outcome="partly", not_live=("kvm_intel",))
    assert json.loads(tried.encode())["schema"] == 2


def test_a_statement_of_an_older_server_is_read_as_it_was_signed() -> None:
    older = statement().encode()
    assert b"trial" not in older
    assert json.loads(older)["schema"] == 1
    assert Statement.decode(older).trial is None


@pytest.mark.parametrize("outcome", ["failed", "inconclusive", "", "PASSED"])
def test_no_statement_is_made_about_a_trial_that_did_not_pass(outcome: str) -> None:
    facts = {**json.loads(statement().encode()), "schema": 2, "trial": {"outcome": outcome, "not_live": []}}
    with pytest.raises(TrustError):
        Statement.decode(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_instead_of_an_envelope_are_a_trust_error(garbage: bytes) -> None:
    with pytest.raises(TrustError):
        verify_livepatch(garbage, MODULE, [KEY.public])
    with pytest.raises(TrustError):
        Statement.decode(garbage)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(sorted({"schema", *statement().as_dict()})), JSON)
def test_any_json_in_any_field_of_a_statement_is_read_exactly_or_is_a_trust_error(field: str, value: object) -> None:
    trial = {"outcome": "passed", "not_live": []}
    facts = {"schema": 2, **statement().as_dict(), "trial": trial, field: value}
    body = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    try:
        read = Statement.decode(body.encode())
    except TrustError:
        return
    assert read.encode() == body.encode()


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(["payload", "payloadType", "signatures"]), JSON)
def test_any_json_in_any_field_of_an_envelope_is_a_trust_error(field: str, value: object) -> None:
    read = json.loads(sign_livepatch(KEY, statement())) | {field: value}
    with pytest.raises(TrustError):
        verify_envelope(json.dumps(read).encode(), [KEY.public])


@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_a_changed_envelope_says_the_same_or_nothing(data: st.DataObject) -> None:
    """Bits that no signature covers (key id, unused bits of base64's last digit) may change; the content may not."""
    envelope = bytearray(sign_livepatch(KEY, statement()))
    position = data.draw(st.integers(0, len(envelope) - 1))
    envelope[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert verify_livepatch(bytes(envelope), MODULE, [KEY.public]) == statement()
    except TrustError:
        return


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
