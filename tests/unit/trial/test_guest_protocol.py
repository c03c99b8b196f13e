# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of the guest are parsed; any other bytes from it are counted and dropped."""

from __future__ import annotations

import base64
import struct

from hypothesis import given
from hypothesis import strategies as st

from elivepatch.trial.guest_protocol import GUEST, OBSERVATION_LIMIT_BYTES, heading, parse


def line(scope: str, key: str, content: bytes = b"") -> bytes:
    return f"{scope} {key} ".encode() + base64.b64encode(content) + b"\r\n"


def test_a_record_is_its_bytes() -> None:
    records = parse(line("000003", "before.000", b"0\n\0\xff any bytes\n"))
    step = records.step("000003", "before.000")
    assert step is not None
    assert step.ok
    assert step.words == "\0\ufffd any bytes\n"
    assert records.malformed == 0


def test_the_first_record_of_a_name_counts() -> None:
    records = parse(line("-", "release", b"6.1\n") + line("-", "release", b"6.2\n"))
    assert records.release == "6.1"


def test_a_last_line_without_its_end_was_cut_off() -> None:
    whole = line("000000", "load.1", b"0\n")
    for length in range(1, len(whole)):
        records = parse(line("-", "ready") + whole[:length])
        assert not records.has("000000", "load.1")
        assert records.has(GUEST, "ready")
        assert records.malformed == 1


def test_what_is_no_record_is_counted_and_dropped() -> None:
    records = parse(
        b"\n000000 load.1\n000000 load.1 a\nkernel panic\n000000 load.1 MAo=trailing\n" + line("-", "ready")
    )
    assert records.malformed == 5
    assert set(records.values) == {(GUEST, "ready")}


def test_a_step_needs_a_status_and_a_clock_a_number() -> None:
    records = parse(line("000000", "load.1", b"fine\n") + line("000000", "started.1", b"nan"))
    assert records.step("000000", "load.1") is None
    assert records.step("000000", "settled.1") is None
    assert records.clock_s("000000", "started.1") is None
    assert parse(line("000000", "started.1", b"12.50")).clock_s("000000", "started.1") == 12.5


def test_an_observation_has_a_bound() -> None:
    step = parse(line("000000", "during.000", b"0\n" + b"x" * (2 * OBSERVATION_LIMIT_BYTES))).step(
        "000000", "during.000"
    )
    assert step is not None
    assert len(step.words) == OBSERVATION_LIMIT_BYTES


def test_the_build_id_is_read_from_the_notes() -> None:
    other = struct.pack("<III", 4, 4, 6) + b"Xen\0" + b"\1\0\0\0"
    note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes(range(20))
    assert parse(line("-", "notes", other + note)).build_id == bytes(range(20)).hex()
    assert parse(line("-", "notes", note[:-1])).build_id == ""
    assert parse(b"").build_id == ""


@given(st.binary(max_size=2000))
def test_no_bytes_at_all_make_reading_fail(raw: bytes) -> None:
    records = parse(raw)
    assert records.malformed + len(records.values) <= raw.count(b"\n") + 1
    for scope, key in [*records.values, ("000000", "load.1")]:
        records.step(scope, key)
        records.clock_s(scope, key)
        records.text(scope, key)
    assert isinstance(records.build_id, str)
    assert isinstance(records.release, str)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                line,
                st.sampled_from(["-", "000000", "000001"]),
                st.sampled_from(["ready", "notes", "load.1", "gone.1", "log.rest", "done"]),
                st.binary(max_size=40),
            ),
        ),
        max_size=12,
    )
)
def test_records_among_garbage_keep_their_bytes_or_are_dropped(pieces: list[bytes]) -> None:
    records = parse(b"\n".join(pieces))
    for (scope, key), content in records.values.items():
        assert base64.b64encode(content) in b"\n".join(pieces)
        assert heading(line(scope, key, content).rstrip(b"\n")) == (scope, key)
