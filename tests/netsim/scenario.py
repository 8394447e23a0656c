"""The rack of the README's picture, with everybody's caches filled as after a long talk.

host A: H1 1.1.1.1, H2 1.1.1.2, H5 2.2.2.5        host B: H3 1.1.1.3, H4 1.1.1.4, H6 2.2.2.6

The same guests have 2001:db8:1::1 and so on. `h1` is H1 in the family in which the test talks.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

from tests.netsim.guest import Guest
from tests.netsim.world import World

PLACES = (
    ("H1", "1.1.1.1", "A"),
    ("H2", "1.1.1.2", "A"),
    ("H3", "1.1.1.3", "B"),
    ("H4", "1.1.1.4", "B"),
    ("H5", "2.2.2.5", "A"),
    ("H6", "2.2.2.6", "B"),
)


class Rack:
    """The world and its six guests by name."""

    def __init__(self, hosts: str = "AB", **settings: Any) -> None:
        self.world = World(hosts, **settings)
        guests = [self.world.guest(*place) for place in PLACES]
        self.h1, self.h2, self.h3, self.h4, self.h5, self.h6 = self.guests = guests

    def talk(self) -> list[str]:
        """Let every pair talk in both families; return the pairs that could not."""
        return [
            f"{one.name}->{two.name} {one.family.name}"
            for pair in permutations(self.guests, 2)
            for one, two in (pair, (pair[0].other, pair[1].other))
            if not self.world.reaches(one, two)
        ]

    def settle(self) -> None:
        """Fill all caches, and let the announcements of the beginning pass."""
        self.world.advance(2.0)
        assert self.talk() == []

    def caches(self) -> dict[str, dict[bytes, bytes]]:
        """What each guest knows of its neighbours, in both families; without the link-local
        addresses of gateways, which it learns from the questions that the leaf asks."""
        return {
            guest.name: {
                address: mac
                for address, mac in (guest.cache | guest.other.cache).items()
                if address[:2] != b"\xfe\x80"
            }
            for guest in self.guests
        }


def knows(guest: Guest, *peers: Guest) -> set[bytes]:
    """The MACs by which `guest` knows `peers`."""
    return {guest.cache[peer.address] for peer in peers}
