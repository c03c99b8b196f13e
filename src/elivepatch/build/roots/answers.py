# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers of a compiler about itself, asked in the sandbox: the compiler can be anything.

The object that it makes is read by the helper's readelf, not by the program of that name beside it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take, take_file
from elivepatch.model.compiler import parse_compiler
from elivepatch.model.errors import EnvironmentFault

_TIMEOUT_S = 30.0
_SAYS_BYTES = 64 << 10
_OBJECT_BYTES = 1 << 20
# It must also link a program: a kernel's build compiles tools that run in it.
_SCRIPT = r"""
set -e
cd /tmp
"$1" --version >/out/says
printf 'int one = 1;\n' >one.c
"$1" -c one.c -o /out/one.o
printf '#include <stdio.h>\nint main(void) { return puts("linked") < 0; }\n' >main.c
"$1" main.c -o main
[ "$(./main)" = linked ]
"""
_COMMENT = re.compile(r"(?m)^ +\[ *[0-9a-f]+\]  ((?:GCC: \(|[^\n]*clang version )[^\n]*)$")
_MACHINE = re.compile(r"(?m)^ +Machine: +Advanced Micro Devices X86-64$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """`says` is the first line of `--version`; `comment` is the text in the section .comment of an object."""

    says: str
    comment: str


def ask(compiler: str, *, sandbox: Sandbox, helper: Sandbox, scratch: Path) -> Answers:
    """Return what the command `compiler` of a sandbox's root says of itself; `helper` reads the object that it makes.

    `scratch` is an empty directory that is not used for anything else. Raises EnvironmentFault with the code
    `toolchain-compiler` if the program hangs, fails or is no compiler for x86_64.
    """
    said = writable_directory(scratch / "said")
    done = sandbox.run(["sh", "-c", _SCRIPT, "sh", compiler], output=said, timeout_s=_TIMEOUT_S)
    if done.timed_out:
        raise _refused(compiler, f"does not answer within {_TIMEOUT_S:.0f} seconds", done.tail())
    if not done.ok:
        raise _refused(compiler, "does not make a program", done.tail())
    lines = take(said, "says", limit_bytes=_SAYS_BYTES).decode(errors="replace").splitlines()
    says = lines[0].rstrip() if lines else ""
    parsed = parse_compiler(says)
    if parsed is None:
        raise _refused(compiler, f"is neither gcc nor clang; it says {says[:80]!r}")
    kept = scratch / "object"
    kept.mkdir(mode=0o755)
    take_file(said, "one.o", kept / "one.o", limit_bytes=_OBJECT_BYTES)
    shown = helper.run(["readelf", "-W", "-h", "-p", ".comment", "/in/one.o"], inputs=kept).text
    comments = set(_COMMENT.findall(shown))
    if _MACHINE.search(shown) is None:
        raise _refused(compiler, "does not compile for x86_64")
    if len(comments) != 1:
        raise _refused(compiler, "does not write its name into the section .comment of an object")
    comment = comments.pop().strip()
    if parsed.number not in comment:
        raise _refused(compiler, f"says two things of itself, {says[:80]!r} and {comment[:80]!r}")
    shutil.rmtree(kept)
    shutil.rmtree(said)
    return Answers(says=says, comment=comment)


def _refused(compiler: str, what: str, excerpt: str = "") -> EnvironmentFault:
    return EnvironmentFault(
        "toolchain-compiler",
        f"The compiler {compiler} {what}.",
        advice="Run it in that root by hand, with chroot or in a container; --compiler names another one.",
        excerpt=excerpt,
    )
