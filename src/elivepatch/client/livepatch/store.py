# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the client keeps things: /var/lib/elivepatch, root's alone, every file written whole or not at all.

lock                        held while a command works on the kernel
files/SHA256.{ko,sig,patch} modules, their signatures, the source patches they were made of
kernels/BUILD-ID/state.json what is recorded about that kernel (elivepatch.client.livepatch.state)
kernels/BUILD-ID/next.json  what it will be once the transition under way is done
kernels/BUILD-ID/guard.json whether loading this set ended well (elivepatch.client.livepatch.boot_guard)
kernels/BUILD-ID/history.jsonl
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elivepatch.client.host.identity import read_boot_id, read_build_id, read_release
from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.livepatch.state import Record, RecordedPatch
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import BuildId, Digest
from elivepatch.model.series import SourcePatch

DIRECTORY = "var/lib/elivepatch"
_JSON_LIMIT = 8 << 20
_FILE_LIMIT = 256 << 20
_HISTORY_LIMIT = 1 << 20
_HISTORY_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Store:
    """The kept files of one host, as the running kernel sees them."""

    host: Host
    build_id: BuildId

    @classmethod
    def of(cls, host: Host) -> Store:
        """Return the store for the running kernel; raises HostError where the kernel does not tell its build-id."""
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
        """Return what is recorded about the running kernel, an empty record where nothing is.

        Raises HostError where it may not be read or is damaged.
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
        """Return what was about to be recorded when a command was cut off, None where none was."""
        read = self._json("next.json")
        return None if read is None else self._as_record(read, "next.json")

    def prepare(self, record: Record) -> None:
        """Write down what the record will be, before the kernel is touched; raises HostError where that fails.

        All that is written is on the disk when this returns: afterwards `commit` needs no room, only a rename.
        """
        self._write_json("next.json", record.as_dict())

    def commit(self) -> None:
        """Make what was prepared the record; raises HostError where that fails."""
        try:
            (self.kernel_directory / "next.json").replace(self.kernel_directory / "state.json")
            _sync(self.kernel_directory)
        except OSError as error:
            raise _unwritable(self.kernel_directory, error) from error

    def forget_next(self) -> None:
        """Drop what was prepared: the kernel stayed as it was."""
        try:
            (self.kernel_directory / "next.json").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.kernel_directory, error) from error

    def guard(self) -> dict[str, Any] | None:
        """Return what is noted about the last load, None where nothing is."""
        return self._json("guard.json")

    def write_guard(self, guard: dict[str, Any]) -> None:
        """Note something about the last load; raises HostError where that fails."""
        self._write_json("guard.json", guard)

    def keep(self, content: bytes, suffix: str, *, key: Digest | None = None) -> Path:
        """Keep a file under its SHA-256 (or under `key`, for a signature that belongs to a module); return its path."""
        digest = key or Digest(hashlib.sha256(content).hexdigest())
        path = self.path_of(digest, suffix)
        _write(path, content)
        return path

    def path_of(self, digest: Digest, suffix: str) -> Path:
        """Return where a kept file is."""
        return self.directory / "files" / f"{digest}.{suffix}"

    def kept(self, digest: Digest, suffix: str) -> bytes:
        """Return a kept file; raises HostError where it is gone or may not be read."""
        path = self.path_of(digest, suffix)
        try:
            with path.open("rb") as file:
                return file.read(_FILE_LIMIT)
        except OSError as error:
            raise HostError(
                "file-gone",
                f"{path} cannot be read: {error.strerror}.",
                advice="It is needed for what is recorded: build the livepatch again with `elivepatch apply`.",
            ) from error

    def source(self, recorded: RecordedPatch) -> SourcePatch:
        """Return the text of a source patch that is live; raises HostError where it is gone or was changed."""
        try:
            patch = SourcePatch(recorded.name, self.kept(recorded.digest, "patch"))
        except HostError as error:
            raise _source_gone(f"The text of {recorded.name} is not kept here") from error
        if patch.digest != recorded.digest:
            raise _source_gone(f"The kept text of {recorded.name} was changed")
        return patch

    def append_history(self, event: dict[str, Any]) -> None:
        """Add a line to the history, keeping it bounded; raises HostError where that fails."""
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
        """Return the events of the history, the oldest first; lines that a crash cut off or damaged are left out."""
        try:
            with (self.kernel_directory / "history.jsonl").open("rb") as file:
                lines = file.read(_JSON_LIMIT).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self.kernel_directory / "history.jsonl", error) from error
        return [event for event in map(_event, lines) if event is not None]

    def other_kernels(self) -> list[Record]:
        """Return the records of other kernels; what cannot be read is left out."""
        found = []
        for directory in sorted(self.kernel_directory.parent.glob("*/state.json")):
            if directory.parent.name != self.build_id:
                try:
                    found.append(Record.from_dict(json.loads(directory.read_bytes()[:_JSON_LIMIT])))
                except (OSError, ValueError, HostError):
                    continue
        return found

    def prune(self, record: Record) -> None:
        """Remove kept files that no kernel's record names any more."""
        wanted = set()
        for known in (record, *self.other_kernels()):
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
            raise _damaged(self.kernel_directory / name) from error

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        _write(self.kernel_directory / name, json.dumps(content, indent=1).encode() + b"\n")


@contextmanager
def locked(machine: Machine, *, doing: str, wait_s: float) -> Iterator[None]:
    """Be the only one to work on this host's livepatches; waits at most `wait_s` for another one to finish.

    Raises HostError, naming who holds the lock, where that takes longer.
    """
    path = machine.host.path(DIRECTORY) / "lock"
    try:
        _make(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        exposed = path.parent.stat().st_mode & 0o022
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        if exposed:
            raise HostError(
                "state-exposed",
                f"{path.parent} can be written by others than root: what is kept there cannot be trusted.",
                advice=f"Find out who wrote there, then `chmod 700 {path.parent}`.",
            )
        deadline = machine.clock.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if machine.clock.monotonic() >= deadline:
                    raise _busy(descriptor) from None
                machine.clock.sleep(0.2)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{doing} (pid {os.getpid()}, since {machine.stamp()})".encode()[:200], 0)
        yield
    finally:
        os.close(descriptor)


def _event(line: bytes) -> dict[str, Any] | None:
    """Return a line of the history, None where it is not one."""
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


def _busy(descriptor: int) -> HostError:
    holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another command"
    return HostError(
        "busy",
        f"`elivepatch {holder}` is working on this host's livepatches.",
        advice="Wait until it is done, or see what it waits for with `elivepatch status`.",
    )


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")  # one name is enough: who writes holds the lock
    try:
        _make(path.parent)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _make(directory: Path) -> None:
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _source_gone(how: str) -> HostError:
    return HostError(
        "source-gone",
        f"{how}, but it is live and must be carried along.",
        advice="Give that source patch again, before the new one: `elivepatch apply OLD NEW`.",
    )


def _damaged(path: Path) -> HostError:
    return HostError(
        "state-malformed",
        f"{path} is damaged.",
        advice="`elivepatch status` shows what the kernel says is live; move the file away to start anew.",
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
        advice="Run the command as root: the record is root's alone.",
    )
