# SPDX-License-Identifier: GPL-2.0-or-later
"""Refusals of the kernel to load a livepatch, explained by its errno, by its log and by what it has.

The kernel's own refusals and those of the livepatch's pre-patch callback have the same numbers: a callback may return
any. The livepatch core says in the log which it was (__klp_enable_patch in kernel/livepatch/core.c).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from elivepatch.client.host.machine import Host
from elivepatch.client.host.sysfs import supported
from elivepatch.model.errors import HostError

_KMSG = "dev/kmsg"
_RECORD_BYTES = 8192  # CONSOLE_EXT_LOG_MAX of the kernel: one record of /dev/kmsg
_RECORDS = 4096
_CALLBACK = re.compile(r"pre-patch callback failed for object '([A-Za-z0-9_-]{1,64})'")
_CALLBACKS_NUMBERS = frozenset({errno.ENODEV, errno.ENOENT, errno.EBUSY, errno.EINVAL})


@contextmanager
def new_messages(host: Host) -> Iterator[Callable[[], Sequence[str]]]:
    """Yield a function that returns what the kernel's log has got since; nothing if the log cannot be read."""
    try:
        descriptor = os.open(host.path(_KMSG), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield list
        return
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
        yield lambda: _records(descriptor)
    finally:
        os.close(descriptor)


def refusal(
    host: Host, name: str, error: OSError, messages: Sequence[str], *, pre_patch_callback: bool = False
) -> HostError:
    """Return an error that explains why the kernel did not load the livepatch `name`.

    `messages` are those of the kernel's log since it was asked; `pre_patch_callback` says if the livepatch has a
    function that may have refused. Sources: kernel/module/main.c, signing.c, kernel/livepatch/core.c.
    """
    number, reason = error.errno or 0, error.strerror or "an error without a name"
    for message in messages:
        if found := _CALLBACK.search(message):
            return HostError(
                "callback-refused",
                f"{name} was not loaded: its own pre-patch callback for {found[1]} refused this host ({reason}).",
                advice="The source patch has the callback and its reason; nothing is wrong with the kernel.",
                excerpt="\n".join(messages[-10:]),
            )
    answer = _ANSWERS.get(number)
    if number == errno.ENODEV and supported(host):
        answer = None  # livepatching is there, so this is not the livepatch core's answer
    code, sentence, advice = answer or ("load-failed", f"the kernel answered {reason}", _READ_LOG)
    if pre_patch_callback and number in _CALLBACKS_NUMBERS:
        advice = f"It has a pre-patch callback, which may have refused. {advice}"
    return HostError(code, f"{name} was not loaded: {sentence}.", advice=advice)


def _records(descriptor: int) -> list[str]:
    """Return the messages in /dev/kmsg from its position on (Documentation/ABI/testing/dev-kmsg)."""
    found: list[str] = []
    while len(found) < _RECORDS:
        try:
            record = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            break
        except BrokenPipeError:  # records were overwritten before they were read
            continue
        except OSError:
            break
        if not record:
            break
        found += [line.partition(";")[2] or line for line in record.decode(errors="replace").splitlines()]
    return found


_READ_LOG = "Read the end of the kernel's log: `dmesg | tail -20`."
_NO_KEY = (
    "kernel-signature",
    "this kernel only loads modules signed with a key that it knows",
    "elivepatch signs no modules for kernels; `elivepatch doctor` says what enforces it here.",
)
_ANSWERS: dict[int, tuple[str, str, str]] = {
    errno.EKEYREJECTED: _NO_KEY,
    errno.ENOKEY: _NO_KEY,
    errno.EPERM: (
        "load-forbidden",
        "the kernel does not let this process load modules",
        "Run it as root, outside of containers. Lockdown or kernel.modules_disabled may forbid it until a reboot.",
    ),
    errno.EACCES: (
        "load-forbidden",
        "a security module forbids it",
        "Look for a denial in the audit log (SELinux, AppArmor, LoadPin, IMA).",
    ),
    errno.EEXIST: (
        "name-taken",
        "a module of this name is loaded already",
        "Run `elivepatch list`; unload the old one with `elivepatch unload NAME`.",
    ),
    errno.ENOEXEC: (
        "load-incompatible",
        "the kernel does not take this module's format or version",
        "Read the end of the kernel's log: `dmesg | tail -20` names the symbol or version that differs.",
    ),
    errno.EBUSY: (
        "load-busy",
        "a function is held by another tracer, or another transition is under way",
        "Run `elivepatch doctor`: it lists functions that ftrace users hold; wait for a transition to end.",
    ),
    errno.EINVAL: (
        "load-incompatible",
        "a function or symbol that it replaces was not found, or it conflicts with the livepatches that are loaded",
        "Read the end of the kernel's log: `dmesg | tail -20` names it.",
    ),
    errno.ENOENT: (
        "load-incompatible",
        "it needs a symbol that this kernel does not have",
        "Read the end of the kernel's log: `dmesg | tail -20` names it.",
    ),
    errno.ENOMEM: ("load-memory", "the kernel does not have enough memory", "Free memory and try again."),
    errno.ENODEV: (
        "no-livepatching",
        "this kernel has no livepatching",
        "Run `elivepatch doctor`; a kernel with CONFIG_LIVEPATCH=y is needed.",
    ),
}
