# SPDX-License-Identifier: GPL-2.0-or-later
"""The stopped guest's kernel: its slide, its modules, its livepatches and ftrace's operations.

Lists in the guest's data are followed with limits, because a livepatch can write anything into them. So what they say
is compared with the code that the processors run, never believed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from elivepatch.kernel.elf import build_id_of_notes
from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.layout import Structure
from elivepatch.trial.outside.memory import PAGE_2M, GuestMemory
from elivepatch.trial.outside.shipped import ShippedKernel, jump_labels, static_calls
from elivepatch.trial.outside.sites import Site, SiteKind, Sites

_MAP_START, _MAP_BYTES = 0xFFFFFFFF80000000, 1 << 30  # __START_KERNEL_map, KERNEL_IMAGE_SIZE at most
_LIST_LIMIT = 4096
_STACK_LIMIT = 64
_SITES_LIMIT = 1 << 18
_MODULE_LIMIT_BYTES = 32 << 20
_TEXT, _RODATA = 0, 2  # enum mod_mem_type of include/linux/module.h
_HANDLER = "klp_ftrace_handler"


@dataclass(frozen=True, slots=True)
class Module:
    """A module in the guest: address of its struct module, ranges (start, size) of its code and of its constants."""

    address: int
    name: str
    text: tuple[int, int]
    rodata: tuple[int, int]

    def contains(self, address: int) -> bool:
        """Return whether the address is in the module's code."""
        return self.text[0] <= address < self.text[0] + self.text[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFunction:
    """A struct klp_func: `address` is its own, `old` and `new` are those of the two functions; `object` as reported."""

    address: int
    object: str
    name: str
    sympos: int
    old: int
    new: int
    nop: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOps:
    """A struct klp_ops: what ftrace calls for one function. `stack` has the addresses of struct klp_func, top first."""

    fops: int
    func: int
    stack: tuple[int, ...]


@dataclass(frozen=True)
class Guest:
    """The kernel in the memory of a stopped guest; every property raises NotSeen if it cannot be read."""

    kernel: ShippedKernel
    memory: GuestMemory

    @cached_property
    def slide(self) -> int:
        """Bytes by which KASLR moved the kernel; proved by the build-id in the memory there."""
        first = next((at for at in range(_MAP_START, _MAP_START + _MAP_BYTES, PAGE_2M) if self.memory.mapped(at)), None)
        if first is None:
            raise NotSeen("no kernel is mapped in the guest")
        slide = first - self.kernel.address("_text")
        start, stop = (self.kernel.address(f"__{end}_notes") + slide for end in ("start", "stop"))
        if not 0 < stop - start < 1 << 16 or build_id_of_notes(self.memory.read(start, stop - start)) != self._build_id:
            raise NotSeen("the kernel in the guest's memory has another build-id, or moved after it was loaded")
        return slide

    @property
    def _build_id(self) -> str:
        return self.kernel.elf.build_id

    def range(self, name: str) -> bytes:
        """Return the bytes of one of the kernel's ranges."""
        start, stop = self.kernel.ranges[name]
        return self.memory.read(start + self.slide, stop - start)

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """The loaded modules; empty if the kernel's structures are not known."""
        module = self._structures.get("module")
        if module is None:
            return ()
        return tuple(self._module(at, module) for at in self._list("modules", module.members["list"]))

    def _module(self, at: int, module: Structure) -> Module:
        name = self.memory.text(at + module.members["name"])
        if "mem" in module.members:  # since Linux 6.4
            memory = self._structures["module_memory"]
            parts = (at + module.members["mem"] + memory.size * number for number in (_TEXT, _RODATA))
            ranges = tuple((self._u64(one), self._u32(one + memory.members["size"])) for one in parts)
            return Module(at, name, ranges[0], ranges[1])
        layout, start = self._structures["module_layout"], at + module.members["core_layout"]
        base = self._u64(start + layout.members["base"])
        text, constant = (self._u32(start + layout.members[one]) for one in ("text_size", "ro_size"))
        return Module(at, name, (base, text), (base + text, max(constant - text, 0)))

    def sites_of(self, one: Module) -> Sites:
        """Return the places in a module that the kernel patches, from the module's own tables."""
        return Sites.of(site for site in self._sites_of(one) if one.contains(site.address))

    def _sites_of(self, one: Module) -> Iterator[Site]:
        members = self._structures["module"].members
        for pointer, number, unit in (
            ("ftrace_callsites", "num_ftrace_callsites", 8),
            ("jump_entries", "num_jump_entries", 16),
            ("static_call_sites", "num_static_call_sites", 8),
        ):
            if pointer not in members:
                continue
            start, count = self._u64(one.address + members[pointer]), self._u32(one.address + members[number])
            if not start or not count:
                continue
            if count > _SITES_LIMIT:
                raise NotSeen(f"the tables of the module {one.name[:55]} are not believable")
            table = self.memory.read(start, count * unit)
            if pointer == "jump_entries":
                yield from jump_labels(table, start)
            elif pointer == "static_call_sites":
                yield from static_calls(table, start)
            else:
                yield from (
                    Site(int.from_bytes(table[at : at + 8], "little"), SiteKind.FTRACE)
                    for at in range(0, len(table), 8)
                )

    @cached_property
    def livepatches(self) -> Mapping[str, tuple[LiveFunction, ...]]:
        """The functions of each livepatch that the kernel lists, by the name of its module."""
        patch = self._structures.get("klp_patch")
        if patch is None or "module" not in self._structures:
            return {}
        found: dict[str, tuple[LiveFunction, ...]] = {}
        for at in self._list("klp_patches", patch.members["list"]):
            module = self._u64(at + patch.members["mod"])
            name = self.memory.text(module + self._structures["module"].members["name"])
            found[name] = (*found.get(name, ()), *self._functions(at + patch.members["obj_list"]))
        return found

    def _functions(self, head: int) -> Iterator[LiveFunction]:
        owner, func = self._structures["klp_object"].members, self._structures["klp_func"].members
        for one in self._nodes(head, owner["node"]):
            name = self._u64(one + owner["name"])
            object_name = self.memory.text(name) if name else "vmlinux"
            for at in self._nodes(one + owner["func_list"], func["node"]):
                yield LiveFunction(
                    address=at,
                    object=object_name,
                    name=self.memory.text(self._u64(at + func["old_name"])),
                    sympos=self._u64(at + func["old_sympos"]),
                    old=self._u64(at + func["old_func"]),
                    new=self._u64(at + func["new_func"]),
                    nop=self.memory.read(at + func["nop"], 1) != b"\0",
                )

    @cached_property
    def operations(self) -> tuple[LiveOps, ...]:
        """The operations of livepatches."""
        ops = self._structures.get("klp_ops")
        if ops is None:
            return ()
        fops, func = self._structures["ftrace_ops"].members, self._structures["klp_func"].members
        found = []
        for at in self._list("klp_ops", ops.members["node"]):
            start = at + ops.members["fops"]
            stack = tuple(self._nodes(at + ops.members["func_stack"], func["stack_node"], _STACK_LIMIT))
            found.append(
                LiveOps(
                    fops=start,
                    func=self._u64(start + fops["func"]),
                    stack=stack,
                )
            )
        return tuple(found)

    @cached_property
    def active(self) -> Mapping[int, int]:
        """The function that each operation registered with ftrace calls, by the operation's address."""
        ops = self._structures.get("ftrace_ops")
        if ops is None:
            return {}
        found: dict[int, int] = {}
        at, end = self._u64(self.kernel.address("ftrace_ops_list") + self.slide), self.kernel.find("ftrace_list_end")
        while at and end is not None and at != end + self.slide:
            if len(found) >= _LIST_LIMIT or at in found:
                raise NotSeen("ftrace's list in the guest has no end")
            found[at] = self._u64(at + ops.members["func"])
            at = self._u64(at + ops.members["next"])
        return found

    def new_function(self, func: int) -> int:
        """Return the address of the new function of a struct klp_func."""
        return self._u64(func + self._structures["klp_func"].members["new_func"])

    @property
    def handler(self) -> int:
        """Address of the function that ftrace calls for livepatches."""
        return self.kernel.address(_HANDLER) + self.slide

    @property
    def _structures(self) -> Mapping[str, Structure]:
        return self.kernel.structures

    def _list(self, symbol: str, member: int) -> Iterator[int]:
        yield from self._nodes(self.kernel.address(symbol) + self.slide, member)

    def _nodes(self, head: int, member: int, limit: int = _LIST_LIMIT) -> Iterator[int]:
        """Yield the elements of a list of the kernel (struct list_head), whose link is at `member`."""
        at, number = self._u64(head), 0
        while at != head:
            if number >= limit:
                raise NotSeen("a list in the guest's memory has no end")
            yield at - member
            at, number = self._u64(at), number + 1

    def _u64(self, address: int) -> int:
        return self.memory.word(address)

    def _u32(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 4), "little")

    def code_of(self, one: Module) -> tuple[bytes, bytes]:
        """Return the bytes of a module's code and of its constants."""
        if max(one.text[1], one.rodata[1]) > _MODULE_LIMIT_BYTES:
            raise NotSeen(f"the module {one.name[:55]} is larger than any module")
        return (self.memory.read(*one.text), self.memory.read(*one.rodata))
