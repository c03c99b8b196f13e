# SPDX-License-Identifier: GPL-2.0-or-later
"""Choice of the server and the token: options, environment, client.toml, then the server of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from elivepatch.client.options import ServerOptions
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.transport import is_loopback
from elivepatch.files.secret import require_private
from elivepatch.model.errors import UsageError
from elivepatch.settings import CLIENT_FILE, ClientSettings, ServerSettings, load

LOCAL_TOKEN_FILE = ServerSettings().state_dir / "operator.token"
_MAX_TOKEN_BYTES = 4096


def connect(options: ServerOptions) -> ServerClient:
    """Return the server that options, environment and client.toml name; nothing is sent yet."""
    return ServerClient(settings_of(options, environ=os.environ))


def settings_of(
    options: ServerOptions,
    *,
    environ: Mapping[str, str],
    file: Path = CLIENT_FILE,
    local_token: Path = LOCAL_TOKEN_FILE,
    deadline_s: float | None = None,
    lock_wait_s: float | None = None,
    require_trial: str | None = None,
) -> ClientSettings:
    """Return the client's settings; raises UsageError if they or the token's file cannot be read."""
    token = _token(options.token_file) if options.token_file is not None else None
    flags = {
        "url": options.url,
        "token": token,
        "limit_s": options.limit_s,
        "transition_s": deadline_s,
        "lock_wait_s": lock_wait_s,
        "require_trial": require_trial,
    }
    settings = load(ClientSettings(), file=file, flags=flags, environ=environ)
    if not settings.token and is_loopback(settings.url) and os.access(local_token, os.R_OK):
        return replace(settings, token=_token(local_token))
    return settings


def _token(file: Path) -> str:
    require_private(file, "a token")
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "token-file",
            f"{file} cannot be read as a token: {getattr(error, 'strerror', None) or 'it is not text'}.",
            advice="Give the server's file operator.token.",
        ) from error
