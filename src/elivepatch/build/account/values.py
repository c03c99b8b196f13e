# SPDX-License-Identifier: GPL-2.0-or-later
"""Old and new value of a variable, short enough for a sentence."""

from __future__ import annotations

from elivepatch.build.account.account import Account
from elivepatch.build.account.image import Piece

_WORDS = (1, 2, 4, 8)


def value_change(account: Account, old: Piece, new: Piece) -> str:
    """Return " from OLD to NEW", with the place in a variable longer than a word; empty if the bytes are the same."""
    one = account.before.content(old.section, old.start, old.end)
    other = account.after.content(new.section, new.start, new.end)
    if len(one) != len(other):
        return f" from {len(one)} to {len(other)} bytes"
    at = next((at for at in range(len(one)) if one[at] != other[at]), None)
    if at is None:
        return ""
    size = len(one) if len(one) in _WORDS else 4
    start = at // size * size
    before, after = (int.from_bytes(text[start : start + size], "little") for text in (one, other))
    place = "" if len(one) == size else f" at offset {start}"
    return f" from {before} to {after}{place}"
