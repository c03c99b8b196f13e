# SPDX-License-Identifier: GPL-2.0-or-later
"""Store of the client: /var/lib/elivepatch, for root alone, each file written atomically.

lock                        held while a command works on the kernel
files/SHA256.{ko,proof,patch} modules, their proofs, the source patches they were built from
kernels/BUILD-ID/state.json the record of that kernel (elivepatch.client.livepatch.state)
kernels/BUILD-ID/next.json  the record once the transition under way is done
kernels/BUILD-ID/guard.json how far the last load got (elivepatch.client.livepatch.boot_guard)
kernels/BUILD-ID/history.jsonl
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from elivepatch.client.host.identity import read_boot_id, read_build_id, read_release
from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.livepatch.state import SCHEMA, Record, RecordedPatch
from elivepatch.files.atomic import publish, write_atomic
from elivepatch.files.digest import sha256
from elivepatch.files.lock import Locked, exclusive_lock
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import BuildId, Digest
from elivepatch.model.series import SourcePatch

DIRECTORY = "var/lib/elivepatch"
_JSON_LIMIT = 8 << 20
_FILE_LIMIT = 256 << 20
_HISTORY_LIMIT = 1 << 20
_HISTORY_KEPT = 1000


class OtherKernels(NamedTuple):
    """Records of kernels that this host does not run now, and the state files that cannot be read as one."""

    records: list[Record]
    unreadable: list[Path]


@dataclass(frozen=True, slots=True)
class Store:
    """The kept files of one host, as the running kernel sees them."""

    host: Host
    build_id: BuildId

    @classmethod
    def of(cls, host: Host) -> Store:
        """Return the store for the running kernel; raises HostError if the kernel does not show its build-id."""
        return cls(host, read_build_id(host))

    @property
    def directory(self) -> Path:
        """The top directory."""
        return self.host.path(DIRECTORY)

    @property
    def kernel_directory(self) -> Path:
        """The running kernel's own directory."""
        return self.directory / "kernels" / self.build_id

    def record(self) -> Record:
        """Return the record of the running kernel, an empty one if there is none yet.

        Raises HostError if it may not be read or is damaged.
        """
        read = self._json("state.json")
        if read is None:
            return Record.empty(read_release(self.host), self.build_id, read_boot_id(self.host))
        record = self._as_record(read, "state.json")
        if record.build_id != self.build_id:
            raise HostError(
                "state-malformed",
                "The record of this kernel's livepatches names another kernel.",
                advice=f"Move {self.kernel_directory / 'state.json'} away; it was copied there by mistake.",
            )
        return record

    def next_record(self) -> Record | None:
        """Return the record that a command was about to write when it was cut off, None if there is none."""
        read = self._json("next.json")
        return None if read is None else self._as_record(read, "next.json")

    def prepare(self, record: Record) -> None:
        """Write the next record, before the kernel is touched; raises HostError if that fails.

        Everything is on the disk when this returns: afterwards `commit` needs no room, only a rename.
        """
        self._write_json("next.json", record.as_dict())

    def commit(self) -> None:
        """Make the prepared record the record; raises HostError if that fails."""
        try:
            publish(self.kernel_directory / "next.json", self.kernel_directory / "state.json")
        except OSError as error:
            raise _unwritable(self.kernel_directory, error) from error

    def forget_next(self) -> None:
        """Drop the prepared record: the kernel is unchanged. Raises HostError if that fails."""
        try:
            (self.kernel_directory / "next.json").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.kernel_directory, error) from error

    def guard(self) -> dict[str, Any] | None:
        """Return the note about the last load, None if there is none."""
        return self._json("guard.json")

    def write_guard(self, guard: dict[str, Any]) -> None:
        """Write the note about the last load; raises HostError if that fails."""
        self._write_json("guard.json", guard)

    def keep(self, content: bytes, suffix: str, *, key: Digest | None = None) -> Path:
        """Keep a file under its SHA-256 (or under `key`, for a proof that belongs to a module); return its path.

        A file that is there with the same content is not written again: a cumulative livepatch may carry a thousand
        source patches, and each write waits for the disk.
        """
        digest = key or sha256(content)
        path = self.path_of(digest, suffix)
        if not _holds(path, content):
            _write(path, content)
        return path

    def path_of(self, digest: Digest, suffix: str) -> Path:
        """Return the path of a kept file."""
        return self.directory / "files" / f"{digest}.{suffix}"

    def kept(self, digest: Digest, suffix: str) -> bytes:
        """Return the content of a kept file; raises HostError if it is gone or may not be read."""
        path = self.path_of(digest, suffix)
        try:
            with path.open("rb") as file:
                return file.read(_FILE_LIMIT)
        except OSError as error:
            raise HostError(
                "file-gone",
                f"{path} cannot be read: {error.strerror}.",
                advice="The record needs it: build the livepatch again with `elivepatch apply`.",
            ) from error

    def source(self, recorded: RecordedPatch) -> SourcePatch:
        """Return the text of a source patch that is live; raises HostError if it is gone or was changed."""
        try:
            patch = SourcePatch(recorded.name, self.kept(recorded.digest, "patch"))
        except HostError as error:
            raise _source_gone(f"The text of {recorded.name} is not kept here") from error
        if patch.digest != recorded.digest:
            raise _source_gone(f"The kept text of {recorded.name} was changed")
        return patch

    def append_history(self, event: dict[str, Any]) -> None:
        """Add a line to the history and keep it bounded; raises HostError if that fails."""
        path = self.kernel_directory / "history.jsonl"
        line = json.dumps(event, ensure_ascii=False, default=str).encode() + b"\n"
        try:
            if path.exists() and path.stat().st_size > _HISTORY_LIMIT:
                lines = path.read_bytes().splitlines(keepends=True)[-_HISTORY_KEPT:]
                _write(path, b"".join(lines))
            _make(self.kernel_directory)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritable(path, error) from error

    def history(self) -> list[dict[str, Any]]:
        """Return the events of the history, the oldest first, without lines that a crash cut off or damaged."""
        try:
            with (self.kernel_directory / "history.jsonl").open("rb") as file:
                lines = file.read(_JSON_LIMIT).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self.kernel_directory / "history.jsonl", error) from error
        return [event for event in map(_event, lines) if event is not None]

    def other_kernels(self) -> OtherKernels:
        """Return the records of the kernels that are not running, and the state files that cannot be read."""
        found = OtherKernels([], [])
        for file in sorted(self.kernel_directory.parent.glob("*/state.json")):
            if file.parent.name != self.build_id:
                try:
                    found.records.append(Record.from_dict(json.loads(file.read_bytes()[:_JSON_LIMIT])))
                except (OSError, ValueError, RecursionError, HostError):
                    found.unreadable.append(file)
        return found

    def prune(self, record: Record) -> None:
        """Remove kept files that no kernel's record names, and staged ones; the caller holds the lock.

        No kept file is removed while the record of another kernel cannot be read, because it is damaged or of a newer
        elivepatch: that kernel would have nothing to load at its next boot.
        """
        # A command that was killed while it wrote leaves a staged file.
        for staged in self.kernel_directory.glob(".*"):
            staged.unlink(missing_ok=True)
        others = self.other_kernels()
        if others.unreadable:
            return
        wanted = set()
        for known in (record, *others.records):
            for entry in (entry for one in known.sets for entry in one.entries):
                wanted |= {entry.digest, *(patch.digest for patch in entry.series)}
        for path in (self.directory / "files").glob("*"):
            if path.name.partition(".")[0] not in wanted:
                path.unlink(missing_ok=True)

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.kernel_directory / name
        try:
            with path.open("rb") as file:
                read = json.loads(file.read(_JSON_LIMIT))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        except (ValueError, RecursionError) as error:
            raise _damaged(path) from error
        return read if isinstance(read, dict) else {}

    def _as_record(self, read: dict[str, Any], name: str) -> Record:
        try:
            return Record.from_dict(read)
        except HostError as error:
            path, schema = self.kernel_directory / name, read.get("schema")
            raise (_newer(path) if isinstance(schema, int) and schema > SCHEMA else _damaged(path)) from error

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        _write(self.kernel_directory / name, json.dumps(content, indent=1).encode() + b"\n")


