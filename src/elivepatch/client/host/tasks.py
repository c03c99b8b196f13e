# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that hold a transition: those that the kernel has not switched yet, and the function they stand in.

/proc/PID/task/TID/patch_state is -1 outside of a transition, else 0 (unpatched) or 1 (patched); see
proc_pid_patch_state in fs/proc/base.c. The idle tasks are not in /proc: they switch by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elivepatch.client.host.machine import Clock, Host

_KTHREAD = 0x00200000  # include/linux/sched.h, PF_KTHREAD
_FRAME = re.compile(
    r"\[<[0-9a-fA-Fx]+>\] (?P<name>[^\s+]+)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[(?P<module>[^\]\s]+)\])?"
)
_STACK_SHOWN = 8
_THREAD_STARTS = frozenset({"kthread", "ret_from_fork", "ret_from_fork_asm"})  # the caller of a thread's main function
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible",
    "T": "stopped",
    "t": "traced",
    "I": "idle",
    "Z": "zombie",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A task that has not switched.

    `stack` lists its kernel functions, the innermost first; empty if the kernel does not show it. `function` is the
    patched function among them, empty if there is none: then the task runs, or its stack cannot be trusted.
    """

    pid: int
    thread: int
    command: str
    state: str
    kernel_thread: bool
    stack: tuple[str, ...]
    function: str

    @property
    def in_its_main(self) -> bool:
        """True if a kernel thread stands in its own main function, which it leaves only when it ends."""
        after = dict(zip(self.stack, self.stack[1:], strict=False))
        return self.kernel_thread and after.get(self.function) in _THREAD_STARTS

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)

    def __str__(self) -> str:
        kind = "kernel thread" if self.kernel_thread else "task"
        where = f"in {self.function}" if self.function else "in none of the patched functions that its stack shows"
        if not self.stack and not self.function:
            where = "stack not shown"
        return f"{kind} {self.command} (pid {self.pid}, thread {self.thread}, {self.state}), {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Progress of a transition. `complete` is False if time ran out before all tasks were counted."""

    tasks: int
    waiting: tuple[tuple[int, int], ...]
    complete: bool


def count(host: Host, clock: Clock, *, target: bool, within_s: float) -> Census:
    """Count the tasks, and those that have not reached `target` yet: True for patched, False for unpatched."""
    deadline = clock.monotonic() + within_s
    wanted = "1" if target else "0"
    tasks = 0
    waiting: list[tuple[int, int]] = []
    for pid, thread in _threads(host):
        if clock.monotonic() > deadline:
            return Census(tasks=tasks, waiting=tuple(waiting), complete=False)
        state = host.text(f"proc/{pid}/task/{thread}/patch_state")
        tasks += state is not None
        if state not in {None, wanted, "-1"}:
            waiting.append((pid, thread))
    return Census(tasks=tasks, waiting=tuple(waiting), complete=True)


def look_at(host: Host, pid: int, thread: int, functions: Collection[str], *, inside: str = "") -> Holder | None:
    """Return a description of one task, None if it is gone.

    `functions` are the patched ones. A livepatch that is being enabled waits for tasks that stand in the old
    functions. One that is being disabled waits for those in its own module: then `inside` is its name.
    """
    base = f"proc/{pid}/task/{thread}"
    status = host.text(f"{base}/stat")
    if status is None:
        return None
    # The command stands in brackets and may hold any character, brackets too (proc(5)).
    command, _, rest = status.partition("(")[2].rpartition(")")
    fields = rest.split()
    flags = int(fields[6]) if len(fields) > 6 and fields[6].isdecimal() else 0
    frames = list(_frames(host.text(f"{base}/stack") or ""))
    hit = next((name for name, module in frames if (module == inside if inside else name in functions)), "")
    return Holder(
        pid=pid,
        thread=thread,
        command="".join(character if character.isprintable() else "?" for character in command)[:64],
        state=_STATES.get(fields[0] if fields else "", "unknown"),
        kernel_thread=bool(flags & _KTHREAD),
        stack=tuple(f"{name} [{module}]" if module else name for name, module in frames[:_STACK_SHOWN]),
        function=hit,
    )


def way_out(holders: Sequence[Holder]) -> str:
    """Return the advice that gets these tasks out of the way of a transition; kernel threads cannot be restarted."""
    mains = [one for one in holders if one.in_its_main]
    if mains:
        one = mains[0]
        return (
            f"The kernel thread {one.command} never leaves {one.function} and cannot be ended or restarted: change a "
            "function that it calls instead, or reboot into a fixed kernel. The threads of a module end when it is "
            "unloaded."
        )
    threads = [one for one in holders if one.kernel_thread]
    if not threads:
        return "End or restart the tasks above, or allow more time with --deadline; then try again."
    others = " End or restart the other tasks above." if len(threads) < len(holders) else ""
    return (
        f"The kernel thread {threads[0].command} cannot be ended or restarted: try again when its work is done, or "
        f"allow more time with --deadline.{others}"
    )


def standing_in(host: Host, clock: Clock, functions: Collection[str], *, within_s: float) -> tuple[Holder, ...]:
    """Return the tasks that stand in one of these functions now: a transition would wait for them."""
    deadline = clock.monotonic() + within_s
    found = []
    for pid, thread in _threads(host):
        if clock.monotonic() > deadline:
            break
        stack = host.text(f"proc/{pid}/task/{thread}/stack") or ""
        if any(name in functions for name, _ in _frames(stack)):
            one = look_at(host, pid, thread, functions)
            if one is not None and one.function:
                found.append(one)
    return tuple(found)


def _frames(stack: str) -> Iterator[tuple[str, str]]:
    for found in _FRAME.finditer(stack):
        # gcc's clones (foo.isra.0, foo.constprop.0) keep their own names in kallsyms and in livepatches.
        yield found["name"], found["module"] or ""


def _threads(host: Host) -> Iterator[tuple[int, int]]:
    for pid in _numbers(host, "proc"):
        for thread in _numbers(host, f"proc/{pid}/task"):
            yield pid, thread


def _numbers(host: Host, directory: str) -> list[int]:
    try:
        return sorted(int(item.name) for item in host.path(directory).iterdir() if item.name.isdecimal())
    except OSError:
        return []
