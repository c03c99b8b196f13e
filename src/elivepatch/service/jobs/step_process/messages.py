# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between a server and its step processes: one line of JSON each, read back by the types of the fields.

JSON and not pickle, although both ends are ours: a step process has parsed a stranger's patch and console, and nothing
that it sends may make the server run code. A message that does not have the shape of its type is refused.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from elivepatch.model.build import BuildOutcome, BuildRequest, Livepatch, PatchedFunction
from elivepatch.model.errors import Problem
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event
from elivepatch.model.trial import DebugTrial, Expectation, TrialReport
from elivepatch.trial.case import EarlierLivepatch


class MalformedMessage(ValueError):
    """A line that is no message of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The way to make a build backend in another process: the import path `module:name` of a callable, and its words.

    `search` are directories that are searched for the module after Python's own; only tests need them.
    """

    factory: str
    words: dict[str, str] = field(default_factory=dict)
    search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """First message to a process: the backend to make, and the parent whose end is the process's end."""

    recipe: Recipe
    parent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildCall:
    """Build a module: the arguments of `BuildBackend.build`."""

    request: BuildRequest
    build_key: Digest
    work_dir: Path
    log: Path
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCall:
    """Try a module: the arguments of `BuildBackend.trial`."""

    livepatch: Livepatch
    module: Path
    expectations: tuple[Expectation, ...]
    work_dir: Path
    console: Path
    earlier: EarlierLivepatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugTrialCall:
    """Try a series on a debugging kernel: the arguments of `BuildBackend.debug_trial`."""

    request: BuildRequest
    replaced: tuple[PatchedFunction, ...]
    work_dir: Path
    console: Path
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesCall:
    """Compute the sources of a kernel (`BuildBackend.encoded_sources`) and write them to `output`."""

    release: str
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseCall:
    """Make the base of a kernel: the arguments of `BuildBackend.make_base`."""

    asked: KernelRequest
    pushed: Path
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End the programs of the step and answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something that happened within a step; any number of them come before the answer."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Answer to a BuildCall."""

    outcome: BuildOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Answer to a TrialCall."""

    report: TrialReport


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugTried:
    """Answer to a DebugTrialCall."""

    answer: DebugTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Answer to a SourcesCall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseMade:
    """Answer to a BaseCall."""

    kernel: KernelIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Answer of a step that raised an exception. `trace` is for the log only, empty for an expected failure."""

    problem: Problem
    trace: str = ""


Call = BuildCall | TrialCall | DebugTrialCall | SourcesCall | BaseCall
Answer = Built | Tried | DebugTried | Written | BaseMade | Refused
Message = Start | Call | Cancel | Report | Answer

_TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """Return a message as one line."""
    return json.dumps([type(message).__name__, _plain(message)], separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message in a line; raises MalformedMessage if it is none."""
    try:
        name, value = json.loads(line)
        message: Message = _typed(_TYPES[name], value)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message_of_error = f"not a message: {line[:80]!r} ({error})"
        raise MalformedMessage(message_of_error) from error
    return message


def _plain(value: Any) -> Any:
    """Return a value as what JSON has."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, Path) else value


def _typed(kind: Any, value: Any) -> Any:
    """Return the value of type `kind` that `_plain` wrote; raises ValueError, TypeError or KeyError if it is none."""
    kind = getattr(kind, "__supertype__", kind)  # a NewType is its type
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        if value is None and types.NoneType in inner:
            return None
        (only,) = (one for one in inner if one is not types.NoneType)
        return _typed(only, value)
    if origin is tuple:
        return tuple(_typed(inner[0], one) for one in _instance(value, list))
    if origin is dict:
        return {_typed(inner[0], key): _typed(inner[1], one) for key, one in _instance(value, dict).items()}
    if isinstance(kind, type) and is_dataclass(kind):
        found = _instance(value, dict)
        hints = _hints(kind)
        if set(found) != set(hints):
            message = f"fields of {kind}: {sorted(found)[:20]}"
            raise ValueError(message)
        return kind(**{name: _typed(hint, found[name]) for name, hint in hints.items()})
    return _simple(kind, value)


def _simple(kind: Any, value: Any) -> Any:
    if kind is bytes:
        try:
            return base64.b64decode(_instance(value, str), validate=True)
        except binascii.Error as error:
            raise ValueError(error) from error
    if kind is float:
        return float(value) if type(value) is int else _instance(value, float)
    if kind is Path or issubclass(kind, enum.Enum):
        return kind(_instance(value, str))
    return _instance(value, kind)


def _instance(value: Any, kind: type) -> Any:
    # Exactly: to Python, True is an int.
    if type(value) is not kind:
        message = f"{type(value).__name__} in place of {kind.__name__}"
        raise TypeError(message)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return {one.name: typing.get_type_hints(kind)[one.name] for one in fields(kind)}
