"""Gleaning: packets for an address in a connected subnet that has no binding.

The segment's vswitches are asked by ARP, a bounded few packets are held meanwhile, and an address
that nobody answers for is remembered as such for a while, so that a guest that scans the subnet
does not make the leaf ask again and again (RFC 6820 section 7). Asking is rate limited as a whole.

    absent --first packet--> ASKED --answer--> absent, held packets go on
                               \\--three questions unanswered--> NEGATIVE --time--> absent

All tables are bounded; when one is full the packet is dropped and counted.
No I/O; time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from vswitch.service.policer import TokenBucket
from vswitch.wire.vxlan import Vni, Vtep

MAX_ASKED = 1024
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
    """Too many addresses are being asked for."""
    POLICED = "policed"
    """Asking is beyond its rate, or beyond what one guest may have asked for."""
    RESOLVED = "resolved"
    """An answer came; what was held goes on."""
    UNANSWERED = "unanswered"
    """No answer came."""


class Held(NamedTuple):
    """A packet that waits, and the VTEP it came from."""

    source: Vtep
    packet: bytes


class Failed(NamedTuple):
    """An address that nobody answered for, and what was held for it."""

    key: Key
    held: list[Held]


class Due(NamedTuple):
    """What time has brought: addresses to ask for again, and those given up."""

    ask: list[Key]
    failed: list[Failed]


@dataclass(slots=True)
class _Asked:
    next: float
    questions: int = 1
    held: list[Held] = field(default_factory=list)


class Gleaner:
    """The addresses that are being asked for."""

    def __init__(self, rate: float = 500.0) -> None:
        """`rate` is the number of new addresses asked for a second, over all segments."""
        self._bucket = TokenBucket(rate, rate)
        self._asked: OrderedDict[Key, _Asked] = OrderedDict()
        """In order of `next`: an entry that is asked for again goes to the end."""
        self._negative: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def negative(self) -> int:
        """How many addresses are remembered as unanswered."""
        return len(self._negative)

    def want(self, key: Key, now: float, held: Held | None = None) -> Outcome:
        """A packet (or, without one, an ARP question) wants an address. ASKED: ask for it now."""
        asked = self._asked.get(key)
        if asked is not None:
            return self._hold(asked, held)
        until = self._negative.get(key)
        if until is not None and until > now:
            return Outcome.NEGATIVE
        if len(self._asked) >= MAX_ASKED:
            return Outcome.FULL
        if not self._bucket.take(now):
            return Outcome.POLICED
        self._negative.pop(key, None)
        asked = self._asked[key] = _Asked(now + INTERVAL)
        self._hold(asked, held)
        return Outcome.ASKED

    def is_asking(self, key: Key) -> bool:
        """Say whether an address is being asked for."""
        return key in self._asked

    def is_negative(self, key: Key, now: float) -> bool:
        """Say whether nobody answered for an address a moment ago."""
        return self._negative.get(key, now) > now

    @staticmethod
    def _hold(asked: _Asked, held: Held | None) -> Outcome:
        if held is not None:
            if len(asked.held) >= MAX_HELD or len(held.packet) > MAX_HELD_LEN:
                return Outcome.OVERFLOW
            asked.held.append(held)
        return Outcome.HELD

    def resolved(self, key: Key) -> list[Held] | None:
        """The address has a binding: return what was held, or None where it was not asked for."""
        self._negative.pop(key, None)
        asked = self._asked.pop(key, None)
        return None if asked is None else asked.held

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
            del self._asked[key]
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
