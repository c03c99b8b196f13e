# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain YAML for overlays: mappings, lists and texts; no value is constructed, expanded or guessed.

A scalar stays the text in the file, so that 6.10 is not the number 6.1 and `no` not a truth value. Anchors, aliases,
tags and repeated keys are refused: a plain file can do without them, and some fill memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

TEXT_MAX = 1024 * 1024
_DEPTH_MAX = 20
# The library's own parser is ten times slower than the one it wraps, and both give the same events.
_LOADER = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


class NotPlain(ValueError):
    """The text is not plain YAML; the message names the fault and its line."""


def read_yaml(content: bytes) -> Any:
    """Return the document as dictionaries, lists and texts, None for none; raises NotPlain for anything else."""
    if len(content) > TEXT_MAX:
        raise NotPlain(f"it is larger than {TEXT_MAX // 1024} KiB")
    try:
        events = iter(yaml.parse(content.decode("utf-8"), Loader=_LOADER))
        documents = [_value(event, events, 0) for event in events if _begins_value(event)]
    except UnicodeDecodeError as error:
        raise NotPlain("it is not UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise NotPlain(f"{where}{getattr(error, 'problem', None) or 'it is not YAML'}") from error
    except RecursionError as error:
        raise NotPlain("it nests too deep") from error
    if len(documents) > 1:
        raise NotPlain("it holds more than one document")
    return documents[0] if documents else None


def _begins_value(event: Any) -> bool:
    around = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
    return not isinstance(event, around)


def _value(event: Any, events: Iterator[Any], depth: int) -> Any:
    """Return the value that begins with `event`, taking the events that belong to it."""
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise NotPlain(f"line {line} has an anchor or an alias")
    if event.tag:
        raise NotPlain(f"line {line} has a tag")
    if depth > _DEPTH_MAX:
        raise NotPlain(f"line {line} nests too deep")
    if isinstance(event, yaml.ScalarEvent):
        return event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_value(event, events, depth + 1))
        return items
    made: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise NotPlain(f"line {event.start_mark.line + 1} has a key that is not a text")
        key, line = _value(event, events, depth + 1), event.start_mark.line + 1
        if key in made:
            raise NotPlain(f"line {line} repeats the key {key[:60]!r}")
        made[key] = _value(next(events), events, depth + 1)
    return made
