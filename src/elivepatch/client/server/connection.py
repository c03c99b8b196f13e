# SPDX-License-Identifier: GPL-2.0-or-later
"""Which server a command talks to and with which token: flags, environment, client.toml, the one of this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from elivepatch.client.options import seconds_of
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.transport import is_loopback
from elivepatch.model.errors import UsageError
from elivepatch.settings import CLIENT_FILE, ClientSettings, ServerSettings, load

LOCAL_TOKEN_FILE = ServerSettings().state_dir / "operator.token"
_MAX_TOKEN_BYTES = 4096


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that talks to a server."""
    parser.add_argument("-u", "--url", metavar="URL", help="the server (default: http://127.0.0.1:8440)")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="a file with the token for the server")


def connection_words(arguments: argparse.Namespace) -> list[str]:
    """Return the options of `add_connection` as they were given, for another command line."""
    words = ["--url", arguments.url] if arguments.url else []
    return [*words, "--token-file", str(arguments.token_file)] if arguments.token_file else words


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add the option of every command that waits for a job at a server."""
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=seconds_of("limit_s"),
        help="how long to wait for the server in all (default: 3600)",
    )


def connect(arguments: argparse.Namespace) -> ServerClient:
    """Return the server that the command line, the environment and client.toml name; nothing is sent yet."""
    return ServerClient(settings_of(arguments, environ=os.environ))


def settings_of(
    arguments: argparse.Namespace,
    *,
    environ: Mapping[str, str],
    file: Path = CLIENT_FILE,
    local_token: Path = LOCAL_TOKEN_FILE,
) -> ClientSettings:
    """Return the client's settings; raises UsageError where they or the token's file cannot be read."""
    token = _token(arguments.token_file) if arguments.token_file is not None else None
    flags = {"url": arguments.url, "token": token, "limit_s": getattr(arguments, "limit", None)}
    settings = load(ClientSettings(), file=file, flags=flags, environ=environ)
    if not settings.token and is_loopback(settings.url) and os.access(local_token, os.R_OK):
        return replace(settings, token=_token(local_token))
    return settings


def _token(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "token-file",
            f"{file} cannot be read as a token: {getattr(error, 'strerror', None) or 'it is not text'}.",
            advice="Give the server's file operator.token.",
        ) from error
