# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparison of an original with a patched object by kpatch's create-diff-object, and the meaning of its messages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from elivepatch.build.objects.contents import Contents, compare_contents, target_of
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import made_by_series, take_file
from elivepatch.kernel.elf import (
    BIND_LOCAL,
    TYPE_FILE,
    TYPE_FUNC,
    TYPE_NOTYPE,
    TYPE_OBJECT,
    TYPE_SECTION,
    ElfFile,
    Symbol,
)
from elivepatch.kernel.symbols import Block, LinkedSymbols
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, Problem
from elivepatch.process import Cancellation, Completed

_OUTPUT_LIMIT_BYTES = 256 << 20
_CHANGED, _ERROR, _FATAL, _SAME = 0, 1, 2, 3
_CHANGED_FUNCTION = re.compile(r"(?m)^(?:.*: )?(changed|new) function: (\S+)$")
_KINDS = {TYPE_NOTYPE: "NOTYPE", TYPE_OBJECT: "OBJECT", TYPE_FUNC: "FUNC", TYPE_SECTION: "SECTION", TYPE_FILE: "FILE"}
_BINDS = ("LOCAL", "GLOBAL", "WEAK")
_ABSOLUTE = 0xFFF1
_SPECIAL_INDEX = {0: "UND", _ABSOLUTE: "ABS", 0xFFF2: "COM"}
_PADDING = "__pfx_"
_FOLLOWING = "following.S"  # a name for what comes behind a block; no source has it


# No linked kernel keeps these sections, and create-diff-object, which is older, knows neither. From 6.18 on, each
# tracepoint that is used leaves its name for a check of the build; these names must not be looked up among the local
# symbols, and debug info refers to their section, so that it cannot be removed. From 6.19 on, kernels for klp-build
# mark each entry of some tables for it (ANNOTATE_DATA_SPECIAL), which look like references of the compared code.
_CHECKED, _ANNOTATED = "__tracepoint_check", ".discard.annotate_data"
_WITHOUT_DISCARDED = f"""
set -e
cd /tmp
mkdir in
for object in original patched; do
    objcopy --remove-section={_ANNOTATED} --remove-section=.rela{_ANNOTATED} \\
        --wildcard --globalize-symbol='__trace_check_*' "/in/$object.o" "in/$object.o"
done
exec "$@"
"""


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    code: str
    sentence: str


def _rule(pattern: str, code: str, sentence: str) -> _Rule:
    return _Rule(re.compile(pattern), code, sentence)


_OVERRIDES = {
    ".kpatch.force": "KPATCH_FORCE_UNSAFE",
    ".kpatch.ignore.functions": "KPATCH_IGNORE_FUNCTION",
    ".kpatch.ignore.sections": "KPATCH_IGNORE_SECTION",
}
_TELLING = re.compile(r"\b(?:ERROR|[Ee]rror|[Ff]ound a|changed section)\b")

# A name without what gcc appends to it (.cold, .isra.0, the number of a static local).
_NAME = r"([^\s.]+)\S*"

