# SPDX-License-Identifier: GPL-2.0-or-later
"""Random changes of C sources by which the product is tested: each changes one thing that the compiled code does.

An operator finds the places of one kind in a source by its text alone and says what stands there instead. No operator
needs the changed source to make sense; it has to compile, and most do.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from elivepatch.patch.c_source import ENDING, STARTING, Definition, DefinitionKind, blanked, read_definitions
from elivepatch.patch.headings import with_headings

_NUMBER = re.compile(r"(?<![\w.])(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)(?![\w.])")
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_FORMAT = re.compile(r"%[-+ #0-9.*lhzt]*[a-zA-Z%]\w*|\\.")
_ERROR_NUMBER = re.compile(r"-E[A-Z0-9]+\b")
_ERROR_NUMBERS = ("-EINVAL", "-EPERM", "-EIO", "-ENOMEM", "-EBUSY", "-EAGAIN")
_ARM = re.compile(r"\bcase\s+(?P<label>[^:;{}?]+):\s*(?P<how>return\s|[\w>.\-]+\s*=\s)\s*(?P<value>[^;{}]+);")
_COMPARISON = re.compile(r"(?<=[\w)\]] )(==|!=|<=|>=|<|>|&&|\|\|)(?= [\w(!&*~-])")
_CONDITION = re.compile(r"\b(?:if|while)\s*\(")
_UNLIKELY = re.compile(
    r"\b(?:pr|netdev|dev|xfs|tty)_(?:err|warn|crit|alert|emerg|info|notice)\w*\s*\(|\b(?:WARN\w*|printk\w*|panic)\s*\("
)
_ONCE = {"WARN_ON_ONCE": "WARN_ON", "WARN_ON": "WARN_ON_ONCE", "WARN_ONCE": "WARN"}
_ENUM = re.compile(r"\benum(?:\s+\w+)?\s*\{([^{}]*)\}")
_ENUMERATOR = re.compile(r"(?:^|,)\s*([A-Za-z_]\w*)\s*(=\s*(?:0[xX][0-9a-fA-F]+|\d+)\s*)?(?=,|$)")
_LOCAL_STATIC = re.compile(r"\bstatic\s+(?:unsigned\s+)?(?:int|long|bool|u8|u16|u32|u64|atomic_t|char|short)\s+(\w+)"
                           r"(\s*=\s*(?:0[xX][0-9a-fA-F]+|\d+|true|false))?\s*;")  # fmt: skip
_LOCAL_TABLE = re.compile(r"\bstatic\s+(?:const\s+)?[\w\s*]+\[[^\]]*\]\s*=\s*\{")
_MEMBER = re.compile(r"\.[\w.\[\]]+\s*=\s*$")
_LOCAL_INITIALISER = re.compile(
    r"(?m)^\s+(?:[a-z_]\w*\s+)+\**[a-z_]\w*\s*=\s*(0[xX][0-9a-fA-F]+|\d+|true|false)(?=[,;])"
)
_RATELIMIT = re.compile(r"\bDEFINE_RATELIMIT_STATE\(\s*\w+\s*,[^,()]+,\s*([^()]+)\)")
_LIMITED = re.compile(r"\b\w+_ratelimited\s*\(|\bprintk_ratelimit|\bDEFAULT_RATELIMIT_BURST\b")
_INCLUDE = re.compile(r"(?m)^#include [<\"].*\n")
_CALL = re.compile(r"(?<![\w.>])([a-z_]\w+)(?=\()")
_PARAMETER_NAME = re.compile(r"\s*\b\w+$")

_ALIKE = (
    ("kfree", "kvfree"), ("mutex_lock", "mutex_unlock"), ("spin_lock", "spin_unlock"), ("up_read", "down_read"),
    ("spin_lock_irq", "spin_unlock_irq"), ("spin_lock_bh", "spin_unlock_bh"), ("strcmp", "strcasecmp"),
    ("rcu_read_lock", "rcu_read_unlock"), ("list_add", "list_add_tail"), ("list_del", "list_del_init"),
    ("kzalloc", "kmalloc"), ("atomic_inc", "atomic_dec"), ("dev_hold", "dev_put"), ("dput", "d_drop"),
    ("write_lock", "write_unlock"), ("read_lock", "read_unlock"), ("down_write", "up_write"), ("iput", "ihold"),
    ("min", "max"), ("pr_err", "pr_warn"), ("netdev_err", "netdev_warn"), ("set_bit", "clear_bit"),
    ("unlock_page", "put_page"), ("wake_up", "wake_up_all"), ("nf_ct_put", "nf_ct_get"), ("likely", "!"),
)  # fmt: skip
_ANOTHER_CALLEE = {one: other for pair in _ALIKE for one, other in (pair, pair[::-1]) if one.isidentifier()} | {
    "likely": "!"
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """Replacement of the characters from `start` to `end` of the source `path` by `new`.

    `place` is the function or the datum that it changes; all characters stay in their lines unless `new` has more.
    """

    kind: str
    path: str
    place: str
    start: int
    end: int
    new: str

    def applied(self, text: str) -> str:
        """Return the changed text of the source."""
        return text[: self.start] + self.new + text[self.end :]

    def patch(self, text: str) -> str:
        """Return the change of the source as a unified diff."""
        old, new = _lines(text), _lines(self.applied(text))
        return "".join(with_headings(difflib.unified_diff(old, new, f"a/{self.path}", f"b/{self.path}"), old))


@dataclass(frozen=True, slots=True)
class _Place:
    """A definition, its text and the same without comments and literals; `at` is its first character's place."""

    definition: Definition
    at: int
    text: str
    code: str
    functions: tuple[Definition, ...]

    @property
    def body(self) -> int:
        """Place of the first brace, the end if there is none."""
        found = self.code.find("{")
        return len(self.code) if found < 0 else found


