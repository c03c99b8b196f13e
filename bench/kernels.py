# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask a server for kernel after kernel, and build and try two livepatches for each: one of vmlinux, one of a module.

usage: kernels.py [NAME...] [--keep] [--fresh]

Each kernel begins with a client's request to a server that has no base of it. NAME is a stock kernel or one of an
operator's own (own_kernels.py), which is built first (default: all). Writes bench/kernels.json: for each kernel
`release, provider, toolchain, base_s, base_mib, fidelity_share, builds, trials_passed, refused`; `refused` is the code
of the problem that ended it. Times are in seconds. A kernel that has an entry of this recipe is left out; --fresh asks
for it again. Its base is removed afterwards, for it takes up to 3 GB, unless --keep is given. A kernel whose base was
there before is refused, for its base would show nothing: use a cache of its own (ELIVEPATCH_CACHE_DIR).

Ends with status 1 if a kernel was refused, or if a livepatch was not built or did not pass its trial.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import socket
import subprocess  # noqa: TID251 - the server and the client run as a user's do
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import own_kernels
from elivepatch.build.base.stock import resolve
from elivepatch.build.base.store import RECIPE, Base
from elivepatch.build.builders.select import VERSIONS
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.model.errors import ElivepatchError
from elivepatch.model.kernel import Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event
from elivepatch.patch.headings import with_headings
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ClientSettings, ServerSettings

HERE = Path(__file__).parent
RESULT = HERE / "kernels.json"
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Livepatch:
    """A patch that replaces the text `old` of a source with `new`; `expectation` shows it in the guest."""

    path: str
    old: str
    new: str
    expectation: str


STOCK = (
    "debian-11-cloud", "debian-12-cloud", "debian-12", "debian-12-rt", "debian-12-backports-cloud", "debian-13-cloud",
    "debian-13", "debian-13-rt", "debian-13-backports-cloud", "debian-13-backports", "debian-sid-cloud",
)  # fmt: skip
"""Stock kernels, by the names that `elivepatch-server kernel add` knows."""

KERNELS = (*STOCK, *own_kernels.KERNELS)

MEMINFO = Livepatch("fs/proc/meminfo.c", '"VmallocChunk:   "', '"VMALLOCCHUNK:   "', "/proc/meminfo =~ VMALLOCCHUNK")
VLAN = Livepatch("net/8021q/vlanproc.c", '"VLAN Dev name', '"VLAN device  ', "/proc/net/vlan/config =~ VLAN device")
LOOP = Livepatch(
    "drivers/block/loop.c", 'sysfs_emit(buf, "%llu\\n", (unsigned long long)lo->lo_offset)',
    'sysfs_emit(buf, "at %llu\\n", (unsigned long long)lo->lo_offset)',
    "losetup /dev/loop0 /bin/busybox; cat /sys/block/loop0/loop/offset; losetup -d /dev/loop0 =~ at 0",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A server, the machine's own view of its cache, and a directory for files."""

    backend: LocalBackend
    client: ServerClient
    url: str
    token: Path
    directory: Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(KERNELS))
    parser.add_argument("--keep", action="store_true", help="keep the bases")
    parser.add_argument("--fresh", action="store_true", help="ask again for kernels that have an entry")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(KERNELS):
        parser.error(f"no kernel is called {min(unknown)}")
    settings = ServerSettings(cache_dir=Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch")))
    backend = LocalBackend(settings)
    facts = {"recipe": RECIPE, "builders": VERSIONS}
    rows: dict[str, Row] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    faults = []
    with (
        tempfile.TemporaryDirectory(prefix="elivepatch-kernels-") as top,
        serving(backend, Path(top), settings.cache_dir) as (url, token),
    ):
        client = ServerClient(ClientSettings(url=url, token=token.read_text().strip(), limit_s=7200))
        asking = Asking(backend=backend, client=client, url=url, token=token, directory=Path(top))
        for name in arguments.names or KERNELS:
            if rows.get(name, {}).get("made_by") == facts and not arguments.fresh:
                continue
            rows[name] = row = measured(asking, name, keep=arguments.keep) | {"made_by": facts}
            RESULT.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
            print(json.dumps({name: row}), flush=True)
            if row["refused"] or not row["builds"] == row["trials_passed"] == 2:
                faults.append(name)
    print(f"{len(rows)} kernels; not right: {', '.join(faults) or 'none'}")
    return 1 if faults else 0


def measured(asking: Asking, name: str, *, keep: bool) -> Row:
    """Return the entry of one kernel."""
    own = own_kernels.KERNELS.get(name)
    provider = "debian" if own is None else "host" if own.pushed else "source"
    row: Row = {"release": "", "provider": provider, "toolchain": "", "base_s": 0.0, "base_mib": 0,
                "fidelity_share": None, "builds": 0, "trials_passed": 0, "refused": ""}  # fmt: skip
    try:
        release = own_kernels.release_of(asking.backend, name) if own else resolve(name, asking.backend.archive)
        row["release"] = release
        job = ask_for(asking, name, release)
        if job is None:
            return row | {"refused": "kernel-present", "words": f"The base of {release} was there before."}
        report = JobFollower(shown).follow(asking.client, job)
        if report.problem is not None:
            return row | {"refused": report.problem.code, "words": report.problem.message}
        row["base_s"] = report.document["seconds"]["base"]
    except ElivepatchError as error:
        return row | {"refused": error.problem.code, "words": error.problem.message}
    base = asking.backend.base(release)
    row |= {"toolchain": base.toolchain, "base_mib": base.size_bytes >> 20}
    row["fidelity_share"] = base.fidelity["identical"] / base.fidelity["functions"]
    for wanted in (MEMINFO, VLAN if own is None else LOOP):
        built, passed, words = livepatch(asking, base, wanted)
        row["builds"] += built
        row["trials_passed"] += passed
        if words:
            row["words"] = words
    if not keep:
        asking.backend.bases.remove(release)
    return row


def ask_for(asking: Asking, name: str, release: Release) -> str | None:
    """Ask the server for a kernel; return the job that makes its base."""
    if name in STOCK:
        return asking.client.request_kernel(KernelRequest(release=release))
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=asking.backend.bases.directory.parent) as place:
        Path(place).chmod(0o755)
        return own_kernels.ask_for(name, asking.backend, asking.client, Path(place), shown)


