# SPDX-License-Identifier: GPL-2.0-or-later
"""Search for addresses of the livepatch's own functions, variables and literals that its code hands out.

The code is followed with each register and place of the stack holding a set of what it may point to. An address is
handed out if it is stored in memory that is not the livepatch's or the function's own, passed to a function that may
keep it, or returned to the kernel. Joins only add to the sets, so the search ends. Code that is too large to follow
counts as handing out.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from elivepatch.build.escapes.image import Image, Node, Outside, Thing
from elivepatch.build.escapes.keepers import changes_no_register, keeps, returns_argument
from elivepatch.build.escapes.state import ELSEWHERE, NOTHING, Elsewhere, Spot, State, TooLarge, Value, shifted
from elivepatch.kernel.disassembly import Instruction, Memory, memory_of, whole_register
from elivepatch.kernel.elf import Relocation
from elivepatch.kernel.prototypes import Prototype

_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_CHANGED_BY_CALLS = (*_ARGUMENTS, "rax", "r10", "r11")
_STEPS = 400_000
_STACK_ARGUMENTS = 8
_COPYING = frozenset(("memcpy", "__memcpy", "memmove", "__memmove", "kmemdup", "kmemdup_noprof", "_copy_to_user"))
_READING = ("cmp", "test", "bt", "ucomis", "prefetch", "nop", "endbr64")
_UNKNOWN = Outside("", "")
_ENDS = frozenset(("int3", "hlt", "iret", "iretq", "sysret"))


class Escape(NamedTuple):
    """An address that the code hands out: `what` by which `function`, `how`, and the line near it if one is known."""

    what: Thing
    function: str
    how: str
    line: str


Prototypes = Callable[[Outside], Prototype | None]
"""Returns the prototype of a function of the kernel, None if it is not known."""


def find_escapes(image: Image, prototype: Prototypes, parent: str) -> tuple[Escape, ...]:
    """Return what the code of `image` hands out, in the order of the code; `parent` is the object that it changes."""
    flow = _Flow(image, prototype, parent)
    try:
        flow.run()
    except TooLarge:
        name = next((image.entries[entry] for entry in image.replacing), "the new code")
        thing = Thing("function", name, 0, 0)
        flow.escapes[Escape(thing, thing.name, "is too large to be followed, and may hand out addresses", "")] = None
    order = {node: number for number, node in enumerate(image.at)}
    return tuple(one for one, _ in sorted(flow.escapes.items(), key=lambda item: order.get(item[1] or ("", 0), 0)))


@dataclass
class _Flow:
    """The search in one image."""

    image: Image
    prototype: Prototypes
    parent: str
    escapes: dict[Escape, Node | None] = field(default_factory=dict)
    _states: dict[Node, State] = field(default_factory=dict)
    _pending: list[Node] = field(default_factory=list)
    _waits: set[Node] = field(default_factory=set)
    _stored: dict[Thing, Value] = field(default_factory=dict)
    _readers: dict[Thing, set[Node]] = field(default_factory=lambda: defaultdict(set))
    _results: dict[Node, Value] = field(default_factory=dict)
    _callers: dict[Node, set[Node]] = field(default_factory=lambda: defaultdict(set))
    _open: set[Node] = field(default_factory=set)

    def run(self) -> None:
        """Follow all code that the kernel can reach."""
        if not {one.section for one in self.image.instructions} <= self.image.elf.by_name.keys():
            raise TooLarge  # objdump spells a name in another way: its code would be overlooked
        for entry in (*self.image.replacing, *self.image.callbacks):
            self._enter(entry)
        for _ in range(_STEPS):
            if not self._pending:
                return
            node = heapq.heappop(self._pending)
            self._waits.discard(node)
            one = self.image.at.get(node)
            if one is not None:
                for label in self.image.branches.get(node, ()):
                    self._reach(label, self._states[node])
                for following, state in self._step(one, self._states[node].copy()):
                    self._reach(following, state)
        raise TooLarge

    def _enter(self, entry: Node) -> None:
        """Follow a function that the kernel may call."""
        if entry not in self._open:
            self._open.add(entry)
            self._reach(entry, State(entry))

    def _reach(self, node: Node, state: State) -> None:
        known = self._states.get(node)
        if known is None:
            self._states[node] = state.copy()
        elif not known.add(state):
            return
        self._queue(node)

    def _queue(self, *nodes: Node) -> None:
        for node in nodes:
            if node not in self._waits:
                self._waits.add(node)
                heapq.heappush(self._pending, node)  # what comes before a place is known first

    def _step(self, one: Instruction, state: State) -> Iterable[tuple[Node, State]]:
        following = one.section, one.end
        if one.name.startswith("call"):
            self._call(one, state)
        elif one.name.startswith("j"):
            return self._jump(one, state, following)
        elif one.name in {"ret", "retq"}:
            self._return(one, state)
            return ()
        elif one.name in _ENDS:
            return ()
        else:
            self._compute(one, state)
        return ((following, state),)

    def _compute(self, one: Instruction, state: State) -> None:
        name, operands = one.name, one.operands
        if not operands or (name.startswith(_READING) and not name.startswith("cmpxchg")):
            self._implied(one, state)
        elif name.startswith("push"):
            value = self._read(one, operands[0], state)
            state.stack -= 8
            state.spots[state.stack] = value
        elif name.startswith("pop") and not name.startswith("popcnt"):
            value = state.spots.pop(state.stack, NOTHING)
            state.stack += 8
            self._write(one, operands[0], value, state)
        elif len(operands) == 1:
            return  # inc, neg, set*: what they make of an address is no address
        elif name.startswith("lea") and (memory := memory_of(operands[0])) is not None:
            moving = memory.base == whole_register(operands[1].removeprefix("%"))
            self._write(
                one, operands[1], self._address(one, memory._replace(offset=0) if moving else memory, state), state
            )
        elif name.startswith(("xor", "sub")) and operands[0] == operands[1]:
            self._write(one, operands[1], NOTHING, state)
        elif name.startswith(("xchg", "cmpxchg", "xadd")):
            first, second = (self._read(one, operand, state) for operand in operands)
            self._write(one, operands[1], first, state)
            other = "%rax" if name.startswith("cmpxchg") else operands[0]
            self._write(one, other, second, state)
        elif name.startswith(("add", "sub")) and operands[1] == "%rsp":
            state.stack += _number(operands[0]) * (1 if name.startswith("add") else -1)
        elif name.startswith("and") and operands[1] == "%rsp":
            return  # it only aligns the stack: what lies there keeps its distance
        else:
            self._combine(one, state)

    def _combine(self, one: Instruction, state: State) -> None:
        *sources, target = one.operands
        value = frozenset[Thing | Spot | Elsewhere]().union(*(self._read(one, source, state) for source in sources))
        if one.name.startswith("cmov"):
            old = self._read(one, target, state)
            value = value | old | (ELSEWHERE if bool(value) != bool(old) else NOTHING)
        elif not one.name.startswith("mov") and target.startswith("%"):
            # Without the distance that is added: in a loop, there would be no end of places.
            value |= self._read(one, target, state)
        self._write(one, target, value, state)

    def _implied(self, one: Instruction, state: State) -> None:
        """Follow an instruction whose operands are not written, or that only reads."""
        if one.name.startswith("leave"):
            frame = [spot.offset for spot in state.registers.get("rbp", NOTHING) if isinstance(spot, Spot)]
            state.stack = (frame[0] if frame else state.stack) + 8
            state.registers.pop("rbp", None)

    def _read(self, one: Instruction, operand: str, state: State) -> Value:
        if operand.startswith("$"):
            found = (self._thing(one, entry) for entry in self._immediate(one))
            return frozenset(thing for thing in found if thing is not None)
        if operand.startswith("%") and ":" not in operand:
            return self._register(operand, state)
        memory = memory_of(operand)
        return NOTHING if memory is None else self._load(one, memory, state)

    def _immediate(self, one: Instruction) -> list[Relocation]:
        return [entry for entry in self.image.relocations_of(one) if self.image.is_last_field(one, entry)]

    def _thing(self, one: Instruction, entry: Relocation) -> Thing | None:
        behind = self.image.end_of(one) - entry.offset
        thing = self.image.thing_at(self.image.place_of(entry, behind=behind))
        return self._known(thing) if thing is not None else None

    def _known(self, thing: Thing) -> Thing:
        if thing.what == "function":
            self._enter((self.image.elf.sections[thing.section].name, thing.offset))
        return thing

    @staticmethod
    def _register(operand: str, state: State) -> Value:
        name = whole_register(operand.removeprefix("%"))
        return frozenset((Spot(state.stack),)) if name == "rsp" else state.registers.get(name, NOTHING)

    def _address(self, one: Instruction, memory: Memory, state: State) -> Value:
        """Return what a memory operand is a part of."""
        if memory.segment in {"gs", "fs"}:
            return ELSEWHERE
        value = shifted(self._register(memory.base, state), memory.offset) if memory.base else NOTHING
        if memory.scaled:
            value |= self._register(memory.scaled, state)
        fields = self.image.relocations_of(one)
        if any(operand.startswith("$") for operand in one.operands):
            fields = [entry for entry in fields if not self.image.is_last_field(one, entry)]
        for entry in fields:
            thing = self._thing(one, entry)
            value |= ELSEWHERE if thing is None else frozenset((thing,))
        return value

    def _load(self, one: Instruction, memory: Memory, state: State) -> Value:
        found = NOTHING
        for place in self._address(one, memory, state):
            if isinstance(place, Thing):
                self._readers[place].add((one.section, one.address))
                found |= self._contents(place)
            elif isinstance(place, Spot):
                ends = place.offset + (512 if memory.scaled or one.name.startswith("movs") else 8)
                for offset, value in state.spots.items():
                    if place.offset <= offset < ends:
                        found |= value
        return found

    def _contents(self, thing: Thing) -> Value:
        if thing not in self._stored:
            self._stored[thing] = frozenset(self._known(one) for one in self.image.pointers_in(thing))
        return self._stored[thing]

    def _write(self, one: Instruction, operand: str, value: Value, state: State) -> None:
        memory = memory_of(operand)
        if memory is not None:
            self._store(one, memory, value, state)
            return
        name = whole_register(operand.removeprefix("%"))
        if name == "rsp":
            spots = [spot.offset for spot in value if isinstance(spot, Spot)]
            state.stack = spots[0] if spots else state.stack
        elif value:
            state.registers[name] = value
        else:
            state.registers.pop(name, None)

    def _store(self, one: Instruction, memory: Memory, value: Value, state: State) -> None:
        places = self._address(one, memory, state) or ELSEWHERE
        for place in places:
            if isinstance(place, Spot):
                only = len(places) == 1 and not memory.scaled
                state.spots[place.offset] = value if only else value | state.spots.get(place.offset, NOTHING)
            elif not value:
                continue
            elif isinstance(place, Elsewhere):
                self._hand_out(one, state, value, "stores {} in memory of the kernel")
            elif not value <= self._contents(place) | {place}:
                self._stored[place] = self._contents(place) | value
                self._queue(*self._readers[place])

    def _hand_out(self, one: Instruction, state: State, value: Iterable[object], how: str) -> None:
        for what in value:
            if isinstance(what, Thing):
                function = self.image.entries.get(state.function, "")
                said = how.format(what)
                self.escapes.setdefault(Escape(what, function, said, one.line), (one.section, one.address))
            elif isinstance(what, Spot):
                for offset, spilled in state.spots.items():
                    if offset >= what.offset:
                        self._hand_out(one, state, [thing for thing in spilled if isinstance(thing, Thing)], how)

    def _target(self, one: Instruction) -> tuple[Node | None, Outside]:
        """Return the place in the livepatch that a call or jump leads to, or else the function outside."""
        if one.operands and one.operands[0].startswith("*"):
            return None, _UNKNOWN
        entries = self.image.relocations_of(one)
        if entries:
            place = self.image.place_of(entries[-1])
            return ((place[0].name, place[1]), _UNKNOWN) if place else (None, self.image.outside(entries[-1]))
        outside = self.image.resolved_in(one)
        here = None if outside or one.target is None else (one.section, one.target)
        return here, outside or _UNKNOWN

    def _call(self, one: Instruction, state: State) -> None:
        node, outside = self._target(one)
        if node is not None:
            self._call_own(one, state, node)
        elif not (one.operands[:1] and one.operands[0].startswith("*") and self._is_paravirt(one)):
            self._call_outside(one, state, outside)

    def _is_paravirt(self, one: Instruction) -> bool:
        """Return whether a call goes through pv_ops, whose functions have rules of their own for registers."""
        names = (self.image.resolved_in(one), *map(self.image.outside, self.image.relocations_of(one)))
        return any(outside is not None and outside.name == "pv_ops" for outside in names)

    def _call_own(self, one: Instruction, state: State, callee: Node) -> None:
        given = State(callee)
        for name in _ARGUMENTS:
            value = state.registers.get(name, NOTHING)
            self._hand_out(one, state, [spot for spot in value if isinstance(spot, Spot)], "passes {} on by the stack")
            if kept := frozenset(thing for thing in value if not isinstance(thing, Spot)):
                given.registers[name] = kept
        for number in range(_STACK_ARGUMENTS):
            if value := state.spots.get(state.stack + 8 * number, NOTHING):
                given.spots[8 + 8 * number] = frozenset(thing for thing in value if not isinstance(thing, Spot))
        self._callers[callee].add((one.section, one.address))
        self._reach(callee, given)
        self._after_call(state, self._results.get(callee, NOTHING))

    def _call_outside(self, one: Instruction, state: State, outside: Outside) -> None:
        name = outside.name
        how = f"passes {{}} to {name}" if name and "thunk" not in name else "passes {} to a function by its address"
        for position, value in enumerate(self._arguments(state)):
            if not value or not self._takes(outside, position):
                continue
            if keeps(name, position):
                self._hand_out(one, state, value, how)
            elif name in _COPYING:
                for thing in [thing for thing in value if isinstance(thing, Thing)]:
                    self._hand_out(one, state, self._contents(thing), how)
        if changes_no_register(name):
            state.registers.pop("rax", None)
        else:
            first = state.registers.get(_ARGUMENTS[0], NOTHING)
            self._after_call(state, first if returns_argument(name) else NOTHING)

    @staticmethod
    def _arguments(state: State) -> Iterator[Value]:
        yield from (state.registers.get(register, NOTHING) for register in _ARGUMENTS)
        for number in range(_STACK_ARGUMENTS):
            value = state.spots.get(state.stack + 8 * number, NOTHING)
            if not value:
                return
            yield value

    def _takes(self, outside: Outside, position: int) -> bool:
        shape = self.prototype(outside)
        return shape is None or shape.parameters is None or position < shape.parameters

    @staticmethod
    def _after_call(state: State, result: Value) -> None:
        for name in _CHANGED_BY_CALLS:
            state.registers.pop(name, None)
        if result:
            state.registers["rax"] = result

    def _jump(self, one: Instruction, state: State, following: Node) -> Iterator[tuple[Node, State]]:
        if not one.name.startswith("jmp"):
            yield following, state.copy()
        node, outside = self._target(one)
        if node is not None:
            entry = self.image.entries.get(node)
            if entry is None or entry.endswith(".cold") or node == state.function:
                yield node, state
                return
            self._call_own(one, state, node)
        elif outside.name == "__x86_return_thunk":
            pass
        elif labels := self._labels(one):
            for label in labels:
                yield label, state.copy()
            return
        else:
            self._call_outside(one, state, outside)
        self._return(one, state)

    def _labels(self, one: Instruction) -> list[Node]:
        """Return the places that the table of an indirect jump leads to, empty if it has no table."""
        places = [self.image.place_of(entry) for entry in self.image.relocations_of(one)]
        return [label for place in places if place is not None for label in self.image.labels_in(place)]

    def _returns_pointer(self, function: Node) -> bool:
        shape = self.prototype(Outside(self.parent, self.image.entries.get(function, "")))
        return shape is None or shape.returns_pointer

    def _return(self, one: Instruction, state: State) -> None:
        value = frozenset(thing for thing in state.registers.get("rax", NOTHING) if not isinstance(thing, Spot))
        if not value:
            return
        if state.function in self._open and self._returns_pointer(state.function):
            self._hand_out(one, state, value, "returns {} to the kernel")
        known = self._results.get(state.function, NOTHING)
        if not value <= known:
            self._results[state.function] = known | value
            self._queue(*self._callers[state.function])


def _number(operand: str) -> int:
    """Return the value of an immediate operand, 0 for a register."""
    return int(operand.removeprefix("$"), 16) if operand.startswith("$") else 0
