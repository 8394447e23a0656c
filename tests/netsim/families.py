"""The two address families as a guest's kernel sees them: ARP and ND, IPv4 and IPv6.

What a guest does is the same in both (`guest.py`); here is how it is written. Built and read by
hand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from struct import pack
from typing import NamedTuple

from leaf.neighbour import Reason
from leaf.slowpath import SlowPath
from tests.frames import ALL_NODES_MAC, BROADCAST, checksum, group_of, icmp6, pseudo, v4, v6

ALL_NODES = v6("ff02::1")
UDP = 17


class Message(NamedTuple):
    """What an ARP or ND message says."""

    is_question: bool
    sender: bytes
    """Unspecified (all zero) in a probe."""
    sender_mac: bytes
    target: bytes
    is_override: bool
    """Whether it may replace what is known; ARP always may."""


class Packet(NamedTuple):
    """What an IP packet says."""

    source: bytes
    destination: bytes
    hops: int
    protocol: int
    body: bytes


class Error(NamedTuple):
    """An ICMP error: its type and code."""

    kind: int
    code: int


class Family(ABC):
    """One address family."""

    name: str
    ethertype: bytes
    discovery: bytes
    """The ethertype of its neighbour discovery."""
    unspecified: bytes
    expired: Error
    unreachable: Error
    """Of a host that nobody has heard of."""

    @abstractmethod
    def of(self, address: str) -> bytes:
        """This family's address of whoever has the IPv4 address `address`."""

    @abstractmethod
    def is_local(self, one: bytes, two: bytes) -> bool:
        """Say whether two addresses are in one subnet."""

    @abstractmethod
    def question(self, mac: bytes, sender: bytes, target: bytes, to: bytes | None) -> bytes:
        """Ask all who may have `target`, or the one MAC `to`."""

    @abstractmethod
    def answer(self, mac: bytes, address: bytes, to: bytes, asker: bytes) -> bytes:
        """Tell an asker that `address` is at `mac`."""

    @abstractmethod
    def announcement(self, mac: bytes, address: bytes) -> bytes:
        """Tell all, unasked."""

    @abstractmethod
    def message(self, frame: bytes) -> Message | None:
        """Read a message of neighbour discovery; None where the frame is none."""

    @abstractmethod
    def packet(self, frame: bytes) -> Packet | None:
        """Read an IP packet of this family; None where the frame is none. What has a wrong checksum
        is an AssertionError."""

    @abstractmethod
    def error(self, packet: Packet) -> tuple[Error, bytes] | None:
        """Read an ICMP error: what it says, and the destination of the packet that it is about."""

    @abstractmethod
    def counts(self, slowpath: SlowPath) -> dict[Reason, int]:
        """The leaf's counters of this family's neighbour discovery."""


class _Ipv4(Family):
    name, ethertype, discovery, unspecified = "ipv4", b"\x08\x00", b"\x08\x06", bytes(4)
    expired, unreachable = Error(11, 0), Error(3, 1)

    def of(self, address: str) -> bytes:
        return v4(address)

    def is_local(self, one: bytes, two: bytes) -> bool:
        return one[:3] == two[:3]

    def question(self, mac: bytes, sender: bytes, target: bytes, to: bytes | None) -> bytes:
        return self._arp(to or BROADCAST, mac, 1, sender, bytes(6), target)

    def answer(self, mac: bytes, address: bytes, to: bytes, asker: bytes) -> bytes:
        return self._arp(to, mac, 2, address, to, asker)

    def announcement(self, mac: bytes, address: bytes) -> bytes:
        return self._arp(BROADCAST, mac, 1, address, bytes(6), address)

    @staticmethod
    def _arp(
        to: bytes, mac: bytes, op: int, sender: bytes, target_mac: bytes, target: bytes
    ) -> bytes:
        head = bytes.fromhex("0001 0800 06 04") + pack("!H", op)
        frame = to + mac + b"\x08\x06" + head + mac + sender + target_mac + target
        return frame.ljust(60, b"\0")

    def message(self, frame: bytes) -> Message | None:
        if frame[12:14] != self.discovery:
            return None
        return Message(frame[21] == 1, frame[28:32], frame[22:28], frame[38:42], True)

    def packet(self, frame: bytes) -> Packet | None:
        if frame[12:14] != self.ethertype:
            return None
        packet = frame[14 : 14 + (frame[16] << 8 | frame[17])]
        assert checksum(packet[:20]) == b"\0\0", "a packet with a wrong header checksum"
        source, destination, protocol, body = packet[12:16], packet[16:20], packet[9], packet[20:]
        is_fragment = packet[6] & 0x3F or packet[7]
        if protocol == UDP and not is_fragment:
            covered = pseudo(source, destination, protocol, len(body)) + body
            assert checksum(covered) == b"\0\0", "a datagram with a wrong checksum"
        return Packet(source, destination, packet[8], protocol, body)

    def error(self, packet: Packet) -> tuple[Error, bytes] | None:
        if packet.protocol != 1 or packet.body[0] not in (3, 11):
            return None
        return Error(packet.body[0], packet.body[1]), packet.body[24:28]

    def counts(self, slowpath: SlowPath) -> dict[Reason, int]:
        return slowpath.discovery.arp_counts