def livepatch(asking: Asking, base: Base, wanted: Livepatch) -> tuple[bool, bool, str]:
    """Build and try a livepatch with the client; return whether it was built, whether it passed, and what was wrong."""
    text = (base.tree / wanted.path).read_text()
    lines = text.splitlines(keepends=True)
    changed = text.replace(wanted.old, wanted.new, 1).splitlines(keepends=True)
    difference = difflib.unified_diff(lines, changed, f"a/{wanted.path}", f"b/{wanted.path}")
    patch = asking.directory / "fix.patch"
    patch.write_text("".join(with_headings(difference, lines)))
    command: list[str | Path] = [
        BIN / "elivepatch", "build", patch, "--kernel", base.release, "-u", asking.url, "--token-file", asking.token,
        "-o", asking.directory / "out.ko", "--expect", wanted.expectation, "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    report = json.loads(done.stdout)
    problem = report.get("problem")
    passed = done.returncode == 0 and report["trial"]["outcome"] == "passed"
    return report.get("livepatch") is not None, passed, f"{wanted.path}: {problem['message']}" if problem else ""


def shown(event: Event) -> None:
    """Print the steps of a base."""
    if event.fraction in {None, 0.0, 1.0}:
        print(f"  {event.message}", file=sys.stderr, flush=True)


@contextmanager
def serving(backend: LocalBackend, place: Path, cache: Path) -> Iterator[tuple[str, Path]]:
    """Run a server on a free port of the loopback interface until the block ends; yield URL and token file."""
    state, log_file, settings = place / "state", place / "server.log", place / "server.toml"
    sources = own_kernels.declare_sources(backend, place / "sources.toml")
    settings.write_text(f'sources = "{sources}"\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command: Sequence[str | Path] = [
        BIN / "elivepatch-server",
        "serve",
        "--config",
        settings,
        "--state",
        state,
        "--cache",
        cache,
    ]
    with log_file.open("wb") as log:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 90
            token = state / "operator.token"
            while not token.exists() or b"server.listening" not in log_file.read_bytes():
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the server did not start:\n{log_file.read_text()}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", token
        finally:
            server.terminate()
            server.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