@contextmanager
def locked(machine: Machine, *, doing: str, wait_s: float) -> Iterator[None]:
    """Be the only command that works on this host's livepatches; wait at most `wait_s` seconds for another one.

    Raises HostError, with the name of the command that holds the lock, if that takes longer.
    """
    path = machine.host.path(DIRECTORY) / "lock"
    lock = exclusive_lock(
        path,
        wait_s=wait_s,
        holder=f"{doing} (pid {os.getpid()}, since {machine.stamp()})",
        monotonic=machine.clock.monotonic,
        sleep=machine.clock.sleep,
    )
    with ExitStack() as stack:
        try:
            _make(path.parent)
            _require_private(path.parent)
            stack.enter_context(lock)
        except Locked as busy:
            raise _busy(busy.holder) from None
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        yield


def _require_private(directory: Path) -> None:
    """Raise HostError if others than root can write in a directory: its content could be anybody's."""
    if directory.stat().st_mode & 0o022:
        raise HostError(
            "state-exposed",
            f"{directory} can be written by others than root: its content cannot be trusted.",
            advice=f"Find out who wrote there, then `chmod 700 {directory}`.",
        )


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line of the history, None if it is damaged."""
    try:
        read = json.loads(line)
        return {
            **{name: _text(read[name]) for name in ("at", "action", "by")},
            **{name: [_text(one) for one in read[name]] for name in ("before", "after")},
            "transitions": [
                {"name": _text(one["name"]), "ending": _text(one["ending"]), "seconds": float(one["seconds"])}
                for one in read["transitions"]
            ],
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value))
    return value


def _busy(holder: str) -> HostError:
    return HostError(
        "busy",
        f"`elivepatch {holder or 'another command'}` is working on this host's livepatches.",
        advice="Wait until it is done, or see with `elivepatch status` what it waits for.",
    )


def _write(path: Path, content: bytes) -> None:
    try:
        _make(path.parent)
        write_atomic(path, content, mode=0o600)
    except OSError as error:
        raise _unwritable(path, error) from error


def _make(directory: Path) -> None:
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _source_gone(how: str) -> HostError:
    return HostError(
        "source-gone",
        f"{how}, but it is live and the next livepatch must carry it.",
        advice="Give that source patch again, before the new one: `elivepatch apply OLD NEW`.",
    )


def _damaged(path: Path) -> HostError:
    return HostError(
        "state-malformed",
        f"{path} is damaged.",
        advice="`elivepatch status` shows what the kernel has; move the file away to begin an empty record.",
    )


def _newer(path: Path) -> HostError:
    return HostError(
        "state-malformed",
        f"{path} was written by a newer elivepatch.",
        advice="Install that version again; do not remove the file: it records what is loaded at boot.",
    )


def _unwritable(path: Path, error: OSError) -> HostError:
    return HostError(
        "state-unwritable",
        f"{path} cannot be written: {error.strerror}.",
        advice="Run the command as root; make room, or remount the file system read-write.",
    )


def _unreadable(path: Path, error: OSError) -> HostError:
    return HostError(
        "state-unreadable",
        f"{path} cannot be read: {error.strerror}.",
        advice="Run the command as root: only root may read the record.",
    )


def _holds(path: Path, content: bytes) -> bool:
    """Return whether a file is there with this very content; a damaged one does not hold it."""
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False
