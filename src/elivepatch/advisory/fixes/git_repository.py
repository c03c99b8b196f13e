# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes from a git repository of the kernel's stable branches: a local one read in place, or a URL fetched from.

The stable maintainers sometimes prepare a fix by other commits. Such a commit names the fix in a line `Stable-dep-of:`
with the fix's mainline id (Documentation/process/stable-kernel-rules.rst). In a local repository, which has the history
between the kernel and its fix, these commits go before the fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from elivepatch.advisory.fixes.commits import Commit, CommitReader
from elivepatch.advisory.fixes.fixes import PATCH_MAX, Fix, Wanted, order_of
from elivepatch.advisory.git import git, git_directory
from elivepatch.advisory.records.record import Findings
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.series import SourcePatch

_HINTS = 10
_HINT_FILES = 20
_DEPENDENCIES_MAX = 31
_FETCH_S = 1800.0
_FETCHED_AT_ONCE = 100
_PROTOCOLS = {"https": "https", "ssh": "ssh", "file": "file"}


class GitFixes:
    """A local git repository, bare or not, that has the kernel's branch."""

    doubt = ""

    def __init__(self, top: Path, *, name: str = "") -> None:
        found = git_directory(top)
        if found is None:
            raise UsageError(
                "fix-source", f"{top} is not a git repository.", advice="Fix the policy file: it names this directory."
            )
        self.name = name or str(top)
        self._reader = CommitReader(found)
        self._prepared: dict[str, bool] = {}

    def concerns(self, wanted: Wanted) -> bool:
        """Return whether there are commits to ask for."""
        return bool(wanted.commits)

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Read the commits and diffs of several fixes by a few git processes; raises EnvironmentFault if git fails."""
        new = [one for one in wanted if any(commit.id not in self._prepared for commit in one.commits)]
        self._reader.load(commit.id for one in new for commit in one.commits)
        found = {
            one.cve: [commit for wish in one.commits if (commit := self._reader.commit(wish.id)) is not None]
            for one in new
        }
        self._find_preparations(new, found)
        self._reader.load_diffs(commit for commits in found.values() for commit in commits)

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix's commits after those they depend on; a missing commit means that the mirror is behind."""
        if not wanted.commits:
            return None
        self.prepare([wanted])
        base = self._reader.release(wanted.kernel)
        chosen: dict[str, Commit] = {}
        for one in wanted.commits:
            commit = self._reader.commit(one.id)
            if commit is None:
                behind = (
                    f"It lacks {one.id[:12]}, which fixes {wanted.cve} in {one.version}: it is behind, or a repository "
                    "of something else."
                )
                findings.add("mirror-behind", self.name, behind)
                return None
            before = self._dependencies(commit, base)
            if len(before) > _DEPENDENCIES_MAX:
                many = f"More than {_DEPENDENCIES_MAX} commits prepare it. The fix of {wanted.cve} is left out."
                findings.add("bad-fix", commit.id, many)
                return None
            for needed in (*before, commit):
                chosen.setdefault(needed.id, needed)
        patches = []
        for commit in chosen.values():
            patch = self._patch(commit)
            if isinstance(patch, str):
                findings.add("bad-fix", commit.id, f"{patch} The fix of {wanted.cve} is left out.")
                return None
            patches.append(patch)
        first = next(iter(chosen.values()))
        return Fix(
            cve=wanted.cve,
            patches=tuple(patches),
            origin=self.name,
            dated=max(commit.made for commit in chosen.values()),
            order=order_of(wanted),
            find_hints=lambda: self._hints(first, base),
        )

    def _find_preparations(self, wanted: Sequence[Wanted], found: dict[str, list[Commit]]) -> None:
        """Note for each commit if any commit since the kernel's release was taken for its sake.

        One `rev-list` answers for all of them, so that `_dependencies` runs git only for the few that have one.
        """
        by_base: dict[str, list[Commit]] = {}
        for one in wanted:
            base = self._reader.release(one.kernel)
            by_base.setdefault(base, []).extend(found[one.cve])
        for base, commits in by_base.items():
            prepared: set[str] = set()
            if base and commits:
                tips = dict.fromkeys(commit.id for commit in commits)
                arguments = ("--no-merges", "--fixed-strings", "--grep=Stable-dep-of: ", *tips, f"^{base}")
                names = self._reader.listed(*arguments, doing="looking for what fixes depend on")
                self._reader.load(names)
                read = (self._reader.commit(name) for name in names)
                prepared = {name for commit in read if commit is not None for name in commit.prepares}
            for commit in commits:
                self._prepared[commit.id] = commit.upstream[:12] in prepared

    def _dependencies(self, commit: Commit, base: str) -> Sequence[Commit]:
        """Return the commits between the kernel and the fix that were taken for the fix's sake, in their order.

        Of too many, one more than are used is returned.
        """
        if not base or not commit.upstream or not self._prepared.get(commit.id, True):
            return []
        trailer = f"Stable-dep-of: {commit.upstream[:12]}"
        arguments = ("--reverse", "--no-merges", "--fixed-strings", f"--grep={trailer}", f"{base}..{commit.id}")
        names = self._reader.listed(*arguments, doing="looking for what a fix depends on")
        names = [name for name in names if name != commit.id][: _DEPENDENCIES_MAX + 1]
        self._reader.load(names)
        found = [self._reader.commit(name) for name in names]
        return [one for one in found if one is not None]

    def _patch(self, commit: Commit) -> SourcePatch | str:
        """Return the commit's change as a source patch, or why it cannot be one."""
        if len(commit.parents) != 1:
            # Without its parent, a commit of a shallow repository would read as adding the whole kernel.
            return "It is a merge, or its parent is missing."
        diff = self._reader.diff(commit)
        if diff is None:
            return "Git cannot make its diff."
        if not diff.strip() or len(diff) > PATCH_MAX:
            return f"Its diff is empty or larger than {PATCH_MAX // 2**20} MiB."
        return SourcePatch(f"{commit.id[:12]}.patch", f"# {commit.id} {commit.subject}\n".encode() + diff)

    def _hints(self, first: Commit, base: str) -> tuple[str, ...]:
        """Return what changed the same files between the kernel and the fix: one of these may be needed before it."""
        paths = self._reader.changed_files(first)[:_HINT_FILES] if base else []
        if not paths:
            return ()
        arguments = (f"--max-count={_HINTS}", "--no-merges", f"{base}..{first.id}^", "--", *paths)
        names = self._reader.listed(*arguments, doing="looking for what changed the same files")
        self._reader.load(names)
        found = [self._reader.commit(name) for name in names]
        return tuple(f"{one.id[:12]} {one.subject}" for one in found if one is not None)


