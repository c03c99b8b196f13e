# SPDX-License-Identifier: GPL-2.0-or-later
"""Check command output against its published schema, with a small checker for the part of JSON Schema in use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

SCHEMAS = files("elivepatch.client") / "schemas"

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None),
    "array": list, "object": dict,
}  # fmt: skip
_KNOWN = {"$schema", "title", "type", "properties", "required", "additionalProperties", "items", "anyOf", "enum"}


@cache
def published(file: str) -> Any:
    """Return the published schema of this name."""
    return json.loads((SCHEMAS / file).read_text())


def require_published(words: Sequence[str | Path], document: Any) -> None:
    """Fail the test if the --json output of a client command does not follow its published schema."""
    file = "problem.json"
    if not isinstance(document, dict) or set(document) != {"problem"}:
        index = published("index.json")
        group = " ".join(map(str, words[:2]))
        file = index[group if group in index else str(words[0])]
    assert faults(document, published(file)) == [], f"{file}: {words}"


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Return the faults of `value`; raises ValueError for a keyword that this checker does not know."""
    if unknown := set(schema) - _KNOWN:
        raise ValueError(f"{where}: {unknown}")
    if "anyOf" in schema:
        tried = [faults(value, one, where) for one in schema["anyOf"]]
        return [] if any(not one for one in tried) else min(tried, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where}: {value!r} is none of {schema['enum']}"]
    names = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type", "object")]
    if not any(_is(value, name) for name in names):
        return [f"{where}: {value!r} is no {names}"]
    found = []
    if isinstance(value, dict):
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            rule = properties.get(name, extra)
            if rule is False:
                found.append(f"{where}: {name} is not known")
            elif isinstance(rule, dict):
                found += faults(item, rule, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            found += faults(item, schema["items"], f"{where}[{number}]")
    return found


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and not (isinstance(value, bool) and name in {"integer", "number"})
