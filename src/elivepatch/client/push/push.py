# SPDX-License-Identifier: GPL-2.0-or-later
"""Sending of a kernel's files: the server says which pieces it lacks, and gets only those."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from elivepatch.client.host.machine import Host
from elivepatch.client.push.kernel_files import KernelFiles
from elivepatch.client.push.pieces import Entry, pieces
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.kernels import described_kernel, require_same_build
from elivepatch.files.digest import sha256
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event, Progress

_AT_ONCE_BYTES = 32 << 20


@dataclass(slots=True)
class Sent:
    """Pieces of archives, and what was sent of them."""

    pieces: int = 0
    sent: int = 0
    sent_bytes: int = 0

    def add(self, other: Sent) -> None:
        """Count those of another archive too."""
        self.pieces += other.pieces
        self.sent += other.sent
        self.sent_bytes += other.sent_bytes


def push_kernel(host: Host, files: KernelFiles, server: ServerClient, progress: Progress) -> tuple[str | None, Sent]:
    """Send what the server lacks of the files, and ask for the base; return the job and what was sent.

    The job is None if the server has the base already. A push that is cut off is continued by the next one. Raises
    HostError if a file cannot be read.
    """
    sent = Sent()
    if require_same_build(server.kernels(), files.release, files.build_id):
        return None, sent
    try:
        built = _send(files.entries(), "the build's files", server, progress, sent)
        source = _send(files.source_entries(), "the source", server, progress, sent) if files.source else ()
    except OSError as error:
        raise HostError(
            "kernel-files", f"A file of the kernel cannot be read: {error}.", advice="Run the command as root, again."
        ) from error
    asked = described_kernel(host, files.release)
    if "config" in files.named:
        asked = replace(asked, config=b"")  # it is one of the files, and the request stays small
    job = JobFollower(progress).retry(lambda: server.request_kernel(replace(asked, files=built, source=source)))
    return job, sent


def _send(
    entries: Iterable[Entry], what: str, server: ServerClient, progress: Progress, total: Sent
) -> tuple[Digest, ...]:
    """Send the pieces of one archive that the server lacks, and return the digests of all, in order."""
    sent = Sent()
    named: list[Digest] = []
    waiting: dict[Digest, bytes] = {}
    follower = JobFollower(progress)

    def flush() -> None:
        size = follower.retry(lambda: server.upload(waiting))
        sent.sent += size.count
        sent.sent_bytes += size.bytes
        message = f"{what}: {len(named)} pieces, {sent.sent} sent ({sent.sent_bytes >> 20} MiB)"
        progress(Event(stage="push", message=message))
        waiting.clear()

    for piece in pieces(entries):
        digest = sha256(piece)
        named.append(digest)
        waiting[digest] = piece
        if sum(map(len, waiting.values())) >= _AT_ONCE_BYTES:
            flush()
    flush()
    sent.pieces = len(named)
    total.add(sent)
    return tuple(named)
