"""What comes up to the slow path, and what the slow path sends.

A punt is a packet that the router has only named. Whose it is, is worked out at the door
(`guest_of`), since every rate on the way asks for it. The packet lies in the tunnel's buffer, which
the next read overwrites: whoever holds a punt for longer takes a copy (`kept`).
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from vswitch.wire import ethernet, ipv4, ipv6, vxlan
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import VXLAN_LEN, Vni, Vtep

from .gate import Guest


class Punt(NamedTuple):
    """A VXLAN packet that came from the VTEP `source`, sent by `guest`."""

    source: Vtep
    packet: memoryview | bytes
    guest: Guest

    @property
    def frame(self) -> memoryview | bytes:
        """The Ethernet frame inside."""
        return self.packet[VXLAN_LEN:]

    @property
    def mac(self) -> Mac:
        """The frame's source MAC."""
        return Mac(bytes(self.packet[VXLAN_LEN + 6 : VXLAN_LEN + 12]))

    def kept(self) -> Punt:
        """Return the same with a packet of its own."""
        return self._replace(packet=bytes(self.packet))


class Send(NamedTuple):
    """A packet to be sent."""

    vtep: Vtep
    packet: bytes

    @classmethod
    def frame(cls, vtep: Vtep, vni: Vni, frame: bytes) -> Send:
        """Put a frame of the segment `vni` into VXLAN."""
        return cls(vtep, vxlan.header(vni) + frame)


def guest_of(source: Vtep, packet: memoryview | bytes, remote_leaves: Container[Vtep]) -> Guest:
    """Name the guest that sent a packet: its MAC behind its VTEP. What another leaf has routed has
    that leaf's MAC; there it is the IP address."""
    if source in remote_leaves:
        return source, _sender(packet)
    return source, bytes(packet[VXLAN_LEN + 6 : VXLAN_LEN + 12])


def _sender(packet: memoryview | bytes) -> bytes:
    """Return the IP source of a sound packet; of others something, and raise nothing."""
    if int.from_bytes(packet[VXLAN_LEN + 12 : VXLAN_LEN + 14], "big") == ethernet.IPV6:
        return bytes(packet[VXLAN_LEN + ipv6.SOURCE_AT : VXLAN_LEN + ipv6.DESTINATION_AT])
    return bytes(packet[VXLAN_LEN + ipv4.SOURCE_AT : VXLAN_LEN + ipv4.DESTINATION_AT])
