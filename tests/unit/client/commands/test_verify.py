# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch verify`: plain words about a livepatch and its proof, without a network, for anybody."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from host_commands import enrol, run, run_json, save
from proofs import Facts
from simulated_host import KEY, Made, SimulatedHost, make_livepatch

from elivepatch.client.proof.files import proof_beside
from elivepatch.trust.dsse import pre_authentication
from elivepatch.trust.envelope import MAX_BYTES, PAYLOAD_TYPE
from elivepatch.trust.keys import ServerKey

STRANGER = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    return found


def test_a_person_reads_what_is_proved_by_whom_and_what_is_not(host: SimulatedHost, tmp_path: Path) -> None:
    ran = run(host, "verify", save(make_livepatch("elp_a", functions=["one", "two"]), tmp_path))
    assert ran.status == 0
    for words in (
        "elp_a.ko is elp_a, exactly as the server made it.",
        f"signed by http://127.0.0.1:8440, key {KEY.public.shown}",
        "for 6.1.0-50-cloud-amd64, build-id 0123456789abcdef0123456789abcdef01234567, x86_64",
        "built 2026-11-21 02:00:00 to 2026-11-21 02:00:20 UTC in job 0123456789abcdef",
        "by elivepatch 0.1.0, objects 3",
        "replaces vmlinux:one (fs/proc/meminfo.c)",
        "base input linux-source-6.1_6.1.176-1: 5050",
        "rebuilt without the patch, each replaced function is, byte for byte, the one of the kernel",
        "trial passed: loaded, reverted and loaded again on tcg",
        "the guest counted calls of 2 of the 2 replaced functions",
        "seen from outside the guest: 2 of 2 replaced functions led to the new one",
        "Not proved",
        "that the hole is closed: the request had no expectation and no predicate [effect]",
        "This host's policy accepts the proof.",
    ):
        assert words in ran.out


def test_a_livepatch_without_a_trial_is_described_and_refused_as_a_load_would(
    host: SimulatedHost, tmp_path: Path
) -> None:
    module = save(make_livepatch("elp_a", trial=lambda _: None), tmp_path)
    ran = run(host, "verify", module)
    assert ran.status == 6
    assert "trial: none. The request left it out, so the livepatch was never loaded [trial]" in ran.out
    assert "but it was not tried. [trial-required]" in ran.err
    assert run(host, "load", module).status == 6
    host.put("etc/elivepatch/client.toml", 'require_trial = "none"\n')
    assert run(host, "verify", module).status == 0


def test_a_program_reads_the_same(host: SimulatedHost, tmp_path: Path) -> None:
    made = make_livepatch("elp_a")
    told = run_json(host, "verify", save(made, tmp_path)).document
    assert told["signed_by"] == {"url": "http://127.0.0.1:8440", "fingerprint": KEY.public.fingerprint}
    assert told["trial"] == made.statement.trial_document
    assert {"kind": "source patch", "name": "aaaaaa.patch", "sha256": "a" * 64} in told["materials"]
    assert {one["code"] for one in told["proved"]} == set(made.statement.checks)
    assert {one["code"] for one in told["not_proved"]} == {"second-builder", "effect", "debug"}
    assert told["problem"] is None


def test_it_changes_nothing_and_needs_no_root_and_no_network(host: SimulatedHost, tmp_path: Path) -> None:
    host.put("proc/self/status", "CapEff:\t0000000000000000\n")
    before = sorted(host.root.rglob("*"))
    assert run(host, "verify", save(make_livepatch("elp_a"), tmp_path)).status == 0
    assert sorted(host.root.rglob("*")) == before


def test_a_livepatch_for_another_kernel_can_be_verified_anywhere(host: SimulatedHost, tmp_path: Path) -> None:
    assert (
        run(host, "verify", save(make_livepatch("elp_a", release="6.12.1", build_id="ef" * 20), tmp_path)).status == 0
    )


def signed(payload: bytes) -> bytes:
    signature = base64.b64encode(KEY.sign(pre_authentication(PAYLOAD_TYPE, payload))).decode()
    parts = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE}
    return json.dumps(parts | {"signatures": [{"sig": signature}]}).encode()


def edited(made: Made, old: bytes, new: bytes) -> bytes:
    """Return the proof with a part of its statement changed, signed as the server would."""
    payload = base64.b64decode(json.loads(made.proof)["payload"])
    assert payload.count(old) >= 1
    return signed(payload.replace(old, new, 1))


BAD: dict[str, tuple[Callable[[Made], bytes], int, str]] = {
    "for another module": (lambda _: make_livepatch("elp_b").proof, 5, "module-digest"),
    "of a stranger": (lambda _: make_livepatch("elp_a", key=STRANGER).proof, 5, "signature"),
    "with an unknown predicate": (
        lambda made: edited(made, b"https://slsa.dev/provenance/v1", b"https://slsa.dev/provenance/v9"), 5, "proof-type"
    ),
    "with a digest of another algorithm": (
        lambda made: edited(made, b'"subject":[{"digest":{"sha256"', b'"subject":[{"digest":{"sha512"'), 5,
        "proof-digest",
    ),
    "cut off": (lambda made: made.proof[: len(made.proof) // 2], 5, "proof-malformed"),
    "empty": (lambda _: b"", 5, "proof-malformed"),
    "huge": (lambda _: b" " * (MAX_BYTES + 1), 2, "file"),
    "of another kind of file": (lambda made: made.module, 5, "proof-malformed"),
    "from the future": (
        lambda _: make_livepatch("elp_a", finished=Facts().finished + timedelta(days=9)).proof, 6, "proof-future"
    ),
    "that contradicts itself": (lambda made: edited(made, b'"trial":true', b'"trial":false'), 5, "proof-contradiction"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", ["verify", "load"])
def test_a_bad_proof_ends_in_one_sentence_a_code_and_advice_and_nothing_is_loaded(
    host: SimulatedHost, tmp_path: Path, command: str, what: str
) -> None:
    make, status, code = BAD[what]
    made = make_livepatch("elp_a")
    module = save(made, tmp_path)
    proof_beside(module).write_bytes(make(made))
    ran = run_json(host, command, module)
    problem = ran.document["problem"]
    assert (ran.status, problem["code"]) == (status, code)
    assert problem["message"].count(". ") == 0
    assert problem["advice"].endswith(".")
    assert host.loads == 0


@pytest.mark.parametrize("command", ["verify", "load"])
def test_a_proof_in_another_place_is_named_with_an_option(host: SimulatedHost, tmp_path: Path, command: str) -> None:
    module = save(make_livepatch("elp_a"), tmp_path)
    elsewhere = proof_beside(module).rename(tmp_path / "elsewhere")
    assert run_json(host, command, module).code == "unsigned"
    assert run(host, command, module, "--proof", elsewhere).status == 0


def test_a_host_that_trusts_no_server_says_how_to_enrol(tmp_path: Path) -> None:
    ran = run(SimulatedHost(tmp_path / "host"), "verify", save(make_livepatch("elp_a"), tmp_path))
    assert (ran.status, "elivepatch enroll" in ran.err) == (5, True)
