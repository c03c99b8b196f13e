# SPDX-License-Identifier: GPL-2.0-or-later
"""Foreign roots: file systems that an operator brings, of any distribution, as a directory or a tar archive.

A root is hostile input. It becomes files in the sandbox only, as an unprivileged user, who can make no device and no
file of another user. Everything that a build does not read is dropped; what is left belongs to root, carries no
setuid bit, and is looked at without following a link or running a program.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.roots.contents import PROGRAM_DIRECTORIES, find_program, resolve
from elivepatch.build.sandbox.bubblewrap import MOUNT_POINTS, Sandbox, writable_directory
from elivepatch.build.sandbox.watched import Watch, run_watched
from elivepatch.files.room import require_room
from elivepatch.model.compiler import is_command
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.process import Completed, run

LIMIT_BYTES = 8 << 30
_LIMIT_FILES = 1_000_000
_TIMEOUT_S = 1800.0
_KEPT = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt"})
_DROPPED = ("dev", "proc", "sys", "run", "tmp", "var", "home", "root", "boot", "media", "mnt", "srv", "etc/shadow*",
            "etc/gshadow*", "etc/ssh", "etc/ssl/private", "lib/modules", "usr/lib/modules", "lib/firmware",
            "usr/lib/firmware", "usr/lib/debug", "usr/src", "usr/share/doc", "usr/share/man", "usr/share/locale",
            "usr/share/info")  # fmt: skip
_SHOWN_BY_THE_SANDBOX = (*MOUNT_POINTS, "dev", "proc", "tmp", "sys", "run", "var", "var/tmp")
_ZSTD = b"\x28\xb5\x2f\xfd"
_NO_DEVICE = "Cannot mknod: Operation not permitted"
_NO_LINK = ": Cannot hard link to "

_NEEDED = ("sh", "make", "as", "ld", "ar", "nm", "objcopy", "readelf", "bc", "flex", "bison", "m4", "tar", "xz", "gzip",
           "patch", "find", "xargs", "grep", "sed", "awk", "sort", "cmp")  # fmt: skip
_USEFUL = {
    "pahole": "kernels with CONFIG_DEBUG_INFO_BTF",
    "python3": "some kernels from 6.1 on",
    "perl": "some older kernels",
    "depmod": "kernels that the server builds itself",
}
_HEADERS = {"gelf.h": "libelf, for objtool"}
_USEFUL_HEADERS = {"openssl/opensslv.h": "kernels with CONFIG_MODULE_SIG or a keyring of their own"}
_CLEANED = {
    "top": "{} directories and files at the top that no build reads were dropped.",
    "setuid": "{} files lost their setuid or setgid bit.",
    "special": "{} pipes, sockets or devices were dropped.",
}
_ELF = b"\x7fELF\x02\x01"
_EM_X86_64 = 62
_EXECUTABLES = (2, 3)  # ET_EXEC, ET_DYN
_GCC = re.compile(r"gcc(?:-[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRoot:
    """A root that was looked at. `compiler` is a command in it; `notes` are sentences for the operator."""

    compiler: str
    rust: bool
    notes: tuple[str, ...]


def take_root(given: Path, root: Path, helper: Sandbox, compiler: str | None) -> ForeignRoot:
    """Make the new directory `root` from what an operator brought, and look at it; `helper` unpacks.

    `compiler` is the command of the compiler, None to look for it. Raises UsageError for what is no root,
    EnvironmentFault for one that lacks what a build needs.
    """
    if compiler is not None and not is_command(compiler):
        raise UsageError(
            "toolchain-compiler", f"{compiler[:80]!r} is not the name of a command.", advice="Give a name such as gcc."
        )
    scratch = root.parent / "packed"
    scratch.mkdir(mode=0o755)
    try:
        packed = _pack(given.absolute(), scratch) if given.is_dir() else _copy(given, scratch)
        notes = _unpack(packed, root, helper)
    finally:
        shutil.rmtree(scratch)
    notes += _clean(root)
    _require_places(root)
    notes += _require_programs(root)
    return ForeignRoot(
        compiler=_find_compiler(root, compiler),
        rust=all(find_program(root, name) is not None for name in ("rustc", "bindgen")),
        notes=tuple(notes),
    )


def _pack(given: Path, scratch: Path) -> Path:
    """Pack the directories of a root that a build reads; nothing of another file system that is mounted there."""
    packed = scratch / "root.tar"
    tops = sorted(name for name in _KEPT if (given / name).is_symlink() or (given / name).is_dir())
    if "usr" not in tops and "bin" not in tops:
        raise _no_root(given)
    command = ["prlimit", f"--fsize={LIMIT_BYTES}", "--", "tar", "-c", "-f", str(packed), "--one-file-system"]
    command += ["--anchored", *[f"--exclude={name}" for name in _DROPPED], "-C", str(given), "--", *tops]
    done = _watched(scratch, lambda watch: run(command, timeout_s=_TIMEOUT_S, on_tick=watch[0], cancellation=watch[1]))
    if not done.ok:
        raise UsageError(
            "toolchain-root",
            f"The root {given} cannot be read.",
            advice="Give the directory of a root file system that nothing changes meanwhile, or a tar archive of it.",
            excerpt=done.tail(),
        )
    packed.chmod(0o644)
    return packed


def _copy(given: Path, scratch: Path) -> Path:
    packed = scratch / "root.tar"
    try:
        if not stat.S_ISREG(given.stat().st_mode):
            raise _no_root(given)
        with given.open("rb") as file:
            if file.read(4) == _ZSTD:
                raise UsageError(
                    "toolchain-root",
                    f"{given.name} is compressed by zstd, which the server does not unpack.",
                    advice=f"Run zstd -d {given.name} and give the result.",
                )
        require_room(scratch, given.stat().st_size * 2, f"The root {given.name}")
        shutil.copyfile(given, packed)
    except (FileNotFoundError, PermissionError) as error:
        raise UsageError(
            "file-missing", f"{given} cannot be read: {error.strerror}.", advice="Give an existing file or directory."
        ) from error
    packed.chmod(0o644)
    return packed


def _unpack(packed: Path, root: Path, helper: Sandbox) -> list[str]:
    writable_directory(root)
    patterns = [f"--exclude={form}" for name in _DROPPED for form in (name, f"./{name}", f"/{name}")]
    command = ["tar", "-x", "-f", f"/in/{packed.name}", "-C", "/out", "--no-same-owner", "--same-permissions"]
    command += ["--delay-directory-restore", "--anchored", *patterns]
    done = _watched(
        root,
        lambda watch: helper.run(
            command, inputs=packed.parent, output=root, timeout_s=_TIMEOUT_S, on_tick=watch[0], cancellation=watch[1]
        ),
    )
    complaints = [line for line in done.log.decode(errors="replace").splitlines() if line.startswith("tar: ")]
    devices = sum(line.endswith(_NO_DEVICE) for line in complaints)
    links = sum(_NO_LINK in line for line in complaints)
    others = [
        line
        for line in complaints
        if not line.endswith(_NO_DEVICE)
        and _NO_LINK not in line
        and not line.startswith(("tar: Removing leading", "tar: Exiting with failure", "tar: Ignoring unknown"))
    ]
    if done.timed_out or (not done.ok and (others or not (devices or links))):
        raise UsageError(
            "toolchain-root",
            f"{packed.name} cannot be unpacked as the root of a toolchain.",
            advice="Give a tar archive of a root file system, plain or compressed by gzip, bzip2 or xz.",
            excerpt="\n".join(others[-20:]) or done.tail(),
        )
    return [f"{devices} device nodes were dropped."] * bool(devices)


def _watched(place: Path, start: Callable[[Watch], Completed]) -> Completed:
    """Run a program that fills a disk; end it and raise UsageError if it writes more than any root holds."""
    done = run_watched(place, start, limit_bytes=LIMIT_BYTES, limit_files=_LIMIT_FILES)
    if done is None:
        raise UsageError(
            "toolchain-root",
            f"The root is larger than {LIMIT_BYTES >> 30} GiB or {_LIMIT_FILES} files, or the disk is full.",
            advice="Give a root with a compiler and the programs of a kernel build only; see the free room with df.",
        )
    return done


def _clean(root: Path) -> list[str]:
    """Drop what no build reads, take all special bits away and make the rest readable; return notes about it.

    Nothing runs in the root any more, and no link is followed.
    """
    found: Counter[str] = Counter()
    for path in sorted(root.iterdir()):
        if path.name not in _KEPT:
            found["top"] += 1
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    size = files = 0
    for path, mode in _entries(root):
        info = path.lstat()
        size, files = size + info.st_size, files + 1
        if stat.S_ISLNK(mode):
            os.chown(path, 0, 0, follow_symlinks=False)
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            found["setuid"] += bool(mode & (stat.S_ISUID | stat.S_ISGID)) and stat.S_ISREG(mode)
            os.chown(path, 0, 0, follow_symlinks=False)
            runs = stat.S_ISDIR(mode) or mode & 0o111
            path.chmod((mode & 0o755) | (0o555 if runs else 0o444))
        else:
            found["special"] += 1
            path.unlink()
    if size > LIMIT_BYTES or files > _LIMIT_FILES:
        raise UsageError(
            "toolchain-root",
            f"The root holds {size >> 20} MiB in {files} files, more than any toolchain does.",
            advice="Give a root with a compiler and the programs of a kernel build only.",
        )
    os.chown(root, 0, 0)
    root.chmod(0o755)
    return [sentence.format(found[what]) for what, sentence in _CLEANED.items() if found[what]]


def _entries(root: Path) -> Iterator[tuple[Path, int]]:
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = Path(directory, name)
            yield path, path.lstat().st_mode


def _require_places(root: Path) -> None:
    """Make the directories that the sandbox covers; raise UsageError if the root has something else there."""
    if not any(resolve(root, name) is not None for name in PROGRAM_DIRECTORIES):
        raise _no_root(root)
    for name in _SHOWN_BY_THE_SANDBOX:
        (root / name).mkdir(exist_ok=True)


def _require_programs(root: Path) -> list[str]:
    """Return notes about what only some kernels need; raise EnvironmentFault for what each of them needs."""
    missing = [name for name in _NEEDED if find_program(root, name) is None]
    missing += [f"{name} ({purpose})" for name, purpose in _HEADERS.items() if not _has_header(root, name)]
    if missing:
        raise EnvironmentFault(
            "toolchain-programs",
            f"The root lacks what every build of a kernel needs: {', '.join(missing)}.",
            advice="Install the packages that contain it in that root, and add it again.",
        )
    notes = [
        f"It lacks {name}, which is needed for {purpose}."
        for name, purpose in _USEFUL.items()
        if find_program(root, name) is None
    ]
    headers = _USEFUL_HEADERS.items()
    return notes + [
        f"It lacks {name}, which is needed for {purpose}." for name, purpose in headers if not _has_header(root, name)
    ]


def _has_header(root: Path, name: str) -> bool:
    return resolve(root, f"usr/include/{name}") is not None


def _find_compiler(root: Path, named: str | None) -> str:
    """Return the command of the root's compiler: the one that was named, else gcc, else the only gcc-N."""
    if named is not None:
        found = {named: find_program(root, named)}
    else:
        places = [root / inside for name in PROGRAM_DIRECTORIES if (inside := resolve(root, name)) is not None]
        names = {path.name for place in places if place.is_dir() for path in place.iterdir()}
        found = {name: find_program(root, name) for name in sorted(names) if _GCC.fullmatch(name)}
    programs = {name: inside for name, inside in found.items() if inside is not None}
    if not programs:
        raise _no_compiler(f"The root has no compiler called {named or 'gcc or gcc-N'}.")
    if "gcc" not in programs and len(programs) > 1:
        raise _no_compiler(f"The root has several compilers: {', '.join(programs)}.")
    name = named or ("gcc" if "gcc" in programs else next(iter(programs)))
    if not _is_program(root / programs[name]):
        raise _no_compiler(f"{programs[name]} in the root is a script or a program of another architecture.")
    return name


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(20)
    kind, machine = (int.from_bytes(head[at : at + 2], "little") for at in (16, 18))
    return head.startswith(_ELF) and kind in _EXECUTABLES and machine == _EM_X86_64


def _no_compiler(sentence: str) -> EnvironmentFault:
    return EnvironmentFault(
        "toolchain-compiler",
        sentence,
        advice="Name the command of the compiler that built the kernel: --compiler gcc-13.",
    )


def _no_root(given: Path) -> UsageError:
    return UsageError(
        "toolchain-root",
        f"{given.name} does not hold a root file system: it has no directory usr or bin.",
        advice="Give the top directory of one, or a tar archive whose names begin there (podman export, a stage3).",
    )