# The first rule that matches decides. The messages are those in create-diff-object's source; causes come before the
# consequences that it prints with them.
_RULES = (
    _rule(r"Found a static call at (\S+?)\(", "static-call", "{0} makes a static call that a module defines."),
    _rule(r"Found a jump label at (\S+?)\(\)\S* using key (\w+)", "jump-label", "{0} tests the static key {1}."),
    _rule(r"unsupported jump label", "jump-label", "A changed function tests a static key that a module defines."),
    _rule(r"changed section (?:\.rela)?(?P<section>\.(?:init|exit)\.\S+) not selected", "init-code",
          "{source} changes what only runs at start-up or at the end: {names}."),
    _rule(r"changed section (?:\.rela)?(?P<section>\.(?:noinstr|entry|kprobes|cpuidle)\.text) not selected",
          "no-function-entry", "{names} in {source} has no patchable entry."),
    _rule(r"changed section (?:\.rela)?(?P<section>\.(?:sched|spinlock|ref|softirqentry|irqentry)\.text) not selected",
          "shared-section", "{names} in {source} lies in the section {section} with other functions."),
    _rule(r"changed section (?:\.rela)?(?:_*ksymtab|__kstrtab|__kcrctab|\.export_symbol)\S* not", "export",
          "{source} changes what is exported."),
    _rule(r"changed section (?:\.rela)?(?P<section>\.(?:data|rodata|bss)\S*) not selected", "data-change",
          "{source} changes initialised data: {names}."),
    _rule(r"changed section (?:\.rela)?(?:__tracepoints|_ftrace_e|__bpf_raw_tp)\S* not selected", "lost-change",
          "{source} adds, removes or changes a trace event; the kernel registers these at the start only."),
    _rule(r"changed section (?:\.rela)?__param not selected", "lost-change",
          "{source} adds, removes or changes a module parameter; the kernel registers these at the start only."),
    _rule(r"changed section (\S+) not selected", "data-change", "{source} changes the section {0}."),
    _rule(r"data section (?P<section>\S+) selected for inclusion", "new-data",
          "{source} adds static data to the section {section}: {names}."),
    _rule(r"object size mismatch: __UNIQUE_ID_([a-z_]+)\d+", "data-change", "{source} changes the module's {0}."),
    _rule(r"object size mismatch: print_fmt_(\S+)", "lost-change",
          "{source} changes the text of the trace event {0}; the kernel registers these at the start only."),
    _rule(r"object size mismatch: (\S+)", "data-layout", "{source} changes the size of the variable {0}."),
    _rule(r"(?:changed|new)?/?\w* ?group sections? (?:are )?not supported|is part of a section group", "section-change",
          "{source} changes a section group."),
    _rule(r"symbol changed sections: (\S+)", "section-change", "{source} moves {0} to another section."),
    _rule(r"symbol info mismatch: (?:__pfx_)?(\S+)", "section-change",
          "{source} changes the scope or the kind of {0}."),
    _rule(r"section header details differ", "section-change", "{source} changes the attributes of a section."),
    _rule(r"(?:function )?(\S+) (?:doesn't have patchable function entry|has no fentry/mcount call)",
          "no-function-entry", "{0} in {source} has no patchable entry."),
    _rule(rf"reference to static local variable {_NAME} in {_NAME} was removed", "static-local",
          "{1} in {source} no longer uses its static variable {0}."),
    _rule(rf"static local {_NAME} has been correlated with \S+, but patched {_NAME} is missing", "static-local",
          "{1} in {source} no longer uses its static variable {0}."),
    _rule(r"unsupported klp relocation reference to symbol '([^']+)'", "special-section",
          "{source} refers to {0} of another module in a special section."),
    _rule(r"found duplicate matches for|duplicate local symbol found", "duplicate-symbol",
          "The kernel has several objects that look like {source}."),
    _rule(r"couldn't find matching (\S+) local symbols|can't find (?:local )?symbol|expected 0\b", "symbols",
          "The symbols of {source} do not match those of the running kernel."),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Output of create-diff-object: the object with the changed functions, and their names."""

    output: Path
    changed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffTool:
    """create-diff-object, run in the sandbox of the toolchain that has it."""

    sandbox: Sandbox
    struct_sizes: Mapping[str, int]
    cancellation: Cancellation | None = None

    def compare(
        self, *, original: Path, patched: Path, source: str, parent: str, table: bytes, symvers: Path, name: str,
        work_dir: Path, compiled: Path | None = None,
    ) -> Difference | None:  # fmt: skip
        """Return the difference of two objects of `parent`, None if no code differs.

        `table` is `symbol_table`'s text, `name` the livepatch's. `compiled` is the original as the compiler made it, if
        `original` is a marked copy (account/original.py). Raises BuildStopped with the verdict otherwise.
        """
        inputs, output = work_dir / "in", work_dir / "out"
        inputs.mkdir()
        writable_directory(output)
        for place, content in (("original.o", original), ("patched.o", patched), ("Module.symvers", symvers)):
            shutil.copyfile(content, inputs / place)
        (inputs / "table").write_bytes(table)
        more = any(name in ElfFile(one).by_name for one in (original, patched) for name in (_CHECKED, _ANNOTATED))
        # The tool prints an object's path from after the first slash: in/original.o both ways.
        first, second = (f"{'.' * more}/in/{one}.o" for one in ("original", "patched"))
        command = ["/usr/lib/kpatch/create-diff-object", first, second, parent, "/in/table", "/in/Module.symvers", name,
                   "/out/diff.o"]  # fmt: skip
        done = self.sandbox.run(
            ["sh", "-c", _WITHOUT_DISCARDED, "sh", *command] if more else command,
            inputs=inputs,
            output=output,
            env={key: str(size) for key, size in self.struct_sizes.items()},
            timeout_s=120,
            cancellation=self.cancellation,
        )
        if done.status == _SAME:
            return None
        if done.status != _CHANGED:
            contents = compare_contents(ElfFile(compiled or original), ElfFile(patched))
            raise BuildStopped(classify(done, source, contents))
        said = _CHANGED_FUNCTION.findall(done.text + done.log.decode(errors="replace"))
        with made_by_series(f"What changes in {source}"):
            difference = take_file(output, "diff.o", work_dir / "diff.o", limit_bytes=_OUTPUT_LIMIT_BYTES)
        return Difference(
            output=difference,
            changed=tuple(function for how, function in said if how == "changed"),
            added=tuple(function for how, function in said if how == "new"),
        )


def classify(done: Completed, source: str, contents: Contents | None = None) -> Problem:
    """Return the problem that create-diff-object's exit status and messages mean for the author of the patch.

    `contents` are the differences of the objects: they name what the tool calls only a section.
    """
    seen = contents or Contents()
    text = (done.text + done.log.decode(errors="replace")).replace("in/original.o", source)
    telling = dict.fromkeys(line for line in text.splitlines() if _TELLING.search(line))
    excerpt = "\n".join(list(telling)[:12]) or done.tail()
    if done.timed_out:
        return problem("out-of-time", f"Comparing the objects of {source} took too long.", excerpt=excerpt)
    for rule in _RULES:
        if found := rule.pattern.search(text):
            section = found.groupdict().get("section") or ""
            names = ", ".join(seen.changed.get(section, ())[:4]) or section
            sentence = rule.sentence.format(*found.groups(), source=source, section=section, names=names)
            if rule.code == "static-local":
                sentence = _static_local(sentence, found.groups(), source, seen)
            code, sentence = _closer(rule.code, sentence, source, seen)
            return problem(code, sentence, excerpt=excerpt)
    if done.status < 0 or done.status > 128 or "SIGSEGV" in text:
        return problem("diff-tool-crash", f"create-diff-object crashed on {source}.", excerpt=excerpt)
    return problem("diff-tool", f"create-diff-object failed on {source} (status {done.status}).", excerpt=excerpt)


def _static_local(sentence: str, names: Sequence[str], source: str, seen: Contents) -> str:
    """Return a closer sentence if the patched object still has the static variable that the tool misses."""
    variable, function = names[:2]
    old, new = seen.statics.get(variable, ((), ()))
    if not new:
        return sentence
    if sorted(old) != sorted(new) and len(old) == len(new) == 1:
        return f"{source} changes the size of the static variable {variable} in {function}: {old[0]} to {new[0]} bytes."
    return f"{function} in {source} uses its static variable {variable} in another way; its type may have changed."


def _closer(code: str, sentence: str, source: str, seen: Contents) -> tuple[str, str]:
    """Return a closer code and sentence if the objects show more than the tool does."""
    if code == "export" and seen.exported and not seen.unexported:
        return "new-export", f"{source} exports {', '.join(seen.exported[:4])}, which this kernel does not."
    if code == "data-change" and seen.pointers:
        changes = "; ".join(
            f"{one.table} points at {one.new or 'nothing'} instead of {one.old or 'nothing'} at offset {one.offset}"
            for one in seen.pointers[:8]
        )
        return "ops-table", f"{source} changes a table of pointers: {changes}."
    return code, sentence


def overrides(patched: ElfFile) -> tuple[str, ...]:
    """Return the macros by which the source makes create-diff-object ignore its rules."""
    found = []
    for name, macro in _OVERRIDES.items():
        if section := patched.by_name.get(name):
            for entry in patched.relocations(section):
                target = target_of(patched, entry)
                shown = target.decode(errors="replace") if isinstance(target, bytes) else target
                found.append(f"{macro}({shown.removeprefix('.text.').removesuffix('+0')})")
    return tuple(sorted(found))


def ignored_names(skipped: Iterable[str]) -> frozenset[str]:
    """Return the functions and sections among the macros of `overrides` that the livepatch leaves out."""
    return frozenset(one.partition("(")[2].removesuffix(")") for one in skipped if "_IGNORE_" in one)


def symbol_table(linked: LinkedSymbols, block: Block | None, discarded: Iterable[str] = ()) -> bytes:
    """Return the symbols of a parent in the format of `readelf -sW`, as create-diff-object reads it.

    In kernels with function padding the `__pfx_` symbols stand outside their file's block, because objtool makes them
    after linking, while the object has them inside; they are listed behind the FILE entry of `block` and nowhere else,
    and so are the `discarded` variables of the object. A FILE entry ends the block before symbols of other objects.
    FILE entries of other objects that look the same as `block` to create-diff-object are left out.
    """
    if block is None:
        return b"".join(_line(one) for one in linked.symbols if not one.name.startswith(_PADDING))
    left_out = {one.position for one in linked.block_of(block.name, block.names)} - {block.position}
    own = {f"{_PADDING}{name}" for name, kind in block.names if kind == TYPE_FUNC}
    inserted = [one for one in linked.symbols if one.name in own]
    inserted += [Symbol(0, name, 0, 0, TYPE_OBJECT, BIND_LOCAL, _ABSOLUTE) for name in discarded]
    behind = {block.position: inserted}
    if any(one.position == block.position and one.end != block.end for one in linked.blocks.get(block.name, ())):
        behind.setdefault(block.end, []).append(Symbol(0, _FOLLOWING, 0, 0, TYPE_FILE, BIND_LOCAL, _ABSOLUTE))
    lines = []
    for symbol in linked.symbols:
        if symbol.number not in left_out and not symbol.name.startswith(_PADDING):
            lines.append(_line(symbol))
        lines += [_line(one) for one in behind.get(symbol.number, ())]
    return b"".join(lines)


def _line(symbol: Symbol) -> bytes:
    index = _SPECIAL_INDEX.get(symbol.section, str(symbol.section))
    kind = _KINDS.get(symbol.kind, "NOTYPE")
    bind = _BINDS[symbol.bind] if symbol.bind < len(_BINDS) else "GLOBAL"
    shown = f"{symbol.number}: {symbol.value:016x} {symbol.size} {kind} {bind} DEFAULT {index} {symbol.name}\n"
    return shown.encode()
