# SPDX-License-Identifier: GPL-2.0-or-later
"""Choice of the providers that a server's settings name."""

from __future__ import annotations

from pathlib import Path

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomMaker
from elivepatch.build.base.stock import StockMaker
from elivepatch.build.providers.debian import DebianProvider
from elivepatch.build.providers.host import HostProvider
from elivepatch.build.providers.packages import PackagesProvider
from elivepatch.build.providers.provision import Provider
from elivepatch.build.providers.source import SourceProvider, read_declared
from elivepatch.model.errors import UsageError

PROVIDERS = ("debian", "packages", "host", "source")
"""The words of the setting `providers`."""


def provider_names(setting: str) -> tuple[str, ...]:
    """Return the words of the setting `providers`, in its order; raises UsageError for any other word."""
    words = tuple(word for word in (part.strip() for part in setting.split(",")) if word)
    unknown = [word for word in words if word not in PROVIDERS]
    if unknown:
        raise UsageError(
            "settings",
            f"There is no provider of kernels called {unknown[0][:40]!r}.",
            advice=f"The setting `providers` takes {', '.join(PROVIDERS)}, separated by commas, or nothing.",
        )
    return words


def check_providers(setting: str, sources: str, packages: str) -> None:
    """Raise UsageError if the settings of the providers cannot be used, so that a server does not start."""
    provider_names(setting)
    if packages and not Path(packages).is_dir():
        raise UsageError(
            "settings",
            f"There is no directory {packages}, which the setting `packages` names.",
            advice="Make it, or correct the setting.",
        )
    if sources:
        read_declared(Path(sources))


def chosen_providers(
    setting: str, sources: str, packages: str, *, archive: Archive, context: BaseContext, pushed: Path, work_dir: Path
) -> list[Provider]:
    """Return the providers that the settings `providers`, `sources` and `packages` describe, in order.

    `pushed` is a directory with the archives that the host sent, `work_dir` an empty one for files of providers.
    Raises UsageError if a setting is malformed.
    """
    declared = read_declared(Path(sources)) if sources else ()
    made: dict[str, Provider] = {
        "debian": DebianProvider(StockMaker(archive, context)),
        "packages": PackagesProvider(
            CustomMaker(archive, context), declared, Path(packages) if packages else None, work_dir
        ),
        "host": HostProvider(CustomMaker(archive, context), declared, pushed, work_dir),
        "source": SourceProvider(CustomMaker(archive, context), declared, work_dir),
    }
    return [made[name] for name in provider_names(setting)]