class _Ipv6(Family):
    name, ethertype, discovery, unspecified = "ipv6", b"\x86\xdd", b"\x86\xdd", bytes(16)
    expired, unreachable = Error(3, 0), Error(1, 3)

    def of(self, address: str) -> bytes:
        first, *_, last = address.split(".")
        return v6(f"2001:db8:{first}::{last}")

    def is_local(self, one: bytes, two: bytes) -> bool:
        return one[:8] == two[:8]

    def question(self, mac: bytes, sender: bytes, target: bytes, to: bytes | None) -> bytes:
        option = b"\x01\x01" + mac if any(sender) else b""
        group = group_of(target)
        body = b"\x87" + bytes(7) + target + option
        packet = icmp6(sender, target if to else group, body)
        return (to or b"\x33\x33" + group[12:]) + mac + self.ethertype + packet

    def answer(self, mac: bytes, address: bytes, to: bytes, asker: bytes) -> bytes:
        if any(asker):
            return self._told(to, mac, address, asker, True)
        # A prober has no address yet, so it goes to all (RFC 4861 section 7.2.4).
        return self.announcement(mac, address)

    def announcement(self, mac: bytes, address: bytes) -> bytes:
        return self._told(ALL_NODES_MAC, mac, address, ALL_NODES, False)

    def _told(
        self, to: bytes, mac: bytes, address: bytes, destination: bytes, solicited: bool
    ) -> bytes:
        flags = 0x20 | solicited << 6
        body = b"\x88\0\0\0" + bytes((flags, 0, 0, 0)) + address + b"\x02\x01" + mac
        return to + mac + self.ethertype + icmp6(address, destination, body)

    def message(self, frame: bytes) -> Message | None:
        packet = self.packet(frame)
        if packet is None or packet.protocol != 58 or packet.body[0] not in (0x87, 0x88):
            return None
        is_question = packet.body[0] == 0x87
        target = packet.body[8:24]
        sender = packet.source if is_question else target
        return Message(is_question, sender, packet.body[26:32], target, bool(packet.body[4] & 0x20))

    def packet(self, frame: bytes) -> Packet | None:
        if frame[12:14] != self.ethertype:
            return None
        source, destination = frame[22:38], frame[38:54]
        body = frame[54 : 54 + (frame[18] << 8 | frame[19])]
        covered = pseudo(source, destination, frame[20], len(body)) + body
        assert checksum(covered) == b"\0\0", "a packet with a wrong checksum"
        return Packet(source, destination, frame[21], frame[20], body)

    def error(self, packet: Packet) -> tuple[Error, bytes] | None:
        if packet.protocol != 58 or packet.body[0] not in (1, 3):
            return None
        return Error(packet.body[0], packet.body[1]), packet.body[32:48]

    def counts(self, slowpath: SlowPath) -> dict[Reason, int]:
        return slowpath.discovery.nd_counts


IPV4, IPV6 = _Ipv4(), _Ipv6()
FAMILIES = (IPV4, IPV6)
