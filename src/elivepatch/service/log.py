# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's log: events of this program and its libraries on standard error, as JSON unless that is a terminal."""

from __future__ import annotations

import logging
import sys
import time

import structlog

_AGAIN_S = 60.0
_SAME = 40


class _RateLimitFilter(logging.Filter):
    """Logs messages with the same first words at most once a minute: DBOS reports a lost database at each poll."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged (logging's interface)."""
        words, now = record.getMessage()[:_SAME], time.monotonic()
        passes = now - self._last.get(words, float("-inf")) > _AGAIN_S
        if passes:
            self._last = {known: at for known, at in self._last.items() if now - at < _AGAIN_S} | {words: now}
        return passes


def set_up() -> None:
    """Send the log of this process and its libraries through one handler. Call it once, before DBOS starts."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    endings: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if sys.stderr.isatty():
        endings += [structlog.dev.ConsoleRenderer()]
    else:
        endings += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=endings))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # DBOS adds a handler of its own to its logger unless that has one.
    dbos = logging.getLogger("dbos")
    dbos.handlers = [handler]
    dbos.propagate = False
    dbos.addFilter(_RateLimitFilter())
    for chatty in ("alembic", "dbos", "uvicorn", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
