# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of a livepatch in a guest: live, missing for want of hardware, unloaded and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edits import Edit, patch_of

from elivepatch.build.base.store import Base
from elivepatch.model.build import BuildOutcome
from elivepatch.model.trial import Expectation, ModuleReload, TrialOutcome, TrialReport
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import TrialCase
from elivepatch.trial.run import run_trials

VLAN = Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN Dev name	 | PATCHED\\n"')
KVM = Edit(
    "arch/x86/kvm/vmx/vmx.c",
    "\tvcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;\n\tvcpu->mmio_needed = 0;\n",
    "\tvcpu->mmio_needed = 0;\n\tvcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;\n\tvcpu->run->flags = 0;\n",
)
CONFIG = Expectation(command="/proc/net/vlan/config", pattern="PATCHED")

Built = Callable[..., BuildOutcome]


@pytest.fixture
def reports(base: Base, build: Built, tmp_path: Path, settings: ServerSettings) -> dict[str, TrialReport]:
    """Try a livepatch of a module that any machine can load, and one of a module that needs an Intel processor."""
    vlan = build(base, patch_of(base.tree, VLAN), name="livepatch_vlan")
    kvm = build(base, patch_of(base.tree, KVM), name="livepatch_kvm")
    cases = []
    for name, built, expectations in (("livepatch_vlan", vlan, (CONFIG,)), ("livepatch_kvm", kvm, ())):
        assert built.module is not None, built.problem
        parents = sorted({function.object for function in built.functions})
        cases.append(TrialCase(livepatch=built.module, name=name, parents=parents, expectations=expectations))
    tried = run_trials(
        kernel=guest_kernel(base), cases=cases, work_dir=tmp_path / "work", cache_dir=settings.cache_dir
    )  # fmt: skip
    return {case.name: report for case, report in zip(cases, tried, strict=True)}


@pytest.mark.extended
def test_a_trial_says_what_was_live_in_it_and_what_was_not(reports: dict[str, TrialReport], base: Base) -> None:
    vlan, kvm = reports["livepatch_vlan"], reports["livepatch_kvm"]
    assert vlan.problems == kvm.problems == ()
    assert (vlan.outcome, vlan.not_live) == (TrialOutcome.PASSED, ())
    able = "clear_relocate_add" in base.vmlinux.named
    assert able == base.ibt, "6.12 can load a livepatched module again, 6.1 cannot"
    (again,) = vlan.module_reloads
    assert again == ModuleReload(
        module="8021q", result="reloaded" if able else "refused", words="" if able else again.words
    )
    assert [(one.change, one.result) for one in vlan.module_changes] == [
        ("loaded-late", "seen"), ("unloaded", "seen"), ("reloaded", "seen" if able else "refused"),
    ]  # fmt: skip
    assert vlan.outside is not None
    assert vlan.outside.seen, vlan.outside.why_not
    assert [(one.object, one.leads_to_new, one.restored) for one in vlan.outside.functions] == [("8021q", True, True)]
    assert kvm.outcome is TrialOutcome.PARTLY
    assert kvm.outside is not None
    assert (kvm.outside.seen, kvm.outside.functions) == (True, ()), "its module was not there to be redirected"
    assert [one.object for one in kvm.not_live] == ["kvm_intel"]
    assert "lacks the hardware" in kvm.not_live[0].why
    assert not kvm.passed
