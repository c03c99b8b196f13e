# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that exists in a directory: /sys and /proc as files, and a kernel that knows livepatches' rules.

The rules are those of kernel/livepatch/{core,transition}.c of Linux 6.1: one transition at a time, EINVAL for what is
there already, a directory that goes away by itself after a livepatch was disabled or replaced, a module that stays.
Time is simulated: it passes in `sleep`, and tasks switch once a second.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proofs import Facts

from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.livepatch.state import RecordedPatch, SetEntry
from elivepatch.client.livepatch.store import Store
from elivepatch.model.build import PatchedFunction
from elivepatch.model.kernel import BuildId, Release
from elivepatch.model.trial import TrialReport
from elivepatch.trust.envelope import sign_proof
from elivepatch.trust.keys import ServerKey
from elivepatch.trust.statement import Statement

RELEASE = Release("6.1.0-50-cloud-amd64")
BUILD_ID = BuildId("0123456789abcdef0123456789abcdef01234567")
KEY = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NEVER = float("inf")
_CONFIG = """\
CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
CONFIG_LIVEPATCH=y
CONFIG_DYNAMIC_FTRACE=y
CONFIG_DYNAMIC_FTRACE_WITH_REGS=y
CONFIG_KALLSYMS_ALL=y
CONFIG_HAVE_RELIABLE_STACKTRACE=y
CONFIG_MODULE_SIG=y
# CONFIG_MODULE_SIG_FORCE is not set
"""


@dataclass
class Task:
    """A task. While it stands in `function` (until `leaves_at`) a transition that touches that function waits.

    A kernel thread with `main` stands in its own main function.
    """

    pid: int
    command: str
    function: str = ""
    leaves_at: float = 0.0
    kernel_thread: bool = False
    main: bool = False
    patched: bool = False
    new_code: str = ""


@dataclass
class LoadedLivepatch:
    name: str
    replace: bool
    functions: tuple[str, ...]
    enabled: bool = True
    forced: bool = False


