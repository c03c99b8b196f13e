# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of what a patch can be told: every code, whose matter it is, and the advice that goes with it.

One table, so that messages, documentation (docs/codes.md) and tests cannot drift apart. The ways out are those of
Documentation/livepatch (callbacks, shadow variables) where the kernel has one.
"""

from __future__ import annotations

from typing import NamedTuple

from elivepatch.model.errors import Kind, Problem


class CatalogueEntry(NamedTuple):
    """What is fixed about a code: `meaning` completes "this code means that ..."."""

    kind: Kind
    meaning: str
    advice: str


_REWRITABLE = " `elivepatch check --rewrite` proposes that where it can."

CODES: dict[str, CatalogueEntry] = {
    # The series itself
    "patch-empty": CatalogueEntry(
        Kind.FAILURE, "the file holds no hunk", "Send the output of git format-patch or diff -u."
    ),
    "patch-binary": CatalogueEntry(
        Kind.FAILURE, "the diff is or contains binary data", "Only text can be livepatched; drop the binary part."
    ),
    "patch-encoding": CatalogueEntry(
        Kind.FAILURE, "the diff is not UTF-8 text", "Convert it with iconv -t UTF-8 and send again."
    ),
    "patch-too-large": CatalogueEntry(
        Kind.FAILURE,
        "the series is larger than the server takes",
        "Send only what the fix needs; split unrelated parts.",
    ),
    "patch-malformed": CatalogueEntry(
        Kind.FAILURE,
        "the diff cannot be read",
        "Make it anew with git format-patch or diff -u; mail clients fold lines.",
    ),
    "patch-path": CatalogueEntry(
        Kind.FAILURE,
        "a file name in the diff points outside the source tree",
        "Make the diff from the top of the kernel tree, with a/ and b/ before the names.",
    ),
    "patch-build-files": CatalogueEntry(
        Kind.VERDICT,
        "the series edits files that run at build time or that code is made from (Makefile, Kconfig, scripts/, tools/)",
        "Leave these files out: a livepatch can only replace functions written in C.",
    ),
    "does-not-apply": CatalogueEntry(
        Kind.FAILURE,
        "the series does not apply to exactly this kernel's source",
        "Take the fix from this kernel's own stable branch, or rebase the patch onto the kernel's source package.",
    ),
    "already-applied": CatalogueEntry(
        Kind.FAILURE, "this kernel's source already contains the change", "Nothing is left to do for this kernel."
    ),
    # What it reaches
    "not-built": CatalogueEntry(
        Kind.VERDICT,
        "this kernel's configuration builds none of the files that the series touches",
        "This kernel is not affected by the change; nothing is to be done.",
    ),
    "header": CatalogueEntry(
        Kind.VERDICT,
        "the series changes a header that too many files include for one livepatch",
        "Move the change into the .c files that need it, for example as a local copy of the inline function.",
    ),
    "assembly": CatalogueEntry(
        Kind.VERDICT,
        "the series changes assembly, or a header that it includes; it has no entry that livepatch could redirect",
        "Patch the C function that calls it, or reboot into a fixed kernel.",
    ),
    "unpatchable-code": CatalogueEntry(
        Kind.VERDICT,
        "the code runs before or outside the kernel proper (boot, vdso, purgatory, real mode)",
        "Reboot into a fixed kernel.",
    ),
    "several-parents": CatalogueEntry(
        Kind.VERDICT,
        "an object is linked into several modules",
        "Such objects are not supported; patch a caller that lives in one module only.",
    ),
    "new-file": CatalogueEntry(
        Kind.VERDICT,
        "the series adds or deletes a source file",
        "Put the new code into a file that this kernel already builds.",
    ),
    # Compiling
    "compile-error": CatalogueEntry(
        Kind.FAILURE,
        "the patched source does not compile",
        "Look for a commit that the fix depends on (a helper, a structure member) and send it first in the series.",
    ),
    "no-change": CatalogueEntry(
        Kind.VERDICT,
        "the compiled code is the same with and without the series",
        "This kernel's configuration is not affected by the change (or only comments changed); nothing is to be done.",
    ),
    # What create-diff-object and our own checks refuse
    "init-code": CatalogueEntry(
        Kind.VERDICT,
        "the series changes code that only runs when the kernel or a module starts or ends",
        "Leave that hunk out if the fix does not need it, or do its work in a pre- or post-patch callback."
        + _REWRITABLE,
    ),
    "init-only": CatalogueEntry(
        Kind.VERDICT,
        "the series changes nothing but code that only runs when the kernel or a module starts or ends",
        "No livepatch can have an effect: reboot into a fixed kernel, or unload the module and load a fixed one.",
    ),
    "data-layout": CatalogueEntry(
        Kind.VERDICT,
        "the series changes the layout of a structure, while objects of the old layout are alive",
        "Keep the structure and attach new members as shadow variables (Documentation/livepatch/shadow-vars.rst).",
    ),
    "data-change": CatalogueEntry(
        Kind.VERDICT,
        "the series changes initialised data, which a livepatch cannot replace",
        "Change the code that reads the data, or write the new value in a post-patch callback.",
    ),
    "ops-table": CatalogueEntry(
        Kind.VERDICT,
        "the series changes a pointer in a table of operations, which a livepatch cannot replace",
        "Keep the pointer and make the function that it points at a wrapper of the new one, or write it in a callback "
        "(Documentation/livepatch/callbacks.rst)." + _REWRITABLE,
    ),
    "new-data": CatalogueEntry(
        Kind.VERDICT,
        "the series adds static data in a section that existing data shares (__read_mostly, __ro_after_init)",
        "Use an ordinary static variable instead, without the attribute." + _REWRITABLE,
    ),
    "no-function-entry": CatalogueEntry(
        Kind.VERDICT,
        "a changed function has no entry for ftrace to redirect (notrace, noinstr, a directory built without entries)",
        "Patch the functions that call it: give it a new name in the series and call that." + _REWRITABLE,
    ),
    "shared-section": CatalogueEntry(
        Kind.VERDICT,
        "a changed function lies in a section with others (__sched, __lockfunc), which cannot be taken apart",
        "Patch the functions that call it: give it a new name without the mark in the series and call that."
        + _REWRITABLE,
    ),
    "outlined-inline": CatalogueEntry(
        Kind.VERDICT,
        "a changed function is marked inline and therefore has no entry, but the compiler made a function of it",
        "Make it __always_inline, or give it a new name in the series: its callers change then and are replaced."
        + _REWRITABLE,
    ),
    "static-local": CatalogueEntry(
        Kind.VERDICT,
        "a static local variable lost its last use",
        "Keep a harmless reference to the variable in the patched function." + _REWRITABLE,
    ),
    "jump-label": CatalogueEntry(
        Kind.VERDICT,
        "a changed function tests a static key that a module or the series itself defines",
        "Replace static_branch_likely() or static_branch_unlikely() by static_key_enabled() in the changed function."
        + _REWRITABLE,
    ),
    "static-call": CatalogueEntry(
        Kind.VERDICT,
        "a changed function makes a static call whose key a module defines",
        "Use KPATCH_STATIC_CALL() from kpatch-macros.h in the changed function." + _REWRITABLE,
    ),
    "export": CatalogueEntry(
        Kind.VERDICT,
        "the series takes an exported symbol away or exports it in another way",
        "Leave the EXPORT_SYMBOL as it is: loaded modules hold what it gave them." + _REWRITABLE,
    ),
    "new-export": CatalogueEntry(
        Kind.VERDICT,
        "the series exports a symbol that this kernel does not",
        "Leave the EXPORT_SYMBOL out: no loaded module can use a new export." + _REWRITABLE,
    ),
    "export-type": CatalogueEntry(
        Kind.VERDICT,
        "the series changes the parameters or the result of an exported function, which modules call as before",
        "Add a function with the new parameters and make the exported one a wrapper of it.",
    ),
    "section-change": CatalogueEntry(
        Kind.VERDICT,
        "a symbol moved to another section or changed its attributes",
        "Keep the attributes (__read_mostly, static, const, alignment) of existing symbols." + _REWRITABLE,
    ),
    "special-section": CatalogueEntry(
        Kind.VERDICT,
        "code of a module refers to another module's symbol in a place that is filled in before it can be resolved",
        "Avoid alternatives, static branches and paravirt calls on symbols of other modules in the changed function.",
    ),
    "duplicate-symbol": CatalogueEntry(
        Kind.VERDICT,
        "the kernel has several files with the same name and the same functions, so the right one cannot be told",
        "This function cannot be livepatched safely; patch a caller in another file.",
    ),
    # After the build
    "module-check": CatalogueEntry(
        Kind.ERROR,
        "the finished module does not fit the kernel",
        "The module was thrown away. Keep the report and the log and report it as a fault of elivepatch.",
    ),
    "undefined-symbol": CatalogueEntry(
        Kind.FAILURE,
        "the patched code uses a symbol that this kernel does not have or does not export",
        "Add the commit that defines the symbol to the series, before this patch.",
    ),
    "sealed-endbr": CatalogueEntry(
        Kind.VERDICT,
        "the new code takes the address of a function whose indirect-branch entry this kernel has sealed",
        "Call the function directly, or through a small wrapper of your own in the patched file.",
    ),
    "weak-overridden": CatalogueEntry(
        Kind.VERDICT,
        "the series changes a weak function that this kernel does not use, because another file overrides it",
        "Patch the function that overrides it; this one never runs.",
    ),
    "fidelity": CatalogueEntry(
        Kind.ERROR,
        "the rebuilt original function is not the one that the kernel runs",
        "The base is not this kernel: remove it and add it again; if it happens again, report it.",
    ),
    "symbols": CatalogueEntry(
        Kind.ERROR,
        "the rebuilt object's symbols do not match those of the running kernel",
        "The base is not this kernel: remove it and add it again; if it happens again, report it.",
    ),
    "diff-tool": CatalogueEntry(
        Kind.ERROR,
        "the diff tool gave up for a reason of its own",
        "Keep the log and report it; smaller changes in the same file often pass.",
    ),
    "diff-tool-crash": CatalogueEntry(
        Kind.ERROR,
        "the diff tool crashed",
        "Keep the log and report it; smaller changes in the same file often pass.",
    ),
    "link-failed": CatalogueEntry(Kind.ERROR, "the module could not be linked", "Keep the log and report it."),
    # Other builders
    "builder-unfit": CatalogueEntry(
        Kind.FAILURE,
        "the builder that was asked for, or a second one for --paranoid, cannot build for this kernel",
        "Leave the choice to the server: without --builder and --paranoid every kernel that it knows can be built for.",
    ),
    "builders-differ": CatalogueEntry(
        Kind.ERROR,
        "two builders did not make the same livepatch of the series",
        "The livepatch was thrown away. Keep the report and the log and report it as a fault of elivepatch.",
    ),
    "reference-failed": CatalogueEntry(
        Kind.ERROR, "kpatch-build gave up for a reason of its own", "Keep the log and look for its first error."
    ),
    "out-of-time": CatalogueEntry(
        Kind.ERROR, "a step ran longer than it may", "Try again; if it happens again, look at the log."
    ),
}


def problem(code: str, message: str, *, excerpt: str = "") -> Problem:
    """Return the problem with this code; `message` is one sentence. Raises KeyError for a code that is not listed."""
    entry = CODES[code]
    return Problem(code=code, kind=entry.kind, message=message, advice=entry.advice, excerpt=excerpt)


NOTES: dict[str, str] = {
    "callbacks": "it has callbacks, which only its own disabling runs: take it back before another replaces it",
    "code-removed": "a function is gone from the source; its code stays in the kernel, for pointers that lead to it",
    "header-reach": "the series changes a header, and these objects include it",
    "inlined": "a changed function is inlined: the functions around it are replaced",
    "by-name": "a header is part of too many objects to compare all; those that name what changes in it were compared",
    "left-out": "a part of the change is in code that no livepatch can replace",
    "new-object": "a source file is new: all of it becomes part of the livepatch",
    "not-built": "this configuration does not build a file of the series",
    "override": "the series tells the tools to go on in spite of their rules",
    "second-builder": "a second builder made the same livepatch of the series",
    "unproved": "the base was accepted without proof that it is the host's kernel",
}
"""What a build that succeeds can be told, with what it means."""
