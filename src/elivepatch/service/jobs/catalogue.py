# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be built for, as the API tells it: from this machine's backend, or from what all workers announce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from elivepatch.model.build import RequestReference
from elivepatch.model.errors import EnvironmentFault, HostError
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.fleet import Fleet, Offer
from elivepatch.service.jobs.records import build_key
from elivepatch.service.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a request is to be done and what comes out: `build_key` is the digest of all that decides the bytes."""

    build_key: Digest
    route: str
    kernel_build_id: str


class Catalogue(Protocol):
    """The kernels of a server. Raises EnvironmentFault with the code `kernel-unknown` for any other."""

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that can be built for."""

    def sources(self, release: str) -> bytes:
        """Return what a kernel was built from (docs/cve.md)."""

    def plan(self, request: RequestReference) -> Plan:
        """Return where a request is to be done; raises HostError where the host's kernel has other patches in it."""


def check_base_patches(request: RequestReference, known: Mapping[str, Digest] | None) -> None:
    """Raise HostError where a base was made with other patches than those that the host names; it may name none."""
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
        advice="Make the base with the patches that the running kernel was built with (docs/custom.md). Where the "
        "kernel was built without these, say so: --base-patch names what it has, --no-base-patches that it has none.",
    )


class LocalCatalogue:
    """The kernels of this machine's backend: one added to it is offered at once."""

    def __init__(self, backend: BuildBackend) -> None:
        self._backend = backend

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels of the backend."""
        return self._backend.kernels()

    def sources(self, release: str) -> bytes:
        """Return what a kernel was built from."""
        return self._backend.encoded_sources(release)

    def plan(self, request: RequestReference) -> Plan:
        """Return where a request is to be done."""
        check_base_patches(request, self._backend.base_patches(request.release))
        facts = self._backend.facts(request.release)
        ids = [kernel.build_id for kernel in self._backend.kernels() if kernel.release == request.release]
        return Plan(build_key=build_key(facts, request), route=facts[:16], kernel_build_id=ids[0] if ids else "")


class FleetCatalogue:
    """The kernels of all workers that share the database."""

    def __init__(self, fleet: Fleet, store: Store) -> None:
        self._fleet = fleet
        self._store = store

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that some worker offers, by release."""
        return [offer.kernel for _, offer in sorted(self._fleet.offers().items())]

    def sources(self, release: str) -> bytes:
        """Return what a worker put into the store about a kernel."""
        return self._store.get(self._offer(release).sources)

    def plan(self, request: RequestReference) -> Plan:
        """Return where a request is to be done."""
        offer = self._offer(request.release)
        check_base_patches(request, offer.base_patches)
        return Plan(build_key=build_key(offer.facts, request), route=offer.route, kernel_build_id=offer.kernel.build_id)

    def _offer(self, release: str) -> Offer:
        offer = self._fleet.offers().get(release)
        if offer is None:
            raise EnvironmentFault(
                "kernel-unknown",
                f"No worker of this server can build for {release[:100]}.",
                advice="Add it on a worker: elivepatch-server kernel add; GET /v1/kernels lists what there is.",
            )
        return offer
