"""Leases that servers elsewhere have given, as they were seen on their way to guests (snooping).

     absent --given--> here --given again--> here, for longer
                         \\--given back, taken away, expired, given to another--> absent

A lease seen is a binding, so that a guest is reachable before it has said anything else; when it
ends, so does the binding. The servers hold the truth: what is lost here in a restart comes back
with the next renewal, and meanwhile a binding is kept by ARP and ND as any other. So nothing is
stored, and nothing is refused to a guest on the word of this table.

Only what can be a guest's address in the segment is taken in. When the table is full, or a guest
has too many already, a new lease is not; that guest is learnt when it speaks.

No I/O; time is an argument. The caller binds, and ends bindings.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Container
from enum import StrEnum

from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

from .bindings import MAX_BINDINGS, MAX_DUE, MAX_PER_MAC
from .leases import Client, Lease, State
from .topology import Segment


class Outcome(StrEnum):
    """What a lease that was seen did. Closed: it names the counters."""

    BOUND = "bound"
    RENEWED = "renewed"
    OUTSIDE = "outside"
    """Not an address that a guest of the segment can have; nothing was bound."""
    FULL = "full"
    """No room, in the table or for this MAC; nothing was bound."""
    RETURNED = "returned"
    """Released or declined by its guest."""
    TAKEN_AWAY = "taken_away"
    """By its server, which says that it is valid for no time."""
    EXPIRED = "expired"


BELIEVED = frozenset({Outcome.BOUND, Outcome.RENEWED})
"""With these, the guest has the address."""


class Snooped:
    """All leases that were seen. A MAC has no more of them than it may have bindings."""

    def __init__(self, capacity: int = MAX_BINDINGS) -> None:
        self._capacity = capacity
        self._by_address: dict[tuple[Vni, bytes], Lease] = {}
        self._of_mac: Counter[tuple[Vni, Mac]] = Counter()
        self._due: list[tuple[float, tuple[Vni, bytes]]] = []
        """A heap; an entry counts only where its lease has this very time."""

    def __len__(self) -> int:
        return len(self._by_address)

    def all(self) -> list[Lease]:
        """Return every lease."""
        return list(self._by_address.values())

    def given(
        self, segment: Segment, address: bytes, mac: Mac, seconds: int, now: float
    ) -> Outcome:
        """Take in that a server has given `address` to a guest of `segment` for so long."""
        if not _can_be_a_guests(segment, address):
            return Outcome.OUTSIDE
        key = (segment.vni, address)
        known = self._by_address.get(key)
        if seconds == 0:
            self._drop(key, mac)
            return Outcome.TAKEN_AWAY
        renewed = known is not None and known.client.mac == mac
        if not renewed and self._of_mac[segment.vni, mac] >= MAX_PER_MAC:
            return Outcome.FULL
        if known is None and len(self._by_address) >= self._capacity:
            return Outcome.FULL
        if known is not None:
            self._drop(key, known.client.mac)
        lease = Lease(segment.vni, address, Client(mac), State.BOUND, now + seconds)
        self._by_address[key] = lease
        self._of_mac[segment.vni, mac] += 1
        heapq.heappush(self._due, (lease.expires, key))
        if len(self._due) > 2 * len(self._by_address) + 1024:
            # Renewals leave their old times behind.
            self._due = [(one.expires, k) for k, one in self._by_address.items()]
            heapq.heapify(self._due)
        return Outcome.RENEWED if renewed else Outcome.BOUND

    def returned(self, segment: Vni, address: bytes, mac: Mac) -> bool:
        """Take in that a guest has given an address back; False where it was not known to have
        it, and nothing has changed."""
        return self._drop((segment, address), mac)

    def retain(self, segments: Container[Vni]) -> None:
        """Keep only the leases of these segments: of others nobody sees how they go on."""
        for lease in self.all():
            if lease.segment not in segments:
                self._drop((lease.segment, lease.address), lease.client.mac)

    def due(self, now: float) -> list[Lease]:
        """Return leases that have ended by `now`, a turn's worth; call it at `deadline`."""
        ended: list[Lease] = []
        while self._due and self._due[0][0] <= now and len(ended) < MAX_DUE:
            when, key = heapq.heappop(self._due)
            lease = self._by_address.get(key)
            if lease is not None and lease.expires == when:
                self._drop(key, lease.client.mac)
                ended.append(lease)
        return ended

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self._due[0][0] if self._due else None

    def _drop(self, key: tuple[Vni, bytes], mac: Mac) -> bool:
        """Remove the lease of an address, where it is that of `mac`."""
        known = self._by_address.get(key)
        if known is None or known.client.mac != mac:
            return False
        del self._by_address[key]
        self._of_mac[key[0], mac] -= 1
        if not self._of_mac[key[0], mac]:
            del self._of_mac[key[0], mac]
        return True


def _can_be_a_guests(segment: Segment, address: bytes) -> bool:
    """Say whether a lease may bind `address`: a guest's, in a subnet; link-local ones are never
    leased."""
    return not segment.is_gateway(address) and any(
        len(one.address) == len(address) and one.serves(address) for one in segment.gateways
    )
