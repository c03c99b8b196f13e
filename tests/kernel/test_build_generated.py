# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that include files which their own make makes, such as *.asn1.h, can be changed as all others can."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edits import Edit, after, before, patch_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext, BuildSteps
from elivepatch.build.builders.prepared import check_numbers
from elivepatch.build.objects.header_users import includes_of
from elivepatch.model.build import BuildOutcome
from elivepatch.model.errors import BuildStopped

pytestmark = pytest.mark.kernel

NOP = '	asm volatile("nop");\n'
NOTE = '	pr_debug("Signature: alg=%u, size=%zu\\n", ctx->last_oid, vlen);\n'
MODULUS = "	key->n = value;\n	key->n_sz = vlen;\n"

USERS: dict[str, tuple[Edit, str]] = {
    "x509.asn1.h": (before("crypto/asymmetric_keys/x509_cert_parser.c", NOTE, NOP), "x509_note_signature"),
    "pkcs7.asn1.h": (
        before("crypto/asymmetric_keys/pkcs7_parser.c", "	ctx->raw_serial = value;\n	ctx->raw_serial_size", NOP),
        "pkcs7_sig_note_serial",
    ),
    "rsapubkey.asn1.h": (before("crypto/rsa_helper.c", MODULUS, NOP), "rsa_get_n"),
    "nf_nat_snmp_basic.asn1.h": (
        before("net/ipv4/netfilter/nf_nat_snmp_basic_main.c", "	if (*(unsigned char *)data > 1)\n", NOP),
        "snmp_version",
    ),
    "capability_names.h": (
        before("security/apparmor/capability.c", "	error = fn_for_each_confined(label, profile,\n", NOP),
        "aa_capable",
    ),
    "rlim_names.h": (
        before("security/apparmor/resource.c", "	return rlim_map[resource];\n", NOP), "aa_map_resource",
    ),
    "flask.h": (after("security/selinux/hooks.c", "static int selinux_syslog(int type)\n{\n", NOP),
                "selinux_syslog"),
}  # fmt: skip


def replaced(outcome: BuildOutcome) -> set[str]:
    assert outcome.problem is None, f"{outcome.problem.code}: {outcome.problem.message}\n{outcome.problem.excerpt}"
    return {function.name for function in outcome.functions}


def test_a_source_that_includes_a_header_made_by_its_own_make_can_be_changed(base_6_12: Base, build: Any) -> None:
    names = ("x509.asn1.h", "rsapubkey.asn1.h", "rlim_names.h")
    outcome = build(base_6_12, patch_of(base_6_12.tree, *(USERS[name][0] for name in names)))
    assert replaced(outcome) == {USERS[name][1] for name in names}
    assert outcome.module is not None


@pytest.mark.extended
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_so_can_every_other_one(request: pytest.FixtureRequest, build: Any, kernel: str) -> None:
    base: Base = request.getfixturevalue(f"base_{kernel.replace('.', '_')}")
    outcome = build(base, patch_of(base.tree, *(edit for edit, _function in USERS.values())), check_only=True)
    assert replaced(outcome) == {function for _edit, function in USERS.values()}


@pytest.mark.extended
@pytest.mark.parametrize(
    "edit",
    [
        after("lib/oid_registry.c", "look_up_OID(const void *data, size_t datasize)\n{\n", NOP),
        before("lib/crc32.c", "	return crc32_le_generic(crc, p, len, crc32table_le,", NOP),
    ],
)
def test_of_one_whose_functions_cannot_be_patched_that_is_told(base_6_12: Base, build: Any, edit: Edit) -> None:
    problem = build(base_6_12, patch_of(base_6_12.tree, edit), check_only=True).problem
    assert problem is not None
    assert problem.code == "no-function-entry"


