"""The forwarding table of one VRF and one address family: longest prefix first.

Host routes, of which there may be 100,000, are one dictionary: a look-up is one hash of the address
bytes as they stand in the packet. Prefixes, of which there are few (subnets, static routes), are
kept as the disjoint intervals into which they cut the address space, and found by bisection. The
intervals are worked out anew when prefixes change: work per change of topology, none per packet.

A trie was rejected: each of its steps is a Python operation, bisection is one call into C.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

MAX_PREFIXES = 10_000
"""Rebuilding the intervals of so many takes about 20 ms."""

V = TypeVar("V")


class Prefix(NamedTuple):
    """An IP prefix: network address as an integer, and its length in bits."""

    network: int
    length: int


class FibFull(ValueError):
    """More prefixes than the table may hold; nothing was changed."""


class Fib(Generic[V]):
    """Address (4 or 16 bytes) to value. `hosts` may be read directly."""

    def __init__(self, bits: int) -> None:
        """`bits` is the length of an address: 32 or 128."""
        self.hosts: dict[bytes, V] = {}
        self._bits = bits
        self._prefixes: dict[Prefix, V] = {}
        self._starts: list[int] = [0]
        self._values: list[V | None] = [None]

    def lookup(self, address: bytes) -> V | None:
        """Return the value of the longest prefix that holds `address`, or None."""
        found = self.hosts.get(address)
        if found is not None:
            return found
        at = bisect_right(self._starts, int.from_bytes(address, "big")) - 1
        return self._values[at]

    @property
    def prefixes(self) -> dict[Prefix, V]:
        """All prefixes shorter than a host route."""
        return dict(self._prefixes)

    def set_prefixes(self, prefixes: Iterable[tuple[Prefix, V]]) -> None:
        """Replace all prefixes. Raises FibFull."""
        new = dict(prefixes)
        if len(new) > MAX_PREFIXES:
            raise FibFull(f"{len(new)} prefixes; the table holds {MAX_PREFIXES}")
        self._prefixes = new
        self._cut()

    def _cut(self) -> None:
        """Cut the address space into intervals, each with the value of its longest prefix."""
        starts: list[int] = [0]
        values: list[V | None] = [None]
        open_prefixes: list[tuple[int, V]] = []
        """The prefixes that we are inside of, outermost first: (last address, value)."""

        def begin(at: int, value: V | None) -> None:
            if starts[-1] == at:
                values[-1] = value
            else:
                starts.append(at)
                values.append(value)

        def close_until(at: int) -> None:
            while open_prefixes and open_prefixes[-1][0] < at:
                last, _ = open_prefixes.pop()
                begin(last + 1, open_prefixes[-1][1] if open_prefixes else None)

        # In this order a prefix comes after every one that contains it.
        for prefix in sorted(self._prefixes):
            close_until(prefix.network)
            value = self._prefixes[prefix]
            begin(prefix.network, value)
            size = 1 << (self._bits - prefix.length)
            open_prefixes.append((prefix.network + size - 1, value))
        close_until(1 << self._bits)
        self._starts, self._values = starts, values
