"""Bindings: what the leaf knows of guests' addresses, and how it comes to know and to forget them.

     absent --learnt--> REACHABLE --silent for a while--> PROBING --answers--> REACHABLE
                                                              \\--silent still--> absent

A binding is (segment, IP) -> (MAC, VTEP). It is learnt from ARP that the caller has validated, or
configured. News of a known MAC from another VTEP moves *all* bindings of that MAC at once: a guest
moves as a whole, whichever of its addresses it happened to speak of, and a RARP names none.

Each MAC has a sequence, that of the newest news which carried one (from the API, later from other
leaves). Such news changes nothing where it is older, even after the MAC has gone: a late withdrawal
must not delete newer state, and a late announcement must not bring back what has left. News from
the guest itself (ARP, RARP) carries none and counts as the newest: where it moves the MAC, the
sequence is one more than was last said. It is that however often the guest moves by itself, or the
guest could outrun whoever counts, whose next word would be taken for an old one.

A silent binding is asked by unicast ARP before it is forgotten. Configured bindings are never
forgotten, but they move like others.

When the table is full a new address is refused (and counted), and so is one more for a MAC that has
too many: whoever is known already must not lose to a guest that claims addresses at random.

No I/O; time is an argument. The caller carries changes over into the FIB and sends the probes.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

MAX_BINDINGS = 200_000
"""About 210 MB with their FIB entries; twice what the leaf is sized for."""
MAX_PER_MAC = 256
"""A guest with containers has dozens of addresses; one that claims more is cheating."""
MAX_REMEMBERED = 16_384
"""Sequences kept of MACs that have gone; the longest gone is forgotten first."""
MAX_DUE = 512
"""Bindings handled in one turn, so that a turn stays under ten milliseconds."""


class State(StrEnum):
    """Where a binding is in its life; an absent one has no record."""

    REACHABLE = "reachable"
    PROBING = "probing"
    CONFIGURED = "configured"


class Outcome(StrEnum):
    """What a piece of news did. Closed: it names the counters."""

    LEARNT = "learnt"
    CONFIRMED = "confirmed"
    MOVED = "moved"
    """To another VTEP, with all bindings of the MAC."""
    REBOUND = "rebound"
    """The address belongs to another MAC now."""
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    """Older than what is known; nothing was changed."""
    UNKNOWN = "unknown"
    """Of a MAC or address that has no binding; nothing was changed."""
    PINNED = "pinned"
    """The address is configured for another MAC, or ours to give and another's by DHCP; nothing was
    changed."""
    FULL = "full"
    """No room, in the table or for this MAC; nothing was changed."""
    EXPIRED = "expired"
    """It did not answer its probes."""


@dataclass(slots=True)
class Binding:
    """Where one guest address is."""

    segment: Vni
    address: bytes
    mac: Mac
    vtep: Vtep
    state: State
    sequence: int
    """Of its MAC; older news changes nothing."""
    heard: float
    """When it last proved to be there."""
    probes: int = 0
    """Unanswered so far."""
    due: float = math.inf
    """When to look at it again; only the heap entry with this time counts."""
    has_moved: bool = False
    """The sequence was counted up by the guest's own move, and not said."""


class News(NamedTuple):
    """What came of a piece of news, and the bindings that changed."""

    outcome: Outcome
    changed: list[Binding]


class Due(NamedTuple):
    """What time has brought: bindings to probe, and bindings that are gone."""

    probe: list[Binding]
    expired: list[Binding]


class Timers(NamedTuple):
    """Seconds."""

    confirm_after: float = 60.0
    """A binding silent for so long is probed."""
    probe_interval: float = 1.0
    """RFC 4861's RETRANS_TIMER; Linux probes ARP neighbours at the same pace."""
    probes: int = 3
    """As many unanswered probes end a binding (MAX_UNICAST_SOLICIT of RFC 4861)."""


class _Newest(NamedTuple):
    """How new what is known of a MAC is; the fields are those of its bindings."""

    sequence: int
    has_moved: bool = False


DEFAULT_TIMERS = Timers()
Key = tuple[Vni, bytes]


