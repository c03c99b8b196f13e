# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlays that a host is subscribed to: the origin, the allowed signers and the precedence of each.

The cache has them below overlays/NAME/: subscription.json, signers (a file of allowed signers, ssh-keygen(1)), and
repository.git.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from elivepatch.advisory.overlay.repository import AcceptedOverlay, OverlayRepository, protocol_of
from elivepatch.client.cve.cache import CveCache
from elivepatch.files.atomic import write_atomic
from elivepatch.model.errors import HostError, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}", re.ASCII)
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}|", re.ASCII)
_FILE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One subscription. Overlays of higher `precedence` are asked first, then those of the smaller name."""

    name: str
    url: str
    branch: str
    precedence: int
    directory: Path

    @property
    def repository(self) -> OverlayRepository:
        """The git repository that it is fetched into."""
        return OverlayRepository(
            directory=self.directory / "repository.git",
            url=self.url,
            branch=self.branch,
            signers=self.directory / "signers",
        )

    @property
    def accepted(self) -> AcceptedOverlay:
        """Its newest accepted commit."""
        return AcceptedOverlay(self.name, self.repository)


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """All subscriptions of one host."""

    cache: CveCache

    def all(self) -> list[Subscription]:
        """Return them in the order in which they are asked; raises HostError if one is damaged."""
        names = sorted(path.parent.name for path in self._directory.glob("*/subscription.json"))
        return sorted((self.get(name) for name in names), key=lambda one: (-one.precedence, one.name))

    def get(self, name: str) -> Subscription:
        """Return one; raises UsageError if there is none of that name."""
        place = self._directory / _checked(name)
        try:
            read = json.loads((place / "subscription.json").read_bytes()[:_FILE_MAX])
            found = Subscription(
                name=name,
                url=str(read["url"]),
                branch=str(read["branch"]),
                precedence=int(read["precedence"]),
                directory=place,
            )
        except FileNotFoundError:
            known = ", ".join(path.parent.name for path in self._directory.glob("*/subscription.json")) or "none"
            raise UsageError(
                "overlay-unknown",
                f"This host is not subscribed to an overlay called {name}.",
                advice=f"It is subscribed to: {known}.",
            ) from None
        except OSError as error:
            raise HostError(
                "advisories-unreadable",
                f"{place} cannot be read: {error.strerror}.",
                advice="Run the command as root, or give another directory with --keep.",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(
                "overlay-damaged", f"{place} is damaged.", advice=f"Remove {place} and add the overlay again."
            ) from error
        protocol_of(found.url)
        return found

    def add(self, name: str, url: str, *, branch: str, precedence: int, signers: bytes) -> Subscription:
        """Subscribe after a commit of it was fetched and accepted; on failure nothing is left behind.

        Raises UsageError for a name that is taken or impossible, and what `OverlayRepository.update` raises.
        """
        place = self._directory / _checked(name)
        protocol_of(url)
        if not _BRANCH.fullmatch(branch) or ".." in branch:
            raise UsageError("overlay-branch", f"{branch[:80]!r} is not a branch.", advice="Give its short name.")
        if place.exists():
            raise UsageError(
                "overlay-taken", f"There is an overlay called {name} already.", advice="Remove it first, or rename it."
            )
        try:
            self.cache.make(place)
            write_atomic(place / "signers", signers)
            found = Subscription(name=name, url=url, branch=branch, precedence=precedence, directory=place)
            found.repository.update()
            content = {key: value for key, value in asdict(found).items() if key not in {"directory", "name"}}
            write_atomic(place / "subscription.json", json.dumps(content, indent=1).encode() + b"\n")
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise HostError(
                "cannot-write",
                f"{place} cannot be written: {error.strerror}.",
                advice="Make room, run the command as root, or give another directory with --keep.",
            ) from error
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return found

    def remove(self, name: str) -> None:
        """Unsubscribe; livepatches that are live stay live."""
        shutil.rmtree(self.get(name).directory)

    @property
    def _directory(self) -> Path:
        return self.cache.directory / "overlays"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            "overlay-name",
            f"{name[:60]!r} is not a name for an overlay.",
            advice="Use at most 40 small letters, digits, dots, dashes and underscores.",
        )
    return name
