"""The two address families side by side, for tests of what is the same in both.

A test asks its family for the addresses of the small world and for messages; which protocol they
are in, it need not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from tests.frames import BROADCAST, arp, na, ns
from tests.unit.leaf_world import Guest


class Family(ABC):
    """One address family: its name, its nobody, its gateways, an address that is in no subnet."""

    name: str
    nobody: str
    gateway: str
    second_gateway: str
    outside: str

    @abstractmethod
    def of(self, guest: Guest) -> Guest:
        """The guest by its address of this family."""

    @abstractmethod
    def host(self, last: int, subnet: int = 1) -> str:
        """An address in a subnet of the world."""

    @abstractmethod
    def ask(
        self,
        src: bytes,
        sender: str,
        target: str,
        *,
        to: bytes | None = None,
        sender_mac: bytes | None = None,
    ) -> bytes:
        """A question for `target`: to all who may have it, or to one MAC."""

    @abstractmethod
    def tell(self, src: bytes, address: str, asker: str, *, to: bytes) -> bytes:
        """An answer to a question of `asker`, which has the MAC `to`."""

    @abstractmethod
    def announce(self, src: bytes, address: str) -> bytes:
        """A claim that nobody asked for."""

    @abstractmethod
    def malformed(self, src: bytes, sender: str, target: str) -> bytes:
        """A question with one mistake."""


class _Ipv4(Family):
    name, nobody, outside = "ipv4", "0.0.0.0", "9.9.9.9"
    gateway, second_gateway = "1.1.1.254", "3.3.3.126"

    def of(self, guest: Guest) -> Guest:
        return guest

    def host(self, last: int, subnet: int = 1) -> str:
        return f"{subnet}.{subnet}.{subnet}.{last}"

    def ask(
        self,
        src: bytes,
        sender: str,
        target: str,
        *,
        to: bytes | None = None,
        sender_mac: bytes | None = None,
    ) -> bytes:
        return arp(to or BROADCAST, src, sender, target, sender_mac=sender_mac)

    def tell(self, src: bytes, address: str, asker: str, *, to: bytes) -> bytes:
        return arp(to, src, address, asker, op=2)

    def announce(self, src: bytes, address: str) -> bytes:
        return arp(BROADCAST, src, address, address)

    def malformed(self, src: bytes, sender: str, target: str) -> bytes:
        return arp(BROADCAST, src, sender, target, op=9)


class _Ipv6(Family):
    name, nobody, outside = "ipv6", "::", "2001:db8:9::9"
    gateway, second_gateway = "2001:db8:1::fe", "2001:db8:3::fe"

    def of(self, guest: Guest) -> Guest:
        return guest.six

    def host(self, last: int, subnet: int = 1) -> str:
        return f"2001:db8:{subnet}::{last}"

    def ask(
        self,
        src: bytes,
        sender: str,
        target: str,
        *,
        to: bytes | None = None,
        sender_mac: bytes | None = None,
    ) -> bytes:
        return ns(to, src, sender, target, sender_mac=sender_mac)

    def tell(self, src: bytes, address: str, asker: str, *, to: bytes) -> bytes:
        return na(to, src, address, asker)

    def announce(self, src: bytes, address: str) -> bytes:
        return na(None, src, address)

    def malformed(self, src: bytes, sender: str, target: str) -> bytes:
        return ns(None, src, sender, target, hlim=254)


IPV4, IPV6 = _Ipv4(), _Ipv6()
FAMILIES = (IPV4, IPV6)
