# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of predicates: those in C are compiled in the sandbox, and all are packed for the guest.

A predicate is hostile input as a patch is. The compiler runs without a network, with the toolchain's headers only, and
within bounds of time, memory and output. The program itself runs in the guest only.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take
from elivepatch.model.errors import ElivepatchError, Kind
from elivepatch.model.kernel import Digest
from elivepatch.model.predicate import Predicate
from elivepatch.model.trial import Expectation
from elivepatch.process import Cancellation
from elivepatch.trial import cpio

COMPILE_S = 30.0
"""Time for the compiler, for each predicate."""

_PROGRAM_LIMIT_BYTES = 8 << 20
_MEMORY_LIMIT_BYTES = 1 << 30
_EXCERPT_LINES = 25
_INCLUDED = re.compile(r"(?:In file included| +)from ")
# Static, because the guest has no libraries; without the source's name, so that equal sources give equal programs.
_OPTIONS = ("-x", "c", "-std=gnu11", "-O1", "-static", "-s", "-pthread", "-fdiagnostics-color=never")


class PredicateFault(ElivepatchError):
    """A predicate that does not compile: the problem has what the compiler printed."""

    kind = Kind.FAILURE


@dataclass(frozen=True, slots=True)
class PredicateCompiler:
    """The compiler `command` of a toolchain, in the sandbox."""

    sandbox: Sandbox
    command: str


def compiled(
    expectations: Sequence[Expectation],
    compiler: Callable[[], PredicateCompiler],
    *,
    scratch: Path,
    cancellation: Cancellation | None = None,
) -> dict[Digest, bytes]:
    """Return the program of each predicate in C, by the digest of its source.

    `scratch` is a directory that the sandbox's user can reach. Raises PredicateFault for one that does not compile,
    EnvironmentFault if the sandbox fails. Without a predicate in C, no compiler is asked for.
    """
    wanted = {one.predicate.digest: one.predicate for one in expectations if one.predicate is not None}
    programs: dict[Digest, bytes] = {}
    for digest, predicate in wanted.items():
        if predicate.language == "c":
            with tempfile.TemporaryDirectory(prefix="predicate-", dir=scratch) as place:
                programs[digest] = _compile(predicate, compiler(), Path(place), cancellation)
    return programs


def _compile(
    predicate: Predicate, compiler: PredicateCompiler, place: Path, cancellation: Cancellation | None
) -> bytes:
    place.chmod(0o755)
    inputs = place / "in"
    inputs.mkdir()
    (inputs / "predicate.c").write_text(predicate.source, encoding="utf-8")
    output = writable_directory(place / "out")
    limits = [f"--as={_MEMORY_LIMIT_BYTES}", f"--cpu={int(COMPILE_S)}", f"--fsize={_PROGRAM_LIMIT_BYTES}"]
    # The name in the compiler's messages is that of the file, as its author knows it.
    script = 'cd /in && exec "$@" -o /out/predicate - < predicate.c'
    done = compiler.sandbox.run(
        ["prlimit", *limits, "--", "sh", "-c", script, "sh", compiler.command, *_OPTIONS],
        inputs=inputs, output=output, timeout_s=COMPILE_S, cancellation=cancellation,
    )  # fmt: skip
    if not done.ok:
        late = f" within {COMPILE_S:.0f} s" if done.timed_out else ""
        raise _fault(f"does not compile{late}", predicate, done.log.decode(errors="replace"))
    try:
        return take(output, "predicate", limit_bytes=_PROGRAM_LIMIT_BYTES)
    except (FileNotFoundError, ElivepatchError):
        raise _fault("gives no program when it is compiled", predicate, done.log.decode(errors="replace")) from None


def _fault(what: str, predicate: Predicate, printed: str) -> PredicateFault:
    # The way to an included file may be two hundred lines long; the error comes after it.
    lines = [
        line[:400].replace("<stdin>", predicate.name) for line in printed.splitlines() if not _INCLUDED.match(line)
    ]
    return PredicateFault(
        "trial-predicate-compile",
        f"The predicate {predicate.name} {what}.",
        advice="It is linked statically, with the C library and the kernel's user headers only. "
        "Try `gcc -std=gnu11 -static -pthread` on it.",
        excerpt="\n".join(lines[:_EXCERPT_LINES]),
    )


def shared(cases: Iterable[Sequence[Expectation]]) -> list[cpio.CpioEntry]:
    """Return the script that runs predicates, if the expectations of a case have one."""
    if not any(one.predicate is not None for expectations in cases for one in expectations):
        return []
    script = files("elivepatch.trial.predicates").joinpath("guest.sh").read_bytes()
    return [cpio.directory("trial/predicates"), cpio.file("trial/predicates/guest.sh", script)]


def of_case(place: str, expectations: Sequence[Expectation], programs: Mapping[Digest, bytes]) -> list[cpio.CpioEntry]:
    """Return the files of all expectations of the case in the directory `place` of the guest, by their numbers.

    Each command is a file that the guest's shell reads: so no quoting is needed, and none can be wrong. A predicate has
    a second file with its limits, which guest.sh reads: seconds, MiB, KiB, processes, language.
    """
    entries = [cpio.directory(f"{place}/expect"), cpio.directory(f"{place}/limits")]
    for number, expectation in enumerate(expectations):
        predicate = expectation.predicate
        if predicate is None:
            entries.append(cpio.file(f"{place}/expect/{number:03}", expectation.shell.encode() + b"\n"))
            continue
        content = programs[predicate.digest] if predicate.language == "c" else predicate.source.encode()
        limits = predicate.limits
        numbers = f"{limits.seconds} {limits.memory} {limits.output} {limits.processes} {predicate.language}\n"
        entries.append(cpio.file(f"{place}/expect/{number:03}", content, executable=True))
        entries.append(cpio.file(f"{place}/limits/{number:03}", numbers.encode()))
    return entries


def modules_of(expectations: Sequence[Expectation]) -> list[str]:
    """Return the modules that predicates want in the guest, each once."""
    wanted = [one.predicate.limits.modules for one in expectations if one.predicate is not None]
    return list(dict.fromkeys(name for names in wanted for name in names))
