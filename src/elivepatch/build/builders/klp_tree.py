# SPDX-License-Identifier: GPL-2.0-or-later
"""Original kernel for the builder `klp`, built once as klp-build needs it; every patched kernel is compared with it.

klp-build itself builds the original kernel again for each livepatch. Here the first livepatch builds it, and it is kept
beside the base, as the files that the build added to the base's tree:

    RELEASE/klp/made.json      the recipe and toolchain
    RELEASE/klp/changed/       objects, vmlinux.o and the composite objects of the modules
    RELEASE/klp/changed/klp-tmp/3-checksum-orig/   the originals with a checksum of each symbol, and the linked vmlinux

Debug information is left out, because no step reads it and vmlinux.o is several times smaller without. Modules are
compiled but not linked, because only their composite objects are compared.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.store import Base
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.build.sandbox.output import take
from elivepatch.files.atomic import publish_tree
from elivepatch.files.lock import made_once
from elivepatch.kernel.config import parse_config
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import Cancellation

RECIPE = 1
"""Increased when the way the tree is built changes; an older tree is built again."""

BUILD_VARIABLES = (
    "KCFLAGS=-ffunction-sections -fdata-sections -g0",
    "KLP_SYMIDS=1",
    "KBUILD_MODPOST_WARN=1",
    "KBUILD_MODULES=y",
)
"""Variables that klp-build sets for make, without debug information, and with modules compiled beside the kernel."""

ORIGINALS = "klp-tmp/3-checksum-orig"
"""Directory in which klp-build keeps the originals with their checksums."""

_CONFIG_LIMIT_BYTES = 4 << 20
_BUILD_TIMEOUT_S = 6 * 3600.0
# Symbol positions of older trees come from vmlinux.o, whose order the final link changes.
_SYMIDS = "tools/objtool/klp-symid.c"
_SCRIPT = "scripts/livepatch/klp-build"
_UNSUPPORTED = ("GCC_PLUGIN_LATENT_ENTROPY", "GCC_PLUGIN_RANDSTRUCT", "LD_DEAD_CODE_DATA_ELIMINATION")
# The base's tree runs objtool on each object (base/tree.py); here it runs on the whole kernel, as this kernel's own
# build does. BTF is switched off, because the debug information that it is made from is left out.
_BUILD = r"""
set -e
tools/objtool/objtool klp 2>&1 | grep -q 'not implemented' && exit 9
sed -i -e 's/^# \(objtool-args-$(CONFIG_X86_KERNEL_IBT)\)/\1/' -e 's/^delay-objtool := .*/delay-objtool := y/' \
    scripts/Makefile.lib
sed -i 's/CONFIG_DEBUG_INFO_BTF\b/CONFIG_NO_BTF_IN_LIVEPATCHES/' scripts/link-vmlinux.sh scripts/Makefile.vmlinux
cp Module.symvers /tmp
"$@" vmlinux
cp /tmp/Module.symvers .
mkdir -p klp-tmp/1-orig "$ORIGINALS"
for object in vmlinux.o $(cat modules.order); do
    cp --parents "$object" "$ORIGINALS"
    tools/objtool/objtool klp checksum "$ORIGINALS/$object"
done
cp vmlinux "$ORIGINALS"
rm -rf vmlinux vmlinux.unstripped .tmp_vmlinux*
touch klp-tmp/1-orig/.complete "$ORIGINALS/.complete" klp-tmp/timestamp
"""


@dataclass(frozen=True, slots=True)
class KlpTree:
    """A built tree. `layer` goes on top of the base's tree; its files are older than `made_at` (seconds since 1970)."""

    layer: Path
    made_at: float


def unsupported_reason(base: Base) -> str | None:
    """Return why the in-tree klp-build does not support a base, None if it does."""
    config = parse_config(take(base.tree, ".config", limit_bytes=_CONFIG_LIMIT_BYTES))
    if not (base.tree / _SCRIPT).exists() or not config.enabled("KLP_BUILD"):
        return "it has no klp-build (Linux 6.19 and later, CONFIG_KLP_BUILD)"
    if not (base.tree / _SYMIDS).exists():
        return f"its klp-build can mistake functions of the same name (there is no {_SYMIDS})"
    if refused := [name for name in _UNSUPPORTED if config.enabled(name)]:
        return f"its klp-build refuses CONFIG_{refused[0]}"
    return None


def klp_tree(
    base: Base,
    sandbox: Sandbox,
    *,
    jobs: int,
    progress: Progress = silent,
    cancellation: Cancellation | None = None,
) -> KlpTree:
    """Return the tree of a base that klp-build supports (`unsupported_reason`), built now unless it was built before.

    Raises EnvironmentFault with `kernel-build` if it cannot be built.
    """
    place = base.directory / "klp"
    with made_once(base.directory / ".klp.lock", progress=progress, waiting_for=f"building {base.release}"):
        facts = {"recipe": RECIPE, "toolchain": base.toolchain_digest}
        if _made(place) != facts:
            progress(Event(stage="tree", message=f"building {base.release} for klp-build, once"))
            for left in (place, *base.directory.glob(".klp.new-*")):
                shutil.rmtree(left, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=".klp.new-", dir=base.directory))
            try:
                scratch.chmod(0o755)
                _build(base, sandbox, scratch, jobs, cancellation)
                (scratch / "made.json").write_text(json.dumps(facts))
                publish_tree(scratch, place)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return KlpTree(place / "changed", (place / "changed/klp-tmp/timestamp").stat().st_mtime)


def _made(place: Path) -> object:
    try:
        return json.loads((place / "made.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _build(base: Base, sandbox: Sandbox, scratch: Path, jobs: int, cancellation: Cancellation | None) -> None:
    command = ["bash", "-c", _BUILD, "bash", *make_arguments(base.cc, jobs), "-s", *BUILD_VARIABLES]
    done = sandbox.run(
        command,
        layers=[base.tree],
        upper=scratch,
        env={"ORIGINALS": ORIGINALS},
        timeout_s=_BUILD_TIMEOUT_S,
        cancellation=cancellation,
    )
    if not done.ok:
        raise EnvironmentFault(
            "kernel-build",
            f"The kernel {base.release} cannot be built as klp-build needs it.",
            advice="Read the log; the builder objects needs no such build.",
            excerpt=done.tail(30),
        )
    shutil.rmtree(scratch / "work")
