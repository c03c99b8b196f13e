# SPDX-License-Identifier: GPL-2.0-or-later
"""The statement about a livepatch that a server signs: the module's digest, its kernel, its patches, its trial."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elivepatch.model.build import Livepatch, PatchedFunction
from elivepatch.model.errors import TrustError, UsageError
from elivepatch.model.kernel import BuildId, Digest, Release, parse_release
from elivepatch.trust import canonical

SCHEMA = 2
"""The second schema has the trial. A statement without one is written and read in the first."""

MAX_BYTES = 1024 * 1024
MAX_ITEMS = 4096
_NAME = re.compile(r"[A-Za-z0-9_]{1,55}", re.ASCII)  # MODULE_NAME_LEN is 56 on 64-bit kernels, with the final NUL
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BUILD_ID = re.compile(r"[0-9a-f]{16,128}", re.ASCII)
_ARCH = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
_OBJECT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z0-9_.$]{1,511}", re.ASCII)  # KSYM_NAME_LEN is 512
_OUTCOMES = ("passed", "partly", "none")
_SOURCE = re.compile(r"[ -~]{0,4096}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedTrial:
    """Outcome of the livepatch's trial: `passed`, `partly`, or `none` for one that was not tried.

    `not_live` are the objects of the livepatch that were not live in the trial.
    """

    outcome: str
    not_live: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A livepatch module, the one kernel it is for, and the source patches in it.

    `digest` and `size_bytes` are those of the module file. `series` are the digests of the source patches in the
    order in which they were applied. With `replace` set they are all the patches that are live once the module is.
    `build_key` names the build on the server. `trial` is None in a statement of an older server, which says nothing
    of a trial.
    """

    name: str
    digest: Digest
    size_bytes: int
    release: Release
    build_id: BuildId
    arch: str
    build_key: Digest
    series: tuple[Digest, ...]
    replace: bool
    functions: tuple[PatchedFunction, ...] = ()
    trial: StatedTrial | None = None

    @classmethod
    def of(
        cls, livepatch: Livepatch, *, series: Sequence[Digest], replace: bool, trial: StatedTrial | None = None
    ) -> Statement:
        """Return the statement for a built livepatch; raises TrustError if a host would refuse one of the fields."""
        return _checked(
            cls(
                name=livepatch.name,
                digest=livepatch.digest,
                size_bytes=livepatch.size_bytes,
                release=livepatch.kernel.release,
                build_id=livepatch.kernel.build_id,
                arch=livepatch.kernel.arch,
                build_key=livepatch.build_key,
                series=tuple(series),
                replace=replace,
                functions=livepatch.functions,
                trial=trial,
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)

    def encode(self) -> bytes:
        """Return the bytes that are signed."""
        facts = self.as_dict()
        if self.trial is None:
            del facts["trial"]
        return canonical.encode({"schema": SCHEMA if "trial" in facts else 1, **facts})

    @classmethod
    def decode(cls, payload: bytes) -> Statement:
        """Read the output of `encode`; raises TrustError for any other bytes, also for another spelling."""
        read = canonical.decode(payload, limit=MAX_BYTES, what="statement")
        if read.get("schema") not in (1, SCHEMA) or isinstance(read.get("schema"), bool):
            raise TrustError(
                "statement-schema",
                "The statement has a schema that this client does not know.",
                advice="Install the client version that belongs to the server.",
            )
        try:
            statement = cls(
                name=read["name"],
                digest=Digest(read["digest"]),
                size_bytes=read["size_bytes"],
                release=Release(read["release"]),
                build_id=BuildId(read["build_id"]),
                arch=read["arch"],
                build_key=Digest(read["build_key"]),
                series=tuple(Digest(item) for item in _list(read["series"])),
                replace=read["replace"],
                functions=tuple(PatchedFunction(**item) for item in _list(read["functions"])),
                trial=_trial(read["trial"]) if "trial" in read else None,
            )
        except (KeyError, TypeError) as error:
            raise _unfit("lacks a field or has one of the wrong kind") from error
        if _checked(statement).encode() != payload:
            raise _unfit("is not canonical JSON")
        return statement


def _trial(value: Any) -> StatedTrial:
    if not isinstance(value, dict):
        message = "not a mapping"
        raise TypeError(message)
    return StatedTrial(**value | {"not_live": tuple(_list(value["not_live"]))})


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        message = "not a list, or too long"
        raise TypeError(message)
    return value


def _unfit(how: str) -> TrustError:
    return TrustError(
        "statement-malformed",
        f"The statement {how}.",
        advice="Fetch the livepatch and its signature again; if it happens again, ask the administrator of the server.",
    )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _checked(statement: Statement) -> Statement:
    try:
        parse_release(statement.release)
    except (UsageError, TypeError) as error:
        raise _unfit("names no kernel release") from error
    fits = (
        _matches(_NAME, statement.name)
        and _matches(_DIGEST, statement.digest)
        and _matches(_DIGEST, statement.build_key)
        and _matches(_BUILD_ID, statement.build_id)
        and _matches(_ARCH, statement.arch)
        and all(_matches(_DIGEST, item) for item in statement.series)
        and _is_count(statement.size_bytes)
        and _is_flag(statement.replace)
        and len(statement.series) <= MAX_ITEMS
        and len(statement.functions) <= MAX_ITEMS
        and all(_is_function(item) for item in statement.functions)
        and (statement.trial is None or _is_trial(statement.trial))
    )
    if not fits:
        raise _unfit("has a field with an impossible value")
    return statement


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_function(function: PatchedFunction) -> bool:
    return (
        _matches(_OBJECT, function.object)
        and _matches(_FUNCTION, function.name)
        and _is_count(function.sympos)
        and _matches(_SOURCE, function.source)
    )


def _is_trial(trial: StatedTrial) -> bool:
    return trial.outcome in _OUTCOMES and all(_matches(_OBJECT, item) for item in trial.not_live)
