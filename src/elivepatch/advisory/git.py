# SPDX-License-Identifier: GPL-2.0-or-later
"""Git commands on repositories that are not trusted.

A repository's own configuration may name programs: hooks, pagers, helpers for protocols, diff drivers, signature
checkers. So only plumbing commands are run, which follow little of it, with everything that starts a program switched
off, no protocol allowed except the one that the caller names, and no configuration of the system or the user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from elivepatch import process
from elivepatch.model.errors import EnvironmentFault

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
}
_OFF = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.attributesFile": "/dev/null",
    "credential.helper": "",
    "log.showSignature": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "http.followRedirects": "false",
}
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
_TIMEOUT_S = 120.0


def git(
    repository: Path,
    *arguments: str,
    stdin: bytes | None = None,
    protocol: str = "none",
    settings: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
    file_limit_bytes: int | None = None,
) -> process.Completed:
    """Run one git command on the git directory `repository` and return how it ended.

    `protocol` is the only one that may be used to reach another repository; `settings` are added to our own. No file
    that it writes gets larger than `file_limit_bytes`. Raises EnvironmentFault if git cannot be started.
    """
    given = [part for name, value in {**_OFF, **(settings or {})}.items() for part in ("-c", f"{name}={value}")]
    limit = [] if file_limit_bytes is None else ["prlimit", f"--fsize={file_limit_bytes}", "--"]
    argv = [
        *limit,
        "git",
        f"--git-dir={repository.resolve()}",
        "--no-pager",
        "--no-replace-objects",
        *given,
        *arguments,
    ]
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    environment = _ENVIRONMENT | proxies | {"GIT_ALLOW_PROTOCOL": protocol}
    try:
        return process.run(argv, env=environment, stdin=stdin, timeout_s=timeout_s)
    except OSError as error:  # what git is given and prints goes through files: a disk may be full
        raise EnvironmentFault(
            "program-failed",
            f"git cannot be run: {error.strerror or error}.",
            advice="Make room for temporary files, and check that the directory for them may be written.",
        ) from error


def git_directory(top: Path) -> Path | None:
    """Return the git directory where `top` is itself a clone, with a working tree or bare, else None."""
    if (top / ".git").exists():
        return top / ".git"
    bare = (top / "HEAD").is_file() and (top / "objects").is_dir() and (top / "refs").is_dir()
    return top if bare else None
