# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of live memory: series that change what old memory means to new code are refused.

create-diff-object compares functions, not types, and a load test passes: the damage comes later, when new code meets
an old object. So the types in the debug information of both objects are compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from shutil import copyfile

from elivepatch.build.checks.layout.compare import Change, compare_types
from elivepatch.build.checks.layout.enumerators import Renumbered, compare_enumerators
from elivepatch.build.checks.layout.words import declared, listed
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take
from elivepatch.kernel.btf import COMPOSITES, Btf, BtfKind, read_btf
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, EnvironmentFault
from elivepatch.process import Cancellation

_BTF_LIMIT_BYTES = 64 << 20
_TOLD = 5
# Since Linux 6.5, and before.
_EXPORTS = ("__export_symbol_", "__ksymtab_")
# Not the types that the object may bring as BTF. Functions whose parameters the compiler changed count too.
_COMMAND = "pahole -F dwarf --btf_features=encode_force,var,float,enum64,optimized_func,global_var"
_SCRIPT = f"for one in original patched; do {_COMMAND} --btf_encode_detached=/out/$one.btf /in/$one.o || exit; done"


def check_layouts(
    *, original: Path, patched: Path, source: str, sandbox: Sandbox, cancellation: Cancellation | None = None
) -> tuple[Note, ...]:
    """Return what a person should look at where the types of two objects differ harmlessly.

    The sandbox has pahole 1.29 or later. Raises BuildStopped with `data-layout` if memory of the original's types
    cannot be used by the patched object's code, with `export-type` if modules would call an exported function wrongly;
    EnvironmentFault with `types-missing` if an object of C was compiled without debug information.
    """
    for path in (original, patched):
        if source.endswith(".c") and not ElfFile(path).has_debug_info:
            raise EnvironmentFault(
                "types-missing",
                f"An object of {source} has no debug information, so that its types cannot be compared.",
                advice="Remove the kernel and add it again; if it happens again, report its configuration.",
            )
    with tempfile.TemporaryDirectory(prefix="types-", dir=patched.parent) as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "in").mkdir()
        output = writable_directory(place / "out")
        for name, path in (("original", original), ("patched", patched)):
            copyfile(path, place / "in" / f"{name}.o")
        done = sandbox.run(
            ["sh", "-c", _SCRIPT], inputs=place / "in", output=output, timeout_s=120, cancellation=cancellation
        )
        done.check(f"Reading the types of {source}")
        old, new = (_taken(output, f"{name}.btf") for name in ("original", "patched"))
    return compare_layouts(old, new, source=source, exported=_exported(ElfFile(original)))


def compare_layouts(old: bytes, new: bytes, *, source: str, exported: Collection[str] = ()) -> tuple[Note, ...]:
    """Return the notes about two objects whose types are given as BTF, empty if an object has none.

    `exported` are functions that the original exports. Raises as `check_layouts` does.
    """
    if old == new or not old or not new:
        return ()
    before, after = read_btf(old), read_btf(new)
    changes = compare_types(before, after, exported)
    if called := [one for one in changes if one.grave and one.old.kind is BtfKind.FUNCTION]:
        told = (
            declared(btf, one.target, called[0].name) for btf, one in ((before, called[0].old), (after, called[0].new))
        )
        sentence = f"{source} changes how the exported {called[0].name} is called."
        raise BuildStopped(problem("export-type", sentence, excerpt="- {}\n+ {}".format(*told)))
    if grave := [one for one in changes if one.grave]:
        raise BuildStopped(
            problem(
                "data-layout",
                f"{source} changes {_sentence(grave)}.",
                excerpt="\n\n".join(_explain(before, after, one) for one in grave[:_TOLD]),
            )
        )
    renumbered = compare_enumerators(before, after)
    if stored := [one for one in renumbered if not one.counts]:
        raise BuildStopped(
            problem("data-layout", f"{source} changes {_numbers(stored)}.", excerpt="\n".join(map(_line, stored[:20])))
        )
    return (*_change_notes(changes), *_counting_notes(renumbered))


def each_once(notes: Iterable[tuple[Note, ...]]) -> tuple[Note, ...]:
    """Return the notes of several objects, each once: all of them may include one changed header."""
    return tuple(dict.fromkeys(note for each in notes for note in each))


def _exported(original: ElfFile) -> frozenset[str]:
    """Return the names that an object exports, by the symbols that include/linux/export.h makes."""
    return frozenset(
        one.name.removeprefix(prefix) for one in original.symbols for prefix in _EXPORTS if one.name.startswith(prefix)
    )


def _taken(output: Path, name: str) -> bytes:
    try:
        return take(output, name, limit_bytes=_BTF_LIMIT_BYTES)
    except FileNotFoundError:
        # pahole writes no file for an object without types: one of assembly.
        return b""


def _sentence(grave: Sequence[Change]) -> str:
    first, others = grave[0], f", and {len(grave) - 1} more" if len(grave) > 1 else ""
    name = first.name if first.name == first.new_name else f"{first.name}, which becomes {first.new_name},"
    if first.old.kind not in COMPOSITES:
        return f"the type of {name}: {first.cause}{others}"
    if first.old.size != first.new.size:
        how = f"from {first.old.size} to {first.new.size} bytes"
    else:
        how = f"(same size, other members): {first.cause}"
    return f"the layout of {name} {how}{others}"


def _explain(old: Btf, new: Btf, change: Change) -> str:
    name = change.name if change.name == change.new_name else f"{change.name}, now {change.new_name}"
    if change.old.kind not in COMPOSITES or change.new.kind not in COMPOSITES:
        return "\n".join([name, *map(str, change.differences[:8])])
    before, after = listed(old, change.old.number), listed(new, change.new.number)
    shared = {*before} & {*after}
    gone, come = ([f"{sign} {line}" for line in lines if line not in shared]
                  for sign, lines in (("-", before), ("+", after)))  # fmt: skip
    told = [str(one) for one in change.differences if one.grave][:8]
    return "\n".join([f"{name} ({change.old.size} to {change.new.size} bytes)", *gone[:8], *come[:8], *told])


def _numbers(stored: Sequence[Renumbered]) -> str:
    first, others = stored[0], f", and {len(stored) - 1} more" if len(stored) > 1 else ""
    return f"the number of {first.name} ({first.enum}) from {first.old} to {first.new}{others}"


def _line(one: Renumbered) -> str:
    return f"{one.name} = {one.new}, was {one.old}"


def _change_notes(changes: Sequence[Change]) -> Iterator[Note]:
    for one in changes:
        told = "; ".join(map(str, one.differences[:_TOLD]))
        message = f"{one.name}: {told}. Its layout is the same, and old memory stays in use"
        advice = "look at what old code has stored there, such as negative numbers, and what it means to new code"
        yield Note(code="type-meaning", message=f"{message}: {advice}.")


def _counting_notes(renumbered: Sequence[Renumbered]) -> Iterator[Note]:
    for one in renumbered:
        message = f"{one.name} ({one.enum}) counts {one.new} values instead of {one.old}: memory that old code"
        yield Note(code="enumerators", message=f"{message} allocated with this number is for {one.old} of them.")
