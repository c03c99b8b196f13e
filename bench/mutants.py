# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutation test of the product: change real kernel sources at random, build, and look what became of each change.

usage: mutants.py [--count N] [--seed S] [--kernel RELEASE ...] [--kind KIND ...] [--source PATH ...] [--result FILE]
                  [--fresh | --lost]

mutations.py makes the changes of ten sources, one for each function as far as possible. The builder `objects` builds
each without a trial. It is right if the livepatch carries the change, which carried.py finds out from the bytes of the
objects and the module, or if it refuses the change, or if it says `no-change` and the objects are the same in all that
the kernel uses. Every other mutant is lost. Mutants that do not compile or change nothing do not count. Writes
bench/mutants.json, with the source patch of each lost mutant. An interrupted run continues (journal.py); --fresh starts
over; --lost tries only the lost mutants of the result again, and corrects its figures. Ends with 1 if a mutant is
lost, or if the run itself failed on one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import elivepatch
from carried import changes, lost, same_instructions
from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.objects.header_users import includes_of
from elivepatch.files.digest import sha256
from elivepatch.model.build import BuildOutcome
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.c_source import words_of
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from journal import Journal, Row
from mutations import KINDS, Mutation, enumerators, mutations
from object_contents import Contents

RESULT = Path(__file__).with_name("mutants.json")
KERNELS = ("6.1.0-50-cloud-amd64", "6.12.118+deb13-cloud-amd64")
SOURCES = (
    "kernel/reboot.c", "net/core/dev.c", "fs/namei.c", "mm/shmem.c", "fs/locks.c", "drivers/tty/tty_io.c",
    "net/xfrm/xfrm_state.c", "fs/xfs/xfs_ioctl.c", "net/netfilter/nf_conntrack_proto_tcp.c", "drivers/block/loop.c",
)  # fmt: skip
"""Seven of the kernel itself and three of modules; most have tables that the compiler makes of a `switch`."""
HEADER_USERS = 12
"""Limit of the objects that include a header in which an enumerator changes."""
CARRIED, REFUSED, LOST, NO_EFFECT, NOT_COMPILED, FAULT = (
    "carried", "refused", "lost", "no-effect", "not-compiled", "fault",
)  # fmt: skip
COUNTED = (CARRIED, REFUSED, LOST)
NAME = "livepatch_mutant"