def test_a_source_with_such_a_header_that_does_not_compile_is_told_as_the_series_fault(
    base_6_12: Base, build: Any
) -> None:
    wrong = before("crypto/rsa_helper.c", MODULUS, "	nobody_declared_this(key);\n")
    problem = build(base_6_12, patch_of(base_6_12.tree, wrong)).problem
    assert problem is not None
    assert (problem.code, problem.message) == ("compile-error", "crypto/rsa_helper.c does not compile with the series.")
    assert "nobody_declared_this" in problem.excerpt


def test_a_number_that_make_computes_for_all_code_may_not_change(
    base_6_12: Base, backend: Any, reachable_path: Path
) -> None:
    steps = BuildSteps.within(BuildContext(base=base_6_12, toolchains=backend.toolchains, jobs=1))
    users, header = {"kernel/bounds.c"}, Path("include/linux/mmzone.h")
    text = (base_6_12.tree / header).read_text(encoding="utf-8")
    check = partial(check_numbers, users, base=base_6_12, sandbox=steps.sandbox(), cancellation=None)
    for name, changed in (("same", f"{text}\n"), ("other", text.replace("MAX_NR_TIERS\t\t4U", "MAX_NR_TIERS\t\t8U"))):
        layer, work = reachable_path / f"{name}-layer", reachable_path / name
        (layer / header.parent).mkdir(parents=True)
        (layer / header).write_text(changed, encoding="utf-8")
        work.mkdir()
    check(layer=reachable_path / "same-layer", work_dir=reachable_path / "same")
    with pytest.raises(BuildStopped) as refused:
        check(layer=reachable_path / "other-layer", work_dir=reachable_path / "other")
    assert refused.value.problem.code == "data-layout"
    assert "__LRU_REFS_WIDTH, which make computes in kernel/bounds.c, from 2 to 6" in refused.value.problem.message


GENERATOR = Edit(
    "lib/gen_crc32table.c", "		crc = (crc >> 1) ^ ((crc & 1) ? polynomial : 0);\n",
    "		crc = (crc >> 1) ^ ((crc & 1) ? polynomial : 1);\n",
)  # fmt: skip


@pytest.mark.extended
def test_a_change_of_a_program_that_makes_a_header_is_not_lost(base_6_12: Base, build: Any) -> None:
    problem = build(base_6_12, patch_of(base_6_12.tree, GENERATOR), check_only=True).problem
    assert problem is not None
    assert (problem.code, "lib/crc32.c" in problem.message) == ("data-change", True)


@pytest.mark.extended
def test_a_program_that_makes_the_same_header_as_before_changes_nothing(base_6_12: Base, build: Any) -> None:
    comment = before(GENERATOR.path, GENERATOR.old, "			/* a comment */\n")
    problem = build(base_6_12, patch_of(base_6_12.tree, comment), check_only=True).problem
    assert problem is not None
    assert problem.code == "no-change"


@pytest.mark.extended
def test_a_header_that_is_made_from_another_one_reaches_its_users(base_6_12: Base, backend: Any) -> None:
    steps = BuildSteps.within(BuildContext(base=base_6_12, toolchains=backend.toolchains, jobs=2))
    graph = includes_of(base_6_12, steps.sandbox())
    made = {
        "security/selinux/include/classmap.h": "security/selinux/hooks.c",
        "include/uapi/linux/capability.h": "security/apparmor/capability.c",
        "include/uapi/asm-generic/resource.h": "security/apparmor/resource.c",
        "include/linux/oid_registry.h": "lib/oid_registry.c",
        "arch/x86/include/asm/cpufeatures.h": "arch/x86/kernel/cpu/capflags.c",
        "lib/gen_crc32table.c": "lib/crc32.c",
        "lib/raid6/mktables.c": "lib/raid6/tables.c",
    }
    assert {one: user in graph.remade(one) for one, user in made.items()} == dict.fromkeys(made, True)
    # A generated source is itself a user of what it includes.
    assert "crypto/asymmetric_keys/x509.asn1.c" in graph.users("include/linux/asn1_ber_bytecode.h")
