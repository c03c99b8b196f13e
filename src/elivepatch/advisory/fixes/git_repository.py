# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes from a git repository of the kernel's stable branches: a local one read in place, or a URL fetched from.

A fix that the stable maintainers prepared by other commits names them the other way round: such a commit says
`Stable-dep-of:` and the mainline id of the fix (Documentation/process/stable-kernel-rules.rst). In a local repository,
which has the history between the kernel and its fix, these commits go before the fix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from elivepatch.advisory.exposure.version import KernelVersion
from elivepatch.advisory.fixes.fixes import PATCH_MAX, Fix, Wanted, order_of
from elivepatch.advisory.git import git, git_directory
from elivepatch.advisory.records.record import COMMIT, Findings, plain
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.series import SourcePatch

_UPSTREAM = re.compile(r"^(?:commit ([0-9a-f]{40}) upstream\.?|\[ Upstream commit ([0-9a-f]{40}) \])$", re.MULTILINE)
_HINTS = 10
_DEPENDENCIES_MAX = 31
_FETCH_S = 1800.0
_PROTOCOLS = {"https": "https", "ssh": "ssh", "file": "file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Commit:
    id: str
    parents: tuple[str, ...]
    made: datetime
    message: str

    @property
    def subject(self) -> str:
        return plain(self.message.partition("\n")[0], 200)

    @property
    def upstream(self) -> str:
        """The id of the mainline commit that this one is a backport of, empty where it names none."""
        found = _UPSTREAM.search(self.message)
        return (found[1] or found[2]) if found else ""


class GitFixes:
    """A local git repository, bare or not, that has the kernel's branch."""

    def __init__(self, top: Path, *, name: str = "") -> None:
        found = git_directory(top)
        if found is None:
            raise UsageError(
                "fix-source", f"{top} is not a git repository.", advice="Mend the policy: it names this directory."
            )
        self.name = name or str(top)
        self._repository = found

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix's commits and what they depend on; a commit that is not there means the mirror is behind."""
        if not wanted.commits:
            return None
        base = self._tag(wanted.kernel)
        chosen: dict[str, _Commit] = {}
        for one in wanted.commits:
            commit = self._commit(one.id)
            if commit is None:
                behind = f"It lacks {one.id[:12]}, which fixes {wanted.cve} in {one.version}: it is behind."
                findings.add("mirror-behind", self.name, behind)
                return None
            for needed in (*self._dependencies(commit, base), commit):
                chosen.setdefault(needed.id, needed)
        patches = []
        for commit in chosen.values():
            patch = self._patch(commit)
            if isinstance(patch, str):
                findings.add("bad-fix", commit.id, f"{patch} The fix of {wanted.cve} is left out.")
                return None
            patches.append(patch)
        return Fix(
            cve=wanted.cve,
            patches=tuple(patches),
            origin=self.name,
            dated=max(commit.made for commit in chosen.values()),
            order=order_of(wanted),
            hints=self._hints(list(chosen.values()), base),
        )

    def _tag(self, kernel: KernelVersion) -> str:
        """Return the commit of the kernel's release, empty where the repository does not know it."""
        done = git(self._repository, "rev-parse", "--verify", "--quiet", f"refs/tags/v{kernel}^{{commit}}")
        commit = done.text.strip()
        return commit if done.ok and COMMIT.fullmatch(commit) else ""

    def _commit(self, name: str) -> _Commit | None:
        done = git(self._repository, "cat-file", "--batch", stdin=f"{name}\n".encode())
        header, _, rest = done.check("reading a commit").output.partition(b"\n")
        fields = header.split()
        if len(fields) != 3 or fields[1] != b"commit":
            return None
        head, _, message = rest[: int(fields[2])].partition(b"\n\n")
        lines = head.decode(errors="replace").splitlines()
        made = next((line.rsplit(" ", 2)[1] for line in lines if line.startswith("committer ")), "0")
        return _Commit(
            id=name,
            parents=tuple(line.split()[1] for line in lines if line.startswith("parent ")),
            made=datetime.fromtimestamp(min(int(made), 2**33), tz=UTC) if made.isdecimal() else datetime.now(tz=UTC),
            message=message.decode(errors="replace"),
        )

    def _dependencies(self, commit: _Commit, base: str) -> Sequence[_Commit]:
        """Return the commits between the kernel and the fix that were taken for the fix's sake, in their order."""
        if not base or not commit.upstream:
            return []
        said = f"Stable-dep-of: {commit.upstream[:12]}"
        arguments = ("--reverse", "--no-merges", "--fixed-strings", f"--grep={said}", f"{base}..{commit.id}")
        listed = git(self._repository, "rev-list", *arguments).check("looking for what a fix depends on").text.split()
        found = [self._commit(name) for name in listed[:_DEPENDENCIES_MAX] if name != commit.id]
        return [one for one in found if one is not None]

    def _patch(self, commit: _Commit) -> SourcePatch | str:
        """Return the commit's change as a source patch, or why it cannot be one."""
        if len(commit.parents) != 1:
            # Without its parent, a commit of a shallow repository would read as adding the whole kernel.
            return "It is a merge, or its parent is not there."
        form = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--full-index", "--no-indent-heuristic")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
        between = (commit.parents[0], commit.id)
        done = git(self._repository, "diff-tree", "-p", "-r", "--unified=3", *form, *prefixes, *between)
        if not done.ok:
            return "Git cannot make its diff."
        if not done.output.strip() or len(done.output) > PATCH_MAX:
            return f"Its diff is empty or larger than {PATCH_MAX // 2**20} MiB."
        name = f"{commit.id[:12]}.patch"
        return SourcePatch(name, f"# {commit.id} {commit.subject}\n".encode() + done.output)

    def _hints(self, commits: Sequence[_Commit], base: str) -> tuple[str, ...]:
        """Return what changed the same files between the kernel and the fix: one of these may be needed before it."""
        if not base or not commits:
            return ()
        first = commits[0]
        files = git(self._repository, "diff-tree", "--name-only", "-r", "--no-commit-id", first.id).text.split("\n")
        paths = [file for file in files if file][:20]
        arguments = (f"--max-count={_HINTS}", "--no-merges", f"{base}..{first.id}^", "--", *paths)
        listed = git(self._repository, "rev-list", *arguments).text.split() if paths else []
        found = [self._commit(name) for name in listed]
        return tuple(f"{one.id[:12]} {one.subject}" for one in found if one is not None)


class FetchedGitFixes:
    """A git repository at a URL: each wanted commit is fetched with its parent, into a repository of our own."""

    def __init__(self, url: str, cache: Path) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in _PROTOCOLS or url.startswith("-"):
            raise UsageError(
                "fix-source",
                f"{url[:120]!r} is not the URL of a git repository that is fetched from.",
                advice="Give one that begins with https://, ssh:// or file://, or the directory of a local one.",
            )
        self.name = url
        self._protocol = _PROTOCOLS[scheme]
        self._cache = cache

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix's commits, fetched where they are not there; raises EnvironmentFault where that fails."""
        if not wanted.commits:
            return None
        if git_directory(self._cache) is None:
            self._make()
        local = GitFixes(self._cache, name=self.name)
        missing = [commit.id for commit in wanted.commits if not self._complete(commit.id)]
        if missing:
            arguments = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--depth=2", "--quiet")
            done = git(
                self._cache, "fetch", *arguments, self.name, *missing, protocol=self._protocol, timeout_s=_FETCH_S
            )
            if not done.ok and b"not our ref" not in done.log:
                raise EnvironmentFault(
                    "fix-source",
                    f"{self.name} cannot be fetched from.",
                    advice="Try `git ls-remote` by hand; a local mirror does not depend on the network.",
                    excerpt=done.tail(5),
                )
        return local.find(wanted, findings)

    def _make(self) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        # An empty template: no hooks, nothing of the system's.
        git(self._cache, "init", "--bare", "--quiet", "--template=").check("making a repository")

    def _complete(self, name: str) -> bool:
        done = git(self._cache, "rev-list", "--parents", "--max-count=1", name)
        return done.ok and len(done.text.split()) == 2
