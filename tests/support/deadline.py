# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait for a condition of another thread, process or server, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    *,
    within_s: float = 10,
    every_s: float = 0.02,
    detail: Callable[[], str] | None = None,
) -> T:
    """Call `condition` until it returns a true value and return that value.

    Raises AssertionError at the deadline, with the text that `detail` returns, such as the log of a server. The
    condition is tried once more at the deadline, so that a busy machine fails no test.
    """
    deadline = time.monotonic() + within_s
    while True:
        late = time.monotonic() >= deadline
        if value := condition():
            return value
        if late:
            raise AssertionError(f"not within {within_s} s: {detail() if detail else condition}")
        time.sleep(every_s)
