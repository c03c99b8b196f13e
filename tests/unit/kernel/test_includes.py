# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a change of a header reaches: rather one too many than one too few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.includes import Includes, absent, read_includes

HEADERS = frozenset(
    {
        "include/linux/list.h",
        "include/linux/if_vlan.h",
        "include/uapi/linux/if_vlan.h",
        "arch/x86/include/asm/page.h",
        "arch/x86/include/generated/asm/kmap_size.h",
        "include/asm-generic/kmap_size.h",
        "net/8021q/vlan.h",
        "drivers/gpu/trace.h",
        "include/linux/kconfig.h",
    }
)


def includes(*lines: str) -> Includes:
    return read_includes(lines, HEADERS)


def test_quoted_headers_are_looked_for_beside_the_includer_first() -> None:
    found = includes('net/8021q/vlan.c:#include "vlan.h"', "net/8021q/vlan.h:#include <linux/if_vlan.h>")
    assert found.users("net/8021q/vlan.h") == {"net/8021q/vlan.c"}
    assert found.users("include/linux/if_vlan.h") == {"net/8021q/vlan.h", "net/8021q/vlan.c"}


def test_the_kernels_own_header_hides_the_one_for_user_space() -> None:
    found = includes("a.c:#include <linux/if_vlan.h>", "b.c:#include <uapi/linux/if_vlan.h>")
    assert found.users("include/linux/if_vlan.h") == {"a.c"}
    assert found.users("include/uapi/linux/if_vlan.h") == {"b.c"}


def test_headers_found_by_a_makefiles_search_path_count_by_the_end_of_their_name() -> None:
    found = includes('drivers/gpu/deep/a.c:#include "trace.h"', 'drivers/gpu/deep/b.c:#include "../trace.h"')
    assert found.users("drivers/gpu/trace.h") == {"drivers/gpu/deep/a.c", "drivers/gpu/deep/b.c"}


def test_a_header_that_a_macro_names_counts_as_included() -> None:
    found = includes(
        "include/linux/api.h:#define MAGIC_INCLUDE_FILE <linux/list.h>",
        'net/8021q/vlan.c:# define FILE_OF_MINE "vlan.h"',
        'a.c:#define NAME "list"',
        'b.c:#define TEXT "see list.h, please"',
        "main.c:#include <linux/api.h>",
    )
    assert found.users("include/linux/list.h") >= {"include/linux/api.h"}
    assert found.users("net/8021q/vlan.h") == {"net/8021q/vlan.c"}
    assert not found.users("include/linux/list.h") & {"a.c", "b.c"}


def test_a_generated_wrapper_leads_to_the_generic_header() -> None:
    found = includes(
        "a.c:#include <asm/kmap_size.h>",
        "arch/x86/include/generated/asm/kmap_size.h:#include <asm-generic/kmap_size.h>",
    )
    assert "a.c" in found.users("include/asm-generic/kmap_size.h")


def test_what_the_makefile_includes_by_option_reaches_every_file() -> None:
    found = includes("a.c:#include <linux/list.h>", "b.c:#include <asm/page.h>")
    assert found.users("include/linux/kconfig.h") >= {"a.c", "b.c"}


def test_headers_that_include_each_other_come_to_an_end() -> None:
    found = includes(
        "include/linux/list.h:#include <asm/page.h>",
        "arch/x86/include/asm/page.h:#include <linux/list.h>",
        "a.c:#include <linux/list.h>",
    )
    assert found.users("arch/x86/include/asm/page.h") == {"include/linux/list.h", "a.c"}


def test_a_header_that_nobody_includes_has_no_users() -> None:
    assert includes().users("include/linux/list.h") == frozenset()


@given(st.lists(st.text(max_size=60)))
def test_arbitrary_lines_are_passed_over(lines: list[str]) -> None:
    assert isinstance(read_includes(lines, HEADERS), Includes)


MADE = {"tools.c": ("security/flask.h",), "include/linux/list.h": ("lib/names.h",)}


def generated(*lines: str) -> Includes:
    return read_includes(lines, HEADERS | {"security/flask.h", "lib/names.h"}, MADE, ("tools.c",))


def test_a_generated_file_is_a_user_of_what_it_is_made_from_and_has_users_itself() -> None:
    found = generated('lib/a.c:#include "names.h"')
    assert found.users("include/linux/list.h") == {"lib/names.h", "lib/a.c"}
    assert found.remade("include/linux/list.h") == {"lib/names.h", "lib/a.c"}


def test_what_a_program_of_the_build_includes_is_an_input_of_what_it_makes() -> None:
    lines = ('tools.c:#include "net/8021q/vlan.h"', 'security/avc.c:#include "flask.h"')
    assert generated(*lines).users("net/8021q/vlan.h") == {"tools.c", "security/flask.h", "security/avc.c"}
    assert generated(*lines).users("tools.c") == {"security/flask.h", "security/avc.c"}


def test_what_a_header_read_as_text_includes_is_no_input() -> None:
    found = generated("include/linux/list.h:#include <asm/page.h>", 'lib/a.c:#include "names.h"')
    assert found.users("arch/x86/include/asm/page.h") == {"include/linux/list.h"}
    assert found.remade("arch/x86/include/asm/page.h") == frozenset()


def test_a_name_that_no_file_has_may_be_a_generated_one() -> None:
    found = includes('lib/crc32.c:#include "crc32table.h"', 'fs/a.c:#include "trace.h"')
    assert absent(found, ["drivers/gpu/trace.h"]) == {"crc32table.h": ["lib/crc32.c"]}
