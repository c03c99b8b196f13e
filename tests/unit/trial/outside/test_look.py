# SPDX-License-Identifier: GPL-2.0-or-later
"""A look follows a replaced function from its entry to the new one, and sees what else has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import paper_kernel as paper
import pytest
from paper_kernel import PaperGuest, paper_guest

from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.guest import Guest
from elivepatch.trial.outside.look import Baseline, Function, baseline, difference, redirections, still_live
from elivepatch.trial.outside.memory import GuestMemory, Processor
from elivepatch.trial.outside.shipped import ShippedKernel

VICTIM = Function("vmlinux", "victim", 0)


@pytest.fixture
def ram() -> Iterator[PaperGuest]:
    with paper_guest() as made:
        yield made


@pytest.fixture
def see(ram: PaperGuest, tmp_path: Path) -> Callable[[], Guest]:
    kernel = ShippedKernel.of(paper.vmlinux(tmp_path / "vmlinux"))
    return lambda: Guest(kernel, GuestMemory(ram.descriptor, paper.RAM_BYTES, Processor(ram.root, 0)))


@pytest.fixture
def before(see: Callable[[], Guest]) -> Baseline:
    return baseline(see())


def test_the_slide_is_proved_by_the_build_id(ram: PaperGuest, see: Callable[[], Guest]) -> None:
    assert see().slide == paper.SLIDE
    ram.put(paper.RODATA + 16, b"\0")
    with pytest.raises(NotSeen, match="another build-id"):
        _ = see().slide


def test_a_live_function_leads_to_the_new_one_and_back(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline
) -> None:
    ram.load()
    guest = see()
    found = difference(guest, before)
    assert (found.faults, dict(found.explained)) == ([], {"ftrace": 1})
    (seen,) = redirections(guest, "fix", [VICTIM], before)
    assert (seen.function, seen.followed, seen.fault) == (VICTIM, True, "")
    assert redirections(guest, "fix", [], before) == (seen,), "as the kernel lists them, if the file does not"
    ram.revert()
    assert difference(see(), before).faults == []
    assert not still_live(see(), "fix")
    assert before.entry(see(), seen.place) == see().memory.read(seen.place, 5)


def test_a_kernel_without_btf_is_followed_to_the_livepatch_core(ram: PaperGuest, tmp_path: Path) -> None:
    kernel = ShippedKernel.of(paper.vmlinux(tmp_path / "vmlinux", types=False))
    memory = GuestMemory(ram.descriptor, paper.RAM_BYTES, Processor(ram.root, 0))
    before = baseline(Guest(kernel, memory))
    ram.load()
    guest = Guest(kernel, GuestMemory(ram.descriptor, paper.RAM_BYTES, Processor(ram.root, 0)))
    assert difference(guest, before).faults == []
    (seen,) = redirections(guest, "fix", [VICTIM], before)
    assert (seen.followed, seen.fault) == (None, "")


def test_the_entry_that_all_operations_share_leads_on_by_the_list(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline
) -> None:
    ram.load()
    ram.share(paper.LIST)
    guest = see()
    found = difference(guest, before)
    assert (found.faults, dict(found.explained)) == ([], {"ftrace": 1, "ftrace-entry": 1})
    (seen,) = redirections(guest, "fix", [VICTIM], before)
    assert (seen.followed, seen.fault) == (True, "")


def test_a_trampoline_of_5_10_leads_on_by_a_function_of_ftrace(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline
) -> None:
    ram.load()
    ram.trampoline(paper.FOPS, paper.ASSISTANT)
    guest = see()
    assert difference(guest, before).faults == []
    (seen,) = redirections(guest, "fix", [VICTIM], before)
    assert (seen.followed, seen.fault) == (True, "")


WRONG: dict[str, tuple[Callable[[PaperGuest], object], str]] = {
    "no call": (lambda ram: ram.put(paper.VICTIM, paper.NOP5), "no call"),
    "to anywhere": (lambda ram: ram.hook(paper.OTHER), "is not ftrace"),
    "to a false copy": (lambda ram: ram.put(paper.TRAMPOLINE + 3, b"\xcc"), "is not ftrace"),
    "to another handler": (lambda ram: ram.trampoline(paper.FOPS, paper.OTHER), "to the livepatch core"),
    "by ftrace to another operation": (
        lambda ram: ram.trampoline(paper.KLP_OPS, paper.ASSISTANT), "to the livepatch core",
    ),
    "to another operation": (lambda ram: ram.trampoline(paper.KLP_OPS, paper.HANDLER), "another operation"),
    "shared, to anywhere": (lambda ram: ram.share(paper.OTHER), "to the livepatch core"),
    "not registered": (lambda ram: ram.words(paper.OPS_LIST, paper.LIST_END), "not registered"),
    "not listed": (lambda ram: ram.ring(paper.PATCHES), "lists no livepatch"),
    "not on the stack": (lambda ram: ram.ring(paper.KLP_OPS + 16), "no operation"),
    "of another address": (lambda ram: ram.words(paper.FUNC + 24, paper.OTHER), "another address"),
    "to code elsewhere": (lambda ram: ram.words(paper.FUNC + 8, paper.OTHER), "not in the livepatch's module"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_function_that_does_not_lead_to_the_new_one_is_seen(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline, case: str
) -> None:
    change, words = WRONG[case]
    ram.load()
    change(ram)
    (seen,) = redirections(see(), "fix", [VICTIM], before)
    assert words in seen.fault
    assert not seen.followed


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (paper.VICTIM + 8, "victim+0x8 in the kernel's code"),
        (paper.OTHER, "other+0x0 in the kernel's code"),
        (paper.CALLER + 4, "ftrace_caller+0x4 in the kernel's code"),
        (paper.RODATA + 0x800, "in the kernel's constants"),
    ],
)
def test_a_byte_that_the_kernel_does_not_patch_is_seen(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline, address: int, words: str
) -> None:
    ram.load()
    ram.put(address, b"\xcc")
    assert any(words in fault for fault in difference(see(), before).faults)


def test_a_livepatch_with_callbacks_may_write_pointers_to_its_own_code_into_tables(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline
) -> None:
    ram.load()
    ram.words(paper.RODATA + 0x200, paper.NEW, 0)
    found = difference(see(), before, "fix")
    assert (found.faults, dict(found.explained)) == ([], {"ftrace": 1, "table": 2})
    assert difference(see(), before).faults, "one without callbacks may not"
    for address, pointer in ((0x200, paper.OTHER), (0x204, paper.NEW)):  # to code elsewhere; not aligned
        ram.put(paper.RODATA + 0x200, b"\x77" * 16)
        ram.words(paper.RODATA + address, pointer)
        assert difference(see(), before, "fix").faults


def test_an_operation_of_a_module_at_another_function_is_seen(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline
) -> None:
    ram.load()
    ram.put(paper.VICTIM, paper.NOP5)
    ram.put(paper.OTHER, paper.call(paper.OTHER + paper.SLIDE, paper.TRAMPOLINE))
    assert difference(see(), before).faults == []
    ram.trampoline(paper.FOPS, paper.NEW - paper.SLIDE)
    assert difference(see(), before).faults == ["other+0x0 in the kernel's code"]


def test_a_function_that_only_the_kernel_lists_is_seen(
    ram: PaperGuest, see: Callable[[], Guest], before: Baseline
) -> None:
    ram.load()
    seen = redirections(see(), "fix", [Function("vmlinux", "other", 0)], before)
    assert [(one.function.name, one.followed) for one in seen] == [("other", False), ("victim", False)]
    assert "does not list it" in seen[1].fault


def test_a_module_that_was_there_before_is_compared_too(ram: PaperGuest, see: Callable[[], Guest]) -> None:
    ram.load()
    before = baseline(see())
    ram.put(paper.MODULE + 0x123, b"\xcc")
    assert difference(see(), before).faults == ["byte 0x123 in the code of the module fix"]


def test_a_livepatch_that_is_still_listed_is_live(ram: PaperGuest, see: Callable[[], Guest], before: Baseline) -> None:
    ram.load()
    assert still_live(see(), "fix")
    ram.ring(paper.PATCHES)
    assert still_live(see(), "fix"), "its operation is still there"
    assert not still_live(see(), "another")


@pytest.mark.parametrize("head", [paper.PATCHES, paper.MODULES, paper.OPS, paper.KLP_OPS + 16])
def test_a_list_without_an_end_is_told(ram: PaperGuest, see: Callable[[], Guest], before: Baseline, head: int) -> None:
    ram.load()
    ram.words(head, paper.STRUCTURES + 0xF00)
    ram.words(paper.STRUCTURES + 0xF00, paper.STRUCTURES + 0xF00)
    with pytest.raises(NotSeen):
        redirections(see(), "fix", [VICTIM], before)
