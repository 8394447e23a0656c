"""Logs: structlog to stderr; for people when it is a terminal, JSON otherwise.

A log that cannot be written (a full disk, a closed pipe) is counted and never ends the daemon.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import structlog

Log = Any
"""A structlog logger; it has no useful static type."""


class LossyStream:
    """A text stream whose failures are counted instead of raised."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self.lost += 1
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1


stderr = LossyStream(sys.stderr)
"""Where every line of a daemon goes; `stderr.lost` is a metric."""


def configure(level: str) -> None:
    """Set the log up for this process; `level` is debug, info, warning or error."""
    for_people = sys.stderr.isatty()
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
