# SPDX-License-Identifier: GPL-2.0-or-later
"""Commits of one git repository and their diffs, each read once and many by one git process.

A host with hundreds of open CVEs needs hundreds of commits. One process each would take minutes on a full kernel
repository, because git opens its pack files again each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from elivepatch.advisory.exposure.version import KernelVersion
from elivepatch.advisory.git import git
from elivepatch.advisory.records.record import COMMIT, plain
from elivepatch.model.errors import EnvironmentFault

_UPSTREAM = re.compile(r"^(?:commit ([0-9a-f]{40}) upstream\.?|\[ Upstream commit ([0-9a-f]{40}) \])$", re.MULTILINE)
_DEPENDENCY = re.compile(r"^\s*Stable-dep-of: ([0-9a-f]{12})", re.MULTILINE)
_Item = TypeVar("_Item")
_COMMITS_AT_ONCE = 1000
_DIFFS_AT_ONCE = 200  # of at most PATCH_MAX each if they are to be used; typical fixes have 3 KiB
_DIFF_FORM = (
    "--unified=3", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--full-index",
    "--no-indent-heuristic", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit: full id, ids of its parents, committer's time, message."""

    id: str
    parents: tuple[str, ...]
    made: datetime
    message: str

    @property
    def subject(self) -> str:
        """The first line of the message, safe to print."""
        return plain(self.message.partition("\n")[0], 200)

    @property
    def upstream(self) -> str:
        """The id of the mainline commit that this one is a backport of, empty if it names none."""
        found = _UPSTREAM.search(self.message)
        return (found[1] or found[2]) if found else ""

    @property
    def prepares(self) -> tuple[str, ...]:
        """The first 12 digits of the mainline fixes that this commit was taken for (`Stable-dep-of:`)."""
        return tuple(_DEPENDENCY.findall(self.message))


class CommitReader:
    """Reads commits, diffs and release tags of one repository and keeps them; it never changes the repository."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._commits: dict[str, Commit | None] = {}
        self._diffs: dict[str, bytes] = {}
        self._releases: dict[str, str] = {}

    def load(self, ids: Iterable[str]) -> None:
        """Read those of the commits that were not read before; raises EnvironmentFault if git fails."""
        for names in _chunks((name for name in dict.fromkeys(ids) if name not in self._commits), _COMMITS_AT_ONCE):
            asked = "".join(f"{name}\n" for name in names).encode()
            done = git(self._repository, "cat-file", "--batch", stdin=asked).check("reading commits")
            if b"error: " in done.log:
                # git calls a damaged object missing, and ends with status 0.
                raise EnvironmentFault(
                    "program-failed",
                    f"The repository {self._repository} is damaged.",
                    advice="Run `git fsck` in it, and clone it again.",
                    excerpt=done.tail(5),
                )
            self._commits |= dict(_parsed(done.output, names))

    def commit(self, name: str) -> Commit | None:
        """Return a commit by its full id, None if the repository has none of that id."""
        self.load([name])
        return self._commits[name]

    def load_diffs(self, commits: Iterable[Commit]) -> None:
        """Read the diffs of commits with exactly one parent; one that git cannot make is left for `diff` to report."""
        wanted = (one for one in commits if len(one.parents) == 1 and one.id not in self._diffs)
        for some in _chunks(wanted, _DIFFS_AT_ONCE):
            asked = "".join(f"{one.id} {one.parents[0]}\n" for one in some).encode()
            done = git(self._repository, "diff-tree", "--stdin", "-p", "-r", *_DIFF_FORM, stdin=asked)
            if done.ok:
                self._diffs |= {one.id: b"" for one in some} | dict(_split_diffs(done.output, {one.id for one in some}))

    def diff(self, commit: Commit) -> bytes | None:
        """Return a commit's diff against its one parent, None if git cannot make it."""
        if commit.id not in self._diffs:
            done = git(self._repository, "diff-tree", "-p", "-r", *_DIFF_FORM, commit.parents[0], commit.id)
            if not done.ok:
                return None
            self._diffs[commit.id] = done.output
        return self._diffs[commit.id]

    def release(self, kernel: KernelVersion) -> str:
        """Return the commit of a release's tag, empty if the repository does not have the tag."""
        tag = f"refs/tags/v{kernel}"
        if tag not in self._releases:
            done = git(self._repository, "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}")
            commit = done.text.strip()
            self._releases[tag] = commit if done.ok and COMMIT.fullmatch(commit) else ""
        return self._releases[tag]

    def listed(self, *arguments: str, doing: str) -> list[str]:
        """Return the ids that `git rev-list` prints; raises EnvironmentFault if it fails."""
        return git(self._repository, "rev-list", *arguments).check(doing).text.split()

    def changed_files(self, commit: Commit) -> list[str]:
        """Return the paths that a commit changes, none if git cannot list them."""
        done = git(self._repository, "diff-tree", "--name-only", "-r", "--no-commit-id", commit.id)
        return [file for file in done.text.split("\n") if file]


def _chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    pending = iter(items)
    while some := list(islice(pending, size)):
        yield some


def _parsed(output: bytes, names: Sequence[str]) -> Iterator[tuple[str, Commit | None]]:
    """Read `git cat-file --batch`: `<id> <type> <size>`, a line feed, the content, a line feed; or `<name> missing`."""
    at = 0
    for name in names:
        end = output.find(b"\n", at)
        fields = output[at : max(end, at)].split()
        if len(fields) != 3 or not fields[2].isdigit():
            yield name, None
            at = end + 1
            continue
        size = int(fields[2])
        content = output[end + 1 : end + 1 + size]
        yield name, _commit(name, content) if fields[1] == b"commit" else None
        at = end + 1 + size + 1


def _commit(name: str, content: bytes) -> Commit:
    head, _, message = content.partition(b"\n\n")
    lines = head.decode(errors="replace").splitlines()
    made = next((line.rsplit(" ", 2)[1] for line in lines if line.startswith("committer ")), "0")
    return Commit(
        id=name,
        parents=tuple(line.split()[1] for line in lines if line.startswith("parent ")),
        made=datetime.fromtimestamp(min(int(made), 2**33), tz=UTC) if made.isdecimal() else datetime.now(tz=UTC),
        message=message.decode(errors="replace"),
    )


def _split_diffs(output: bytes, ids: set[str]) -> Iterator[tuple[str, bytes]]:
    """Split the output of `git diff-tree --stdin -p`: a line with the commit's id goes before each diff.

    No line of a diff can be such an id alone: each begins with a keyword, a space, a sign or a backslash.
    """
    parts = re.split(rb"^([0-9a-f]{40})\n", output, flags=re.MULTILINE)
    for name, diff in zip(parts[1::2], parts[2::2], strict=True):
        if (text := name.decode()) in ids:
            yield text, diff
