# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlay as a git repository: fetched, its newest commit checked against the allowed keys, then read.

The signature is checked by git itself (`git verify-commit` with SSH keys, git-verify-commit(1)). A signed commit
covers the whole tree that it names, so the newest one is enough. It must come after the one accepted before, so that
no server can pass off an old, signed state as the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from elivepatch.advisory.fixes.fixes import PATCH_MAX, Fix, FixSource, Wanted, WantedCommit
from elivepatch.advisory.git import git
from elivepatch.advisory.overlay import old_format as overlayold
from elivepatch.advisory.overlay import overlay
from elivepatch.advisory.overlay.overlay import Overlay, OverlayEntry
from elivepatch.advisory.records.record import COMMIT, Findings
from elivepatch.model.errors import EnvironmentFault, TrustError, UsageError
from elivepatch.model.predicate import Predicate
from elivepatch.model.series import SourcePatch
from elivepatch.model.trial import Expectation

_INCOMING = "refs/elivepatch/incoming"
_ACCEPTED = "refs/elivepatch/accepted"
_FETCH_S = 600.0
_PACK_BYTES = 512 << 20
_FILES_MAX = 50_000
_PROTOCOLS = {"https": "https", "ssh": "ssh", "file": "file"}


@dataclass(frozen=True)
class OverlayRepository:
    """The repository that an overlay is fetched into, ours alone. `signers` is a file of allowed signers."""

    directory: Path
    url: str
    branch: str
    signers: Path

    def update(self) -> bool:
        """Fetch, check and accept the newest commit; return whether it is another one than before.

        Raises EnvironmentFault if it cannot be fetched, TrustError if it is not signed by an allowed key or
        does not come after the one accepted before.
        """
        if not (self.directory / "HEAD").exists():
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EnvironmentFault(
                    "overlay-fetch",
                    f"{self.directory} cannot be made: {error.strerror}.",
                    advice="Make room, run the command as root, or give another directory with --keep.",
                ) from error
            git(self.directory, "init", "--bare", "--quiet", "--template=").check("making a repository")
        arguments = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--quiet")
        source = f"refs/heads/{self.branch}" if self.branch else "HEAD"
        protocol = protocol_of(self.url)
        self._remove_unfinished()
        done = git(
            self.directory, "fetch", *arguments, self.url, f"+{source}:{_INCOMING}",
            protocol=protocol, timeout_s=_FETCH_S, file_limit_bytes=_PACK_BYTES,
        )  # fmt: skip
        self._remove_unfinished()
        if not done.ok:
            raise EnvironmentFault(
                "overlay-fetch",
                f"{self.url} cannot be fetched from.",
                advice="Try `git ls-remote` by hand; the commit that was accepted before stays in use.",
                excerpt=done.tail(5),
            )
        incoming, accepted = self._commit(_INCOMING), self.accepted
        self._require_signed(incoming)
        if incoming == accepted:
            return False
        if accepted and not git(self.directory, "merge-base", "--is-ancestor", accepted, incoming).ok:
            raise TrustError(
                "overlay-rewound",
                f"{self.url} no longer has the commit that was accepted before ({accepted[:12]}).",
                advice="It was rewritten, or the server offers an old state. If that is right, "
                "remove the overlay and add it again.",
            )
        git(self.directory, "update-ref", _ACCEPTED, incoming).check("accepting a commit")
        return True

    def _remove_unfinished(self) -> None:
        """Remove the pack that a fetch left when it was ended: at its limit of size or of time, or by a power cut."""
        for left in self.directory.glob("objects/pack/tmp_*"):
            left.unlink(missing_ok=True)

    @property
    def accepted(self) -> str:
        """The commit that is used, empty if none was accepted yet."""
        done = git(self.directory, "rev-parse", "--verify", "--quiet", f"{_ACCEPTED}^{{commit}}")
        commit = done.text.strip()
        return commit if done.ok and COMMIT.fullmatch(commit) else ""

    def _commit(self, ref: str) -> str:
        commit = (
            git(self.directory, "rev-parse", "--verify", f"{ref}^{{commit}}").check("reading a commit").text.strip()
        )
        if not COMMIT.fullmatch(commit):
            raise EnvironmentFault("overlay-fetch", f"{self.url} has no commit.", advice="Check the URL and branch.")
        return commit

    def _require_signed(self, commit: str) -> None:
        settings = {
            "gpg.format": "ssh",
            "gpg.ssh.allowedSignersFile": str(self.signers.resolve()),
            "gpg.ssh.program": "ssh-keygen",
            # Otherwise a key in the key ring of the user that runs this could sign too.
            **dict.fromkeys(("gpg.program", "gpg.openpgp.program", "gpg.x509.program"), "/bin/false"),
        }
        done = git(self.directory, "verify-commit", commit, settings=settings)
        if not done.ok:
            raise TrustError(
                "overlay-unsigned",
                f"The newest commit of {self.url} ({commit[:12]}) is not signed by a key that is allowed.",
                advice="Ask the overlay's maintainer. Only the commit that was accepted before stays in use.",
                excerpt=done.tail(5),
            )


