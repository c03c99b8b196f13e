# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiler that built the running kernel, with everything that it and a kernel's build load.

The archive is a small root file system for `elivepatch-server toolchain add NAME --root FILE`. Programs are asked for
their parts: the compiler for its own directories, the loader for shared libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.client.host.machine import Host
from elivepatch.client.push.pieces import Entry
from elivepatch.files.rooted import follow
from elivepatch.model.compiler import parse_compiler
from elivepatch.model.errors import HostError
from elivepatch.process import run

PROGRAMS = (
    "sh", "bash", "make", "as", "ld", "ld.bfd", "ar", "nm", "objcopy", "objdump", "strip", "readelf", "bc",
    "flex", "bison", "m4", "tar", "xz", "gzip", "bzip2", "zstd", "patch", "find", "xargs", "grep", "egrep",
    "sed", "awk", "gawk", "mawk", "sort", "uniq", "cmp", "diff", "cat", "cp", "mv", "rm", "ln", "mkdir",
    "mktemp", "touch", "chmod", "expr", "head", "tail", "tr", "cut", "wc", "date", "dirname", "basename",
    "uname", "test", "[", "true", "false", "echo", "printf", "env", "id", "hostname", "stat", "install", "tee",
    "od", "seq", "readlink", "realpath", "cksum", "md5sum", "getconf", "sha256sum", "comm", "nproc", "sleep",
    "pwd", "ls", "kmod", "depmod", "openssl", "pahole", "perl", "python3", "cpio",
)  # fmt: skip
"""Commands that the build of a kernel calls; those that this host lacks are left out."""

_LINKED = (
    "crt1.o", "Scrt1.o", "crti.o", "crtn.o", "libc.so", "libc.so.6", "libc_nonshared.a", "libc.a", "libm.so",
    "libm.so.6", "libmvec.so.1", "libpthread.a", "libpthread.so.0", "libdl.a", "libdl.so.2", "librt.a",
    "libelf.so", "libdw.so", "libz.so", "libzstd.so", "liblzma.so", "libbz2.so", "libcrypto.so", "libssl.so",
    "libxxhash.so", "libgcc_s.so", "libgcc_s.so.1",
)  # fmt: skip
NEEDED = ("make", "as", "ld", "ar", "nm", "objcopy", "readelf", "bc", "flex", "bison", "m4", "patch", "xz")
"""Commands without which no kernel is built."""

# Other languages' compilers are large, and no kernel's build runs them.
_OTHER_LANGUAGES = frozenset(
    {"cc1plus", "cc1obj", "cc1objplus", "f951", "gnat1", "go1", "d21", "gm2", "cc1gm2", "lto1"}
)
_HEADERS = frozenset(
    {"sys", "bits", "gnu", "asm", "asm-generic", "linux", "openssl", "elfutils", "arpa", "net", "netinet", "rpc",
     "scsi", "mtd", "misc", "x86_64-linux-gnu", "protocols"}
)  # fmt: skip
_CONFIGURED = ("etc/ld.so.conf", "etc/ld.so.cache")
_NAMES = ("gcc", "cc", "x86_64-pc-linux-gnu-gcc", "x86_64-linux-gnu-gcc", "clang")
_LOADED = re.compile(r"(?:=> )?(/[^ ]+) \(0x[0-9a-f]+\)")
_SEARCH = ("usr/local/bin", "usr/bin", "bin", "usr/sbin", "sbin")
_COMPILER = re.compile(r"(?:[a-z0-9_]+-)*(?:gcc|clang)(?:-[0-9.]+)?")

Ask = Callable[[Sequence[str]], str]
"""Runs a program of the host and returns its output, empty if it fails."""


def ask_here(command: Sequence[str]) -> str:
    """Run a program of this host and return its output, empty if it fails or is missing."""
    done = run(["env", *command], timeout_s=60)
    return done.text if done.ok else ""