class FetchedGitFixes:
    """A git repository at a URL: each wanted commit is fetched with its parent, into a repository of our own."""

    doubt = ""

    def __init__(self, url: str, cache: Path) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in _PROTOCOLS or url.startswith("-"):
            raise UsageError(
                "fix-source",
                f"{url[:120]!r} is not the URL of a git repository that can be fetched from.",
                advice="Give one that begins with https://, ssh:// or file://, or the directory of a local one.",
            )
        self.name = url
        self._protocol = _PROTOCOLS[scheme]
        self._cache = cache
        self._asked: set[str] = set()
        self._local: GitFixes | None = None

    def concerns(self, wanted: Wanted) -> bool:
        """Return whether there are commits to ask for."""
        return bool(wanted.commits)

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Fetch the commits that are not here yet, many at once; raises EnvironmentFault if that fails."""
        ids = list(dict.fromkeys(commit.id for one in wanted for commit in one.commits))
        new = [name for name in ids if name not in self._asked]
        if not new:
            return
        if git_directory(self._cache) is None:
            self._make()
        missing = self._incomplete(new)
        for start in range(0, len(missing), _FETCHED_AT_ONCE):
            some = missing[start : start + _FETCHED_AT_ONCE]
            if not self._fetch(some) and len(some) > 1:
                # The URL lacks one of them and gave none: ask for each, so that one costs no other.
                for name in some:
                    self._fetch([name])
        self._asked.update(new)
        # A new reader: the one before may have noted as missing what is here now.
        self._local = GitFixes(self._cache, name=self.name)
        self._local.prepare(wanted)

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix's commits, fetched if they are not here yet; raises EnvironmentFault if that fails."""
        if not wanted.commits:
            return None
        self.prepare([wanted])
        return self._local.find(wanted, findings) if self._local is not None else None

    def _fetch(self, names: Sequence[str]) -> bool:
        """Fetch commits with their parents; return False if the URL does not have one of them."""
        arguments = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--depth=2", "--quiet")
        done = git(self._cache, "fetch", *arguments, self.name, *names, protocol=self._protocol, timeout_s=_FETCH_S)
        if not done.ok and b"not our ref" not in done.log:
            raise EnvironmentFault(
                "fix-source",
                f"{self.name} cannot be fetched from.",
                advice="Try `git ls-remote` by hand; a local mirror does not depend on the network.",
                excerpt=done.tail(5),
            )
        return done.ok

    def _make(self) -> None:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                "fix-source",
                f"{self._cache}, which is to keep commits of {self.name}, cannot be made: {error.strerror}.",
                advice="Make room, run the command as root, or give another directory with --keep.",
            ) from error
        # An empty template: no hooks, nothing of the system's.
        git(self._cache, "init", "--bare", "--quiet", "--template=").check("making a repository")

    def _incomplete(self, names: Sequence[str]) -> list[str]:
        """Return the commits that are not here together with their one parent."""
        asked = "".join(f"{name}\n" for name in names).encode()
        arguments = ("--ignore-missing", "--no-walk=unsorted", "--parents", "--stdin")
        done = git(self._cache, "rev-list", *arguments, stdin=asked)
        lines = (line.split() for line in done.text.splitlines())
        complete = {fields[0] for fields in lines if len(fields) == 2} if done.ok else set()
        return [name for name in names if name not in complete]
