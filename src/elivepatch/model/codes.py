# SPDX-License-Identifier: GPL-2.0-or-later
"""Catalogue of the problems of a source patch: for every code its kind, its meaning and its advice.

Messages, documentation (docs/codes.md) and tests use this one table, so they cannot differ. If the kernel's
Documentation/livepatch has a way round a problem (callbacks, shadow variables), the advice names it.
"""

from __future__ import annotations

from typing import NamedTuple

from elivepatch.model.errors import Kind, Problem


class CatalogueEntry(NamedTuple):
    """The fixed part of a problem: `meaning` completes the sentence "This code means that ..."."""

    kind: Kind
    meaning: str
    advice: str


_REWRITABLE = " `elivepatch check --rewrite` proposes that if it can."

CODES: dict[str, CatalogueEntry] = {
    # The series itself
    "patch-empty": CatalogueEntry(
        Kind.FAILURE, "the file has no hunk", "Send the output of git format-patch or diff -u."
    ),
    "patch-binary": CatalogueEntry(
        Kind.FAILURE,
        "the diff is or contains binary data",
        "A livepatch can only change source text; remove the binary part.",
    ),
    "patch-encoding": CatalogueEntry(
        Kind.FAILURE, "the diff is not UTF-8 text", "Convert it with iconv -t UTF-8 and send it again."
    ),
    "patch-too-large": CatalogueEntry(
        Kind.FAILURE,
        "the series is larger than the server accepts",
        "Send only what the fix needs; split unrelated parts.",
    ),
    "patch-malformed": CatalogueEntry(
        Kind.FAILURE,
        "the diff cannot be read",
        "Make it again with git format-patch or diff -u; mail clients often break long lines.",
    ),
    "patch-path": CatalogueEntry(
        Kind.FAILURE,
        "a file name in the diff points outside the source tree",
        "Make the diff from the top of the kernel tree, with a/ and b/ before the names.",
    ),
    "patch-build-files": CatalogueEntry(
        Kind.VERDICT,
        "the series edits files that run or generate code at build time (Makefile, Kconfig, scripts/, tools/)",
        "Leave these files out: a livepatch can only replace functions written in C.",
    ),
    "does-not-apply": CatalogueEntry(
        Kind.FAILURE,
        "the series does not apply to exactly this kernel's source",
        "Take the fix from the stable branch of this kernel, or rebase the patch onto the kernel's source package.",
    ),
    "hunk-place": CatalogueEntry(
        Kind.FAILURE,
        "a hunk fits in more than one place of its file, or lands in another function than the one that it names",
        "Make the diff again on this kernel's source, with the functions' names and more lines around each change: "
        "git diff -U10, or diff -up -U10.",
    ),
    "already-applied": CatalogueEntry(
        Kind.FAILURE,
        "this kernel's source already contains the whole change of a patch",
        "If that patch is the whole fix, this kernel needs nothing; otherwise leave it out of the series.",
    ),
    "patch-repeated": CatalogueEntry(
        Kind.FAILURE,
        "a patch of the series makes a change that the patches before it make already",
        "Leave that patch out of the series.",
    ),
    # Files and objects that it changes
    "not-built": CatalogueEntry(
        Kind.VERDICT,
        "this kernel's configuration builds none of the files that the series touches",
        "The change does not affect this kernel: nothing is to be done.",
    ),
    "header": CatalogueEntry(
        Kind.VERDICT,
        "the series changes a header that too many files include for one livepatch",
        "Move the change into the .c files that need it, for example as a local copy of the inline function.",
    ),
    "assembly": CatalogueEntry(
        Kind.VERDICT,
        "the series changes assembly, or a header that assembly includes; livepatch cannot redirect such code",
        "Patch the C functions that call it, or reboot into a fixed kernel.",
    ),
    "unpatchable-code": CatalogueEntry(
        Kind.VERDICT,
        "the code runs before or outside the kernel itself (boot, vdso, purgatory, real mode)",
        "Reboot into a fixed kernel.",
    ),
    "several-parents": CatalogueEntry(
        Kind.VERDICT,
        "an object is linked into several modules",
        "Such objects are not supported; patch a caller that is part of one module only.",
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
        "Find the commit that the fix depends on (a helper, a structure member) and put it first in the series.",
    ),
    "no-change": CatalogueEntry(
        Kind.VERDICT,
        "nothing that this kernel uses at run time differs with and without the series",
        "The change does not affect this kernel's configuration, or only comments changed: nothing is to be done.",
    ),
    # Refusals of create-diff-object and of our own checks
    "init-code": CatalogueEntry(
        Kind.VERDICT,
        "the series changes code that runs only when the kernel or a module starts or ends",
        "Remove that hunk if the fix does not need it, or do its work in a pre- or post-patch callback." + _REWRITABLE,
    ),
    "init-only": CatalogueEntry(
        Kind.VERDICT,
        "the series changes only code that runs when the kernel or a module starts or ends",
        "A livepatch would have no effect: reboot into a fixed kernel, or unload the module and load a fixed one.",
    ),
    "data-layout": CatalogueEntry(
        Kind.VERDICT,
        "the series changes the layout of a structure or the number of an enumerator, but memory that was written with "
        "the old one exists",
        "Keep the structure and attach new members as shadow variables (Documentation/livepatch/shadow-vars.rst). Keep "
        "the numbers of enumerators: put new ones behind all others.",
    ),
    "data-change": CatalogueEntry(
        Kind.VERDICT,
        "the series changes initialised data, which a livepatch cannot replace",
        "Change the code that reads the data, or write the new value in a post-patch callback.",
    ),
    "lost-change": CatalogueEntry(
        Kind.VERDICT,
        "the two objects differ in something that the livepatch would not carry",
        "Move the change into a function, or reboot into a fixed kernel.",
    ),
    "ops-table": CatalogueEntry(
        Kind.VERDICT,
        "the series changes a pointer in a table of operations, which a livepatch cannot replace",
        "Keep the pointer and make the function that it points to a wrapper of the new one, or write the pointer in a "
        "callback (Documentation/livepatch/callbacks.rst)." + _REWRITABLE,
    ),
    "new-data": CatalogueEntry(
        Kind.VERDICT,
        "the series adds static data to a section that holds existing data (__read_mostly, __ro_after_init)",
        "Use an ordinary static variable without the attribute." + _REWRITABLE,
    ),
    "no-function-entry": CatalogueEntry(
        Kind.VERDICT,
        "a changed function has no entry for ftrace to redirect (notrace, noinstr, a directory built without ftrace)",
        "Patch the functions that call it: in the series, give it a new name and call it by that." + _REWRITABLE,
    ),
    "trace-event": CatalogueEntry(
        Kind.VERDICT,
        "the series changes or adds a trace event, and the kernel registers those only at start or with a module",
        "Leave the trace events as they are; to see a new value, call trace_printk() in the function that has it.",
    ),
    "module-parameter": CatalogueEntry(
        Kind.VERDICT,
        "the series adds or changes a module parameter, and the kernel registers those only at start or with a module",
        "Use a static variable with the value that you want in place of the parameter: leave module_param() out.",
    ),
    "shared-section": CatalogueEntry(
        Kind.VERDICT,
        "a changed function shares its section with others (__sched, __lockfunc), and the section cannot be split",
        "Patch the functions that call it: in the series, give it a new name without the mark and call it by that."
        + _REWRITABLE,
    ),
    "outlined-inline": CatalogueEntry(
        Kind.VERDICT,
        "a changed function is marked inline and has no entry, but the compiler did not inline it",
        "Make it __always_inline, or give it a new name in the series: then its callers change and are replaced."
        + _REWRITABLE,
    ),
    "static-local": CatalogueEntry(
        Kind.VERDICT,
        "a changed function no longer uses one of its static local variables, or uses it with another type or size",
        "Keep the variable with its type, and a harmless reference to it in the patched function." + _REWRITABLE,
    ),
    "jump-label": CatalogueEntry(
        Kind.VERDICT,
        "a changed function tests a static key that a module or the series itself defines",
        "In the changed function, use static_key_enabled() and not static_branch_likely() or static_branch_unlikely()."
        + _REWRITABLE,
    ),
    "static-call": CatalogueEntry(
        Kind.VERDICT,
        "a changed function makes a static call whose key a module defines",
        "Use KPATCH_STATIC_CALL() from kpatch-macros.h in the changed function." + _REWRITABLE,
    ),
    "export": CatalogueEntry(
        Kind.VERDICT,
        "the series removes an exported symbol or changes how it is exported",
        "Keep the EXPORT_SYMBOL as it is: loaded modules already use the symbol." + _REWRITABLE,
    ),
    "new-export": CatalogueEntry(
        Kind.VERDICT,
        "the series exports a symbol that this kernel does not export",
        "Remove the EXPORT_SYMBOL: no loaded module can use a new export." + _REWRITABLE,
    ),
    "export-type": CatalogueEntry(
        Kind.VERDICT,
        "the series changes the parameters or the result of an exported function, but loaded modules call it as before",
        "Add a function with the new parameters and make the exported one a wrapper of it.",
    ),
    "section-change": CatalogueEntry(
        Kind.VERDICT,
        "a symbol moved to another section or changed its attributes",
        "Keep the attributes (__read_mostly, static, const, alignment) of existing symbols." + _REWRITABLE,
    ),
    "special-section": CatalogueEntry(
        Kind.VERDICT,
        "a module refers to a symbol of another module in a place that the kernel fills in before it can resolve it",
        "In the changed function, avoid alternatives, static branches and paravirt calls on symbols of other modules.",
    ),
    "duplicate-symbol": CatalogueEntry(
        Kind.VERDICT,
        "the kernel has several files with the same name and the same functions, so the right one cannot be identified",
        "This function cannot be patched safely; patch a caller in another file.",
    ),
    "thread-main": CatalogueEntry(
        Kind.VERDICT,
        "the series changes the main function of a kernel thread, which never leaves that thread's stack; `cve close` "
        "and `auto` leave such a fix out, a check and a build only note it",
        "Change a function that the main function calls instead, or reboot into a fixed kernel.",
    ),
    # After the build
    "module-check": CatalogueEntry(
        Kind.ERROR,
        "the finished module does not fit the kernel",
        "The module was deleted. Keep the report and the log, and report a bug in elivepatch.",
    ),
    "module-too-large": CatalogueEntry(
        Kind.FAILURE,
        "the finished module needs more than 64 MiB of the kernel's memory, or its file or an object is too large",
        "Allocate large data when the code runs, with vmalloc(); a livepatch holds code and little data.",
    ),
    "undefined-symbol": CatalogueEntry(
        Kind.FAILURE,
        "the patched code uses a symbol that this kernel does not have or does not export",
        "Add the commit that defines the symbol to the series, before this patch.",
    ),
    "freed-memory": CatalogueEntry(
        Kind.VERDICT,
        "the new code uses start-up code or data, which the kernel frees after the start",
        "Copy the code or the data: give the patched file a function or variable of its own without __init, __exit and "
        "__initdata.",
    ),
    "module-symbol": CatalogueEntry(
        Kind.VERDICT,
        "the new code uses a symbol of a module that may be absent or unloaded when the code runs",
        "Use it only in functions of that module, or of modules that depend on it; elsewhere, look it up with "
        "symbol_get() and release it with symbol_put().",
    ),
    "sealed-endbr": CatalogueEntry(
        Kind.VERDICT,
        "the new code takes the address of a function whose indirect-branch entry this kernel has sealed",
        "Call the function directly, or take the address of a small wrapper that you add to the patched file.",
    ),
    "weak-overridden": CatalogueEntry(
        Kind.VERDICT,
        "the series changes a weak function that this kernel does not use, because another file overrides it",
        "Patch the function that overrides it; the weak one never runs.",
    ),
    "fidelity": CatalogueEntry(
        Kind.ERROR,
        "the rebuilt original function differs from the one that the kernel runs",
        "The base is not this kernel: remove it and add it again. If it happens again, report a bug.",
    ),
    "symbols": CatalogueEntry(
        Kind.ERROR,
        "the rebuilt object's symbols do not match those of the running kernel",
        "The base is not this kernel: remove it and add it again. If it happens again, report a bug.",
    ),
    "diff-tool": CatalogueEntry(
        Kind.ERROR,
        "the diff tool stopped with an error of its own",
        "Keep the log and report a bug; smaller changes in the same file often work.",
    ),
    "diff-tool-crash": CatalogueEntry(
        Kind.ERROR,
        "the diff tool crashed",
        "Keep the log and report a bug; smaller changes in the same file often work.",
    ),
    "link-failed": CatalogueEntry(Kind.ERROR, "the module could not be linked", "Keep the log and report a bug."),
    # Other builders
    "builder-unfit": CatalogueEntry(
        Kind.FAILURE,
        "the requested builder, or the second one for --paranoid, cannot build for this kernel",
        "Leave out --builder and --paranoid: the server then chooses a builder that can build for this kernel.",
    ),
    "builders-differ": CatalogueEntry(
        Kind.ERROR,
        "two builders made different livepatches of the series",
        "The livepatch was deleted. Keep the report and the log, and report a bug in elivepatch.",
    ),
    "reference-failed": CatalogueEntry(
        Kind.ERROR, "kpatch-build stopped with an error of its own", "Keep the log and read its first error."
    ),
    "out-of-time": CatalogueEntry(
        Kind.ERROR, "a step ran longer than its time limit", "Try again; if it happens again, read the log."
    ),
}


