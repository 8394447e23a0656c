"""The pace of a daemon with real-time priority: when its next round of frames may begin.

Such a daemon does not wait for a processor that guests keep busy, so that a guest that floods
delays nobody. But it is also woken by each single frame, before the sender could make a second one,
and frames that come alone cost ten times as much as those that share a decision and a call. Its
rounds therefore begin at least `PACE` apart: what comes meanwhile waits together.

A round may last longer than that by itself. Where nobody else wants the processors, the next one
then follows at once. Where somebody does, there is a *rest* between them, of up to `PACE` again:
daemons that have work all the time would otherwise leave nothing to the guests that make this work,
and that are to take its results. Which of the two it is, the machine's idle time tells, which is
looked at ten times a second: the rest grows while next to none is left, and shrinks while there is
more. With two processors, without rests one stream through two vswitches had half as much again;
and one through a leaf, which needs both processors, lost a quarter.
"""

from __future__ import annotations

from math import inf

PACE = 0.0002
"""Seconds from one round to the next. With half of it, a flood of small packets came through at two
thirds of the rate; with half as much again, the others waited for half as long again."""
LOOK_EVERY = 0.1
"""Seconds."""
SCARCE, SPARE = 0.16, 0.24
"""Processors that are idle, together: with less the rest grows, with more it shrinks."""
_STEPS = 4
"""In which it does either."""


class Pace:
    """When rounds may begin. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._pace = self._rest = 0.0
        self._looked, self._idle = -inf, 0.0

    def set_real_time(self, is_real_time: bool) -> None:
        """Say whether the daemon has real-time priority; without, there is no pace."""
        before, self._pace = self._pace, PACE if is_real_time else 0.0
        if self._pace != before:
            self._rest = self._pace

    def wants_to_look(self, now: float) -> bool:
        """Say whether it is time for `look`."""
        return now - self._looked > LOOK_EVERY and self._pace > 0

    def look(self, now: float, idle: float) -> None:
        """Take in for how many seconds processors have been idle since the start, all together."""
        spare = (idle - self._idle) / (now - self._looked)
        self._looked, self._idle = now, idle
        step = self._pace / _STEPS
        if spare > SPARE:
            self._rest = max(self._rest - step, 0.0)
        elif spare < SCARCE:
            self._rest = min(self._rest + step, self._pace)

    def after(self, began: float, ended: float) -> float:
        """Return when the round may begin that follows one from `began` to `ended`."""
        return max(began + self._pace, ended + self._rest)
