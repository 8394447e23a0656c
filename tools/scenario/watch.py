"""Captures: where a marked frame really went, and what bystanders saw.

Packet sockets stand at every guest's link and at the underlay link of every host and of the leaf.
A *marked* frame is a UDP datagram to a port that nothing else uses; the sockets' kernel filters let
only such frames through, so that watching costs nothing while the real traffic runs. The kernel's
timestamps put the sightings of one frame in order: that is its path, as it was and not as we expect
it to be.

A second socket at every guest counts IPv4 frames that came in but are addressed to somebody else.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from typing import NamedTuple

from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK, Lab

MARK_PORT = 7777
VXLAN_OVERHEAD = 50
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_ETH_P_ALL = 0x0003
_MARK = struct.Struct("!I")
SETTLE = 0.3
"""Seconds until a marked frame has reached wherever it is going."""


class Sighting(NamedTuple):
    """One marked frame at one place."""

    when: int
    """Nanoseconds of the kernel's clock."""
    place: str
    outgoing: bool
    destination_mac: str
    """Of the inner frame."""
    ttl: int
    vni: int | None
    outer: tuple[str, str] | None
    """Outer source and destination address, on the underlay."""


class Path(NamedTuple):
    """Where one marked frame went."""

    sightings: list[Sighting]

    def places(self, switch: str) -> list[str]:
        """Return the nodes in order. The guest's own vswitch is named `switch`, for a frame that
        never reached the underlay: such a frame was switched there."""
        nodes: list[str] = []
        for sighting in self.sightings:
            if not nodes or nodes[-1] != sighting.place:
                nodes.append(sighting.place)
        if len(nodes) > 1 and all(sighting.outer is None for sighting in self.sightings):
            nodes.insert(1, switch)
        return nodes


# -- classic BPF ---------------------------------------------------------------------------------

_LDH_ABS, _LDW_ABS, _JEQ, _RET = 0x28, 0x20, 0x15, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE: who the frame is for, or that it is outgoing."""
_OUTGOING = 4


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    """Attach (code, jump if true, jump if false, value) instructions as the socket's filter."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HL", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _marked(offset: int) -> list[tuple[int, int, int, int]]:
    """Pass IPv4/UDP frames to the marked port whose Ethernet header stands at `offset`."""
    return [
        (_LDH_ABS, 0, 0, offset + 12),
        (_JEQ, 0, 3, 0x0800),
        (_LDH_ABS, 0, 0, offset + 36),
        (_JEQ, 0, 1, MARK_PORT),
        (_RET, 0, 0, 0xFFFF),
        (_RET, 0, 0, 0),
    ]


def _not_for(address: bytes) -> list[tuple[int, int, int, int]]:
    """Pass incoming IPv4 frames that are addressed to somebody else."""
    return [
        (_LDW_ABS, 0, 0, _PACKET_TYPE),
        (_JEQ, 5, 0, _OUTGOING),
        (_LDH_ABS, 0, 0, 12),
        (_JEQ, 0, 3, 0x0800),
        (_LDW_ABS, 0, 0, 30),
        (_JEQ, 1, 0, int.from_bytes(address, "big")),
        (_RET, 0, 0, 0xFFFF),
        (_RET, 0, 0, 0),
    ]


class Watch:
    """All captures of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._address = {guest.name: str(guest.address) for guest in lab.topology.guest}
        self._tracers: dict[str, socket.socket] = {}
        self._bystanders: dict[str, socket.socket] = {}
        self._senders: dict[str, socket.socket] = {}
        self._marks = 0
        for guest in lab.topology.guest:
            self._tracers[guest.name] = self._open(guest.name, GUEST_LINK, _marked(0))
            program = _not_for(guest.address.packed)
            self._bystanders[guest.name] = self._open(guest.name, GUEST_LINK, program)
            self._senders[guest.name] = lab.node(guest.name).socket(
                socket.AF_INET, socket.SOCK_DGRAM
            )
        for name in [*lab.vswitches, "leaf"]:
            self._tracers[name] = self._open(name, UNDERLAY_LINK, _marked(VXLAN_OVERHEAD))

    def _open(
        self, node: str, link: str, program: list[tuple[int, int, int, int]]
    ) -> socket.socket:
        sock = self._lab.node(node).socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        _attach(sock, program)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setblocking(False)
        sock.bind((link, _ETH_P_ALL))
        return sock

    def close(self) -> None:
        everything = (self._tracers, self._bystanders, self._senders)
        for sock in (one for group in everything for one in group.values()):
            sock.close()

    # -- marked frames -------------------------------------------------------------------------

    def follow(self, sender: str, receiver: str) -> Path:
        """Send one marked frame and return where it was seen."""
        for sock in self._tracers.values():
            _drain(sock)
        self._marks += 1
        mark = _MARK.pack(self._marks)
        self._senders[sender].sendto(mark, (self._address[receiver], MARK_PORT))
        time.sleep(SETTLE)
        seen = [
            sighting
            for place, sock in self._tracers.items()
            for sighting in self._sightings(place, sock, mark)
        ]
        return Path(sorted(seen))

    def _sightings(self, place: str, sock: socket.socket, mark: bytes) -> list[Sighting]:
        on_underlay = place not in self._address
        offset = VXLAN_OVERHEAD if on_underlay else 0
        seen = []
        for frame, when, outgoing in _drain(sock):
            if frame[offset + 42 : offset + 46] != mark:
                continue
            outer = vni = None
            if on_underlay:
                outer = (socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]))
                vni = int.from_bytes(frame[46:49], "big")
            inner = frame[offset:]
            seen.append(Sighting(when, place, outgoing, inner[:6].hex(":"), inner[22], vni, outer))
        return seen

    # -- bystanders ----------------------------------------------------------------------------

    def bystanders(self) -> dict[str, int]:
        """Count, by guest, the frames for others that came in since the last call."""
        return {name: len(_drain(sock)) for name, sock in self._bystanders.items()}


def _drain(sock: socket.socket) -> list[tuple[bytes, int, bool]]:
    """Return (frame, timestamp, outgoing) of all that waits."""
    frames: list[tuple[bytes, int, bool]] = []
    while True:
        try:
            frame, control, _, origin = sock.recvmsg(2048, 64)
        except BlockingIOError:
            return frames
        when = 0
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
                when = seconds * 1_000_000_000 + nanoseconds
        frames.append((frame, when, origin[2] == socket.PACKET_OUTGOING))
