# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch enroll`: trust a server's key from now on, after comparing its fingerprint."""

from __future__ import annotations

import argparse
import json
import os
import sys

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.host.machine import Machine
from elivepatch.client.options import SETTINGS_FILE, TRUSTED_FILE
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError, TrustError
from elivepatch.output import Output
from elivepatch.settings import ClientSettings, load
from elivepatch.trust.keys import PublicKey, parse_fingerprint
from elivepatch.trust.pins import Pin, read_pins, write_pins


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "enroll", help="trust a server after comparing its fingerprint", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("url", metavar="URL", help="the server, for example https://patches.example:8440")
    parser.add_argument(
        "--fingerprint",
        metavar="SHA256",
        help="the fingerprint that the server printed when it started; no question is asked then",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Fetch the key, compare it or ask a person to compare it, and pin it."""
    machine = machines.this_machine()
    expected = parse_fingerprint(arguments.fingerprint) if arguments.fingerprint is not None else None
    file = machine.host.path(TRUSTED_FILE)
    pins = read_pins(file)
    settings = load(
        ClientSettings(),
        file=machine.host.path(SETTINGS_FILE),
        flags={"url": arguments.url.rstrip("/")},
        environ=os.environ,
    )
    with ServerClient(settings) as server, time_limit(settings.limit_s):
        key = server.public_key()
    pinned = next((pin for pin in pins if pin.url == settings.url), None)
    if pinned is None or pinned.public_key != key.raw.hex():
        _confirm(key, expected, pinned, output)
        fresh = Pin(url=settings.url, public_key=key.raw.hex(), enrolled_at=machine.stamp())
        write_pins(file, [*(pin for pin in pins if pin.url != settings.url), fresh])
    elif expected is not None and expected != key.fingerprint:
        raise _other_key(key, expected)
    wrote = _remember_url(machine, settings.url)
    output.document({"url": settings.url, "fingerprint": key.fingerprint, "file": str(file), "settings_written": wrote})
    output.line(f"{settings.url} is trusted: {key.shown}")
    if wrote:
        output.line(f"{machine.host.path(SETTINGS_FILE)} names it as the server from now on.")
    return ExitStatus.OK


def _confirm(key: PublicKey, expected: str | None, pinned: Pin | None, output: Output) -> None:
    if expected is not None:
        if expected != key.fingerprint:
            raise _other_key(key, expected)
        return
    if pinned is not None:
        output.note(f"warning: this server was enrolled with another key on {pinned.enrolled_at}.")
        output.note(f"its key was    {PublicKey.from_hex(pinned.public_key).shown}")
    output.note(f"its key is now {key.shown}" if pinned is not None else f"its fingerprint is {key.shown}")
    if not sys.stdin.isatty():
        raise TrustError(
            "not-confirmed",
            "There is no terminal to ask if this is the right key.",
            advice="Compare it with the one that the server printed, then give it with --fingerprint.",
        )
    output.note("Is this exactly the fingerprint that the server printed when it started? Type yes to trust it: ")
    if sys.stdin.readline(100).strip() != "yes":
        raise TrustError("not-confirmed", "The key was not confirmed: nothing was changed.", advice="Compare it again.")


def _other_key(key: PublicKey, expected: str) -> TrustError:
    return TrustError(
        "other-key",
        f"The server has another key than expected: {key.fingerprint}, not {expected}.",
        advice="Somebody may intercept the connection: compare it with the fingerprint on the server's own console.",
    )


def _remember_url(machine: Machine, url: str) -> bool:
    """Write the server into client.toml if there is no such file yet; return whether it was written."""
    file = machine.host.path(SETTINGS_FILE)
    if file.exists():
        return False
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(f"url = {json.dumps(url)}\n")  # TOML's basic strings are JSON's
    except OSError as error:
        raise HostError(
            "settings-unwritable",
            f"{file} cannot be written: {error.strerror}.",
            advice="Run the command as root, on a file system that is not read-only.",
        ) from error
    return True
