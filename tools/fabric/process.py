"""The processes of a lab, which outlive the command that started them.

A running one is remembered by its process id together with its start time, so that a number that
the kernel has given to somebody else meanwhile is never taken for ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .namespace import Namespace

STOP_TIMEOUT = 3.0


class LabError(Exception):
    """Something that the lab cannot do; the text says why."""


class Process(NamedTuple):
    """A process of ours."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat: clock ticks after boot."""


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class LabProcess:
    """One process in a namespace of a lab, running or not."""

    def __init__(self, name: str, namespace: Namespace, directory: Path) -> None:
        """`name` is that of its files: its log and its record."""
        self.namespace = namespace
        self.log = directory / f"{name}.log"
        self._record = directory / f"{name}.pid"
        self._child: subprocess.Popen[bytes] | None = None

    def process(self) -> Process | None:
        """Return the running process, or None."""
        try:
            process = Process(*json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return process if _start_time(process.pid) == process.started else None

    def _spawn(self, command: Sequence[str], **environment: str) -> int:
        """Start it, with what it prints in its log; return its process id."""
        self._reap()
        with self.log.open("ab") as log:
            process = self.namespace.popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, **environment},
            )
        self._child = process
        self._record.write_text(json.dumps([process.pid, _start_time(process.pid)]))
        return process.pid

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def down(self) -> None:
        """Stop it: asked first, ended by force when it does not go."""
        process = self.process()
        if process is not None:
            os.kill(process.pid, signal.SIGTERM)
            until = time.monotonic() + STOP_TIMEOUT
            while self.process() is not None and time.monotonic() < until:
                time.sleep(0.01)
            if self.process() is not None:
                os.kill(process.pid, signal.SIGKILL)
                if self._child is not None:
                    self._child.wait()
        self._reap()

    def _reap(self) -> None:
        """Take note of the end of a child; one that an earlier command has started is init's. Its
        first thread may be gone a little before the others are."""
        if self._child is not None:
            self._child.wait(STOP_TIMEOUT)
