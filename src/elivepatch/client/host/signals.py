# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C, SIGTERM and a lost terminal: noted at once, obeyed where that can be told and the kernel is left whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """While entered, SIGINT, SIGTERM and SIGHUP (a lost terminal) only set `asked`; at the end they are obeyed.

    A KeyboardInterrupt out of the middle of a transition would leave a kernel that no record tells of. The work inside
    must therefore look at `asked`, and be short and bounded where it cannot.
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
            raise KeyboardInterrupt("What it was about to do on this host was done.")

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class Signals(Interruption):
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, from `begin` on; before, all wait.

    After the end they find nothing left to interrupt: where `process_ends`, they are ignored, since what the command
    had to say is said.
    """

    def __init__(self, *, process_ends: bool) -> None:
        super().__init__()
        self._process_ends = process_ends

    def begin(self) -> None:
        """Obey from now on, and what came before at once: raises KeyboardInterrupt."""
        for number in self._before:
            signal.signal(number, signal.default_int_handler)
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._process_ends else handler)
