# SPDX-License-Identifier: GPL-2.0-or-later
"""Canonical JSON: one spelling for every value, so that signed data can be compared byte for byte."""

from __future__ import annotations

import json
from typing import Any

from elivepatch.model.errors import TrustError


def encode(value: dict[str, Any]) -> bytes:
    """Return the canonical spelling of `value`: sorted keys, no white space, ASCII.

    The value holds strings, integers, booleans, lists and mappings only. A float has more than one spelling and raises
    TypeError.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def decode(data: bytes, *, limit: int, what: str) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes; raises TrustError for any other bytes. `what` names it in messages.

    A key that appears twice is refused: two readers of the same bytes could otherwise see two values.
    """
    if len(data) > limit:
        raise _malformed(what, f"is larger than {limit} bytes")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed(what, "is not JSON") from error
    if not isinstance(value, dict):
        raise _malformed(what, "is not a JSON object")
    return value


def _malformed(what: str, how: str) -> TrustError:
    return TrustError(
        "proof-malformed",
        f"The {what} {how}.",
        advice="Fetch the livepatch and its proof again; if it happens again, ask the administrator of the server.",
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        message = "a key appears twice"
        raise ValueError(message)
    return value


def _no_constant(name: str) -> None:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        message = "a float has no canonical spelling"
        raise TypeError(message)
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_floats(item)