_Found = tuple[int, int, str]
"""Start and end in the definition's text, and the new text."""
_Operator = Callable[[_Place, random.Random], Iterator[_Found]]


def mutations(path: str, text: str, dice: random.Random) -> Iterator[Mutation]:
    """Yield all changes that the operators find in a source; `dice` decides about the new values.

    Code that only runs at start-up or at the end of a module is left out: every change of it is refused.
    """
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    hidden = blanked(text)
    definitions = read_definitions(text)
    functions = tuple(one for one in definitions if one.kind is DefinitionKind.FUNCTION)
    for one in definitions:
        if one.words & (STARTING | ENDING | {"__setup", "early_param"}) or not one.name:
            continue
        first, last = starts[one.start - 1], min(starts[one.end], len(text))
        place = _Place(one, first, text[first:last], _without_directives(hidden[first:last]), functions)
        for kind, operator in _OPERATORS[one.kind].items():
            for start, end, new in operator(place, dice):
                if place.text[start:end] != new:
                    yield Mutation(kind=kind, path=path, place=one.name, start=first + start, end=first + end, new=new)
    yield from _burst(path, text)


def enumerators(path: str, text: str, used: frozenset[str], dice: random.Random) -> Iterator[Mutation]:
    """Yield changes of enumerators of the header `path` that a source uses; `used` are all words of that source."""
    hidden = _without_directives(blanked(text))
    for start, end, name, new in _enumerators(hidden, dice):
        if name in used:
            yield Mutation(kind="enumerator", path=path, place=name, start=start, end=end, new=new)


def _lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.removesuffix("\n").split("\n")]


def _without_directives(code: str) -> str:
    """Return the code with the preprocessor's lines as blanks; all other characters keep their place."""
    return re.sub(r"(?m)^[ \t]*#(?:.*\\\n)*.*$", lambda found: re.sub(r"[^\n]", " ", found[0]), code)


def _another_number(found: re.Match[str], dice: random.Random) -> str:
    value = int(found[1], 0) if found[1].lower().startswith("0x") else int(found[1], 8 if found[1][0] == "0" else 10)
    changed = dice.choice((value + 1, value + 2, value ^ 1, value ^ 4))
    return (hex(changed) if found[1].lower().startswith("0x") else str(changed)) + found[2]


def _constant(place: _Place, dice: random.Random) -> Iterator[_Found]:
    for found in _NUMBER.finditer(place.code, place.body):
        before = place.code[max(0, found.start() - 40) : found.start()]
        if not re.search(r"\bcase\s+[^:]*$|\[\s*$|\bstatic\b[^;]*$|:\s*$", before):
            yield found.start(), found.end(), _another_number(found, dice)
    for found in _ERROR_NUMBER.finditer(place.code, place.body):
        yield found.start(), found.end(), dice.choice([one for one in _ERROR_NUMBERS if one != found[0]])


def _table(place: _Place, dice: random.Random) -> Iterator[_Found]:
    """Yield changes of entries of tables: of file-level data, or of static data of a function."""
    yield from ((start, end, new) for member, start, end, new in _entries(place, dice) if not member)


