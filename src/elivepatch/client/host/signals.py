# SPDX-License-Identifier: GPL-2.0-or-later
"""Handling of Ctrl-C, SIGTERM and a lost terminal: noted at once, obeyed where the kernel and the record agree."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """While entered, SIGINT, SIGTERM and SIGHUP (a lost terminal) only set `asked`; at the end they are obeyed.

    A KeyboardInterrupt in the middle of a transition would leave a kernel that no record describes. The work inside
    must therefore check `asked`; work that cannot check it must be short and bounded.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) has a reason
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.asked and kind is None:
            raise KeyboardInterrupt("The change that was under way on this host was completed.")

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class Signals(Interruption):
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, from `begin` on; before, all wait.

    After the end nothing is left to interrupt: with `process_ends` they are ignored then, because the command has
    printed its result.
    """

    def __init__(self, *, process_ends: bool) -> None:
        super().__init__()
        self._process_ends = process_ends

    def begin(self) -> None:
        """Obey signals from now on; raises KeyboardInterrupt if one came before."""
        for number in self._before:
            signal.signal(number, signal.default_int_handler)
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._process_ends else handler)
