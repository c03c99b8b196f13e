# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of structures: series that change the layout of a structure that can be live are refused.

create-diff-object compares functions, not types, and a load test passes: the damage comes later, when new code meets
an old object. So the layouts of all structures in the debug information of both objects are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.process import Cancellation

_HEAD = re.compile(r"(?:typedef )?(?P<kind>struct|union) (?:(?P<tag>\w+) )?\{")
_TYPE_NAME = re.compile(r"\} (?:__attribute__\(\(.*\)\) )?(\w+);")
# pahole's own comments; those about holes begin with three X.
_COMMENT = re.compile(
    r"\s*/\* (?:X{3}|size:|sum |last cacheline|padding|forced|paddings|---|bit_padding|BRAIN|saved).*"
)
_UNNAMED = "an unnamed structure"
_EXTENT = re.compile(r"/\*\s+(\d+)(?::\s*\d+)?\s+(\d+)\s*\*/")
_SIZE = re.compile(r"/\* size: (\d+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """One structure: size in bytes and its members as `declaration /* offset size */` lines."""

    size: int
    members: tuple[str, ...]


def read_layouts(listing: str) -> dict[str, frozenset[Layout]]:
    """Return the layouts in pahole's output by name, such as `struct kref`; a name may stand for several structures.

    A structure without a tag has the name of its type; all structures without both share one name.
    """
    found: dict[str, set[Layout]] = {}
    name, members, size = "", list[str](), 0
    for line in listing.splitlines():
        if not name:
            if head := _HEAD.match(line):
                name = f"{head['kind']} {head['tag']}" if head["tag"] else _UNNAMED
                members, size = [], 0
        elif line.startswith("}"):
            if name == _UNNAMED and (typedef := _TYPE_NAME.match(line)):
                name = typedef[1]
            found.setdefault(name, set()).add(Layout(size, tuple(members)))
            name = ""
        elif total := _SIZE.search(line):
            size = int(total[1])
        elif line.strip() and not _COMMENT.match(line):
            members.append(" ".join(line.split()))
            if extent := _EXTENT.search(line):
                # pahole prints no size of a union.
                size = max(size, int(extent[1]) + int(extent[2]))
    return {key: frozenset(layouts) for key, layouts in found.items()}


def compare_layouts(
    original: dict[str, frozenset[Layout]], patched: dict[str, frozenset[Layout]]
) -> dict[str, tuple[Layout, Layout]]:
    """Return the structures whose layout changed, each with an old and a new layout."""
    changed = {}
    for name in sorted(original.keys() & patched.keys()):
        gone, come = original[name] - patched[name], patched[name] - original[name]
        # A name that only lost or only gained a variant is another structure of that name, not a changed one.
        if gone and come:
            changed[name] = (min(gone, key=repr), min(come, key=repr))
    return changed


def check_layouts(
    *, original: Path, patched: Path, source: str, sandbox: Sandbox, cancellation: Cancellation | None = None
) -> None:
    """Raise BuildStopped with `data-layout` if a structure's layout differs between the two objects."""
    listings = []
    for path in (original, patched):
        # Options: also structures used in one function only, without a tag, and inside others.
        done = sandbox.run(
            ["pahole", "-F", "dwarf", "--show_private_classes", "-a", "-A", f"/in/{path.name}"],
            inputs=path.parent,
            timeout_s=120,
            cancellation=cancellation,
        ).check(f"Reading the structures of {source}")
        listings.append(read_layouts(done.text))
    changed = compare_layouts(*listings)
    if not changed:
        return
    name, (old, new) = next(iter(changed.items()))
    how = f"from {old.size} to {new.size} bytes" if old.size != new.size else "(same size, other members)"
    others = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    raise BuildStopped(
        problem(
            "data-layout",
            f"{source} changes the layout of {name} {how}{others}.",
            excerpt="\n\n".join(_explain(name, *pair) for name, pair in list(changed.items())[:5]),
        )
    )


def _explain(name: str, old: Layout, new: Layout) -> str:
    gone = [f"- {line}" for line in old.members if line not in new.members]
    come = [f"+ {line}" for line in new.members if line not in old.members]
    return "\n".join([f"{name} ({old.size} to {new.size} bytes)", *gone[:8], *come[:8]])
