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
import json
import os
import subprocess  # noqa: TID251 - the client runs as a user's does
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from edits import Edit, patch_of
from real_server import BIN, Server

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
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ClientSettings, ServerSettings

HERE = Path(__file__).parent
RESULT = HERE / "kernels.json"


STOCK = (
    "5.10.0-43-cloud-amd64", "debian-12-cloud", "debian-12", "6.1.0-50-rt-amd64", "debian-12-backports-cloud",
    "debian-13-cloud", "debian-13", "6.12.107+deb13-rt-amd64", "debian-13-backports-cloud", "debian-13-backports",
    "debian-sid-cloud",
)  # fmt: skip
"""Stock kernels, by the names that `elivepatch-server kernel add` knows.

A release stands where the files of a newer one are gone: for -rt, the newest whose source package the mirror still had.
"""

KERNELS = (*STOCK, *own_kernels.KERNELS)

VLAN = Edit("net/8021q/vlanproc.c", '"VLAN Dev name', '"VLAN device  ')
LOOP = Edit(
    "drivers/block/loop.c",
    '"%llu\\n", (unsigned long long)lo->lo_offset',
    '"at %llu\\n", (unsigned long long)lo->lo_offset',
)
SHOWN = {
    own_kernels.MEMINFO: "/proc/meminfo =~ VMALLOCCHUNK",
    VLAN: "/proc/net/vlan/config =~ VLAN device",
    LOOP: "losetup /dev/loop0 /bin/busybox; cat /sys/block/loop0/loop/offset; losetup -d /dev/loop0 =~ at 0",
}
"""Expectations that show each change in the guest of its trial."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A server, a client of it, the machine's own view of the server's cache, and a directory for files."""

    backend: LocalBackend
    server: Server
    client: ServerClient
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
    rows: dict[str, Row] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory(prefix="elivepatch-kernels-") as top:
        configured = Path(top) / "server.toml"
        sources = own_kernels.declare_sources(backend, Path(top) / "sources.toml")
        packages = Path(top) / "packages"
        packages.mkdir()
        Path(top).chmod(0o755)
        configured.write_text(f'sources = "{sources}"\npackages = "{packages}"\n')
        server = Server(Path(top) / "state", settings.cache_dir, arguments=("--config", str(configured)))
        server.start()
        client = ServerClient(ClientSettings(url=server.url, token=server.token, limit_s=7200))
        asking = Asking(backend=backend, server=server, client=client, directory=Path(top))
        try:
            faults = each(asking, arguments.names or KERNELS, rows, fresh=arguments.fresh, keep=arguments.keep)
        finally:
            server.end()
    print(f"{len(rows)} kernels; not right: {', '.join(faults) or 'none'}")
    return 1 if faults else 0


def each(asking: Asking, names: Sequence[str], rows: dict[str, Row], *, fresh: bool, keep: bool) -> list[str]:
    """Measure kernels and write their entries to the file; return the names of those that are not right."""
    faults = []
    facts = {"recipe": RECIPE, "builders": VERSIONS}
    for name in names:
        if rows.get(name, {}).get("made_by") == facts and not fresh:
            continue
        rows[name] = row = measured(asking, name, keep=keep) | {"made_by": facts}
        RESULT.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
        print(json.dumps({name: row}), flush=True)
        if row["refused"] or not row["builds"] == row["trials_passed"] == 2:
            faults.append(name)
    return faults


def measured(asking: Asking, name: str, *, keep: bool) -> Row:
    """Return the entry of one kernel."""
    own = own_kernels.KERNELS.get(name)
    provider = own.provider if own is not None else "debian"
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
    for wanted in (own_kernels.MEMINFO, VLAN if own is None else LOOP):
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
        return own_kernels.ask_for(
            name, asking.backend, asking.server, asking.client, Path(place), asking.directory / "packages", shown
        )


def livepatch(asking: Asking, base: Base, wanted: Edit) -> tuple[bool, bool, str]:
    """Build and try a livepatch with the client; return whether it was built, whether it passed, and what was wrong."""
    patch = asking.directory / "fix.patch"
    patch.write_text(patch_of(base.tree, wanted))
    server = asking.server
    command: list[str | Path] = [
        BIN / "elivepatch", "build", patch, "--kernel", base.release, "-u", server.url,
        "--token-file", server.token_file, "-o", asking.directory / "out.ko", "--expect", SHOWN[wanted], "--json",
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


if __name__ == "__main__":
    sys.exit(main())
