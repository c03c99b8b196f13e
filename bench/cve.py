# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the index of a full CVE list: time to make it, size, and time of a host's queries.

usage: cve.py SAMPLE [--records N] [--sources FILE]

SAMPLE is an archive with some records of the kernel's CVE list; the program makes a list of N (15,000) from them, each
record with its own id and commits. FILE is the output of `elivepatch cve update --kernel RELEASE -o FILE`; without it
the queries are about the vanilla version 6.1.176. Writes bench/cve.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess  # noqa: TID251 - the benchmark plays the user, who starts programs
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

RESULT = Path(__file__).with_name("cve.json")
PROGRAM = Path(sys.executable).parent / "elivepatch"
COMMIT = re.compile(rb"\b[0-9a-f]{40}\b")
CHANGED = 100
LIMITS = {"index_s": 30.0, "list_s": 1.0, "summary_s": 1.0, "show_s": 1.0, "index_bytes": 4 * 1024 * 1024}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the whole CVE list.")
    parser.add_argument("sample", type=Path)
    parser.add_argument("--records", type=int, default=15_000)
    parser.add_argument("--sources", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="elivepatch-cve-") as top:
        figures = measure(Path(top), arguments.sample, arguments.records, arguments.sources)
    missed = [name for name, limit in LIMITS.items() if figures[name] > limit]
    RESULT.write_text(json.dumps(figures | {"limits": LIMITS, "missed": missed}, indent=1) + "\n")
    for name, figure in figures.items():
        print(f"{name:<20} {figure:>12}" + (f"   (limit {LIMITS[name]})" if name in LIMITS else ""))
    return 1 if missed else 0


def measure(top: Path, sample: Path, count: int, sources: Path | None) -> dict[str, float]:
    files, index = top / "list", top / "cve.idx"
    names = make_list(sample, files, count)
    git(files, "init", "-q")
    commit(files)
    archive = top / "list.tar.xz"
    with tarfile.open(archive, "w:xz", preset=1) as packed:
        packed.add(files / "cve", "cve")
    kernel = ["--sources", sources] if sources else ["--kernel", "6.1.176"]
    ask = ["--records", index, *kernel]
    figures = {
        "records": len(names),
        "index_s": elivepatch("index", "--records", files, "-o", index),
        "index_bytes": index.stat().st_size,
        "index_archive_s": elivepatch("index", "--records", archive, "-o", top / "archive.idx"),
        "index_directory_s": elivepatch("index", "--records", files / "cve", "-o", top / "directory.idx"),
        "index_again_s": elivepatch("index", "--records", files, "-o", index),
        "list_s": median(lambda: elivepatch("list", *ask, "--json")),
        "summary_s": median(lambda: elivepatch("summary", *ask, "--json")),
        "show_s": median(lambda: elivepatch("show", names[0], *ask, "--json")),
    }
    for path in sorted(files.glob("cve/published/*/*.dyad"))[:CHANGED]:
        path.write_text(path.read_text() + "6.1.1:" + "a" * 40 + ":0:0\n")
    commit(files)
    return figures | {"index_update_s": elivepatch("index", "--records", files, "-o", index)}


def make_list(sample: Path, top: Path, count: int) -> list[str]:
    """Write `count` records derived from the sample and return their ids."""
    read: dict[str, dict[str, bytes]] = {}
    with tarfile.open(sample) as archive:
        for member in archive:
            found = re.fullmatch(r"(?:.*/)?published/\d{4}/(CVE-[0-9-]+)\.(json|dyad)", member.name)
            file = archive.extractfile(member) if found and member.isfile() else None
            if found and file:
                read.setdefault(found[1], {})[found[2]] = file.read()
    records = [(name, parts) for name, parts in sorted(read.items()) if len(parts) == 2]
    names = []
    for number in range(count):
        old, parts = records[number % len(records)]
        # Copies of a record lie far apart: neighbours that look alike would compress better than real records.
        copy = number // len(records)
        name = f"{old[:9]}{int(old[9:]) + 100_000 * copy}" if copy else old
        directory = top / "cve/published" / name[4:8]
        directory.mkdir(parents=True, exist_ok=True)
        for suffix, content in parts.items():
            changed = COMMIT.sub(partial(_renamed_match, copy), content)
            (directory / f"{name}.{suffix}").write_bytes(changed.replace(old.encode(), name.encode()))
        names.append(name)
    return names


def _renamed_match(copy: int, found: re.Match[bytes]) -> bytes:
    return renamed(found[0], copy)


def renamed(commit_id: bytes, copy: int) -> bytes:
    if not copy or not commit_id.strip(b"0"):
        return commit_id
    return hashlib.sha1(commit_id + bytes([copy]), usedforsecurity=False).hexdigest().encode()


def git(repository: Path, *words: str) -> None:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=repository, check=True, stdout=subprocess.DEVNULL)


def commit(repository: Path) -> None:
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "records")


def elivepatch(*words: object) -> float:
    """Run `elivepatch cve` and return the seconds it took, including the start of the program."""
    started = time.monotonic()
    subprocess.run([PROGRAM, "cve", *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return round(time.monotonic() - started, 2)


def median(measured: Callable[[], float], runs: int = 3) -> float:
    return sorted(measured() for _ in range(runs))[runs // 2]


if __name__ == "__main__":
    sys.exit(main())
