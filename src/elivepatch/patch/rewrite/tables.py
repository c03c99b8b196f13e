# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewrite that writes pointers of operation tables in livepatch callbacks (Documentation/livepatch/callbacks.rst).

The source of the table stays unchanged. A callback writes the pointer after the transition, and another writes the old
value back before the reverse transition. The pointer leads into the livepatch, which only its callbacks keep in memory:
they hold a reference from before the first write until no task can be inside. The calls inside are counted. RCU tasks
waits for callers that have read the pointer and not yet entered, and for those that have left the count and not yet the
function; RCU callbacks that were queued by then have run. If another livepatch replaces this one, the kernel runs no
callback of this one, which then stays in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from elivepatch.model.build import RewriteStep
from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import Definition, DefinitionKind
from elivepatch.patch.initialiser import read_members
from elivepatch.patch.rewrite.calls import MACROS
from elivepatch.patch.rewrite.edits import Rewritten, Rule, Source, Unsafe, put

_POINTING = re.compile(r"(\w+) points at (\w+) instead of (\w+) at offset (\d+)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NOTHING = "nothing"
_TESTS = frozenset(
    ("if", "while", "for", "switch", "sizeof", "likely", "unlikely", "WARN_ON", "WARN_ON_ONCE", "BUG_ON")
)
# Members whose copies are known to be called before the callbacks release the livepatch.
_SHORT_LIVED = {
    "free_inode": "fs/inode.c copies it into an inode right before call_rcu(), and the rewrite waits for RCU callbacks"
}

_NEVER_REPLACED = frozenset(("inline", "__always_inline", "notrace", "noinstr", "__init", "__exit"))

Uses = Callable[[str, str], Sequence[str]]
"""Function that returns the lines that name a member, in the files that name the type of its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A pointer to write: `path` leads to it from `table`; `entry` is written in place of `new`."""

    table: str
    path: str
    offset: int
    old: str
    new: str
    entry: str

    @property
    def member(self) -> str:
        """The last name of the path."""
        return self.path.rpartition(".")[2]


def written_tables(uses: Uses) -> Rule:
    """Return the rule that leaves tables unchanged and writes their pointers in callbacks."""

    def rule(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
        if found.code != "ops-table":
            return None
        wanted = [(table, new, old, int(offset)) for table, new, old, offset in _POINTING.findall(found.message)]
        path = found.message.split(" ")[0]
        source = sources.get(path)
        if source is None or not wanted:
            return None
        tables = {name for name, *_ in wanted}
        changes = {name: _changes(source, name) for name in sorted(tables)}
        slots = list[Slot]()
        for table, changed in changes.items():
            offsets = [one for one in wanted if one[0] == table]
            matched = _slots(source, table, changed, offsets)
            if isinstance(matched, Unsafe):
                return matched
            slots += matched
        for slot in slots:
            if unsafe := _copied(slot, source, uses):
                return unsafe
        return _rewritten(found, sources, source, slots)

    return rule


def _changes(source: Source, table: str) -> dict[str, tuple[str, str]]:
    """Return the members of a table that differ: old and new value by path, an empty value if it has none."""
    old, new = (
        read_members(source.body(item, old=is_old)) if (item := _data(items, table)) else {}
        for items, is_old in ((source.old_items, True), (source.new_items, False))
    )
    return {
        path: (old.get(path, ""), new.get(path, ""))
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    }


def _data(items: tuple[Definition, ...], name: str) -> Definition | None:
    # A tentative definition may come before the one with the initialiser.
    return next((one for one in reversed(items) if one.kind is DefinitionKind.DATA and one.name == name), None)


def _slots(
    source: Source, table: str, changed: Mapping[str, tuple[str, str]], wanted: Sequence[tuple[str, str, str, int]]
) -> list[Slot] | Unsafe:
    """Pair the changes of a table in the source with those in the objects: each pointer must match exactly once."""
    slots = list[Slot]()
    rest = list(wanted)
    for path, (old, new) in changed.items():
        shown = (table, _value(new), _value(old))
        match = next((one for one in rest if one[:3] == shown), None)
        if match is None:
            return Unsafe(
                f"{table}{path} changes from {old or 'nothing'} to {new or 'nothing'}, which is not a pointer."
            )
        rest.remove(match)
        if new and source.function(new) is None:
            return Unsafe(f"{new} is not defined in {source.path}, so it is not known if it stays in memory.")
        before = any(one.kind is DefinitionKind.FUNCTION and one.name == new for one in source.old_items)
        entry = new if before or not new else f"elivepatch_{new}"
        slots.append(Slot(table=table, path=path, offset=match[3], old=old, new=new, entry=entry))
    if rest:
        return Unsafe(f"{table} changes at offset {rest[0][3]}, but the series does not change its source there.")
    return slots


def _value(text: str) -> str:
    text = text.removeprefix("&")
    return _NOTHING if text in {"", "NULL"} else text


def _copied(slot: Slot, source: Source, uses: Uses) -> Unsafe | None:
    """Refuse a pointer if other code keeps a copy of it: the copy would outlive the livepatch."""
    if slot.entry == slot.new or slot.member in _SHORT_LIVED:
        return None
    table = _data(source.new_items, slot.table)
    tag = re.search(r"\bstruct\s+(\w+)", table.head) if table is not None else None
    for line in uses(slot.member, tag[1] if tag else slot.table):
        if any(_is_copy(line, slot)):
            return Unsafe(f"Other code copies the pointer {slot.path} and would call it later ({line.strip()[:120]}).")
    return None


def _is_copy(line: str, slot: Slot) -> Iterator[bool]:
    code = line.split(":", 2)[-1]
    target = rf"(?P<base>[\w\]\[)(>*-]*[\w\])])\s*(?P<how>->|\.)\s*{slot.member}\b(?!\s*\()"
    for found in re.finditer(target, code):
        other = found["how"] == "." and _NAME.fullmatch(found["base"]) and found["base"] != slot.table
        before, behind = code[: found.start()].rstrip(), code[found.end() :].lstrip()
        taken = re.search(r"(?<![=!<>])=$|\breturn$|[?:]$", before)
        called = re.search(r"(\w+)\s*\((?:[^()]*,)?$", before)
        passed = called is not None and called[1] not in _TESTS and behind[:1] in {",", ")"}
        yield not other and bool(taken or passed)


def _rewritten(
    found: Problem, sources: Mapping[str, Source], source: Source, slots: Sequence[Slot]
) -> Rewritten | Unsafe:
    text = source
    for table in {slot.table for slot in slots}:
        old, new = _data(text.old_items, table), _data(text.new_items, table)
        if old is None or new is None:
            return Unsafe(f"The definition of {table} has an unknown form.")
        text = text.with_body(new, text.body(old, old=True))
    steps = [
        RewriteStep(
            code=found.code,
            path=source.path,
            what=f"{slot.table}{slot.path} is set to {slot.new or 'NULL'} by a callback after the transition, and back",
            why=_why(slot),
        )
        for slot in slots
    ]
    if not _changes_a_function(source):
        # The functions that the pointers led to come first: they run seldom, others of the table may be busy.
        candidates = [{slot.old for slot in slots}, _pointees(text, slots)]
        anchor = next((one for names in candidates for one in text.new_items if _can_anchor(one, names)), None)
        if anchor is None:
            return Unsafe(f"{source.path} has no function that a livepatch could replace.")
        text = text.with_body(anchor, _with_nop(text.body(anchor)))
        what, why = f"{anchor.name}() gets a nop", "A livepatch must replace at least one function of the object"
        steps.append(RewriteStep(code=found.code, path=source.path, what=what, why=why))
    constant = {slot.table for slot in slots if "const" in (_head(source, slot.table).partition(slot.table)[0]).split()}
    added = "".join(_callbacks(source, slots, constant))
    text = replace(text, new=text.new.rstrip("\n") + "\n" + added).including(MACROS)
    return Rewritten(put(sources, text), tuple(steps))


def _why(slot: Slot) -> str:
    if slot.entry == slot.new:
        return "It then points to a function of the kernel itself, which stays in memory"
    known = f"; {_SHORT_LIVED[slot.member]}" if slot.member in _SHORT_LIVED else ""
    return (
        "The livepatch stays in memory until no task can be inside. A person has to check two things: during the "
        "transition the new functions meet the old table, and this livepatch must be disabled before another one "
        f"replaces it{known}"
    )


def _head(source: Source, table: str) -> str:
    item = _data(source.new_items, table)
    return item.head if item is not None else ""


def _changes_a_function(source: Source) -> bool:
    # A name may have several definitions, of which the configuration chooses one.
    before = {(one.name, source.body(one, old=True)) for one in source.old_items if one.kind is DefinitionKind.FUNCTION}
    names = {name for name, _ in before}
    return any(
        one.name in names and (one.name, source.body(one)) not in before
        for one in source.new_items
        if one.kind is DefinitionKind.FUNCTION and not one.words & _NEVER_REPLACED
    )


def _pointees(source: Source, slots: Sequence[Slot]) -> set[str]:
    """Return the functions to which the tables pointed before."""
    tables = [_data(source.old_items, name) for name in {slot.table for slot in slots}]
    return {value for one in tables if one is not None for value in read_members(source.body(one, old=True)).values()}


def _can_anchor(item: Definition, names: set[str]) -> bool:
    return item.kind is DefinitionKind.FUNCTION and not item.words & _NEVER_REPLACED and item.name in names


def _with_nop(body: str) -> str:
    at = body.index("\n", body.index("{")) + 1
    return f'{body[:at]}\tint elivepatch_anchor __maybe_unused = ({{ asm volatile("nop"); 0; }});\n{body[at:]}'


def _callbacks(source: Source, slots: Sequence[Slot], constant: set[str]) -> Iterator[str]:
    """Yield the C code to add at the end of the file."""
    entries = {slot.new: slot.entry for slot in slots if slot.entry != slot.new}
    yield _BEGINNING
    for slot in slots:
        yield (
            f"static_assert(offsetof(struct {{ typeof({slot.table}) table; }}, table{slot.path}) == {slot.offset});\n"
        )
    yield "\nstatic atomic_t elivepatch_inside = ATOMIC_INIT(0);\n"
    for name, entry in entries.items():
        item = next(one for one in source.new_items if one.kind is DefinitionKind.FUNCTION and one.name == name)
        yield _entry(item, entry)
    yield _HOLDING
    if constant:
        yield _MAPPING
    yield _writer("elivepatch_write_new", slots, constant, new=True)
    yield _writer("elivepatch_write_old", slots, constant, new=False)
    yield _CALLBACKS


def _entry(item: Definition, name: str) -> str:
    """Return the function that counts the calls inside `item`."""
    before, _, parameters = item.head.partition(f"{item.name}(")
    parameters = parameters[: parameters.rindex(")")]
    result = " ".join(word for word in before.split() if word not in {"static", "noinline"})
    arguments = ", ".join(_argument(one) for one in parameters.split(",") if one.strip() != "void")
    head = f"\nstatic {result} {name}({parameters})\n{{\n".replace("* ", "*")
    call = f"{item.name}({arguments})"
    if result == "void":
        return f"{head}\tatomic_inc(&elivepatch_inside);\n\t{call};\n\tatomic_dec(&elivepatch_inside);\n}}\n"
    return (
        f"{head}\ttypeof({call}) result;\n\n\tatomic_inc(&elivepatch_inside);\n\tresult = {call};\n"
        "\tatomic_dec(&elivepatch_inside);\n\treturn result;\n}\n"
    )


def _argument(parameter: str) -> str:
    return str(_NAME.findall(re.sub(r"\[[^\]]*\]", "", parameter))[-1])


def _writer(name: str, slots: Sequence[Slot], constant: set[str], *, new: bool) -> str:
    lines = []
    for slot in slots:
        place, value = f"{slot.table}{slot.path}", (slot.entry if new else slot.old) or "NULL"
        if slot.table in constant:
            lines.append(f"\telivepatch_write_constant((const void *)&{place}, (const void *){value});\n")
        else:
            lines.append(f"\tWRITE_ONCE({place}, {value});\n")
    return f"\nstatic void {name}(patch_object *obj)\n{{\n{''.join(lines)}}}\n"


_BEGINNING = """
/* Added by elivepatch check --rewrite: callbacks that write pointers. */
#include <linux/atomic.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/vmalloc.h>

"""

_HOLDING = """
static struct module *elivepatch_module(patch_object *obj)
{
	return container_of(obj->kobj.parent, struct klp_patch, kobj)->mod;
}
"""

_MAPPING = """
static void elivepatch_write_constant(const void *place, const void *value)
{
#ifdef MODULE
	struct page *page = vmalloc_to_page(place);
#else
	struct page *page = pfn_to_page(__pa_symbol(place) >> PAGE_SHIFT);
#endif
	void *alias;

	/* The pointer must be written: there is no way to fail here. */
	while (!(alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL)))
		schedule_timeout_uninterruptible(1);
	WRITE_ONCE(*(const void **)(alias + offset_in_page(place)), value);
	vunmap(alias);
}
"""

_CALLBACKS = """
static int elivepatch_hold(patch_object *obj)
{
	__module_get(elivepatch_module(obj));
	return 0;
}

static void elivepatch_let_go(patch_object *obj)
{
	synchronize_rcu_tasks();
	synchronize_rcu();
	rcu_barrier();
	while (atomic_read(&elivepatch_inside))
		schedule_timeout_uninterruptible(1);
	synchronize_rcu_tasks();
	synchronize_rcu();
	module_put(elivepatch_module(obj));
}

KPATCH_PRE_PATCH_CALLBACK(elivepatch_hold);
KPATCH_POST_PATCH_CALLBACK(elivepatch_write_new);
KPATCH_PRE_UNPATCH_CALLBACK(elivepatch_write_old);
KPATCH_POST_UNPATCH_CALLBACK(elivepatch_let_go);
"""