class Bindings:
    """All bindings of a leaf."""

    def __init__(self, timers: Timers = DEFAULT_TIMERS, capacity: int = MAX_BINDINGS) -> None:
        self._timers = timers
        self._capacity = capacity
        self._by_address: dict[Key, Binding] = {}
        self._by_mac: dict[tuple[Vni, Mac], dict[bytes, Binding]] = {}
        self._at: dict[Vni, Counter[Vtep]] = {}
        """How many bindings of a segment are behind each VTEP."""
        self._departed: OrderedDict[tuple[Vni, Mac], _Newest] = OrderedDict()
        self._due: list[tuple[float, Key]] = []
        """A heap. An entry may be too early, since hearing from a binding does not touch it; it is
        then put back with its true time."""

    def __len__(self) -> int:
        return len(self._by_address)

    def all(self) -> list[Binding]:
        """Return every binding."""
        return list(self._by_address.values())

    def get(self, segment: Vni, address: bytes) -> Binding | None:
        """Return the binding of an address, or None."""
        return self._by_address.get((segment, address))

    def of_mac(self, segment: Vni, mac: Mac) -> list[Binding]:
        """Return all bindings of a MAC."""
        return list(self._by_mac.get((segment, mac), {}).values())

    def vteps(self, segment: Vni) -> list[Vtep]:
        """Return the VTEPs that have guests of a segment."""
        return list(self._at.get(segment, ()))

    # -- news ----------------------------------------------------------------------------------

    def learn(
        self,
        segment: Vni,
        address: bytes,
        mac: Mac,
        vtep: Vtep,
        now: float,
        *,
        sequence: int | None = None,
        configured: bool = False,
    ) -> News:
        """Take in that `address` is at `mac` behind `vtep`."""
        if self._is_stale(segment, mac, sequence):
            return News(Outcome.STALE, [])
        own = self._by_mac.get((segment, mac), {})
        known = self._by_address.get((segment, address))
        adds = known is None or known.mac != mac
        if adds and known is not None and known.state is State.CONFIGURED and not configured:
            return News(Outcome.PINNED, [])
        if adds and len(own) >= MAX_PER_MAC:
            return News(Outcome.FULL, [])
        if known is None and len(self._by_address) >= self._capacity:
            return News(Outcome.FULL, [])

        changed = self._move(segment, mac, vtep, now, sequence)
        outcome = Outcome.MOVED if changed else Outcome.CONFIRMED
        if known is not None and known.mac != mac:
            self._remove(known)
            known, outcome = None, Outcome.REBOUND
        if known is None:
            known = self._add(segment, address, mac, vtep, now, sequence, configured)
            changed.append(known)
            if outcome is Outcome.CONFIRMED:
                outcome = Outcome.LEARNT
        known.heard, known.probes = now, 0
        if configured:
            known.state, known.due = State.CONFIGURED, math.inf
        elif known.state is State.PROBING:
            known.state = State.REACHABLE
        return News(outcome, changed)

    def arrived(
        self, segment: Vni, mac: Mac, vtep: Vtep, now: float, *, sequence: int | None = None
    ) -> News:
        """Take in that `mac` is behind `vtep` now, with all its addresses (a RARP says no more)."""
        if self._is_stale(segment, mac, sequence):
            return News(Outcome.STALE, [])
        if (segment, mac) not in self._by_mac:
            return News(Outcome.UNKNOWN, [])
        changed = self._move(segment, mac, vtep, now, sequence)
        return News(Outcome.MOVED if changed else Outcome.CONFIRMED, changed)

    def withdraw(self, segment: Vni, mac: Mac, vtep: Vtep, *, sequence: int | None = None) -> News:
        """Take in that `mac` has left `vtep`. One that is elsewhere by now stays."""
        own = self._by_mac.get((segment, mac))
        if own is None:
            if sequence is not None and not self._is_stale(segment, mac, sequence):
                self._remember(segment, mac, _Newest(sequence))
            return News(Outcome.UNKNOWN, [])
        first = next(iter(own.values()))
        if first.vtep != vtep or self._is_stale(segment, mac, sequence):
            return News(Outcome.STALE, [])
        gone = list(own.values())
        for binding in gone:
            self._remove(binding)
        if sequence is not None:
            self._remember(segment, mac, _Newest(sequence))
        return News(Outcome.WITHDRAWN, gone)

    def forget(self, binding: Binding) -> None:
        """Remove one binding, because its place in the topology is gone."""
        if self._by_address.get((binding.segment, binding.address)) is binding:
            self._remove(binding)

    # -- time ----------------------------------------------------------------------------------

    def probe_now(self, binding: Binding, now: float) -> None:
        """Ask at the next turn whether the guest is still there."""
        if binding.state is State.REACHABLE:
            binding.state, binding.probes = State.PROBING, 0
            self._schedule(binding, now)
        elif binding.state is State.CONFIGURED:
            self._schedule(binding, now)

    def due(self, now: float) -> Due:
        """Return what is to be probed and what has expired by `now`; call it at `deadline`."""
        due = Due([], [])
        for _ in range(MAX_DUE):
            if not self._due or self._due[0][0] > now:
                break
            when, key = heapq.heappop(self._due)
            binding = self._by_address.get(key)
            if binding is not None and binding.due == when:
                self._advance(binding, now, due)
        return due

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self._due[0][0] if self._due else None

    def _advance(self, binding: Binding, now: float, due: Due) -> None:
        """Bring one binding up to `now`."""
        if binding.state is State.CONFIGURED:
            binding.due = math.inf  # Asked once, and kept whether it answers or not.
            due.probe.append(binding)
            return
        if binding.state is State.REACHABLE:
            silent_at = binding.heard + self._timers.confirm_after
            if silent_at > now:
                self._schedule(binding, silent_at)
                return
            binding.state, binding.probes = State.PROBING, 0
        if binding.probes >= self._timers.probes:
            self._remove(binding)
            due.expired.append(binding)
            return
        binding.probes += 1
        due.probe.append(binding)
        self._schedule(binding, now + self._timers.probe_interval)

    def _schedule(self, binding: Binding, when: float) -> None:
        binding.due = when
        heapq.heappush(self._due, (when, (binding.segment, binding.address)))
        if len(self._due) > 2 * len(self._by_address) + 1024:
            # Entries of bindings that came and went; without this a flapping guest grows the heap.
            self._due = [(b.due, key) for key, b in self._by_address.items() if b.due != math.inf]
            heapq.heapify(self._due)

    # -- tables --------------------------------------------------------------------------------

    def _is_stale(self, segment: Vni, mac: Mac, sequence: int | None) -> bool:
        return sequence is not None and sequence < self._newest(segment, mac).sequence

    def _newest(self, segment: Vni, mac: Mac) -> _Newest:
        own = self._by_mac.get((segment, mac))
        if own:
            first = next(iter(own.values()))
            return _Newest(first.sequence, first.has_moved)
        return self._departed.get((segment, mac), _Newest(0))

    def _move(
        self, segment: Vni, mac: Mac, vtep: Vtep, now: float, sequence: int | None
    ) -> list[Binding]:
        """Move all bindings of `mac` to `vtep`; return those that were elsewhere."""
        own = self._by_mac.get((segment, mac), {})
        moved = [binding for binding in own.values() if binding.vtep != vtep]
        newest = self._newest(segment, mac)
        if sequence is not None:
            newest = _Newest(sequence)
        elif moved and not newest.has_moved:
            newest = _Newest(newest.sequence + 1, has_moved=True)
        for binding in own.values():
            binding.sequence, binding.has_moved = newest
        for binding in moved:
            self._leave(binding)
            binding.vtep = vtep
            self._at.setdefault(segment, Counter())[vtep] += 1
            binding.heard, binding.probes = now, 0
            if binding.state is State.PROBING:
                binding.state = State.REACHABLE
        return moved

    def _add(
        self,
        segment: Vni,
        address: bytes,
        mac: Mac,
        vtep: Vtep,
        now: float,
        sequence: int | None,
        configured: bool,
    ) -> Binding:
        newest = self._newest(segment, mac) if sequence is None else _Newest(sequence)
        state = State.CONFIGURED if configured else State.REACHABLE
        binding = Binding(segment, address, mac, vtep, state, newest.sequence, now)
        binding.has_moved = newest.has_moved
        self._by_address[segment, address] = binding
        self._at.setdefault(segment, Counter())[vtep] += 1
        self._by_mac.setdefault((segment, mac), {})[address] = binding
        self._departed.pop((segment, mac), None)
        if not configured:
            self._schedule(binding, now + self._timers.confirm_after)
        return binding

    def _remove(self, binding: Binding) -> None:
        key = (binding.segment, binding.mac)
        del self._by_address[binding.segment, binding.address]
        self._leave(binding)
        own = self._by_mac[key]
        del own[binding.address]
        if not own:
            del self._by_mac[key]
            newest = _Newest(binding.sequence, binding.has_moved)
            self._remember(binding.segment, binding.mac, newest)

    def _leave(self, binding: Binding) -> None:
        """One binding less behind its VTEP."""
        there = self._at[binding.segment]
        there[binding.vtep] -= 1
        if not there[binding.vtep]:
            del there[binding.vtep]
            if not there:
                del self._at[binding.segment]

    def _remember(self, segment: Vni, mac: Mac, newest: _Newest) -> None:
        """Keep the sequence of a MAC that has no bindings."""
        self._departed[segment, mac] = newest
        self._departed.move_to_end((segment, mac))
        while len(self._departed) > MAX_REMEMBERED:
            self._departed.popitem(last=False)