@dataclass
class SimulatedHost:
    """Host, kernel and clock in one. `before` and `after` are called around every act with its name."""

    root: Path
    release: str = RELEASE
    build_id: str = BUILD_ID
    tasks: list[Task] = field(default_factory=lambda: [Task(1, "systemd"), Task(77, "kworker/0:1", kernel_thread=True)])
    before: Callable[[str], None] = lambda _act: None
    after: Callable[[str], None] = lambda _act: None
    refuse_load: int = 0
    kernel_says: str = ""  # what it logs when it refuses
    time: float = 1000.0
    look_s: float = 0.0  # what a look at the clock takes: the more, the slower the machine
    started: datetime = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
    livepatches: list[LoadedLivepatch] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    permanent: set[str] = field(default_factory=set)
    moving: LoadedLivepatch | None = None
    loads: int = 0

    def __post_init__(self) -> None:
        self.boots = 0
        self.boot()

    # --- the machine as the client sees it

    @property
    def machine(self) -> Machine:
        return Machine(Host(self.root), self, self)

    @property
    def store(self) -> Store:
        return Store.of(self.machine.host)

    def monotonic(self) -> float:
        self.time += self.look_s
        return self.time

    def now(self) -> datetime:
        return self.started + timedelta(seconds=self.time)

    def sleep(self, seconds: float) -> None:
        self.before("sleep")
        self.pass_time(seconds)
        self.after("sleep")

    def load(self, descriptor: int) -> None:
        self.before("load")
        self._load(os.pread(descriptor, 1 << 20, 0))
        self.after("load")

    def unload(self, name: str) -> None:
        self.before("unload")
        if name not in self.modules:
            raise OSError(errno.ENOENT, "No such file or directory")
        if name in self.permanent:
            raise OSError(errno.EBUSY, "Device or resource busy")
        if name in self.pinned or any(one.name == name for one in self.livepatches):
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.modules.remove(name)
        self._show()
        self.after("unload")

    def write(self, attribute: Path, value: str) -> None:
        self.before("write")
        if not attribute.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        one = next(patch for patch in self.livepatches if patch.name == attribute.parent.name)
        if attribute.name == "force":
            self._force(one)
        else:
            self._set_enabled(one, wanted=value == "1")
        self._show()
        self.after("write")

    # --- what happens to the machine

    def boot(self, *, seconds_down: float = 30.0) -> None:
        """Start (again): nothing is loaded, the boot has a new name."""
        self.boots += 1
        self.livepatches, self.modules, self.moving, self.pinned, self.permanent = [], [], None, set(), set()
        self.time += seconds_down
        for task in self.tasks:
            task.patched, task.new_code = False, ""
        shutil.rmtree(self.root / "sys", ignore_errors=True)
        shutil.rmtree(self.root / "proc", ignore_errors=True)
        name = bytes.fromhex(self.build_id)
        self.put("sys/kernel/notes", struct.pack("<III", 4, len(name), 3) + b"GNU\0" + name)
        self.put("proc/sys/kernel/osrelease", f"{self.release}\n")
        self.put("proc/sys/kernel/arch", "x86_64\n")
        self.put("proc/sys/kernel/random/boot_id", f"00000000-0000-4000-8000-{self.boots:012d}\n")
        self.put("proc/sys/kernel/tainted", "0\n")
        self.put("proc/sys/kernel/ftrace_enabled", "1\n")
        self.put("proc/sys/kernel/modules_disabled", "0\n")
        self.put("proc/self/status", "Name:\telivepatch\nCapEff:\t000001ffffffffff\n")
        self.put("proc/self/loginuid", "1000")
        self.put("proc/stat", f"cpu 1 2 3\nbtime {int(self.now().timestamp())}\n")
        self.put(
            "proc/version", f"Linux version {self.release} (x@y) (gcc-12 (Debian 12.2.0) 12.2.0, GNU ld 2.40) #1\n"
        )
        self.put("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.put("sys/module/module/parameters/sig_enforce", "N\n")
        self.put(f"boot/config-{self.release}", _CONFIG)
        self.put("dev/kmsg", "6,1,0,-;Linux version\n")
        (self.root / "sys/kernel/livepatch").mkdir(parents=True)
        self._show()

    def put(self, relative: str, content: str | bytes) -> None:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if relative == "etc/elivepatch/client.toml":
            path.chmod(0o600)

    def pass_time(self, seconds: float) -> None:
        ticks = int(self.time + seconds) - int(self.time)
        self.time += seconds
        self._forget_disabled()
        for task in self.tasks:
            if task.leaves_at <= self.time:
                task.function, task.new_code = "", ""
        if ticks:
            self._try_complete()
        self._show()

    @property
    def live(self) -> list[str]:
        """The livepatches in force, the oldest first."""
        return [one.name for one in self.livepatches if one.enabled and one is not self.moving]

    # --- the kernel's rules

    def _load(self, content: bytes) -> None:
        if self.refuse_load:
            with (self.root / "dev/kmsg").open("a") as log:
                log.write(self.kernel_says)
            raise OSError(self.refuse_load, os.strerror(self.refuse_load))
        info = dict(line.split("=", 1) for line in modinfo_of(content))
        name = info["name"]
        if name in self.modules:
            raise OSError(errno.EEXIST, "File exists")
        if self.moving is not None:
            raise OSError(errno.EBUSY, "Device or resource busy")
        functions = tuple(info["functions"].split())
        self.modules.append(name)
        if info["stays"] == "Y":
            self.permanent.add(name)
        self.loads += 1
        one = LoadedLivepatch(name, replace=info["replace"] == "Y", functions=functions)
        self.livepatches.append(one)
        self._start(one)
        self._show()

    def _set_enabled(self, one: LoadedLivepatch, *, wanted: bool) -> None:
        if one.enabled == wanted:
            raise OSError(errno.EINVAL, "Invalid argument")
        if one is self.moving:
            one.enabled = wanted
            return
        if wanted:
            raise OSError(errno.EINVAL, "Invalid argument")
        if self.moving is not None:
            raise OSError(errno.EBUSY, "Device or resource busy")
        one.enabled = False
        self._start(one)

    def _force(self, one: LoadedLivepatch) -> None:
        if one is not self.moving:
            raise OSError(errno.EINVAL, "Invalid argument")
        for task in self.tasks:
            task.patched = one.enabled
        # klp_force_transition since 5.17: the module of a livepatch that is being removed stays for ever.
        if not one.enabled:
            one.forced = True
        elif one.replace:
            for other in self.livepatches:
                other.forced = other is not one
        self._try_complete()

    def _start(self, one: LoadedLivepatch) -> None:
        self.moving = one
        for task in self.tasks:
            task.patched = not one.enabled
        self._try_complete()

    def _try_complete(self) -> None:
        one = self.moving
        if one is None:
            return
        for task in self.tasks:
            held = task.function in one.functions if one.enabled else task.new_code == one.name
            if not held:
                task.patched = one.enabled
        if all(task.patched == one.enabled for task in self.tasks):
            self.moving = None
            if one.enabled and one.replace:
                for other in self.livepatches:
                    other.enabled = other is one

    def _forget_disabled(self) -> None:
        """Remove what is out of force: the kernel does so from a work queue, a moment later."""
        gone = [one for one in self.livepatches if not one.enabled and one is not self.moving]
        self.pinned |= {one.name for one in gone if one.forced}
        self.livepatches = [one for one in self.livepatches if one not in gone]

    def _show(self) -> None:
        base = self.root / "sys/kernel/livepatch"
        for directory in base.iterdir():
            if directory.name not in {one.name for one in self.livepatches}:
                shutil.rmtree(directory)
        for one in self.livepatches:
            place = f"sys/kernel/livepatch/{one.name}"
            self.put(f"{place}/enabled", f"{one.enabled:d}\n")
            self.put(f"{place}/transition", f"{one is self.moving:d}\n")
            self.put(f"{place}/vmlinux/patched", f"{one.enabled:d}\n")
            (self.root / place / "force").touch()
            for function in one.functions:
                (self.root / place / "vmlinux" / f"{function},1").mkdir(exist_ok=True)
        holders = {one.name for one in self.livepatches} | self.pinned
        uses = {name: (name in holders) + (name in self.held) for name in self.modules}
        by = {name: "[permanent]," if name in self.permanent else "-" for name in self.modules}
        lines = [f"{name} 16384 {uses[name]} {by[name]} Live 0x0 (OEK)" for name in reversed(self.modules)]
        self.put("proc/modules", "".join(f"{line}\n" for line in [*lines, "ext4 900000 1 - Live 0x0"]))
        for task in self.tasks:
            state = int(task.patched) if self.moving else -1
            flags = 0x00200000 if task.kernel_thread else 0
            where = f"{task.new_code}_new" if task.new_code else task.function or "ep_poll"
            module = f" [{task.new_code}]" if task.new_code else ""
            stack = f"[<0>] schedule+0x5e/0xd0\n[<0>] {where}+0x10/0x40{module}\n"
            below = ("kthread+0xda/0x100", "ret_from_fork+0x22/0x30") if task.main else ("do_syscall_64+0x58/0x80",)
            stack += "".join(f"[<0>] {one}\n" for one in below)
            place = f"proc/{task.pid}/task/{task.pid}"
            self.put(f"{place}/patch_state", f"{state}\n")
            self.put(f"{place}/stat", f"{task.pid} ({task.command}) S 0 0 0 0 -1 {flags} 0 0")
            self.put(f"{place}/stack", stack)


@dataclass(frozen=True)
class Made:
    """A livepatch as a server would hand it out."""

    statement: Statement
    module: bytes
    proof: bytes

    @property
    def entry(self) -> SetEntry:
        patches = tuple(RecordedPatch(name=f"{digest[:6]}.patch", digest=digest) for digest in self.statement.series)
        return SetEntry(
            name=self.statement.name,
            digest=self.statement.digest,
            build_key=self.statement.build_key,
            replace=self.statement.replace,
            series=patches,
        )

    def keep(self, store: Store) -> SetEntry:
        """Put the files where the client keeps them."""
        store.keep(self.module, "ko")
        store.keep(self.proof, "proof", key=self.statement.digest)
        return self.entry


def make_livepatch(
    name: str,
    *,
    functions: Iterable[str] = ("meminfo_proc_show",),
    replace: bool = True,
    series: Iterable[str] = ("a" * 64,),
    release: str = RELEASE,
    build_id: str = BUILD_ID,
    key: ServerKey = KEY,
    livepatch: str = "Y",
    vermagic: str = "",
    said_name: str = "",
    relocated: Iterable[str] = (),
    trial: Callable[[Facts], TrialReport | None] = Facts.trial,
    stays: bool = False,
    **more: Any,
) -> Made:
    """Return a module file with the little that is looked at, and its proof.

    The kernel never unloads one that `stays`. A function that is not the only one of its name is written NAME,POSITION.
    """
    functions = tuple(functions)
    module = module_bytes(
        [
            f"name={name}",
            f"vermagic={vermagic or release} SMP preempt mod_unload modversions ",
            f"livepatch={livepatch}",
            f"replace={'Y' if replace else 'N'}",
            f"functions={' '.join(functions)}",
            f"stays={'Y' if stays else 'N'}",
        ],
        relocated,
    )
    facts = Facts(
        name=said_name or name,
        module=module,
        release=release,
        build_id=build_id,
        series=tuple(series),
        replace=replace,
        functions=tuple(
            PatchedFunction(object="vmlinux", name=function, sympos=int(position or 0), source="fs/proc/meminfo.c")
            for function, _, position in (one.partition(",") for one in functions)
        ),
        **more,
    )
    statement = facts.statement(key.public, trial(facts))
    return Made(statement, module, sign_proof(key, statement))


def module_bytes(info: Iterable[str], relocated: Iterable[str] = ()) -> bytes:
    """Return a relocatable ELF file for x86-64 with a .modinfo section.

    It has one section of livepatch relocations for each module in `relocated`.
    """
    more = [f".klp.rela.{module}..text".encode() for module in relocated]
    names = b"\0.modinfo\0.shstrtab\0" + b"".join(name + b"\0" for name in more)
    content = b"".join(line.encode() + b"\0" for line in info)
    start = 64
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        1, 62, 1, 0, 0, start + len(content) + len(names), 0, 64, 0, 0, 64, 3 + len(more), 2,
    )  # fmt: skip
    section = struct.Struct("<IIQQQQIIQQ")
    table = section.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    table += section.pack(1, 1, 2, 0, start, len(content), 0, 0, 1, 0)
    table += section.pack(10, 3, 0, 0, start + len(content), len(names), 0, 0, 1, 0)
    for name in more:
        table += section.pack(names.index(name), 4, 2, 0, start, 24, 0, 0, 8, 24)
    return header + content + names + table


def modinfo_of(module: bytes) -> list[str]:
    """Return the lines of .modinfo of a file made by `module_bytes`."""
    offset = struct.unpack_from("<Q", module, 40)[0]
    place, size = struct.unpack_from("<QQ", module, offset + 64 + 24)
    return [line.decode() for line in module[place : place + size].split(b"\0") if line]