def predicate_at(path: str, content: Callable[[str], bytes | None]) -> Expectation:
    """Return the predicate in a file of an overlay; raises UsageError if it cannot be one."""
    return Expectation.of(Predicate.of(path.rpartition("/")[2], content(path) or b""))


class AcceptedOverlay:
    """Contents of the accepted commit of an overlay."""

    def __init__(self, name: str, repository: OverlayRepository) -> None:
        self.name = name
        self._repository = repository

    @cached_property
    def commit(self) -> str:
        """The accepted commit, empty if none was accepted yet; read once, so that all contents are of one state."""
        return self._repository.accepted

    @cached_property
    def _files(self) -> dict[str, tuple[str, int]]:
        """The regular files by path, with blob and size in bytes; links and other repositories are not among them."""
        if not self.commit:
            return {}
        listing = git(self._repository.directory, "ls-tree", "-r", "-z", "-l", "--full-tree", self.commit)
        files = {}
        for line in listing.check("listing an overlay").output.split(b"\0")[:_FILES_MAX]:
            about, _, name = line.decode(errors="replace").partition("\t")
            fields = about.split()
            if len(fields) == 4 and fields[1] == "blob" and fields[0] in {"100644", "100755"}:
                files[name] = fields[2], int(fields[3]) if fields[3].isdecimal() else PATCH_MAX + 1
        return files

    @cached_property
    def overlay(self) -> Overlay:
        """The overlay; without entries, and with a finding, if no usable commit was accepted."""
        for file in (overlay.FILE, overlayold.FILE):
            content = self.content(file)
            if content is None:
                continue
            if file == overlay.FILE:
                return overlay.read_overlay(content, self._files.__contains__)
            return overlayold.read_old_overlay(content, self._files.__contains__, self.name)
        findings = Findings()
        findings.add("overlay-file", self.name, f"It has no {overlay.FILE}, or no commit of it was accepted yet.")
        return Overlay(name=self.name, findings=findings)

    def content(self, path: str) -> bytes | None:
        """Return a file, None if it is missing or larger than a source patch can be."""
        blob, size = self._files.get(path, ("", 0))
        if not blob or size > PATCH_MAX:
            return None
        return git(self._repository.directory, "cat-file", "blob", blob).check("reading an overlay").output

    def expectations(self, entry: OverlayEntry) -> tuple[Expectation, ...]:
        """Return what the trial of an entry must see; raises UsageError if a predicate cannot be one."""
        return (*entry.expect, *(predicate_at(path, self.content) for path in entry.predicates))

    def changed(self, path: str) -> datetime:
        """Return the time of a file's last change."""
        done = git(self._repository.directory, "rev-list", "--max-count=1", "--timestamp", self.commit, "--", path)
        stamp = done.text.split(" ")[0]
        return datetime.fromtimestamp(int(stamp), tz=UTC) if stamp.isdecimal() else datetime.now(tz=UTC)