@dataclass(slots=True)
class Capture:
    """Files to capture of a host, by their name in the archive; links come with what they lead to."""

    host: Host
    ask: Ask = ask_here
    found: dict[str, Path] = field(default_factory=dict)

    def compiler(self, wanted: str) -> str:
        """Return the path of the compiler whose `--version` is `wanted`, a configuration's CONFIG_CC_VERSION_TEXT.

        Raises HostError if no compiler of this host is that one.
        """
        needed = parse_compiler(wanted)
        seen: dict[str, str] = {}
        for path in self._compilers():
            says = self.ask([path, "--version"]).split("\n")[0].strip()
            parsed = parse_compiler(says)
            if needed is not None and parsed is not None and parsed.version == needed.version:
                return path
            # One compiler has several names: gcc, cc, gcc-12.
            if parsed is not None:
                seen.setdefault(parsed.version, says)
        raise HostError(
            "compiler-missing",
            f"This host lacks the compiler that built the running kernel, {wanted[:100] or 'which is unknown'}.",
            advice="Install that version again, or capture it on the machine that built the kernel; here are: "
            f"{', '.join(seen.values()) or 'none'}.",
        )

    def take(self, compiler: str) -> None:
        """Take the compiler, its parts, and the programs, headers and libraries of a kernel's build.

        Raises HostError if this host lacks a program that every build needs.
        """
        places = {name: self._which(name) for name in PROGRAMS}
        if missing := [name for name in NEEDED if places[name] is None]:
            raise HostError(
                "capture-programs",
                f"This host lacks what every build of a kernel needs: {', '.join(missing)}.",
                advice="Install it, or capture the compiler on the machine that built the kernel.",
            )
        programs = [path for path in places.values() if path is not None]
        parts = [self.ask([compiler, f"-print-prog-name={name}"]).strip() for name in ("cc1", "collect2", "as", "ld")]
        self._programs([compiler, *programs, *(part for part in parts if part.startswith("/"))])
        for directory in {str(Path(part).parent) for part in parts if "/gcc/" in part} | self._own(compiler):
            self._directory(directory, without=_OTHER_LANGUAGES)
        self._programs(name for name in list(self.found) if Path(name).name in {"cc1", "collect2", "lto-wrapper"})
        for name in _LINKED:
            place = self.ask([compiler, f"-print-file-name={name}"]).strip()
            if place.startswith("/"):
                self._libraries([place])
        self._headers()
        for name in _CONFIGURED:
            self._file(f"/{name}")
        self._directory("/etc/ld.so.conf.d")
        self._directory("/usr/share/bison")
        for path in self.ask(["perl", "-e", 'print join("\\n", grep { m{^/usr/} } @INC)']).split("\n"):
            self._directory(path)
        path = self.ask(["python3", "-c", "import sysconfig; print(sysconfig.get_paths()['stdlib'])"]).strip()
        self._directory(path, without=frozenset({"test", "idlelib", "site-packages", "dist-packages", "__pycache__"}))

    def entries(self) -> Iterator[Entry]:
        """Yield what goes into the archive, in order."""
        for name, path in sorted(self.found.items()):
            yield Entry(name=name, content=path)

    def _compilers(self) -> Iterator[str]:
        for directory in _SEARCH[:2]:
            place = self.host.path(directory)
            names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
            for name in (*_NAMES, *(name for name in names if _COMPILER.fullmatch(name))):
                if self.host.path(f"{directory}/{name}").exists():
                    yield f"/{directory}/{name}"

    def _which(self, name: str) -> str | None:
        return next((f"/{place}/{name}" for place in _SEARCH if self._file(f"/{place}/{name}")), None)

    def _file(self, name: str) -> Path | None:
        """Take the file that a name leads to, and the links on the way, such as /lib to usr/lib; return the file."""
        found = follow(self.host.root, name)
        if found is None or not self.host.path(found.name).is_file():
            return None
        for one in (*found.links, found.name):
            self.found[one] = self.host.path(one)
        return self.host.path(found.name)

    def _programs(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._file(name)
            if path is None:
                continue
            with path.open("rb") as file:
                head = file.readline(200)
            if head.startswith(b"#!"):
                words = head[2:].split()
                if words:
                    self._programs([words[0].decode(errors="replace")])
            else:
                self._libraries([name], itself=False)

    def _libraries(self, names: Iterable[str], *, itself: bool = True) -> None:
        for name in names:
            if itself and self._file(name) is None:
                continue
            for loaded in _LOADED.findall(self.ask(["ldd", name])):
                self._file(loaded)

    def _own(self, compiler: str) -> set[str]:
        """Return the directory of the compiler's own headers and start files."""
        found = re.search(r"(?m)^install: (/.*?)/?$", self.ask([compiler, "-print-search-dirs"]))
        return {found[1]} if found else set()

    def _headers(self) -> None:
        top = self.host.path("usr/include")
        for path in sorted(top.iterdir()) if top.is_dir() else ():
            if path.is_dir() and path.name in _HEADERS:
                self._directory(f"/usr/include/{path.name}")
            elif path.suffix == ".h":
                self._file(f"/usr/include/{path.name}")

    def _directory(self, name: str, *, without: frozenset[str] = frozenset()) -> None:
        top = self.host.path(name.lstrip("/"))
        if not name.startswith("/usr") and not name.startswith("/etc/ld.so"):
            return
        pending = [top] if top.is_dir() else []
        while pending:
            for path in sorted(pending.pop().iterdir()):
                if path.name in without:
                    continue
                if path.is_dir() and not path.is_symlink():
                    pending.append(path)
                else:
                    self._file(str(path.relative_to(self.host.root)))
