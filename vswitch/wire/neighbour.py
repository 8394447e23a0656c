"""What ARP and Neighbour Discovery have in common: somebody asks for an address, or claims one.

Rules about who may hold which address, and who answers for it, are the same for both families.
They see only this record; `arp` and `nd` know how it lies on the wire.
"""

from __future__ import annotations

from typing import NamedTuple

from .ethernet import Mac

REQUEST = 1
"""An ARP request (RFC 826) or a Neighbour Solicitation (RFC 4861 section 4.3)."""
REPLY = 2
"""An ARP reply or a Neighbour Advertisement (RFC 4861 section 4.4)."""


class Message(NamedTuple):
    """One question or claim. Addresses are 4 bytes for IPv4, 16 for IPv6."""

    op: int
    sender_mac: Mac
    sender_ip: bytes
    target_mac: Mac
    target_ip: bytes

    @property
    def is_probe(self) -> bool:
        """A request whose sender address is all zero: is the target taken already?

        RFC 5227 section 1.1; for IPv6 it is duplicate address detection, RFC 4862 section 5.4.2.
        """
        return self.op == REQUEST and not any(self.sender_ip)

    @property
    def is_gratuitous(self) -> bool:
        """A claim that nobody asked for: sender is target, and is an address at all.

        An announcement (RFC 5227 section 3), a gratuitous reply, or an unsolicited advertisement
        (RFC 4861 section 7.2.6).
        """
        return self.sender_ip == self.target_ip and any(self.sender_ip)