def _initialiser(place: _Place, dice: random.Random) -> Iterator[_Found]:
    """Yield changes of values of named members, and of local variables that have one."""
    yield from ((start, end, new) for member, start, end, new in _entries(place, dice) if member)
    if place.definition.kind is DefinitionKind.FUNCTION:
        for found in _LOCAL_INITIALISER.finditer(place.code, place.body):
            if "static" not in found[0]:
                yield found.start(1), found.end(1), _another_value(found[1])


def _another_value(value: str) -> str:
    return {"true": "false", "false": "true", "0": "1"}.get(value, f"{value} + 1")


def _entries(place: _Place, dice: random.Random) -> Iterator[tuple[bool, int, int, str]]:
    """Yield changes of literals between the braces of data; the first of each says that a member's name is before."""
    if place.definition.kind is DefinitionKind.DATA:
        spans = [(place.body, len(place.code))]
    else:
        spans = [(one.end(), _closed(place.code, one.end())) for one in _LOCAL_TABLE.finditer(place.code)]
    for start, end in spans:
        for found in _NUMBER.finditer(place.code, start, end):
            before = place.code[: found.start()]
            if not re.search(r"\[[^\]]*$", before):
                yield bool(_MEMBER.search(before)), found.start(), found.end(), _another_number(found, dice)
        for found in _STRING.finditer(place.text, start, end):
            if (new := _another_text(found[0], dice)) is not None and place.code[found.start()] == '"':
                yield bool(_MEMBER.search(place.code[: found.start()])), found.start(), found.end(), new


def _closed(code: str, start: int) -> int:
    """Return the place behind the brace that closes the one before `start`."""
    depth = 1
    for found in re.finditer(r"[{}]", code[start:]):
        depth += 1 if found[0] == "{" else -1
        if not depth:
            return start + found.end()
    return len(code)


def _another_text(literal: str, dice: random.Random) -> str | None:
    """Return a literal with one letter changed outside of conversions and escapes, None if it has no such letter."""
    kept = [range(*found.span()) for found in _FORMAT.finditer(literal)]
    places = [at for at, letter in enumerate(literal) if letter.isalpha() and not any(at in one for one in kept)]
    if not places:
        return None
    at = dice.choice(places)
    return f"{literal[:at]}{'x' if literal[at] != 'x' else 'y'}{literal[at + 1 :]}"


def _unlikely_spans(code: str) -> list[tuple[int, int]]:
    return [(found.end(), code.find(";", found.end())) for found in _UNLIKELY.finditer(code)]


def _texts(place: _Place, dice: random.Random, *, unlikely: bool) -> Iterator[_Found]:
    spans = _unlikely_spans(place.code)
    for found in _STRING.finditer(place.text, place.body):
        inside = any(start <= found.start() < end for start, end in spans)
        # A directive's text, such as that of an #include, is blank in the code, and so is a comment's.
        if inside == unlikely and place.code[found.start()] == '"' and (new := _another_text(found[0], dice)):
            yield found.start(), found.end(), new


def _string(place: _Place, dice: random.Random) -> Iterator[_Found]:
    return _texts(place, dice, unlikely=False)


def _unlikely_text(place: _Place, dice: random.Random) -> Iterator[_Found]:
    return _texts(place, dice, unlikely=True)


def _switch_arm(place: _Place, dice: random.Random) -> Iterator[_Found]:
    """Yield arms of a switch with the value or the label of another arm of the same function."""
    arms = list(_ARM.finditer(place.code, place.body))
    for one in arms:
        if others := sorted({place.text[slice(*arm.span("value"))] for arm in arms if arm["how"] == one["how"]}
                            - {place.text[slice(*one.span("value"))]}):  # fmt: skip
            yield *one.span("value"), dice.choice(others)
        for found in _NUMBER.finditer(place.code, *one.span("value")):
            yield found.start(), found.end(), _another_number(found, dice)
        for found in _STRING.finditer(place.text, *one.span("value")):
            if new := _another_text(found[0], dice):
                yield found.start(), found.end(), new


def _enumerator(place: _Place, dice: random.Random) -> Iterator[_Found]:
    yield from ((start, end, new) for start, end, _, new in _enumerators(place.code, dice))


def _enumerators(code: str, dice: random.Random) -> Iterator[tuple[int, int, str, str]]:
    for body in _ENUM.finditer(code):
        for found in _ENUMERATOR.finditer(body[1].rstrip()):
            at = body.start(1)
            value = f" = {dice.choice((3, 5, 9, 17))}" if not found[2] else f"= {found[2].strip('= ')} + 1"
            start, end = found.span(2) if found[2] else (found.end(1), found.end(1))
            yield at + start, at + end, found[1], value


