# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the patterns of expectations are found in what the guest printed, in bounded time."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files

from elivepatch.process import run

LIMIT_S = 5.0
_ANSWERS = {"true": True, "false": False}


def found(pairs: Sequence[tuple[str, str]]) -> tuple[bool | None, ...]:
    """Return for each pair of pattern and text whether the text has a match (`re.search`, MULTILINE).

    All pairs together have five seconds; those not answered by then are None.
    """
    if not pairs:
        return ()
    with as_file(files("elivepatch.trial").joinpath("regex_worker.py")) as program:
        done = run(
            [sys.executable, "-I", "-S", program], stdin=json.dumps([list(pair) for pair in pairs]).encode(),
            timeout_s=LIMIT_S,
        )  # fmt: skip
    answers = [_ANSWERS.get(line) for line in done.text.splitlines()[: len(pairs)]]
    return tuple(answers + [None] * (len(pairs) - len(answers)))
