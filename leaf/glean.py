"""Gleaning: packets for an address in a connected subnet that has no binding.

The segment's vswitches are asked by ARP, a bounded few packets are held meanwhile, and an address
that nobody answers for is remembered as such for a while, so that a guest that scans the subnet
does not make the leaf ask again and again (RFC 6820 section 7). How often it asks, the caller says.

    absent --first packet--> ASKED --answer--> absent, held packets go on
                               \\--three questions unanswered--> NEGATIVE --time--> absent

All tables are bounded; when one is full the packet is dropped and counted. Places are shared by all
tenants, so a segment may have as many as are free: one that scans gets half of them, and however
many scan, those that do not find some.

No I/O; time is an argument.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from vswitch.wire.vxlan import Vni

from .punt import Punt

MAX_ASKED = 2048
"""Addresses that are asked for at a time; with what is held for them 13 MB. One segment alone has
half of them."""
MAX_NEGATIVE = 8192
MAX_HELD = 3
"""Packets per address: RFC 1122 section 2.3.2.2 asks for one; a TCP handshake needs no more."""
MAX_HELD_LEN = 2048
"""A longer packet is not held: nothing that begins a conversation is."""
QUESTIONS = 3
INTERVAL = 1.0
"""Seconds between questions (RFC 1122 section 2.3.2.1: at most one per second)."""
NEGATIVE_FOR = 20.0
"""Seconds for which an unanswered address is not asked for again, as in many routers."""

Key = tuple[Vni, bytes]


class Outcome(StrEnum):
    """What became of a packet or question. Closed: it names the counters."""

    ASKED = "asked"
    """The first packet for an address: held, and the segment is asked."""
    HELD = "held"
    """Held with those before it."""
    OVERFLOW = "overflow"
    """As many packets are held for this address as may be, or this one is too long."""
    NEGATIVE = "negative"
    """Nobody answered for this address a moment ago."""
    FULL = "full"
    """Too many addresses are being asked for, in this segment."""
    POLICED = "policed"
    """Asking is beyond a rate: of all, or of what one guest may have asked for."""
    RESOLVED = "resolved"
    """An answer came; what was held goes on."""
    UNANSWERED = "unanswered"
    """No answer came."""


class Failed(NamedTuple):
    """An address that nobody answered for, and what was held for it."""

    key: Key
    held: list[Punt]


class Due(NamedTuple):
    """What time has brought: addresses to ask for again, and those given up."""

    ask: list[Key]
    failed: list[Failed]


@dataclass(slots=True)
class _Asked:
    next: float
    questions: int = 1
    held: list[Punt] = field(default_factory=list)


class Gleaner:
    """The addresses that are being asked for."""

    def __init__(self) -> None:
        self._asked: OrderedDict[Key, _Asked] = OrderedDict()
        """In order of `next`: an entry that is asked for again goes to the end."""
        self._of_segment: Counter[Vni] = Counter()
        """How many of these are of each segment."""
        self._negative: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def negative(self) -> int:
        """How many addresses are remembered as unanswered."""
        return len(self._negative)

    def want(
        self,
        key: Key,
        now: float,
        held: Punt | None = None,
        may_ask: Callable[[], bool] = lambda: True,
    ) -> Outcome:
        """A packet (or, without one, an ARP question) wants an address. ASKED: ask for it now.
        `held` is the packet, with memory of its own (`Punt.kept`). `may_ask` says whether the rates
        allow that; it is called only where that decides."""
        asked = self._asked.get(key)
        if asked is not None:
            return self._hold(asked, held)
        until = self._negative.get(key)
        if until is not None and until > now:
            return Outcome.NEGATIVE
        if self._of_segment[key[0]] >= MAX_ASKED - len(self._asked):
            return Outcome.FULL
        if not may_ask():
            return Outcome.POLICED
        self._negative.pop(key, None)
        asked = self._asked[key] = _Asked(now + INTERVAL)
        self._of_segment[key[0]] += 1
        self._hold(asked, held)
        return Outcome.ASKED

    def is_negative(self, key: Key, now: float) -> bool:
        """Say whether nobody answered for an address a moment ago."""
        return self._negative.get(key, now) > now

    @staticmethod
    def _hold(asked: _Asked, held: Punt | None) -> Outcome:
        if held is not None:
            if len(asked.held) >= MAX_HELD or len(held.packet) > MAX_HELD_LEN:
                return Outcome.OVERFLOW
            asked.held.append(held)
        return Outcome.HELD

    def resolved(self, key: Key) -> list[Punt] | None:
        """The address has a binding: return what was held, or None where it was not asked for."""
        self._negative.pop(key, None)
        return self._leave(key).held if key in self._asked else None

    def _leave(self, key: Key) -> _Asked:
        """One place is free again."""
        self._of_segment[key[0]] -= 1
        if not self._of_segment[key[0]]:
            del self._of_segment[key[0]]
        return self._asked.pop(key)

    def due(self, now: float) -> Due:
        """Return what is to be asked again and what is given up; call it at `deadline`."""
        due = Due([], [])
        while self._asked:
            key, asked = next(iter(self._asked.items()))
            if asked.next > now:
                break
            if asked.questions < QUESTIONS:
                asked.questions += 1
                asked.next = now + INTERVAL
                self._asked.move_to_end(key)
                due.ask.append(key)
                continue
            self._leave(key)
            self._negative[key] = now + NEGATIVE_FOR
            self._negative.move_to_end(key)
            while len(self._negative) > MAX_NEGATIVE:
                self._negative.popitem(last=False)
            due.failed.append(Failed(key, asked.held))
        return due

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        first = next(iter(self._asked.values()), None)
        return None if first is None else first.next
