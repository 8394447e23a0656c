"""When router advertisements go to whole segments (RFC 4861 section 6.2.4).

Three soon after a segment has come, then one in every interval. (A guest that asks, or has just
become active, gets one of its own at once; that needs no memory and is not here.) RFC 4861 wants
the interval random, so that routers do not fall into step; here each segment's differs by its VNI,
which does the same and can be tested.

After a start all segments are due at once, each with a message for every vswitch that it is on. So
a turn takes a few of them, and the next comes a little later (`MAX_DUE`, `PAUSE`): between them the
leaf forwards, and no vswitch's receive buffer has to hold them all. The segments that are spread so
stay spread, since each counts its intervals from when it was said.

What a reload takes back is said once more, as taken back (`last_words`). A leaf that stops says
nothing: the gateway is the same on every leaf, so guests that another one serves would lose it, and
mostly it is only to start again.

No I/O; time is an argument.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

from vswitch.wire.nd import Advertisement
from vswitch.wire.vxlan import Vni

INITIAL, INITIAL_INTERVAL = 3, 16.0
"""MAX_INITIAL_RTR_ADVERTISEMENTS, MAX_INITIAL_RTR_ADVERT_INTERVAL (RFC 4861 section 10)."""
MIN_INTERVAL, MAX_INTERVAL = 200.0, 600.0
"""MinRtrAdvInterval and MaxRtrAdvInterval: the defaults of RFC 4861 section 6.2.1."""
MAX_DUE, PAUSE = 8, 0.02
"""Segments in one turn, and the seconds between turns. On 50 vswitches these are 400 messages in a
turn and 20,000 a second; 400 segments take a second, well below what a guest waits for one."""

LAST_VALID = 7200
"""Seconds: the least to which hosts let an advertisement cut the life of an address that they have
made themselves (RFC 4862 section 5.5.3 (e))."""


def last_words(old: Advertisement, new: Advertisement | None) -> Advertisement | None:
    """Return what guests that have heard `old` are told before they hear only `new`; None where
    nothing is taken back.

    Without `new` the gateway is no default router any more (RFC 4861 section 6.2.5) and no name
    server holds (RFC 8106 section 5.1). A prefix that `new` does not have is not used for what
    begins from now on; what is under way may end.
    """
    kept = {(one.network, one.length) for one in new.prefixes} if new else set()
    gone = tuple(
        one._replace(valid=LAST_VALID, preferred=0)
        for one in old.prefixes
        if (one.network, one.length) not in kept
    )
    if new is None:
        return old._replace(lifetime=0, mtu=None, prefixes=gone, dns_lifetime=0)
    return new._replace(prefixes=gone) if gone else None


class Schedule:
    """The segments that are advertised to, and when next."""

    def __init__(self) -> None:
        self._sent: dict[Vni, int] = {}
        self._said: dict[Vni, object] = {}
        self._due: list[tuple[float, Vni]] = []
        self._not_before = -math.inf

    def set_segments(self, segments: Mapping[Vni, object], now: float) -> None:
        """Advertise to these and no others; from now on to new ones, and to those for which there
        is something else to say."""
        kept = {vni for vni, said in segments.items() if self._said.get(vni) == said}
        self._said = dict(segments)
        self._sent = {vni: self._sent[vni] if vni in kept else 0 for vni in segments}
        self._due = [(when, vni) for when, vni in self._due if vni in kept]
        self._due += [(now, vni) for vni in segments if vni not in kept]
        heapq.heapify(self._due)

    def due(self, now: float) -> list[Vni]:
        """Return the segments to advertise to, not too many at once; call it at `deadline`."""
        found: list[Vni] = []
        if now < self._not_before:
            return found
        while self._due and self._due[0][0] <= now:
            if len(found) == MAX_DUE:
                self._not_before = now + PAUSE
                break
            _, vni = heapq.heappop(self._due)
            found.append(vni)
            self._sent[vni] += 1
            if self._sent[vni] < INITIAL:
                wait = INITIAL_INTERVAL
            else:
                wait = MIN_INTERVAL + vni * 7919 % (MAX_INTERVAL - MIN_INTERVAL)
            heapq.heappush(self._due, (now + wait, vni))
        return found

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return max(self._due[0][0], self._not_before) if self._due else None
