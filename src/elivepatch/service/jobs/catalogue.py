# SPDX-License-Identifier: GPL-2.0-or-later
"""Catalogue of the kernels that a server can build for: those of this machine, or those that all workers announce."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from elivepatch.model.build import RequestReference
from elivepatch.model.errors import EnvironmentFault, HostError
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.fleet import Fleet, Offer
from elivepatch.service.jobs.records import build_key
from elivepatch.service.store import Store

# Offers of workers are read again after so long, or for a kernel that is not among them.
_FRESH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRoute:
    """Queue for a request and digest of its answer.

    `build_key` is the digest of all that determines the module's bytes, `route` names the workers that can build it.
    """

    build_key: Digest
    route: str
    kernel_build_id: str


class Catalogue(Protocol):
    """The kernels of a server. Methods raise EnvironmentFault with the code `kernel-unknown` for any other kernel."""

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that the server can build for."""

    def sources(self, release: str) -> bytes:
        """Return the sources of a kernel (docs/cve.md)."""

    def route(self, request: RequestReference) -> BuildRoute:
        """Return the route of a request; raises HostError if the host's kernel and the base differ in base patches."""


def check_base_patches(request: RequestReference, known: Mapping[str, Digest] | None) -> None:
    """Raise HostError if the base was made with other patches than the request names; a request may name none.

    `known` is None if the worker's version does not announce them.
    """
    if not request.base_patches or known is None:
        return
    named = {patch.digest for patch in request.base_patches}
    lacking = [patch.name for patch in request.base_patches if patch.digest not in known.values()]
    beyond = [name for name, digest in known.items() if digest not in named]
    if not lacking and not beyond:
        return
    how = [f"it lacks {', '.join(lacking)[:200]}"] if lacking else []
    how += [f"it has {', '.join(beyond)[:200]} besides"] if beyond else []
    raise HostError(
        "base-patches",
        f"The server's base of {request.release} was made with other patches than this kernel: {' and '.join(how)}.",
        advice="Make the base with the patches that the running kernel was built with (docs/custom.md). If the kernel "
        "was built without these, use --base-patch to name what it has, or --no-base-patches if it has none.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BackendState:
    """Answers of a backend at one revision; those about a kernel are added when they are first needed."""

    revision: str
    kernels: list[KernelIdentity]
    facts: dict[str, Digest] = field(default_factory=dict)
    base_patches: dict[str, Mapping[str, Digest]] = field(default_factory=dict)


class LocalCatalogue:
    """The kernels of this machine's backend: a kernel that is added is offered at once.

    Answers are kept until the backend's revision changes: to read the description of each base takes long with many
    kernels, and each POST needs them.
    """

    def __init__(self, backend: BuildBackend) -> None:
        self._backend = backend
        self._state: _BackendState | None = None

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels of the backend."""
        return self._current().kernels

    def sources(self, release: str) -> bytes:
        """Return the sources of a kernel."""
        return self._backend.encoded_sources(release)

    def route(self, request: RequestReference) -> BuildRoute:
        """Return the route of a request."""
        release, state = request.release, self._current()
        if release not in state.base_patches:
            state.base_patches[release] = self._backend.base_patches(release)
        check_base_patches(request, state.base_patches[release])
        if release not in state.facts:
            state.facts[release] = self._backend.facts(release)
        facts = state.facts[release]
        ids = [kernel.build_id for kernel in state.kernels if kernel.release == release]
        return BuildRoute(build_key=build_key(facts, request), route=facts[:16], kernel_build_id=ids[0] if ids else "")

    def _current(self) -> _BackendState:
        # The revision is read first: a change during the reads makes the next call read again.
        revision, state = self._backend.revision(), self._state
        if state is None or state.revision != revision:
            state = self._state = _BackendState(revision=revision, kernels=self._backend.kernels())
        return state


class FleetCatalogue:
    """The kernels of all workers that share the database, at most a second old."""

    def __init__(self, fleet: Fleet, store: Store) -> None:
        self._fleet = fleet
        self._store = store
        self._lock = threading.Lock()
        self._offers: dict[str, Offer] = {}
        self._read_at = float("-inf")

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that some worker offers, by release."""
        return [offer.kernel for _, offer in sorted(self._current().items())]

    def sources(self, release: str) -> bytes:
        """Return the sources of a kernel, which a worker has put into the store."""
        return self._store.get(self._offer(release).sources)

    def route(self, request: RequestReference) -> BuildRoute:
        """Return the route of a request."""
        offer = self._offer(request.release)
        check_base_patches(request, offer.base_patches)
        return BuildRoute(
            build_key=build_key(offer.facts, request), route=offer.route, kernel_build_id=offer.kernel.build_id
        )

    def _current(self, *, fresh: bool = False) -> dict[str, Offer]:
        with self._lock:
            if fresh or time.monotonic() - self._read_at > _FRESH_S:
                self._offers = self._fleet.offers()
                self._read_at = time.monotonic()
            return self._offers

    def _offer(self, release: str) -> Offer:
        offer = self._current().get(release) or self._current(fresh=True).get(release)
        if offer is None:
            raise EnvironmentFault(
                "kernel-unknown",
                f"No worker of this server can build for {release[:100]}.",
                advice="Add it on a worker: elivepatch-server kernel add; GET /v1/kernels lists those of all workers.",
            )
        return offer
