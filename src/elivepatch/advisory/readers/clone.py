# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a git clone of records, from its HEAD: with a working tree or bare, even during a pull."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from elivepatch.advisory.git import git
from elivepatch.advisory.readers.archive import RECORD_FILE_MAX
from elivepatch.advisory.readers.directory import Listed
from elivepatch.advisory.records.record import COMMIT, Findings
from elivepatch.model.errors import EnvironmentFault

_BATCH_BYTES = 16 * 1024 * 1024  # read by one run of git, and so in memory at a time


def head(repository: Path) -> str:
    """Return the id of the commit that HEAD names; raises EnvironmentFault if git cannot read it."""
    commit = git(repository, "rev-parse", "--verify", "HEAD^{commit}").check("reading the clone's HEAD").text.strip()
    if not COMMIT.fullmatch(commit):
        raise _odd_answer("rev-parse")
    return commit


def committed(repository: Path, commit: str) -> float:
    """Return when a commit was made, in seconds since 1970, 0 if git cannot show it."""
    stamp = git(repository, "rev-list", "--max-count=1", "--timestamp", commit).text.split(" ")[0]
    return float(stamp) if stamp.isdecimal() else 0


def list_clone(repository: Path, commit: str, findings: Findings, *, wanted: Callable[[str], bool]) -> Iterator[Listed]:
    """Give every wanted file of `commit`; its mark is its blob id. Links of a wanted name go to `findings`."""
    listing = git(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", commit).check("listing the clone's files")
    for line in listing.output.split(b"\0")[:-1]:
        about, _, name = line.partition(b"\t")
        path = name.decode(errors="replace")
        if not wanted(path):
            continue
        mode, kind, blob, size = about.decode(errors="replace").split()
        if kind != "blob" or mode == "120000" or not COMMIT.fullmatch(blob):
            findings.add("not-a-file", path, "It is a link or another repository.")
        elif not size.isdigit():
            findings.add("unreadable", path, "The clone lacks its content.")
        elif int(size) > RECORD_FILE_MAX:
            findings.add("too-large", path, f"It is larger than {RECORD_FILE_MAX // 1024} KiB.")
        else:
            yield Listed(path=path, size=int(size), mark=blob)


def read_clone(repository: Path, files: Sequence[Listed]) -> Iterator[tuple[str, bytes]]:
    """Give path and content of each file; raises EnvironmentFault if git cannot read one."""
    for batch in _batches(files):
        asked = "".join(f"{file.mark}\n" for file in batch).encode()
        answer = git(repository, "cat-file", "--batch", stdin=asked).check("reading the clone's files").output
        at = 0
        for file in batch:
            # gitformat: `<id> blob <size>`, a line feed, the content, a line feed
            end = answer.find(b"\n", at)
            fields = answer[at:end].split() if end >= 0 else []
            if len(fields) != 3 or not fields[2].isdigit():
                raise _odd_answer("cat-file")
            size = int(fields[2])
            yield file.path, answer[end + 1 : end + 1 + size]
            at = end + 1 + size + 1


def _batches(files: Sequence[Listed]) -> Iterator[list[Listed]]:
    batch: list[Listed] = []
    size = 0
    for file in files:
        if batch and size + file.size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _odd_answer(command: str) -> EnvironmentFault:
    return EnvironmentFault(
        "cve-clone",
        f"The answer of git {command} cannot be understood.",
        advice="Run `git fsck` in the clone; a partial clone has to be completed first.",
    )
