# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs are kept as text that no terminal obeys."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from elivepatch.service.printable_log import plain_strings, readable


def of(data: bytes, limit_bytes: int = 1000) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return readable(Path(file.name), limit_bytes=limit_bytes)


def test_colours_and_other_orders_to_a_terminal_are_taken_out() -> None:
    assert of(b"\x1b[01;31merror:\x1b[K\x1b[m x\r\n\x1b]0;title\x07\tend\n") == b"error: x\n]0;title\tend\n"


def test_no_mark_reverses_a_line() -> None:
    assert of("a\u202eb\u2066c\u200fd\n".encode()) == b"abcd\n"


def test_every_string_of_a_document_is_clean() -> None:
    document = {"excerpt": "\x1b[31mred\x1b]0;x\x07\n", "notes": [{"a\x00b": ("\u202e", 1, None, True)}]}
    assert plain_strings(document) == {"excerpt": "red]0;x\n", "notes": [{"ab": ["", 1, None, True]}]}


def test_text_in_any_script_stays() -> None:
    assert of("Grüße, 世界\n".encode()) == "Grüße, 世界\n".encode()


def test_the_middle_of_what_is_too_long_is_left_out() -> None:
    kept = of(b"first\n" + b"x" * 5000 + b"\nlast\n", limit_bytes=400)
    assert kept.startswith(b"first\n")
    assert kept.endswith(b"\nlast\n")
    assert b"[4612 bytes left out]" in kept


@given(st.binary(max_size=2000), st.integers(min_value=8, max_value=3000))
def test_whatever_was_printed_comes_out_as_text(data: bytes, limit_bytes: int) -> None:
    text = of(data, limit_bytes).decode("utf-8")
    assert not any(ord(character) < 0x20 and character not in "\n\t" for character in text)
    assert not any(0x7F <= ord(character) < 0xA0 for character in text)