class OverlayFixes:
    """Fixes from overlays, in their order of precedence; `commits` are the places that their commits come from."""

    def __init__(self, overlays: Sequence[AcceptedOverlay], commits: Sequence[FixSource]) -> None:
        self.name = "overlays"
        self.doubt = ""
        self._overlays = overlays
        self._commits = commits
        self._reported: set[str] = set()

    def concerns(self, wanted: Wanted) -> bool:  # noqa: ARG002 - an entry may be for any CVE
        """Return true."""
        return True

    def prepare(self, wanted: Sequence[Wanted]) -> None:  # noqa: ARG002 - an overlay is read when it is first asked
        """Raise EnvironmentFault if this host is subscribed to no overlay: the policy relies on one."""
        if not self._overlays:
            raise EnvironmentFault(
                "overlay-none",
                "This host is subscribed to no overlay.",
                advice="Add one with `elivepatch overlay add`, or take `overlays = true` out of the policy.",
            )

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix of the first overlay with an entry for this CVE and kernel, after those that it requires."""
        for accepted in self._overlays:
            if accepted.name not in self._reported:
                self._reported.add(accepted.name)
                self._report(accepted, findings)
            fitting = [
                one for one in accepted.overlay.entries.values() if wanted.cve in one.cves and one.fits(wanted.kernel)
            ]
            if fitting:
                return self._fix(accepted, sorted(fitting, key=lambda one: (one.order, one.id)), wanted, findings)
        return None

    def _report(self, accepted: AcceptedOverlay, findings: Findings) -> None:
        told = accepted.overlay.findings
        for found in told.named:
            findings.add(found.code, f"{accepted.name}: {found.name}", found.message)
        if told.total and not self.doubt:
            self.doubt = f"{told.total} entries of {accepted.name} cannot be used; the first: {told.named[0].message}"

    def _fix(
        self, accepted: AcceptedOverlay, entries: Sequence[OverlayEntry], wanted: Wanted, findings: Findings
    ) -> Fix | None:
        series = {one.id: one for entry in entries for one in accepted.overlay.series(entry)}
        patches: list[SourcePatch] = []
        dates = []
        for one in series.values():
            if not one.fits(wanted.kernel):
                findings.add(
                    "overlay-entry", f"{accepted.name}: {one.id}", f"It is required, but not for {wanted.kernel}."
                )
                return None
            for path in one.files:
                content = accepted.content(path)
                if content is None or not content.strip():
                    findings.add("bad-fix", f"{accepted.name}: {path}", "It is empty or larger than a patch can be.")
                    return None
                patches.append(SourcePatch(f"{wanted.cve}-{one.id}-{path.rpartition('/')[2]}"[:120], content))
                dates.append(accepted.changed(path))
            if one.commit:
                fetched = self._commit(one, wanted, findings)
                if fetched is None:
                    return None
                patches.extend(fetched.patches)
                dates.append(fetched.dated)
        try:
            expect = tuple(dict.fromkeys(one for entry in series.values() for one in accepted.expectations(entry)))
        except UsageError as error:
            findings.add("bad-fix", f"{accepted.name}: {entries[-1].id}", error.problem.message)
            return None
        order = (0, *wanted.kernel.branch, 0, entries[-1].order)
        return Fix(
            cve=wanted.cve, patches=tuple(patches), origin=f"overlay {accepted.name}", dated=max(dates), order=order,
            expectations=expect,
        )  # fmt: skip

    def _commit(self, entry: OverlayEntry, wanted: Wanted, findings: Findings) -> Fix | None:
        commit = WantedCommit(id=entry.commit, version=wanted.kernel)
        asked = Wanted(cve=wanted.cve, kernel=wanted.kernel, commits=(commit,))
        for source in self._commits:
            fix = source.find(asked, findings)
            if fix is not None:
                return fix
        findings.add("bad-fix", entry.id, f"No place that the policy names has its commit {entry.commit[:12]}.")
        return None


def protocol_of(url: str) -> str:
    """Return the protocol of an overlay's URL; raises UsageError for one that is not supported."""
    scheme = urlsplit(url).scheme
    if scheme not in _PROTOCOLS or not url.isprintable() or url.startswith("-"):
        raise UsageError(
            "overlay-url",
            f"{url[:120]!r} is not the URL of a git repository that can be fetched from.",
            advice="Give one that begins with https://, ssh:// or file://.",
        )
    return _PROTOCOLS[scheme]
