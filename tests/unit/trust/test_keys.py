# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys of servers: they are made once, only their owner reads them, and hosts pin them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import HostError, TrustError
from elivepatch.trust.keys import PublicKey, ServerKey, parse_fingerprint
from elivepatch.trust.pins import Pin, read_pins, write_pins


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "server.pem"
    first = ServerKey.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert ServerKey.load_or_create(path).public == first.public
    assert [item.name for item in path.parent.iterdir()] == ["server.pem"]


def test_many_first_starts_at_once_make_one_key(tmp_path: Path) -> None:
    found: list[PublicKey] = []
    start = threading.Barrier(8)

    def begin() -> None:
        start.wait()
        found.append(ServerKey.load_or_create(tmp_path / "server.pem").public)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    ServerKey.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(TrustError) as caught:
        ServerKey.load_or_create(path)
    assert caught.value.problem.code == "key-exposed"


def test_a_link_in_the_place_of_the_key_is_not_followed(tmp_path: Path) -> None:
    ServerKey.load_or_create(tmp_path / "real.pem")
    (tmp_path / "server.pem").symlink_to("real.pem")
    with pytest.raises(TrustError):
        ServerKey.load_or_create(tmp_path / "server.pem")


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_reported_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "server.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(TrustError) as caught:
        ServerKey.load_or_create(path)
    assert caught.value.problem.code == "key-malformed"
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(TrustError) as caught:
        ServerKey.load_or_create(path)
    assert caught.value.problem.code == "key-malformed"


def test_the_private_key_is_not_part_of_the_printed_object(tmp_path: Path) -> None:
    assert "private" not in repr(ServerKey.load_or_create(tmp_path / "server.pem"))


def test_a_fingerprint_is_read_as_people_write_it() -> None:
    plain = "0123456789abcdef" * 4
    shown = " ".join(plain[start : start + 4] for start in range(0, 64, 4))
    for text in (plain, plain.upper(), shown, f"SHA256:{plain}", ":".join(plain[i : i + 2] for i in range(0, 64, 2))):
        assert parse_fingerprint(text) == plain


@given(st.text(max_size=100))
def test_any_text_is_a_fingerprint_or_a_trust_error(text: str) -> None:
    try:
        assert len(parse_fingerprint(text)) == 64
    except TrustError:
        return


def test_what_is_pinned_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "trusted.json"
    pins = [Pin(url="http://127.0.0.1:8440", public_key="ab" * 32, enrolled_at="2026-11-21T03:00:00+00:00")]
    assert read_pins(path) == ()
    write_pins(path, pins)
    assert read_pins(path) == tuple(pins)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_pinned_server_is_on_the_disk_before_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[str]()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_pins(tmp_path / "trusted.json", [])
    assert len(synced) == 2
    assert synced[-1] == str(tmp_path)


def test_a_list_of_trusted_servers_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "trusted.json"
    write_pins(path, [])
    path.chmod(0o666)
    with pytest.raises(TrustError) as caught:
        read_pins(path)
    assert caught.value.problem.code == "trusted-exposed"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"servers": [1]}', '{"servers": [{"url": 1}]}', '{"servers": 3}'])
def test_a_damaged_list_of_trusted_servers_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trusted.json"
    path.write_text(content)
    with pytest.raises(TrustError) as caught:
        read_pins(path)
    assert caught.value.problem.code == "trusted-malformed"


def test_a_list_that_cannot_be_written_is_a_problem_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError):
        write_pins(tmp_path / "file" / "trusted.json", [])
