# SPDX-License-Identifier: GPL-2.0-or-later
"""Shape of a proof: an in-toto Statement v1 whose predicate is SLSA provenance v1 (docs/proof.md shows one whole).

SLSA lets producers add fields whose names begin with their own; `elivepatch_livepatch`, `elivepatch_checks` and
`elivepatch_trial` are ours. Unlike SLSA's own readers we refuse fields that we do not know: a host must not pass over
something that it cannot judge.
"""

from __future__ import annotations

import re
from typing import Any

from elivepatch.model.provenance import CHECKS, MATERIALS
from elivepatch.trust.shape import Choice, Maybe, Table

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:elivepatch:livepatch:1"
"""Type of the build, with the version of this shape."""

BUILDER = "urn:elivepatch:server:"
"""Prefix of a builder's id; the fingerprint of the server's key follows."""

FREE_TEXT = 4096
"""Longest text that the guest or a tool wrote."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BUILD_ID = re.compile(r"[0-9a-f]{16,128}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_]{1,55}", re.ASCII)  # MODULE_NAME_LEN is 56 on 64-bit kernels, with the final NUL
_RELEASE = re.compile(r"[0-9]+\.[0-9]+[A-Za-z0-9.+~_-]{0,80}", re.ASCII)
_ARCH = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
_OBJECT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z0-9_.$]{1,511}", re.ASCII)  # KSYM_NAME_LEN is 512
_SOURCE = re.compile(r"[ -~]{0,4096}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,80}", re.ASCII)
_KIND = re.compile(r"[ -~]{1,80}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9_.+~-]{1,80}", re.ASCII)
_TEXT = re.compile(rf"(?s:.{{0,{FREE_TEXT}}})")
_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z", re.ASCII)

_SHA256 = {"sha256": _DIGEST}
_PATCH = {"name": _TEXT, "sha256": _DIGEST}
_CALLED = {"object": _OBJECT, "function": _FUNCTION, "calls": Maybe(int)}

PARAMETERS: dict[str, Any] = {
    "kernel": _RELEASE,
    "patches": [_PATCH],
    "base_patches": [_PATCH],
    "expectations": [{"command": _TEXT, "pattern": _TEXT, "predicate": Maybe(_DIGEST)}],
    "trial": bool,
    "thorough": bool,
    "replace": bool,
    "builder": Choice(frozenset({"objects", "klp", "reference"})),
    "paranoid": bool,
    "copy": int,
}
"""Shape of a build request in a proof: its own spelling, but a predicate counts by the SHA-256 of its source."""

LIVEPATCH: dict[str, Any] = {
    "name": _NAME,
    "size_bytes": int,
    "release": _RELEASE,
    "build_id": _BUILD_ID,
    "arch": _ARCH,
    "functions": [{"object": _OBJECT, "name": _FUNCTION, "sympos": int, "source": _SOURCE}],
    "notes": [{"code": _WORD, "message": _TEXT}],
    "explained": Table(_WORD, int),
}

REPORTED: dict[str, Any] = {
    "transition_ms": Maybe(int),
    "reverted": bool,
    "reloaded": bool,
    "clean_log": bool,
    "busy_rounds": [int],
    "expectations": [{"met": bool, "tried": bool, "seen": Table(_KIND, _TEXT)}],
    "not_live": [{"object": _OBJECT, "why": _TEXT}],
    "functions": [_CALLED],
    "module_changes": [{"module": _OBJECT, "change": _WORD, "result": _WORD, "words": _TEXT}],
    "over_earlier": Maybe({"name": _TEXT, "result": _WORD, "words": _TEXT}),
    "workload": [{"name": _TEXT, "before": _WORD, "during": _WORD, "after": _WORD, "words": _TEXT}],
    "workload_seconds": int,
    "workload_left_out": _TEXT,
    "trouble_before": _TEXT,
    "seconds": int,
}
"""Shape of what the guest said of a trial."""

OBSERVED: dict[str, Any] = {
    "seen": bool,
    "why_not": _TEXT,
    "phases": [_WORD],
    "functions": [
        {"object": _OBJECT, "name": _FUNCTION, "redirected": bool, "leads_to_new": Maybe(bool), "restored": Maybe(bool)}
    ],
    "compared_bytes": int,
    "self_patched": Table(_KIND, int),
}
"""Shape of what was seen of a trial from outside the guest."""

DEBUG: dict[str, Any] = {
    "kernel": _TEXT,
    "outcome": Maybe(Choice(frozenset({"passed", "partly"}))),
    "why_not": _TEXT,
    "functions": [_CALLED],
    "missing": [_TEXT],
    "seconds": int,
}
"""Shape of the trial on a debugging kernel."""

TRIAL: dict[str, Any] = {
    "outcome": Choice(frozenset({"passed", "partly", "none"})),
    "accelerator": Maybe(_WORD),
    "reported": Maybe(REPORTED),
    "observed": Maybe(OBSERVED),
    "debug": Maybe(DEBUG),
}

STATEMENT: dict[str, Any] = {
    "_type": Choice(frozenset({STATEMENT_TYPE})),
    "subject": [{"name": _WORD, "digest": _SHA256}],
    "predicateType": Choice(frozenset({PREDICATE_TYPE})),
    "predicate": {
        "buildDefinition": {
            "buildType": Choice(frozenset({BUILD_TYPE})),
            "externalParameters": PARAMETERS,
            "internalParameters": {"build_key": _DIGEST},
            "resolvedDependencies": [
                {"name": _TEXT, "digest": _SHA256, "annotations": {"kind": Choice(frozenset(MATERIALS))}}
            ],
        },
        "runDetails": {
            "builder": {
                "id": re.compile(rf"{BUILDER}[0-9a-f]{{64}}", re.ASCII),
                "version": Table(_WORD, _VERSION),
            },
            "metadata": {"invocationId": _WORD, "startedOn": _TIME, "finishedOn": _TIME},
            "byproducts": [{"name": _WORD, "digest": _SHA256}],
            "elivepatch_livepatch": LIVEPATCH,
            "elivepatch_checks": Table(re.compile("|".join(map(re.escape, CHECKS))), int),
            "elivepatch_trial": TRIAL,
        },
    },
}
