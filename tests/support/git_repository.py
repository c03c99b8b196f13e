# SPDX-License-Identifier: GPL-2.0-or-later
"""Small git repositories for tests, independent of the user's git configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elivepatch import process


class Repository:
    """A repository with a working tree; each commit is dated a minute after the previous one."""

    def __init__(self, top: Path, *, config: Mapping[str, str] | None = None) -> None:
        self.top = top
        self._minute = 0
        self._config = dict(config or {})
        top.mkdir(parents=True)
        self.git("init", "--quiet", "--template=", "--initial-branch=main")

    def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        date = f"2030-05-02T12:{self._minute:02}:00+00:00"
        environment = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "An Author",
            "GIT_AUTHOR_EMAIL": "author@example.org",
            "GIT_COMMITTER_NAME": "A Committer",
            "GIT_COMMITTER_EMAIL": "committer@example.org",
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_DATE": date,
            "HOME": "/nonexistent",
        }
        options = [part for name, value in self._config.items() for part in ("-c", f"{name}={value}")]
        done = process.run(["git", *options, *arguments], cwd=self.top, env=environment, stdin=stdin)
        return done.check(f"git {arguments[0]}").text

    def commit(self, message: str, files: Mapping[str, str | None], *options: str) -> str:
        """Write (None: remove) files, commit them and return the commit's id."""
        self._minute += 1
        for name, content in files.items():
            path = self.top / name
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", *options, "--message", message)
        return self.git("rev-parse", "HEAD").strip()

    def tag(self, name: str) -> None:
        self.git("tag", name)
