"""Logs: structlog to stderr; for people when it is a terminal, JSON otherwise.

A line that cannot be written (a full disk, a closed pipe, a reader that has stalled) is counted,
and never ends the daemon or holds it up.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Any

import structlog

Log = Any
"""A structlog logger; it has no useful static type."""


CHUNK = 4096
"""PIPE_BUF: a pipe that is reported as writable takes so much without blocking."""


class LossyStream:
    """A text stream on a descriptor, whose failures and stalls are counted instead of felt."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.lost = 0

    def write(self, text: str) -> int:
        """Write `text`, or as much of it as can be written at once."""
        data = text.encode(errors="replace")
        try:
            for at in range(0, len(data), CHUNK):
                if not self._poll.poll(0):
                    raise BlockingIOError
                os.write(self._fd, data[at : at + CHUNK])
        except OSError:
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


stderr = LossyStream(2)
"""Where every line of a daemon goes; `stderr.lost` is a metric."""


class _Forward(logging.Handler):
    """Has what libraries log by the standard module written as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        line = structlog.get_logger().bind(library=record.name)
        exception = str(record.exc_info[1]) if record.exc_info else None
        line.warning(record.getMessage(), **({"exception": exception} if exception else {}))


def configure(level: str) -> None:
    """Set the log up for this process; `level` is debug, info, warning or error."""
    for_people = sys.stderr.isatty()
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    # Each refused connection would be a line; that there are many shows in the answers.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    renderer = (
        structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer()
    )
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels[level]),
        logger_factory=structlog.PrintLoggerFactory(file=stderr),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def get(**context: object) -> Log:
    """Return a logger with `context` in each of its lines."""
    return structlog.get_logger().bind(**context)
