# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands about CVEs: made once from a command line, never changed afterwards.

Values are as a person gave them; None stands for an option that was left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.host.machine import Machine
from elivepatch.model.kernel import Release
from elivepatch.model.series import BasePatch
from elivepatch.settings import ClientSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """Sources of CVE records: the kernel's list or an index of it, older records, and a file of overrides."""

    source: Path | None = None
    older: Path | None = None
    overrides: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingOptions:
    """Files that rank CVEs: a catalogue of exploited ones, and EPSS scores."""

    kev: Path | None = None
    epss: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """The host that a command runs on, and the cache of records, sources and verdicts."""

    machine: Machine
    cache: CveCache


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOptions(HostOptions):
    """The kernel that a question is about: a version or release, or a file of sources; by default this host's."""

    kernel: str | None = None
    sources: Path | None = None
    records: RecordOptions = RecordOptions()
    ranking: RankingOptions = RankingOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Conditions on the CVEs of a list; one that is None or empty lets all pass."""

    states: frozenset[State] = frozenset()
    severity: str | None = None
    exploited: bool = False
    built: Certainty | None = None
    loaded: Certainty | None = None
    closed: bool | None = None
    open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Options of `cve list`."""

    question: KernelOptions
    filters: Filters = Filters()
    openvex: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(HostOptions):
    """Options of `cve index`: where records are read from, and the index to write."""

    output: Path
    records: RecordOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions(HostOptions):
    """Options of `cve update`. With `output`, only what is known about the kernel is fetched and saved there."""

    settings: ClientSettings
    release: Release | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions(HostOptions):
    """Options of the commands that plan. `release` is the kernel of another host, None for this host's own."""

    settings: ClientSettings
    policy: Path
    records: RecordOptions
    base_patches: tuple[BasePatch, ...]
    release: Release | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOptions:
    """Options of `cve close`. With `output`, the livepatch is saved there instead of loaded here."""

    plan: PlanOptions
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoOptions:
    """Options of `auto`: stop after the plan; skip the random delay and the policy's window."""

    close: CloseOptions
    plan_only: bool = False
    now: bool = False
