# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about the livepatches that a server makes: from a request, its livepatch and the report of its trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from elivepatch.files.digest import sha256
from elivepatch.model.build import Livepatch, RequestReference
from elivepatch.model.errors import TrustError
from elivepatch.model.kernel import Digest
from elivepatch.model.provenance import SOURCE_PATCH, Material, Origin
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.provenance import BUILD_TYPE, BUILDER, FREE_TEXT, PREDICATE_TYPE, STATEMENT_TYPE
from elivepatch.trust.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The run of a job: its name and times, and the digests of the outputs of its tools, by name."""

    job: str
    started: datetime
    finished: datetime
    outputs: Mapping[str, Digest]


def attest(
    made: Livepatch,
    request: RequestReference,
    run: Run,
    server: PublicKey,
    *,
    trial: Mapping[str, Any] | None,
    rules: Sequence[str] = (),
) -> Statement:
    """Return the statement about a livepatch that `server` made for `request`.

    `trial` is what `TrialReport.as_dict` returned, None for a livepatch that was not tried; `rules` has the rule of
    each explained difference. Raises TrustError if nothing is known of its origin, or if a host would refuse the
    statement.
    """
    if made.origin is None:
        raise TrustError(
            "proof-missing",
            f"{made.name} was built before this server made proofs.",
            advice="Request the same build again: the server then builds it with a proof.",
        )
    return Statement.of(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"{made.name}.ko", "digest": {"sha256": made.digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": _definition(made, request, made.origin),
                "runDetails": {
                    "builder": _builder(made.origin, server),
                    "metadata": {
                        "invocationId": run.job,
                        "startedOn": _time(run.started),
                        "finishedOn": _time(run.finished),
                    },
                    "byproducts": [
                        {"name": name, "digest": {"sha256": digest}} for name, digest in run.outputs.items()
                    ],
                    "elivepatch_livepatch": _livepatch(made, rules),
                    "elivepatch_checks": dict(made.origin.checks),
                    "elivepatch_trial": _trial(trial),
                },
            },
        }
    )


def _definition(made: Livepatch, request: RequestReference, origin: Origin) -> dict[str, Any]:
    series = [Material(kind=SOURCE_PATCH, name=one.name, digest=one.digest) for one in request.series.patches]
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": _parameters(request),
        "internalParameters": {"build_key": made.build_key},
        "resolvedDependencies": [_resource(one) for one in (*series, *origin.materials)],
    }


def _builder(origin: Origin, server: PublicKey) -> dict[str, Any]:
    tools = {name: str(number) for name, number in origin.builders.items()}
    return {"id": f"{BUILDER}{server.fingerprint}", "version": {"elivepatch": origin.version, **tools}}


def _parameters(request: RequestReference) -> dict[str, Any]:
    asked = request.to_json()
    for left_out in ("check_only", "rewrite"):
        del asked[left_out]
    for one in (*asked["patches"], *asked["base_patches"]):
        one["name"] = _text(one["name"])
    asked["expectations"] = [
        {
            "command": one.command,
            "pattern": one.pattern,
            "predicate": sha256(one.predicate.source.encode()) if one.predicate is not None else None,
        }
        for one in request.expectations
    ]
    return asked


def _resource(material: Material) -> dict[str, Any]:
    return {
        "name": _text(material.name),
        "digest": {"sha256": material.digest},
        "annotations": {"kind": material.kind},
    }


def _livepatch(made: Livepatch, rules: Sequence[str]) -> dict[str, Any]:
    return {
        "name": made.name,
        "size_bytes": made.size_bytes,
        "release": made.kernel.release,
        "build_id": made.kernel.build_id,
        "arch": made.kernel.arch,
        "functions": [
            {"object": one.object, "name": one.name, "sympos": one.sympos, "source": one.source}
            for one in made.functions
        ],
        "notes": [{"code": one.code, "message": _text(one.message)} for one in made.notes],
        "explained": dict(Counter(rules)),
    }


def _trial(report: Mapping[str, Any] | None) -> dict[str, Any]:
    if report is None:
        return {"outcome": "none", "accelerator": None, "reported": None, "observed": None, "debug": None}
    outside, debug = report["outside"], report["debug"]
    return {
        "outcome": report["outcome"],
        "accelerator": report["accelerator"],
        "reported": _reported(report),
        "observed": _plain(outside) if outside is not None else None,
        "debug": _debug(debug) if debug is not None else None,
    }


def _reported(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("reverted", "reloaded", "clean_log", "not_live", "functions", "module_changes", "over_earlier",
             "workload", "workload_left_out", "trouble_before", "busy_rounds")  # fmt: skip
    transition_s = report["transition_s"]
    return {
        **{name: _plain(report[name]) for name in names},
        # A signed statement has no fractions: they have more than one spelling.
        "transition_ms": None if transition_s is None else round(transition_s * 1000),
        "workload_seconds": round(report["workload_seconds"]),
        "seconds": round(report["seconds"]),
        "expectations": [
            {"met": one["met"], "tried": one["tried"], "seen": _plain(one["seen"])} for one in report["observations"]
        ],
    }


def _debug(debug: Mapping[str, Any]) -> dict[str, Any]:
    # A trial with a problem there is none whose livepatch is handed out.
    names = ("kernel", "outcome", "why_not", "functions", "missing")
    return {**{name: _plain(debug[name]) for name in names}, "seconds": round(debug["seconds"])}


def _plain(value: Any) -> Any:
    """Return a part of a report as JSON has it, with its texts as the statement has them."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """Return a text of a guest or of a tool; the report has all of one that is cut here."""
    return str(value) if len(value) <= FREE_TEXT else f"{value[: FREE_TEXT - 4]} ..."


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
