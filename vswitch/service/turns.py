"""The turns of a daemon: whose frames are served next, how many at once, and for how long.

The descriptors of frames have an epoll of their own, of which the event loop sees only that it is
readable. A *turn* then serves whatever is ready, round after round, until nothing is or until it
has held the loop for long enough: frames that wait cost no round through the event loop each, and
the API has its turn even while ports are flooded. What the first round of a turn finds has mostly
one frame, which is handled without looking for a second; in later rounds it is drained.

Between two rounds the daemon may have to wait (`pace.py`): what has come meanwhile is then handled
together. What comes after a silence is served at once.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from .pace import Pace

HOLD = 0.001
"""Seconds after which a turn lets the event loop serve others."""
_UPTIME = "/proc/uptime"
"""Two numbers: seconds since the start, and those that processors were idle, together (proc(5))."""
_REAL_TIME = frozenset({os.SCHED_RR, os.SCHED_FIFO})


class Turns:
    """Serves descriptors by callbacks, which are told whether they may drain theirs."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        """`failed` is told of what a callback raises; the turn goes on."""
        self._failed = failed
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[bool], None]] = {}
        self._pace = Pace()
        self._next = 0.0
        """When the next round may begin."""
        try:
            self._uptime = os.open(_UPTIME, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # Hidden from us: then nothing counts as idle.
            self._uptime = -1

    def fileno(self) -> int:
        """Return a descriptor that is readable when a turn is due."""
        return self._epoll.fileno()

    def watch(self, fd: int, callback: Callable[[bool], None]) -> None:
        """Call `callback` when `fd` is readable, until `unwatch`: with True where it may drain it,
        with False where it is to take the first of what waits."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`, which must still be open."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def find_pace(self) -> None:
        """Set the pace by the priority that this thread has, which anybody may change (chrt)."""
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        self._pace.set_real_time(policy in _REAL_TIME)

    def _look(self, now: float) -> None:
        said = os.pread(self._uptime, 64, 0) if self._uptime >= 0 else b"0 0"
        self._pace.look(now, float(said.split()[1]))

    def turn(self) -> None:
        """Serve the descriptors that are ready, each in its turn."""
        poll, callbacks, pace = self._epoll.poll, self._callbacks, self._pace
        drain = self._wait()
        ready = poll(0)
        began = time.monotonic()
        until = began + HOLD
        while ready:
            for fd, _ in ready:
                # An earlier callback may have taken this one away.
                callback = callbacks.get(fd)
                if callback is not None:
                    try:
                        callback(drain)
                    except Exception as error:
                        # A bug of ours in the handling of one burst; the daemon goes on.
                        self._failed(error)
            drain = True
            now = time.monotonic()
            self._next = pace.after(began, now)
            if now > until:
                break
            ready = poll(0)
            if ready and self._wait():
                ready = poll(0)
            began = time.monotonic()
        if pace.wants_to_look(began):
            self._look(began)

    def _wait(self) -> bool:
        """Wait until the next round may begin; say whether that took any time."""
        rest = self._next - time.monotonic()
        if rest <= 0:
            return False
        time.sleep(rest)
        return True
