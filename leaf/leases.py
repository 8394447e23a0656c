"""Leases: which address belongs to which client, for how long, and which is free.

     free --offered--> OFFERED --granted--> BOUND --renewed--> BOUND
                            \\                  \\--released, expired--> FREE (kept for its return)
                             \\--time--> FREE    \\--declined--> DECLINED --time--> FREE

An address has one record at most, so it cannot be given twice: a grant looks at the record, has the
new one committed to the store, and only then changes the table; what could not be committed, or may
not be because its client has the store written too often, has not happened. An offer is only
remembered, never stored: who comes back for an offer that a restart has forgotten gets the address
if nobody else has it.

The client is known by its MAC, which the vswitch guards, and not by the identifier that it says of
itself: otherwise a guest could name its neighbour's and take over its lease.

A free address that somebody had is kept for them, and given to others only after all that were
never used, the one free for longest first. When the table is full, the segment that keeps most of
them forgets one, so that guests of one tenant which have left do not end DHCP for another. What is
bound, offered or declined is never forgotten: with nothing but those, nobody new gets an address.

Times are those of the caller's clock, which never jumps; the store keeps them in wall-clock time
too, so that a lease survives a restart of the machine. No I/O; the store comes in from outside.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import NamedTuple, Protocol

from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

MAX_LEASES = 200_000
"""As many as bindings. About 100 MB."""
OFFER_FOR = 30.0
"""Seconds; clients ask for what was offered within a few."""
DECLINED_FOR = 600.0
"""Seconds for which an address that somebody else uses is not given out."""
MAX_DECLINED = 8
"""Of one MAC at a time: a guest that declines whatever it gets must not exhaust the pool."""
MAX_STEPS = 1024
"""Addresses that a search looks at of those never used, and as many of those freed: one to three
milliseconds in all. The next search goes on from there."""
WALK_EVERY = 10.0
"""Seconds from one walk through a pool to the next, that finds what was in use by others in the
first one. More often, every request for an address of a pool that has none would walk."""
FRESH = 0.95
"""A lease with so much of its time left is not written again: a client that repeats its request
costs no commit."""


class State(StrEnum):
    """What an address is to its client."""

    OFFERED = "offered"
    BOUND = "bound"
    DECLINED = "declined"
    FREE = "free"


class Client(NamedTuple):
    """Whom an address is for: a MAC, and in IPv6 which of its associations (IAID)."""

    mac: Mac
    part: bytes = b""


class Lease(NamedTuple):
    """The record of one address."""

    segment: Vni
    address: bytes
    client: Client
    state: State
    expires: float


class Store(Protocol):
    """What keeps leases over a restart."""

    def write(self, leases: Iterable[Lease], now: float) -> None:
        """Commit these records; they will survive when this returns. Raises where they do not."""


class Refused(Exception):
    """A write is beyond what its client may cause; nothing has changed."""


class NoStore:
    """Keeps nothing: for tests, and as long as no segment leases addresses."""

    def write(self, leases: Iterable[Lease], now: float) -> None:
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The addresses of one family that a segment gives out."""

    size: int
    """Length of an address in bytes."""
    ranges: tuple[tuple[int, int], ...] = ()
    """First and last of each."""
    reservations: dict[Mac, bytes] = field(default_factory=dict)
    excluded: frozenset[bytes] = frozenset()
    """Inside the ranges, but never given out."""
    reserved: frozenset[bytes] = frozenset()
    """Of the reservations; worked out here."""
    length: int = 0
    """Addresses in all ranges; worked out here."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reserved", frozenset(self.reservations.values()))
        length = sum(last - first + 1 for first, last in self.ranges)
        object.__setattr__(self, "length", length)

    def __len__(self) -> int:
        return self.length

    def at(self, index: int) -> bytes:
        """Return the address at an index, counted over all ranges."""
        for first, last in self.ranges:
            if index <= last - first:
                return (first + index).to_bytes(self.size, "big")
            index -= last - first + 1
        raise IndexError(index)

    def has(self, address: bytes, client: Client) -> bool:
        """Say whether `client` may have `address`, as far as the configuration goes."""
        own = self.reservations.get(client.mac)
        if own is not None:
            return own == address
        if len(address) != self.size or address in self.reserved or address in self.excluded:
            return False
        number = int.from_bytes(address, "big")
        return any(first <= number <= last for first, last in self.ranges)


@dataclass(slots=True)
class _Walk:
    """Up to where a pool has been given out: those before `index` have a record, or were in use by
    others when the walk came by."""

    pool: Pool
    begun: float
    index: int = 0


class Grant(NamedTuple):
    """A lease, and another of the same client that has ended by it."""

    lease: Lease
    ended: Lease | None = None


Key = tuple[Vni, bytes]
MayWrite = Callable[[Vni, Mac, float], bool]
"""Says of a segment and a MAC in it whether the store may be written for it now."""
Taken = Callable[[bytes], bool]
"""Says of an address whether somebody else is known to use it."""


class Leases:
    """All leases of a leaf."""

    def __init__(self, store: Store | None = None, capacity: int = MAX_LEASES) -> None:
        self.may_write: MayWrite = lambda segment, mac, now: True
        """Asked before each write, and only then: whoever limits writes sets it."""
        self._store: Store = NoStore() if store is None else store
        self._capacity = capacity
        self._by_address: dict[Key, Lease] = {}
        self._by_client: dict[tuple[Vni, int, Client], Lease] = {}
        self._freed: dict[tuple[Vni, int], OrderedDict[bytes, None]] = {}
        """The addresses with a FREE record: those free for longest first, but for those that a
        search has passed over."""
        self._walks: dict[tuple[Vni, int], _Walk] = {}
        self._declined: Counter[tuple[Vni, Mac]] = Counter()
        self._due: list[tuple[float, Key]] = []
        """A heap; an entry counts only where its record has this very time."""

    def restore(self, store: Store, leases: Iterable[Lease]) -> None:
        """Begin to keep leases in `store`, with what it holds already."""
        self._store = store
        for lease in sorted(leases, key=lambda one: one.expires):
            self._put(lease)

    def __len__(self) -> int:
        return len(self._by_address)

    def all(self) -> list[Lease]:
        """Return every record."""
        return list(self._by_address.values())

    def get(self, segment: Vni, address: bytes) -> Lease | None:
        """Return the record of an address, or None."""
        return self._by_address.get((segment, address))

    def of_client(self, segment: Vni, size: int, client: Client) -> Lease | None:
        """Return the record of a client: what it has, was offered or had last."""
        return self._by_client.get((segment, size, client))

    # -- giving --------------------------------------------------------------------------------

    def offer(
        self,
        segment: Vni,
        pool: Pool,
        client: Client,
        wanted: bytes | None,
        now: float,
        taken: Taken,
    ) -> Lease | None:
        """Choose an address for a client and keep it for a moment; None where there is none."""
        address = self._choose(segment, pool, client, wanted, now, taken)
        if address is None:
            return None
        known = self._current(segment, address, now)
        if known is not None and known.state is State.BOUND:
            return known
        lease = Lease(segment, address, client, State.OFFERED, now + OFFER_FOR)
        before = self.of_client(segment, pool.size, client)
        if before is not None and before.state is State.BOUND and before.expires > now:
            return lease  # It keeps what it has until it asks for this.
        self._put(lease)
        return lease

    def grant(
        self,
        segment: Vni,
        pool: Pool,
        client: Client,
        address: bytes,
        lease_time: float,
        now: float,
        taken: Taken,
    ) -> Grant | None:
        """Give `address` to a client, or give it longer; None where it cannot have it.

        When this returns the lease has been committed. Raises Refused, and what the store raises;
        then nothing has changed.
        """
        if not pool.has(address, client):
            return None
        known = self._current(segment, address, now)
        if known is not None and known.state is State.BOUND and known.client == client:
            if FRESH * lease_time <= known.expires - now <= lease_time:
                return Grant(known)
        else:
            has_room = known is not None or self._has_room()
            if not (has_room and self._is_free(known, client)) or taken(address):
                return None
        lease = Lease(segment, address, client, State.BOUND, now + lease_time)
        before = self.of_client(segment, pool.size, client)
        ended = None
        if before is not None and before.address != address:
            if before.state is State.BOUND:
                ended = before
            before = before._replace(state=State.FREE, expires=min(before.expires, now))
        else:
            before = None
        self._write([lease] if before is None else [before, lease], now)
        return Grant(lease, ended)

    def release(self, lease: Lease, now: float) -> None:
        """End a lease; its address is kept for its client as long as there are others. Raises as
        `grant` does."""
        self._write([lease._replace(state=State.FREE, expires=now)], now)

    def decline(self, lease: Lease, now: float) -> None:
        """Take in that somebody else uses an address. Raises as `grant` does."""
        key = (lease.segment, lease.client.mac)
        if self._declined[key] >= MAX_DECLINED:
            self.release(lease, now)
            return
        self._write([lease._replace(state=State.DECLINED, expires=now + DECLINED_FOR)], now)

    def _write(self, leases: list[Lease], now: float) -> None:
        """Commit records of one client, and only then enter them."""
        if not self.may_write(leases[0].segment, leases[0].client.mac, now):
            raise Refused
        self._store.write(leases, now)
        for lease in leases:
            self._put(lease)

    def _choose(
        self,
        segment: Vni,
        pool: Pool,
        client: Client,
        wanted: bytes | None,
        now: float,
        taken: Taken,
    ) -> bytes | None:
        reserved = pool.reservations.get(client.mac)
        before = self.of_client(segment, pool.size, client)
        for address in (reserved, before.address if before else None, wanted):
            if address is None or not pool.has(address, client):
                continue
            known = self._current(segment, address, now)
            if known is not None and known.client == client and known.state is State.BOUND:
                return address
            if known is None and not self._has_room():
                continue
            if self._is_free(known, client) and not taken(address):
                return address
        return None if reserved is not None else self._search(segment, pool, client, now, taken)

    def _search(
        self, segment: Vni, pool: Pool, client: Client, now: float, taken: Taken
    ) -> bytes | None:
        """Find an address that nobody has: first of those never used, then of those freed."""
        place = (segment, pool.size)
        walk = self._walks.get(place)
        if walk is None or walk.pool is not pool:
            walk = self._walks[place] = _Walk(pool, now)
        address = self._search_unused(segment, walk, taken)
        if address is None:
            address = self._search_freed(place, pool, client, taken)
        if address is None and walk.index >= len(pool) and now - walk.begun >= WALK_EVERY:
            walk.begun, walk.index = now, 0
            address = self._search_unused(segment, walk, taken)
        return address

    def _search_unused(self, segment: Vni, walk: _Walk, taken: Taken) -> bytes | None:
        if not self._has_room():
            return None
        pool, records = walk.pool, self._by_address
        for index in range(walk.index, min(walk.index + MAX_STEPS, len(pool))):
            address = pool.at(index)
            if (
                (segment, address) not in records
                and address not in pool.reserved
                and address not in pool.excluded
                and not taken(address)
            ):
                # The walk stays here: an offer need not become a record.
                walk.index = index
                return address
        walk.index = min(walk.index + MAX_STEPS, len(pool))
        return None

    def _search_freed(
        self, place: tuple[Vni, int], pool: Pool, client: Client, taken: Taken
    ) -> bytes | None:
        freed = self._freed.get(place, OrderedDict())
        for address in list(islice(freed, MAX_STEPS)):
            if pool.has(address, client) and not taken(address):
                return address
            # At the end it does not hide those behind it from the next search.
            freed.move_to_end(address)
        return None

    def _current(self, segment: Vni, address: bytes, now: float) -> Lease | None:
        """Return the record of an address as it is by `now`."""
        lease = self._by_address.get((segment, address))
        if lease is not None and lease.state is not State.FREE and lease.expires <= now:
            return lease._replace(state=State.FREE)
        return lease

    @staticmethod
    def _is_free(known: Lease | None, client: Client) -> bool:
        """Say whether a client may be given the address with this record."""
        if known is None or known.state is State.FREE:
            return True
        return known.client == client and known.state is State.OFFERED

    # -- time ----------------------------------------------------------------------------------

    def due(self, now: float) -> list[Lease]:
        """Return the leases that have ended by `now`; call it at `deadline`. Nothing is stored:
        that a lease is over is to be seen from its time."""
        ended = []
        while self._due and self._due[0][0] <= now:
            when, key = heapq.heappop(self._due)
            lease = self._by_address.get(key)
            if lease is None or lease.expires != when or lease.state is State.FREE:
                continue
            if lease.state is State.BOUND:
                ended.append(lease)
            self._put(lease._replace(state=State.FREE))
        return ended

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self._due[0][0] if self._due else None

    # -- tables --------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Say whether an address may be given out that has no record."""
        return len(self._by_address) < self._capacity or any(self._freed.values())

    def _forget_one(self) -> None:
        """Forget who had an address last, where most such are kept; nothing where none is."""
        (segment, _), freed = max(self._freed.items(), key=lambda item: len(item[1]))
        if freed:
            key = (segment, next(iter(freed)))
            self._drop(self._by_address.pop(key))

    def _put(self, lease: Lease) -> None:
        """Enter a record in place of the one that its address had."""
        key = (lease.segment, lease.address)
        place = (lease.segment, len(lease.address))
        old = self._by_address.get(key)
        if old is not None:
            self._drop(old)
        elif len(self._by_address) >= self._capacity and self._freed:
            self._forget_one()
        self._by_address[key] = lease
        if lease.state is State.DECLINED:
            self._declined[lease.segment, lease.client.mac] += 1
        else:
            mine = (*place, lease.client)
            other = self._by_client.get(mine)
            # What a client had is of interest only as long as it has nothing.
            if other is None or other.state is State.FREE or lease.state is not State.FREE:
                if other is not None and other.state is State.OFFERED and other != lease:
                    self._free(other)
                self._by_client[mine] = lease
        if lease.state is State.FREE:
            self._freed.setdefault(place, OrderedDict())[lease.address] = None
            return
        heapq.heappush(self._due, (lease.expires, key))
        if len(self._due) > 2 * len(self._by_address) + 1024:
            # Renewals leave their old times behind.
            held = self._by_address.items()
            self._due = [(one.expires, k) for k, one in held if one.state is not State.FREE]
            heapq.heapify(self._due)

    def _free(self, lease: Lease) -> None:
        """Take an offer back, because its client was given another address."""
        key = (lease.segment, lease.address)
        if self._by_address.get(key) == lease:
            self._by_address[key] = lease._replace(state=State.FREE)
            place = (lease.segment, len(lease.address))
            self._freed.setdefault(place, OrderedDict())[lease.address] = None

    def _drop(self, old: Lease) -> None:
        """Remove a record from the indices."""
        place = (old.segment, len(old.address))
        mine = (*place, old.client)
        if self._by_client.get(mine) == old:
            del self._by_client[mine]
        if old.state is State.FREE:
            self._freed.get(place, OrderedDict()).pop(old.address, None)
        elif old.state is State.DECLINED:
            key = (old.segment, old.client.mac)
            self._declined[key] -= 1
            if not self._declined[key]:
                del self._declined[key]
