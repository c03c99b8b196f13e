# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the main job as a user would: start a server, build livepatches, show in a VM that they work."""

from __future__ import annotations

import json
import os
import socket
import subprocess  # noqa: TID251 - the demo plays the user, who starts programs
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
KERNELS = ("6.1.0-50-cloud-amd64", "debian-13-cloud")
PATCHES = {
    "vmlinux-meminfo.patch": ("/proc/meminfo", "VMALLOCCHUNK"),
    "module-8021q.patch": ("/proc/net/vlan/config", "VLAN id"),
}
TOOLCHAINS = ("debian-13", "debian-12")


def main() -> int:
    cache = os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch")
    output = HERE / "output"
    output.mkdir(exist_ok=True)
    seconds: dict[str, float] = {}
    for name in TOOLCHAINS:
        made, seconds[name] = server_json("toolchain", "add", name, cache=cache)
        print(f"toolchain {name}: {made['comment']}", flush=True)
    bases = []
    for name in KERNELS:
        base, taken = server_json("kernel", "add", name, cache=cache)
        bases.append((base, taken))
        print(f"kernel {base['release']}: build-id {base['build_id'][:12]}", flush=True)
    entries: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="elivepatch-demo-") as state,
        serving(Path(state), cache) as (url, token),
    ):
        for base, base_s in bases:
            for patch, (file, pattern) in PATCHES.items():
                toolchain_s = round(seconds[base["toolchain"]], 1)
                entry = build(url, token, base, patch, file, pattern, output)
                entry["seconds"] |= {"toolchain": toolchain_s, "base": round(base_s, 1)}
                entries.append(entry)
                (HERE / "report.json").write_text(json.dumps(entries, indent=2))
    show(entries)
    return 0


def server_json(*words: str, cache: str) -> tuple[Any, float]:
    """Run an `elivepatch-server` command with its progress on the terminal; return its JSON and the seconds."""
    started = time.monotonic()
    command: list[str | Path] = [BIN / "elivepatch-server", *words, "--json", "--cache", cache]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        print(done.stdout.decode(), file=sys.stderr)
        sys.exit(done.returncode)
    return json.loads(done.stdout), time.monotonic() - started


@contextmanager
def serving(state: Path, cache: str) -> Iterator[tuple[str, Path]]:
    """Run a server on a free port of the loopback interface until the block ends; yield URL and token file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = HERE / "output/server.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as file:
        command: list[str | Path] = [BIN / "elivepatch-server", "serve", "--state", state, "--cache", cache]
        server = subprocess.Popen([*command, "--port", str(port)], stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            if server.poll() is not None:
                sys.exit(f"the server ended:\n{log.read_text()}")
            try:
                urllib.request.urlopen(f"{url}/healthz", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield url, state / "operator.token"
    finally:
        server.terminate()
        server.wait(timeout=30)


def build(
    url: str, token: Path, base: dict[str, Any], patch: str, file: str, pattern: str, output: Path
) -> dict[str, Any]:
    """Build one livepatch with the client and return its entry in the report."""
    module = output / f"{base['release']}-{patch.removesuffix('.patch')}.ko"
    print(f"\n{patch} for {base['release']}", flush=True)
    command = [
        BIN / "elivepatch", "build", HERE / "patches" / patch, "--kernel", base["release"], "-u", url,
        "--token-file", token, "-o", module, "--expect", f"{file} =~ {pattern}", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        print(done.stdout.decode(), file=sys.stderr)
        sys.exit(done.returncode)
    report = json.loads(done.stdout)
    trial = report["trial"]
    (seen,) = trial["observations"]
    words = {phase: line_of(seen[phase], before=seen["before"], during=seen["during"]) for phase in PHASES}
    steps = {step: value for step, value in report["seconds"].items() if step != "trial"}
    return {
        "kernel": report["kernel"],
        "build_id": report["build_id"],
        "patch": patch,
        "functions": [f"{one['object']}:{one['name']}" for one in report["functions"]],
        "module_sha256": report["module_sha256"],
        "seconds": {"build": round(sum(steps.values()), 2), "trial": round(report["seconds"]["trial"], 2)},
        "trial": words
        | {
            "transition_s": trial["transition_s"],
            "reloaded": trial["reloaded"],
            "clean_log": trial["clean_log"],
        },
    }


PHASES = ("before", "during", "after")


def line_of(text: str, *, before: str, during: str) -> str:
    """Return the line of `text` where the guest's output before and during the livepatch first differs in words."""
    pairs = zip(before.splitlines(), during.splitlines(), strict=False)
    # Numbers such as the uptime change without a livepatch; words do not.
    words = [("".join(c for c in a if not c.isdigit()).split(), "".join(c for c in b if not c.isdigit()).split())
             for a, b in pairs]  # fmt: skip
    number = next((index for index, (a, b) in enumerate(words) if a != b), 0)
    lines = text.splitlines()
    return " ".join(lines[number].split()) if number < len(lines) else ""


def show(entries: list[dict[str, Any]]) -> None:
    """Print the table of livepatches, with the seconds each took and the output of the guest."""
    header = ("kernel", "patch", "functions", "toolchain s", "base s", "build s", "trial s", "before", "while", "after")
    rows = [
        (one["kernel"], one["patch"].removesuffix(".patch"), ", ".join(one["functions"]),
         *(f"{one['seconds'][step]:.1f}" for step in ("toolchain", "base", "build", "trial")),
         *(one["trial"][phase] for phase in PHASES))
        for one in entries
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    print()
    for row in (header, tuple("-" * width for width in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