def _callee(place: _Place, dice: random.Random) -> Iterator[_Found]:
    """Yield calls of another function with the same parameters: a well-known pair, or two of the same source."""
    by_type: dict[str, list[str]] = {}
    own: dict[str, str] = {}
    for one in place.functions:
        if one.start < place.definition.start and one.name.islower():
            own[one.name] = _signature(one)
            by_type.setdefault(own[one.name], []).append(one.name)
    for found in _CALL.finditer(place.code, place.body):
        others = [one for one in by_type.get(own.get(found[1], ""), ()) if one != found[1]]
        if found[1] in _ANOTHER_CALLEE:
            others.append(_ANOTHER_CALLEE[found[1]])
        if others:
            yield found.start(), found.end(), dice.choice(others)


def _signature(function: Definition) -> str:
    """Return the types of what a function returns and takes, without names."""
    before, _, behind = function.head.partition(function.name)
    parameters = behind.strip().lstrip("(").rpartition(")")[0].split(",")
    result = " ".join(word for word in before.split() if word not in {"static", "inline", "noinline", "extern"})
    return f"{result}({','.join(_PARAMETER_NAME.sub('', one).strip() for one in parameters)})"


def _static(place: _Place, dice: random.Random) -> Iterator[_Found]:
    """Yield statics of a function or of the file with another value at the start."""
    for found in _LOCAL_STATIC.finditer(place.code):
        if not found[2]:
            yield found.end(1), found.end(1), " = ATOMIC_INIT(2)" if "atomic_t" in found[0] else " = 1"
        else:
            value = found[2].strip("= ")
            yield *found.span(2), f" = {_another_value(value)}"
    if place.definition.kind is DefinitionKind.DATA and "{" not in place.code:
        for found in _NUMBER.finditer(place.code, max(place.code.find("="), 0)):
            if "=" in place.code and not re.search(r"\[[^\]]*$", place.code[: found.start()]):
                yield found.start(), found.end(), _another_number(found, dice)


def _condition(place: _Place, _: random.Random) -> Iterator[_Found]:
    changed = {"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "&&": "||", "||": "&&"}
    for found in _CONDITION.finditer(place.code, place.body):
        end = _parenthesis(place.code, found.end())
        for one in _COMPARISON.finditer(place.code, found.end(), end):
            yield *one.span(1), changed[one[1]]
        if place.code.startswith("!", found.end()):
            yield found.end(), found.end() + 1, ""


def _parenthesis(code: str, start: int) -> int:
    depth = 1
    for found in re.finditer(r"[()]", code[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.end()
    return len(code)


def _once(place: _Place, _: random.Random) -> Iterator[_Found]:
    """Yield warnings that come once instead of always, or always instead of once."""
    for found in re.finditer(r"\bWARN(?:_ON)?(?:_ONCE)?(?=\()", place.code):
        if found[0] in _ONCE:
            yield found.start(), found.end(), _ONCE[found[0]]


def _ratelimit(place: _Place, _: random.Random) -> Iterator[_Found]:
    for found in _RATELIMIT.finditer(place.code):
        yield *found.span(1), f"({found[1]}) + 1"


def _burst(path: str, text: str) -> Iterator[Mutation]:
    """Yield a source in which all messages with the usual limit come more often at a time."""
    includes = list(_INCLUDE.finditer(text))
    if includes and _LIMITED.search(blanked(text)):
        at = includes[-1].end()
        new = "#undef DEFAULT_RATELIMIT_BURST\n#define DEFAULT_RATELIMIT_BURST 11\n"
        yield Mutation(kind="ratelimit", path=path, place="(all limited messages)", start=at, end=at, new=new)


_IN_FUNCTIONS: dict[str, _Operator] = {
    "constant": _constant, "switch arm": _switch_arm, "string": _string, "unlikely text": _unlikely_text,
    "callee": _callee, "static": _static, "condition": _condition, "once": _once, "ratelimit": _ratelimit,
    "table entry": _table, "initialiser": _initialiser,
}  # fmt: skip
_OPERATORS: dict[DefinitionKind, dict[str, _Operator]] = {
    DefinitionKind.FUNCTION: _IN_FUNCTIONS,
    DefinitionKind.DATA: {"table entry": _table, "initialiser": _initialiser, "static": _static},
    DefinitionKind.TYPE: {"enumerator": _enumerator},
    DefinitionKind.MACRO: {},
    DefinitionKind.USE: {"ratelimit": _ratelimit},
    DefinitionKind.OTHER: {"enumerator": _enumerator},
}
KINDS = (*_IN_FUNCTIONS, "enumerator")
"""Kinds of change, in the order of the figures."""
