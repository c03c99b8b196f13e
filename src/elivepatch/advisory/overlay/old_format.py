# SPDX-License-Identifier: GPL-2.0-or-later
"""The elivepatch.yml of 2019, read line by line because it never was valid YAML.

A line `- 4.18.1` names the one kernel that the entries after it are for; an entry begins with a `-` before one of its
keys: patch_id, cve_id, commit_id, repository, path, license, comment. An entry without a CVE, or with
neither a file nor a commit, closes nothing and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from elivepatch.advisory.overlay.overlay import Overlay, OverlayEntry, read_range
from elivepatch.advisory.records.record import COMMIT, CVE_ID, Findings, plain

FILE = "elivepatch.yml"

_KERNEL = re.compile(r"-\s*([0-9]+(?:\.[0-9]+){1,3})\s*:?\s*")
_KEY = re.compile(r"\s*(-\s*)?([a-z_]{2,20})\s*:\s*(.*?)\s*")
_PATH = re.compile(r"[A-Za-z0-9._+-]+(?:/[A-Za-z0-9._+-]+)*", re.ASCII)
_HEAD = {"elivepatch_version", "livepatch_version"}
_KEYS = {"patch_id", "cve_id", "commit_id", "repository", "path", "license", "comment"}
_SIZE_MAX = 1024 * 1024


def read_old_overlay(content: bytes, exists: Callable[[str], bool], name: str) -> Overlay:
    """Return the entries that can be understood; every other line and entry is a finding."""
    findings = Findings()
    entries: dict[str, OverlayEntry] = {}
    for kernel, given in _blocks(content[:_SIZE_MAX].decode(errors="replace"), findings):
        made = _entry(kernel, given, exists)
        label = given.get("patch_id", "an entry")
        if isinstance(made, str):
            findings.add("overlay-entry", label, made)
        elif made.id in entries:
            findings.add("overlay-entry", made.id, "Its id is that of an earlier entry.")
        else:
            entries[made.id] = made
    return Overlay(name=name, description="in the format of 2019", entries=entries, findings=findings)


def _blocks(text: str, findings: Findings) -> Iterator[tuple[str, dict[str, str]]]:
    kernel, given = "", dict[str, str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = _KEY.fullmatch(line)
        if heading := _KERNEL.fullmatch(line):
            if given:
                yield kernel, given
            kernel, given = heading[1], {}
        elif key is not None and key[2] in _HEAD:
            continue
        elif key is not None and key[2] in _KEYS:
            if (key[1] or key[2] in given) and given:
                yield kernel, given
                given = {}
            given[key[2]] = key[3].strip("'\"")
        else:
            findings.add("overlay-line", f"line {number}", f"{plain(line, 80)!r} cannot be understood.")
    if given:
        yield kernel, given


def _entry(kernel: str, given: dict[str, str], exists: Callable[[str], bool]) -> OverlayEntry | str:
    range_ = read_range(kernel)
    if range_ is None:
        return "No kernel version stands above it."
    cve, commit, path = (given.get(key, "") for key in ("cve_id", "commit_id", "path"))
    if not CVE_ID.fullmatch(cve):
        return "It names no CVE."
    if path and (not _PATH.fullmatch(path) or ".." in path.split("/") or not exists(path)):
        return f"{plain(path, 120)!r} is not a file of the overlay."
    if not path and not COMMIT.fullmatch(commit):
        return "It has neither a file nor a whole commit id."
    return OverlayEntry(
        id=f"{kernel}-{re.sub(r'[^A-Za-z0-9._-]', '-', given.get('patch_id', cve))[:60]}",
        files=(path,) if path else (),
        commit="" if path else commit,
        cves=(cve,),
        kernels=(range_,),
        licence=plain(given.get("license", ""), 300) or "not given",
        author="not given",
        title=plain(given.get("comment", ""), 300),
    )
