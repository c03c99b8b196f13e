# SPDX-License-Identifier: GPL-2.0-or-later
"""A .config is read as data: what a shell or make would run in it is refused, with the line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.config import (
    ALLOWED_DIFFERENCES,
    KernelConfig,
    differences,
    likely_causes,
    parse_config,
    require_separate_objects,
)
from elivepatch.model.errors import UsageError

GOOD = b"""#
# Automatically generated file; DO NOT EDIT.
#
CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
CONFIG_64BIT=y
CONFIG_EXT4_FS=m
# CONFIG_KASAN is not set
CONFIG_NR_CPUS=512
CONFIG_ILLEGAL_POINTER_VALUE=0xdead000000000000
CONFIG_BASE_SMALL=-1
CONFIG_BUILD_SALT=""
CONFIG_QUOTED="a \\"b\\" \\\\ c"
"""

names = st.from_regex(r"[A-Z0-9_]{1,40}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='"\\`$'), max_size=40)


def refusal(data: bytes) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config(data)
    assert caught.value.problem.code == "config-line"
    return caught.value.problem.message


def test_every_kind_of_assignment_is_read() -> None:
    config = parse_config(GOOD)
    assert config.get("CC_VERSION_TEXT") == "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
    assert config.enabled("64BIT")
    assert (config.get("EXT4_FS"), config.enabled("EXT4_FS")) == ("m", False)
    assert config.get("KASAN") == "n"
    assert config.get("NOT_MENTIONED") == "n"
    assert (config.get("NR_CPUS"), config.get("BASE_SMALL")) == ("512", "-1")
    assert config.get("ILLEGAL_POINTER_VALUE") == "0xdead000000000000"
    assert config.get("BUILD_SALT") == ""
    assert config.get("QUOTED") == 'a "b" \\ c'


@pytest.mark.parametrize(
    "line",
    [
        'CONFIG_SYSTEM_TRUSTED_KEYS="$(touch /tmp/owned)"',
        'CONFIG_INITRAMFS_SOURCE="${shell id}"',
        'CONFIG_LOCALVERSION="`id`"',
        "CONFIG_A=$(id)",
        "CONFIG_A=y; id",
        "CONFIG_A=y # comment",
        "export CONFIG_A=y",
        "rm -rf /",
        " CONFIG_A=y",
        "CONFIG_A= y",
        "CONFIG_A",
        "CONFIG-A=y",
        'CONFIG_A="open',
        'CONFIG_A="a"b"',
        'CONFIG_A="a\\n"',
        "A=y",
        "CONFIG_A=y\r",
        "CONFIG_A=\0",
        'CONFIG_A="\0"',
        "CONFIG_A=yy",
        "CONFIG_A=0x",
    ],
)
def test_a_line_that_is_no_assignment_is_refused_with_its_number(line: str) -> None:
    message = refusal(b"# comment\nCONFIG_OK=y\n" + line.encode() + b"\n")
    assert message.startswith("Line 3 ")


def test_a_refused_line_is_shown_shortened() -> None:
    assert len(refusal(b"x" * 5000)) < 200


def test_ten_megabytes_are_refused_before_they_are_read() -> None:
    assert "larger than" in refusal(b"CONFIG_A=y\n" * ((10 << 20) // 11))


def test_what_is_not_utf8_is_refused() -> None:
    assert "UTF-8" in refusal(b'CONFIG_A="\xff"\n')


numbers = st.integers(-(10**19), 10**19).map(str)
written_and_read = st.one_of(
    st.sampled_from("ymn").map(lambda value: (value, value)),
    numbers.map(lambda value: (value, value)),
    texts.map(lambda value: (f'"{value}"', value)),
)


@given(st.dictionaries(names, written_and_read))
def test_what_kconfig_writes_comes_back(values: dict[str, tuple[str, str]]) -> None:
    text = "\n".join(f"CONFIG_{name}={written}" for name, (written, _) in values.items())
    assert parse_config(text.encode()).values == {name: read for name, (_, read) in values.items()}


@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_a_configuration_or_a_refusal(data: bytes) -> None:
    try:
        config = parse_config(data)
    except UsageError as error:
        assert error.problem.code == "config-line"  # noqa: PT017 - both ends are right
    else:
        assert not any(bad in value for value in config.values.values() for bad in ("$(", "${", "`", "\0"))


def test_differences_name_both_values() -> None:
    one = KernelConfig({"A": "y", "B": "m", "C": "1"})
    other = KernelConfig({"A": "y", "C": "2", "D": "y"})
    assert differences(one, other) == {"B": ("m", "n"), "C": ("1", "2"), "D": ("n", "y")}


def test_an_empty_string_and_an_absent_option_are_the_same() -> None:
    assert differences(KernelConfig({"A": ""}), KernelConfig({})) == {}


@pytest.mark.parametrize("name", sorted(ALLOWED_DIFFERENCES))
def test_salt_keys_and_the_name_of_the_compiler_may_differ(name: str) -> None:
    assert differences(KernelConfig({name: "a"}), KernelConfig({name: "b"})) == {}


def test_nothing_that_changes_code_may_differ() -> None:
    assert {
        "BUILD_SALT", "CC_VERSION_TEXT", "MODULE_SIG_ALL", "MODULE_SIG_KEY",
        # Files of the machine where the kernel was configured, and what depends on their being named: data.
        "SYSTEM_TRUSTED_KEYS", "SYSTEM_REVOCATION_KEYS", "SYSTEM_BLACKLIST_HASH_LIST",
        "EXTRA_FIRMWARE", "EXTRA_FIRMWARE_DIR", "INITRAMFS_SOURCE", "INITRAMFS_ROOT_UID", "INITRAMFS_ROOT_GID",
    } == ALLOWED_DIFFERENCES  # fmt: skip


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("LTO_CLANG", "kernel-lto"),
        ("LTO", "kernel-lto"),
        ("AUTOFDO_CLANG", "kernel-profile"),
        ("PROPELLER_CLANG", "kernel-profile"),
        ("CFI_CLANG", "kernel-cfi"),
        ("CFI", "kernel-cfi"),
        ("FTRACE_MCOUNT_USE_OBJTOOL", "kernel-entries"),
    ],
)
def test_a_kernel_whose_objects_cannot_be_compiled_alone_is_refused_by_name(option: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_separate_objects(KernelConfig({"CC_IS_CLANG": "y", option: "y"}))
    assert caught.value.problem.code == code
    assert f"CONFIG_{option}" in caught.value.problem.message
    assert "without" in caught.value.problem.advice or "NONE" in caught.value.problem.advice


def test_a_kernel_of_clang_alone_is_not_refused() -> None:
    require_separate_objects(KernelConfig({"CC_IS_CLANG": "y", "LTO_NONE": "y", "LTO_CLANG": "n", "CFI_CLANG": "n"}))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["ARCH_SUPPORTS_RT", "PREEMPT_RT", "PREEMPT_DYNAMIC"], ["real time"]),
        (["ARCH_HAS_PREEMPT_LAZY", "DRM_I915", "HDMI_LPE_AUDIO"], ["real time"]),
        (["RUST", "RUSTC_VERSION"], ["rustc"]),
        (["PAHOLE_VERSION", "DEBUG_INFO_BTF_MODULES"], ["pahole"]),
        (["GCC_PLUGINS", "GCC_PLUGIN_STACKLEAK"], ["plugins"]),
        (["CC_HAS_ASM_INLINE", "LD_VERSION"], ["compiler, assembler or linker"]),
        (["RUST", "PAHOLE_VERSION"], ["rustc", "pahole"]),
        (["DRM_I915", "ZFS"], ["another version"]),
    ],
)
def test_the_likely_causes_fit_the_options_that_differ(names: list[str], words: list[str]) -> None:
    causes = likely_causes(dict.fromkeys(names, ("y", "n")))
    assert len(causes) == len(words)
    assert all(word in cause for word, cause in zip(words, causes, strict=True))


@pytest.mark.parametrize("names", [["PREEMPT_RT", "PREEMPT_DYNAMIC"], ["DRM_I915", "ZFS"]])
def test_a_source_that_lacks_a_patch_gets_it_from_the_operator_unless_it_is_that_of_a_stock_kernel(
    names: list[str],
) -> None:
    differing = dict.fromkeys(names, ("y", "n"))
    (own,), (stock,) = likely_causes(differing), likely_causes(differing, stock=True)
    assert "--base-patch" in own
    assert "--base-patch" not in stock
    assert "boot another kernel" in stock


def test_a_toolchain_that_lacks_a_program_is_the_cause_for_stock_kernels_too() -> None:
    differing = {"PAHOLE_VERSION": ("130", "0"), "PREEMPT_RT": ("y", "n")}
    assert likely_causes(differing)[1:] == likely_causes(differing, stock=True)[1:]
    assert "pahole" in likely_causes(differing, stock=True)[1]