def main() -> int:
    parser = argparse.ArgumentParser(description="Change sources at random and look what became of each change.")
    parser.add_argument("--count", type=int, default=500, help="mutants with an effect, of all kernels together")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--kernel", nargs="+", default=KERNELS, metavar="RELEASE")
    parser.add_argument("--kind", nargs="+", default=KINDS, choices=KINDS, metavar="KIND")
    parser.add_argument("--source", nargs="+", default=SOURCES, metavar="PATH")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    parser.add_argument("--lost", action="store_true", help="try the lost mutants of the result again")
    arguments = parser.parse_args()
    backend = LocalBackend(
        ServerSettings(cache_dir=Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch")))
    )
    bases = [backend.base(backend.maker().add(one).release) for one in arguments.kernel]
    if arguments.lost:
        return again(backend, arguments.result)
    facts = {"bases": [one.digest for one in bases], "product": product(), "seed": arguments.seed}
    journal = Journal.beside(arguments.result, facts, fresh=arguments.fresh)
    rows: list[Row] = []
    runs = [
        run(journal, backend, base, arguments, arguments.count // len(bases) + (number < arguments.count % len(bases)))
        for number, base in enumerate(bases)
    ]
    for row in (row for turn in zip_longest(*runs) for row in turn if row is not None):
        rows.append(row)
        print(line_of(row), flush=True)
        arguments.result.write_text(json.dumps(figures(rows, arguments.seed), indent=1) + "\n")
    found = figures(rows, arguments.seed)
    print(f"{found['mutants']} mutants: {found['carried']} carried, {found['refused']} refused, {found['lost']} lost")
    return 1 if not journal.finish() or found["lost"] else 0


def again(backend: LocalBackend, result: Path) -> int:
    """Try the lost mutants of a result again and correct its figures; return 1 if one is still lost."""
    found = json.loads(result.read_text(encoding="utf-8"))
    before, found["lost_mutants"] = found["lost_mutants"], []
    for row in before:
        about_it = {"kind": row["kind"], "path": row["source"], "place": row["place"]}
        mutation = Mutation(**about_it, start=0, end=0, new="")
        now = tried(backend, backend.base(row["kernel"]), mutation, row["patch"])
        print(line_of(now), flush=True)
        counts = [found, found["by_kind"][row["kind"]], found["by_source"][row["source"]]]
        for count in (*counts, found["by_kernel"][row["kernel"]]):
            count[row["result"]] -= 1
            count[now["result"]] += 1
        if now["result"] in {LOST, FAULT}:
            found["lost_mutants"].append(now)
    result.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["lost_mutants"] else 0


def run(
    journal: Journal, backend: LocalBackend, base: Base, arguments: argparse.Namespace, count: int
) -> Iterator[Row]:
    """Yield the rows of mutants of one kernel until `count` of them had an effect."""
    texts: dict[str, str] = {}
    counted = 0
    for number, mutation in enumerate(planned(backend, base, arguments.source, arguments.kind, arguments.seed, texts)):
        if counted == count:
            return
        patch = mutation.patch(texts[mutation.path])
        entry = f"{base.release} {number} {mutation.kind} {sha256(patch.encode('latin-1'))[:16]}"
        row = journal.result(entry, partial(tried, backend, base, mutation, patch))
        row = {"result": FAULT, "kernel": base.release, "patch": patch} | about(mutation) | row
        counted += row["result"] in COUNTED
        yield row


def planned(
    backend: LocalBackend, base: Base, sources: Sequence[str], kinds: Sequence[str], seed: str, texts: dict[str, str]
) -> Iterator[Mutation]:
    """Yield mutants in random order, kind by kind, each of a function of its own as long as there are such.

    `texts` receives the text of each source. The same seed gives the same mutants for the same base.
    """
    dice = random.Random(f"{seed} {base.release}")  # noqa: S311 - a fixed sequence
    left: dict[str, dict[str, list[Mutation]]] = {kind: {} for kind in kinds}
    for source in sources:
        for one in (*found_in(base, source, dice, texts), *in_headers(backend, base, source, dice, texts)):
            if one.kind in left:
                left[one.kind].setdefault(source, []).append(one)
    used: set[tuple[str, str]] = set()
    while any(left.values()):
        for kind in sorted(left, key=lambda _: dice.random()):
            by_source = left[kind]
            if not by_source:
                continue
            source = dice.choice(sorted(by_source))
            of_new = [one for one in by_source[source] if (one.path, one.place) not in used]
            chosen = dice.choice(of_new or by_source[source])
            by_source[source].remove(chosen)
            if not by_source[source]:
                del by_source[source]
            used.add((chosen.path, chosen.place))
            yield chosen


def found_in(base: Base, source: str, dice: random.Random, texts: dict[str, str]) -> list[Mutation]:
    """Return the mutations of a source of the base."""
    texts[source] = (base.tree / source).read_bytes().decode("latin-1")
    return list(mutations(source, texts[source], dice))


def in_headers(
    backend: LocalBackend, base: Base, source: str, dice: random.Random, texts: dict[str, str]
) -> Iterator[Mutation]:
    """Yield changes of enumerators that the source uses, in the headers that few others include."""
    includes = includes_of(base, backend.toolchains.sandbox(backend.toolchains.get(base.toolchain)))
    used = words_of(texts[source])
    for header, direct in sorted(includes.resolved.items()):
        if source not in direct or len(direct) > HEADER_USERS or not (base.tree / header).is_file():
            continue
        text = (base.tree / header).read_bytes().decode("latin-1")
        found = list(enumerators(header, text, used, dice))
        if found and sum(one in base.units.by_source for one in includes.users(header)) <= HEADER_USERS:
            texts[header] = text
            yield from found


def about(mutation: Mutation) -> Row:
    """Return the facts of a mutant that its row begins with."""
    return {"kind": mutation.kind, "source": mutation.path, "place": mutation.place}


def tried(backend: LocalBackend, base: Base, mutation: Mutation, patch: str) -> Row:
    """Build a mutant; return what became of it."""
    scratch = backend.bases.directory.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=scratch) as directory:
        work_dir = Path(directory)
        work_dir.chmod(0o755)
        started = time.monotonic()
        builder = ObjectsBuilder(base=base, toolchains=backend.toolchains, jobs=os.cpu_count() or 1)
        series = PatchSeries((SourcePatch("mutant.patch", patch.encode("latin-1")),))
        outcome = builder.build(series, name=NAME, work_dir=work_dir)
        seconds = round(time.monotonic() - started, 1)
        result, code, why = judged(outcome, base, work_dir)
    row = {"kernel": base.release} | about(mutation) | {"result": result, "code": code, "why": why, "seconds": seconds}
    return row | ({"patch": patch} if result == LOST else {})


def judged(outcome: BuildOutcome, base: Base, work_dir: Path) -> tuple[str, str, str]:
    """Return the result of a mutant, the code of a refusal, and the reason in words."""
    code = outcome.problem.code if outcome.problem is not None else ""
    if code == "compile-error":
        return NOT_COMPILED, code, ""
    objects = [one for one in sorted(work_dir.glob("object-*")) if (one / "patched.o").exists()]
    pairs = [(one / "in/original.o", one / "patched.o") for one in objects]
    if code not in {"", "no-change"}:
        return REFUSED, code, outcome.problem.message if outcome.problem is not None else ""
    if not pairs:
        return LOST, code, "no object was compiled"
    found = [one for one in (changes(*pair, base.struct_sizes) for pair in pairs) if one]
    shown = "; ".join(one.shown for one in found)
    if not found:
        return NO_EFFECT, code, shown
    if outcome.module is None:
        return LOST, code, shown
    reasons = [reason for pair in pairs for reason in lost(*pair, outcome.module, base.struct_sizes)]
    for one, (_, patched) in zip(found, pairs, strict=False):
        for name in one.functions:
            if name in Contents(patched).functions and name in Contents(outcome.module).functions:
                reasons += same_instructions(patched, outcome.module, name)
    return (LOST, code, "; ".join(reasons)) if reasons else (CARRIED, code, shown)


def figures(rows: Sequence[Row], seed: str) -> Row:
    """Return the figures of a run: mutants with an effect by their result, also by kind, source and refusal."""
    counted = [one for one in rows if one["result"] in COUNTED]
    results = Counter(one["result"] for one in rows)

    def by(what: str) -> dict[str, dict[str, int]]:
        return {
            name: {result: sum(one["result"] == result and one[what] == name for one in counted) for result in COUNTED}
            for name in sorted({str(one[what]) for one in counted})
        }

    return {
        "mutants": len(counted),
        "functions": len({(one["kernel"], one["source"], one["place"]) for one in counted}),
        **{result: results[result] for result in (CARRIED, REFUSED, LOST, NO_EFFECT, NOT_COMPILED, FAULT)},
        "seed": seed,
        "by_kind": by("kind"),
        "by_source": by("source"),
        "by_kernel": by("kernel"),
        "by_refusal": dict(Counter(one["code"] for one in counted if one["result"] == REFUSED).most_common()),
        "lost_mutants": [one for one in rows if one["result"] in {LOST, FAULT}],
    }


def line_of(row: Row) -> str:
    """Return one line about a mutant for the person who watches."""
    shown = str(row.get("why", row.get("fault", "")))
    return (
        f"{row['result']:12} {row.get('code', ''):16} {row['kind']:13} {row['source']}: {row['place']}: {shown[:160]}"
    )


def product() -> str:
    """Return a digest of the product's source, which decides the results."""
    top = Path(elivepatch.__file__).parent
    parts: list[Any] = [(str(one.relative_to(top)), sha256(one.read_bytes())) for one in sorted(top.rglob("*.py"))]
    return sha256(json.dumps(parts).encode())


if __name__ == "__main__":
    sys.exit(main())
