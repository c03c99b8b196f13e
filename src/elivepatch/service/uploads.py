# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches that were uploaded so that a build can name them: unfinished ones on disk, whole ones in the store.

Each tenant has a place of its own for both. So nobody learns what another has uploaded, and what a build names is the
tenant's own: the job gets a copy among the files of jobs, and an upload is gone a day after its last byte came.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

from elivepatch.model.errors import EnvironmentFault, TrustError, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service.errors import DISK_FULL, is_disk_full
from elivepatch.service.http.limits import LimitReached
from elivepatch.service.store import GRACE, Store, digest_of

MAX_UPLOAD_BYTES = 24 * 1024 * 1024
TENANT_BYTES = 2 * 1024 * 1024 * 1024
"""What the uploads of one tenant may take. An unfinished one counts as the largest that there can be."""

_LEAST_BYTES = 256 * 1024
_RETRY_S = 3600
_PLACE = "uploads"


class WrongOffset(UsageError):
    """A request wants to go on at another byte than the one at which the upload stands."""

    def __init__(self, offset: int) -> None:
        super().__init__(
            "upload-offset",
            f"The upload goes on at byte {offset}.",
            advice="Send what comes from there on; HEAD asks where an upload stands.",
        )
        self.offset = offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an upload stands: how many bytes of it are here, and whether that is all of it."""

    offset: int
    complete: bool


class Turn:
    """One request's turn at an upload. It is over when another request takes its turn."""

    def __init__(self, file: Path, digest: Digest, whole: Store, *, length: int | None) -> None:
        self.lock = threading.Lock()
        self.offset = 0
        self._file = file
        self._digest = digest
        self._whole = whole
        self._length = length
        self._over = False

    def give_up(self) -> None:
        """End the turn; returns when what it was just doing is done."""
        with self.lock:
            self._over = True

    def write(self, data: bytes) -> None:
        """Add what came; raises UsageError where that is more than was announced, or more than an upload may have.

        Nothing of it is added then. Raises EnvironmentFault with the code `disk-full`; what there was room for stays.
        """
        with self.lock:
            self.check(len(data))
            left = memoryview(data)
            try:
                with self._file.open("ab", buffering=0) as stream:
                    while left:
                        written = stream.write(left)
                        left = left[written:]
                        self.offset += written
            except OSError as error:
                if is_disk_full(error):
                    raise EnvironmentFault(DISK_FULL.code, DISK_FULL.message, advice=DISK_FULL.advice) from error
                raise

    def finish(self) -> None:
        """Put the upload into the store.

        Raises UsageError where it is shorter than announced, and where its bytes are not those of its digest: then it
        is gone.
        """
        with self.lock:
            self.check()
            if self._length is not None and self.offset != self._length:
                raise _other_length()
            with self._file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != self._digest:
                self._file.unlink()
                raise UsageError(
                    "blob-digest",
                    "The bytes that arrived are not those of the digest, and are discarded.",
                    advice="Send them again from the first one, to the SHA-256 that they have.",
                )
            self._whole.put_file(self._file, self._digest)
            self._file.unlink()

    def check(self, more: int = 0) -> None:
        """Raise UsageError where the turn is over, or where `more` bytes are more than there may be."""
        if self._over:
            raise UsageError(
                "upload-taken-over",
                "Another request goes on with this upload.",
                advice="Send an upload once at a time; HEAD asks where it stands, and ends the request before it.",
            )
        if self._length is not None and self.offset + more > self._length:
            raise _other_length()
        if self.offset + more > MAX_UPLOAD_BYTES:
            raise too_large()