def problem(code: str, message: str, *, excerpt: str = "") -> Problem:
    """Return the problem with this code; `message` is one sentence. Raises KeyError for an unknown code."""
    entry = CODES[code]
    return Problem(code=code, kind=entry.kind, message=message, advice=entry.advice, excerpt=excerpt)


NOTES: dict[str, str] = {
    "callbacks": "its callbacks run only when it is disabled itself: disable it before another livepatch replaces it",
    "constant": "a macro stands for another number, and memory may hold the old one",
    "code-removed": "the series removes a function; its code stays in the kernel, because pointers may lead to it",
    "debug-messages": "a replaced function has debug messages: they are off until they are switched on again",
    "enumerators": "a number that counts enumerators grows: memory that was allocated with the old one stays as it is",
    "header-reach": "the series changes a header that these objects include",
    "inlined": "a changed function is inlined: the functions that contain it are replaced",
    "by-name": "too many objects include a header to compare all; those that name the changed part of it were compared",
    "left-out": "a part of the change is left out, because it is in code that no livepatch can replace",
    "module-reload": "this kernel cannot load a module of the livepatch again once it was unloaded under it",
    "new-object": "the series adds a source file: all of it becomes part of the livepatch",
    "no-prefix": "a patch has no a/ and b/ before its names, which were read from the top of the source",
    "not-kernel": "self-tests, documentation and files of other architectures are no part of this kernel: left out",
    "not-built": "this kernel's configuration does not build a file of the series",
    "outlives": "the new code hands out an address in the livepatch, which stays in memory when it is taken out",
    "override": "the series overrides a rule of the tools",
    "tracepoint": "a module's own tracepoint is dead in a replaced function",
    "thread-function": "a changed function is the main function of a kernel thread: the transition waits for its end",
    "thread-main": "a changed function is the main function of a kernel thread and waits in it: no transition can end",
    "type-meaning": "a member, variable or structure has another name or type in the same place; old memory stays",
    "second-builder": "a second builder made the same livepatch of the series",
    "unproved": "the base was accepted without a proof that it is the host's kernel",
}
"""Notes about a build that succeeded: code and meaning."""

RULES: dict[str, str] = {
    "ignored": "the series itself makes the tools leave it out (KPATCH_IGNORE_FUNCTION, KPATCH_IGNORE_SECTION)",
    "line-number": "only the number of a source line differs, that a message or a warning needs",
    "not-loaded": "the section does not become part of the running kernel, or only describes the module's file",
    "number-in-name": "the compiler gave another number to a name; content and use are the same",
    "removed": "the patched source no longer has it; the kernel keeps it, and no replaced function uses it",
    "replaced-unchanged": "create-diff-object replaces the function although nothing in it differs",
    "strings": "strings or constants are in other places; each function that is not replaced reads the same ones",
    "unused": "it is new, and nothing in the livepatch uses it",
}
"""Rules by which a difference of two objects is nothing lost: name and meaning. A report lists what they explain."""
