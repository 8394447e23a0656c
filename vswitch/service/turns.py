"""The turns of a daemon: whose frames are served next, how many at once, and for how long.

The descriptors of frames have an epoll of their own, of which the event loop sees only that it is
readable. A *turn* then serves whatever is ready, round after round, until nothing is or until it
has held the loop for long enough: frames that wait cost no round through the event loop each, and
the API has its turn even while ports are flooded. What the first round of a turn finds has mostly
one frame, which is handled without looking for a second; in later rounds it is drained.

*Pace.* A daemon with real-time priority, as the systemd units ask for, does not wait for a
processor that guests keep busy, so that a guest that floods delays nobody. But it is also woken by
each single frame, before the sender could make a second one, and frames that come alone cost ten
times as much as those that share a decision and a call. Its rounds are therefore at least `PACE`
apart: what comes meanwhile waits together. What comes after a silence is served at once. Without
that priority a daemon is kept waiting by the scheduler often enough, and has no pace.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

HOLD = 0.001
"""Seconds after which a turn lets the event loop serve others."""
PACE = 0.0002
"""Seconds between two rounds under real-time priority. With half of it, a flood of small packets
came through at two thirds of the rate; with half as much again, the others waited for half as long
again."""
_REAL_TIME = frozenset({os.SCHED_RR, os.SCHED_FIFO})


class Turns:
    """Serves descriptors by callbacks, which are told whether they may drain theirs."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        """`failed` is told of what a callback raises; the turn goes on."""
        self._failed = failed
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[bool], None]] = {}
        self._pace = 0.0
        self._served = 0.0
        """When the last round ended."""

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
        self._pace = PACE if policy in _REAL_TIME else 0.0

    def turn(self) -> None:
        """Serve the descriptors that are ready, each in its turn."""
        poll, callbacks, pace = self._epoll.poll, self._callbacks, self._pace
        wait = self._served + pace - time.monotonic()
        drain = wait > 0
        if drain:
            time.sleep(wait)
        ready = poll(0)
        until = time.monotonic() + HOLD
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
            self._served = time.monotonic()
            if self._served > until:
                break
            ready = poll(0)
            if pace and ready:
                time.sleep(pace)
                ready = poll(0)