class Uploads:
    """The uploads of all tenants. One process has the directory: at most one request at a time adds to an upload."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._lock = threading.Lock()
        # As long as the request that has it lives.
        self._turns: WeakValueDictionary[Path, Turn] = WeakValueDictionary()

    def standing(self, tenant: str, digest: Digest) -> Standing:
        """Return where an upload stands, and end the request that adds to it: the answer holds until the next one.

        Raises UsageError with the code `blob-unknown` where the tenant has none.
        """
        turn = self._turn(tenant, digest, length=None)
        with turn.lock:
            turn.check()
            size = self._whole(tenant).size(digest)
            if size is not None:
                return Standing(offset=size, complete=True)
            held = _size(self._file(tenant, digest))
            if held is None:
                raise unknown()
            return Standing(offset=held, complete=False)

    def begin(self, tenant: str, digest: Digest, *, length: int | None) -> Turn | None:
        """Return a turn at an upload that begins at its first byte; None where the tenant has the whole of it.

        Raises LimitReached where the tenant's uploads take too much already.
        """
        turn = self._turn(tenant, digest, length=length)
        file = self._file(tenant, digest)
        with turn.lock:
            turn.check()
            whole = self._whole(tenant)
            if whole.size(digest) is not None:
                return None
            taken = sum(max(size, _LEAST_BYTES) for size in whole.sizes())
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                unfinished = sum(other != file for other in file.parent.iterdir())
                if taken + (unfinished + 1) * MAX_UPLOAD_BYTES > TENANT_BYTES:
                    raise LimitReached(
                        "too-many-uploads",
                        "Your uploads take as much room as they may.",
                        retry_s=_RETRY_S,
                        advice="Finish those that are begun; each is gone a day after its last byte came.",
                    )
                file.write_bytes(b"")
        return turn

    def resume(self, tenant: str, digest: Digest, *, offset: int, length: int | None) -> Turn | None:
        """Return a turn at an upload that goes on at byte `offset`; None where the tenant has the whole of it.

        Raises WrongOffset where it stands elsewhere, UsageError with the code `blob-unknown` where there is none.
        """
        turn = self._turn(tenant, digest, length=length)
        with turn.lock:
            turn.check()
            if self._whole(tenant).size(digest) is not None:
                return None
            held = _size(self._file(tenant, digest))
            if held is None:
                raise unknown()
            if held != offset:
                raise WrongOffset(held)
            turn.offset = held
        return turn

    def get(self, tenant: str, digest: Digest) -> bytes:
        """Return what the tenant has uploaded whole; raises UsageError with the code `blob-unknown` for all else."""
        try:
            return self._whole(tenant).get(digest)
        except EnvironmentFault as error:
            raise unknown() from error
        except TrustError as error:
            # Damaged: it can be uploaded again where nothing says that it is there.
            self._whole(tenant).remove(digest)
            raise unknown() from error

    def sweep(self) -> int:
        """Remove what is older than a day, unfinished or whole, and return how many that were."""
        until = (datetime.now(UTC) - GRACE).timestamp()
        removed = self._store.at_place(_PLACE).collect(set(), grace=GRACE)
        for file in sorted(self._directory.glob("*/*")):
            with self._lock:
                # One that was finished meanwhile is gone.
                if file not in self._turns and file.exists() and file.stat().st_mtime < until:
                    file.unlink()
                    removed += 1
        return removed

    def _turn(self, tenant: str, digest: Digest, *, length: int | None) -> Turn:
        file = self._file(tenant, digest)
        turn = Turn(file, digest, self._whole(tenant), length=length)
        # Until the one before has given up: whoever comes next waits for that too.
        with turn.lock:
            with self._lock:
                earlier = self._turns.get(file)
                self._turns[file] = turn
            if earlier is not None:
                earlier.give_up()
        return turn

    def _file(self, tenant: str, digest: Digest) -> Path:
        return self._directory / _owner(tenant) / digest

    def _whole(self, tenant: str) -> Store:
        return self._store.at_place(f"{_PLACE}/{_owner(tenant)}")


def unknown() -> UsageError:
    """Return the error of a blob that the tenant has not uploaded, or not for a day."""
    return UsageError(
        "blob-unknown",
        "You have uploaded no such blob, or it is no longer there.",
        advice="Upload it with PUT /v1/blobs/{sha256}; the server keeps it for a day.",
    )


def too_large() -> UsageError:
    """Return the error of what has more bytes than one upload, or one series, may have."""
    return UsageError("request-too-large", "This is larger than 24 MiB.", advice="Send only what the fix needs.")


def _other_length() -> UsageError:
    return UsageError(
        "upload-length",
        "The upload has another length than the one that was announced.",
        advice="Announce with Upload-Length how many bytes the whole has, or nothing.",
    )


def _owner(tenant: str) -> str:
    # A tenant's name is people's: it never becomes a path.
    return digest_of(tenant.encode())


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
