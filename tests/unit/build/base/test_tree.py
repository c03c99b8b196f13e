# SPDX-License-Identifier: GPL-2.0-or-later
"""The source tree of a base: configured as the kernel was, of its version, and ready to compile single objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.build.base.tree import (
    config_gate,
    makefile_version,
    may_be_of,
    objtool_per_object,
    one_command_for_objects,
)
from elivepatch.kernel.config import KernelConfig
from elivepatch.model.errors import ElivepatchError, EnvironmentFault


def test_a_differing_configuration_stops_the_base_and_is_shown() -> None:
    shipped = KernelConfig({"DEBUG_INFO_BTF_MODULES": "y", "BUILD_SALT": "a", **{f"A{n}": "y" for n in range(40)}})
    prepared = KernelConfig({"BUILD_SALT": "b"})
    with pytest.raises(EnvironmentFault) as caught:
        config_gate(shipped, prepared, "6.1")
    problem = caught.value.problem
    assert problem.code == "config-gate"
    assert "41 options differ" in problem.message
    assert len(problem.excerpt.splitlines()) == 20
    config_gate(shipped, shipped, "6.1")


def test_a_lost_option_is_shown_with_both_values() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        config_gate(KernelConfig({"RUST": "y"}), KernelConfig({}), "7.2")
    assert caught.value.problem.excerpt == "CONFIG_RUST: y became n"


def test_objtool_runs_on_each_object_of_a_kernel_with_ibt(tmp_path: Path) -> None:
    makefile = tmp_path / "scripts/Makefile.lib"
    makefile.parent.mkdir()
    makefile.write_text(
        "objtool-args-$(CONFIG_X86_KERNEL_IBT) += --ibt\ndelay-objtool := $(or $(A),$(B))\nother := 1\n"
    )
    objtool_per_object(tmp_path)
    assert makefile.read_text() == (
        "# objtool-args-$(CONFIG_X86_KERNEL_IBT) += --ibt\ndelay-objtool := $(CONFIG_LTO_CLANG)\nother := 1\n"
    )


def test_a_build_system_that_delays_objtool_in_another_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/Makefile.lib").write_text("nothing of the kind\n")
    with pytest.raises(EnvironmentFault) as caught:
        objtool_per_object(tmp_path)
    assert caught.value.problem.code == "kernel-unsupported"


OBJECT_RULES = """quiet_cmd_cc_o_c = CC $@
      cmd_cc_o_c = $(CC) -c -o $@ $<
define rule_cc_o_c
\t$(call cmd_and_fixdep,cc_o_c)
\t$(call cmd,checksrc)
\t$(call cmd,objtool)
\t$(call cmd,modversions_c)
endef

define rule_as_o_S
\t$(call cmd,objtool)
endef
"""


def makefile_build(tmp_path: Path, text: str) -> str:
    (tmp_path / "scripts").mkdir()
    path = tmp_path / "scripts/Makefile.build"
    path.write_text(text)
    one_command_for_objects(tmp_path)
    once = path.read_text()
    one_command_for_objects(tmp_path)
    assert path.read_text() == once, "the tree of a debugging kernel was prepared before"
    return once


def test_what_the_rule_of_an_old_kernel_runs_becomes_part_of_the_command_that_make_saves(tmp_path: Path) -> None:
    steps = "$(if $(strip $(cmd_objtool)), ; $(cmd_objtool))$(if $(strip $(cmd_modversions_c)), ; $(cmd_modversions_c))"
    found = makefile_build(tmp_path, OBJECT_RULES)
    assert f"      cmd_cc_o_c = $(CC) -c -o $@ $<{steps}\n" in found
    assert "define rule_cc_o_c\n\t$(call cmd_and_fixdep,cc_o_c)\n\t$(call cmd,checksrc)\nendef\n" in found
    assert "define rule_as_o_S\n\t$(call cmd,objtool)\nendef\n" in found, "assembly is not compiled again"


def test_a_kernel_whose_saved_command_is_whole_is_left_alone(tmp_path: Path) -> None:
    whole = OBJECT_RULES.replace("\t$(call cmd,objtool)\n\t$(call cmd,modversions_c)\n", "", 1)
    assert makefile_build(tmp_path, whole) == whole


def test_a_rule_whose_command_is_not_found_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        makefile_build(tmp_path, OBJECT_RULES.replace("$(CC) ", "$(COMPILER) "))
    assert caught.value.problem.code == "kernel-unsupported"


@pytest.mark.parametrize(
    ("makefile", "version"),
    [
        ("# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 107\nEXTRAVERSION =\nNAME = Baby\n", "6.12.107"),
        ("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 0\nEXTRAVERSION = -rc7\n", "7.3.0-rc7"),
        ("all:\n", ""),
    ],
)
def test_the_version_of_a_source_is_read_from_its_makefile(makefile: str, version: str) -> None:
    assert makefile_version(makefile) == version


@pytest.mark.parametrize(
    ("release", "version", "may"),
    [
        ("6.12.107-ours", "6.12.107", True),
        ("6.12.107", "6.12.107", True),
        ("6.1.0-50-cloud-amd64", "6.1.176", True),
        ("7.3-amd64", "7.3.0-rc7", True),
        ("6.12.40-ours", "6.12.107", False),
        ("6.1.176-ours", "6.12.176", False),
        ("6.1.176-ours", "", False),
    ],
)
def test_a_release_is_of_a_source_of_its_version(release: str, version: str, may: bool) -> None:
    assert may_be_of(release, version) is may


@pytest.mark.parametrize("linked", ["scripts", "scripts/Makefile.lib"])
def test_nothing_is_written_through_a_link_in_a_source(tmp_path: Path, linked: str) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (outside / "scripts").mkdir(parents=True)
    kept = outside / "scripts/Makefile.lib"
    kept.write_text("objtool-args-$(CONFIG_X86_KERNEL_IBT) += --ibt\ndelay-objtool := x\n")
    (tree / linked).parent.mkdir(parents=True, exist_ok=True)
    (tree / linked).symlink_to(outside / linked)
    with pytest.raises(ElivepatchError):
        objtool_per_object(tree)
    assert "# objtool" not in kept.read_text()
