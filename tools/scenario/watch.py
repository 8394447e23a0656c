"""Captures: where a marked frame really went, and what bystanders saw.

Packet sockets stand at every guest's link and at the underlay link of every host and of the leaf.
A *marked* frame is a UDP datagram to a port that nothing else uses; the sockets' kernel filters let
only such frames through, so that watching costs nothing while the real traffic runs. The kernel's
timestamps put the sightings of one frame in order: that is its path, as it was and not as we expect
it to be.

Two more sockets at every guest, one a family, count frames that came in but whose IP destination is
somebody else. What is meant for more than one is no such frame: ARP is not IP, and what IPv6 hosts
say to groups and to link-local addresses, such as ND, is left out.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import time
from typing import NamedTuple

from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK, Lab
from tools.fabric.topology import Family

MARK_PORT = 7777
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_ETH_P_ALL = 0x0003
_MARK = struct.Struct("!I")
SETTLE = 0.3
"""Seconds until a marked frame has reached wherever it is going."""


class _Layout(NamedTuple):
    """Where in a frame of one family things stand, and how its sockets are made."""

    ethertype: int
    socket_family: socket.AddressFamily
    ttl: int
    """TTL or hop limit."""
    destination: int
    port: int
    """UDP's destination port, behind an IP header without options."""
    payload: int


_LAYOUTS = {
    Family.IPV4: _Layout(0x0800, socket.AF_INET, 22, 30, 36, 42),
    Family.IPV6: _Layout(0x86DD, socket.AF_INET6, 21, 38, 56, 62),
}


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

    family: Family
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

Program = list[tuple[int, int, int, int]]
"""Instructions: code, jump if true, jump if false, value."""

_LDB_ABS, _LDH_ABS, _LDW_ABS, _JEQ, _JGE, _RET = 0x30, 0x28, 0x20, 0x15, 0x35, 0x06
_PASS, _REFUSE = (_RET, 0, 0, 0xFFFF), (_RET, 0, 0, 0)
_NOT_GLOBAL = 0xFE
"""First byte of link-local addresses (fe80::/10); above it are only groups (ff00::/8)."""


def attach_filter(sock: socket.socket, program: Program) -> None:
    """Let only those packets into a socket's queue that a program passes."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("HL", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def marked(offset: int) -> Program:
    """Pass UDP frames of both families to the marked port, whose Ethernet header is at `offset`."""
    ipv4, ipv6 = _LAYOUTS[Family.IPV4], _LAYOUTS[Family.IPV6]
    return [
        (_LDH_ABS, 0, 0, offset + 12),
        (_JEQ, 0, 2, ipv4.ethertype),
        (_LDH_ABS, 0, 0, offset + ipv4.port),
        (_JEQ, 3, 4, MARK_PORT),
        (_JEQ, 0, 3, ipv6.ethertype),
        (_LDH_ABS, 0, 0, offset + ipv6.port),
        (_JEQ, 0, 1, MARK_PORT),
        _PASS,
        _REFUSE,
    ]


def addressed_elsewhere(address: str) -> Program:
    """Pass frames of this address's family whose IP destination is another one, and not a group's
    or a link-local one."""
    own = ipaddress.ip_address(address)
    destination = _LAYOUTS[Family(f"ipv{own.version}")].destination
    words = [word for (word,) in struct.iter_unpack("!I", own.packed)]
    program: Program = []
    for number, word in enumerate(words):
        to_pass = 2 * (len(words) - number) - 1
        program.append((_LDW_ABS, 0, 0, destination + 4 * number))
        program.append((_JEQ, 0, to_pass, word))
    program += [_REFUSE, _PASS]
    if own.version == 6:
        to_refuse = len(program) - 2
        program = [(_LDB_ABS, 0, 0, destination), (_JGE, to_refuse, 0, _NOT_GLOBAL), *program]
    return program


class Watch:
    """All captures of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._guests = [guest.name for guest in lab.topology.guest]
        self._address = {family: lab.topology.addresses(family) for family in Family}
        self._tracers: dict[str, socket.socket] = {}
        self._bystanders: dict[tuple[Family, str], socket.socket] = {}
        self._senders: dict[tuple[Family, str], socket.socket] = {}
        self._marks = 0
        self._overhead = lab.topology.underlay.overhead
        for name in self._guests:
            self._tracers[name] = self._open(name, GUEST_LINK, marked(0), _ETH_P_ALL)
        for name in [*lab.vswitches, "leaf"]:
            program = marked(self._overhead)
            self._tracers[name] = self._open(name, UNDERLAY_LINK, program, _ETH_P_ALL)
        for family, layout in _LAYOUTS.items():
            for name, address in self._address[family].items():
                # A socket of one protocol, unlike one of all, sees only what comes in.
                program = addressed_elsewhere(address)
                bystander = self._open(name, GUEST_LINK, program, layout.ethertype)
                self._bystanders[family, name] = bystander
                sender = lab.node(name).socket(layout.socket_family, socket.SOCK_DGRAM)
                self._senders[family, name] = sender

    def _open(self, node: str, link: str, program: Program, protocol: int) -> socket.socket:
        sock = self._lab.node(node).socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        attach_filter(sock, program)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setblocking(False)
        sock.bind((link, protocol))
        return sock

    def close(self) -> None:
        everything = [
            *self._tracers.values(),
            *self._bystanders.values(),
            *self._senders.values(),
        ]
        for sock in everything:
            sock.close()

    # -- marked frames -------------------------------------------------------------------------

    def follow(self, family: Family, sender: str, receiver: str) -> Path:
        """Send one marked frame and return where it was seen."""
        for sock in self._tracers.values():
            _drain(sock)
        self._marks += 1
        mark = _MARK.pack(self._marks)
        address = self._address[family][receiver]
        self._senders[family, sender].sendto(mark, (address, MARK_PORT))
        time.sleep(SETTLE)
        seen = [
            sighting
            for place, sock in self._tracers.items()
            for sighting in self._sightings(place, sock, _LAYOUTS[family], mark)
        ]
        return Path(family, sorted(seen))

    def _sightings(
        self, place: str, sock: socket.socket, layout: _Layout, mark: bytes
    ) -> list[Sighting]:
        on_underlay = place not in self._guests
        offset = self._overhead if on_underlay else 0
        seen = []
        for frame, when, outgoing in _drain(sock):
            inner = frame[offset:]
            if inner[layout.payload : layout.payload + len(mark)] != mark:
                continue
            outer = vni = None
            if on_underlay:
                outer = _outer(frame)
                vni = int.from_bytes(frame[offset - 4 : offset - 1], "big")
            ttl = inner[layout.ttl]
            seen.append(Sighting(when, place, outgoing, inner[:6].hex(":"), ttl, vni, outer))
        return seen

    # -- bystanders ----------------------------------------------------------------------------

    def bystanders(self) -> dict[str, int]:
        """Count, by guest, the frames for others that came in since the last call."""
        counts = dict.fromkeys(self._guests, 0)
        for (_, name), sock in self._bystanders.items():
            counts[name] += len(_drain(sock))
        return counts


def _outer(frame: bytes) -> tuple[str, str]:
    """Return the source and destination address of a frame on the underlay."""
    family, at = (socket.AF_INET, 26) if frame[14] >> 4 == 4 else (socket.AF_INET6, 22)
    size = 4 if family is socket.AF_INET else 16
    source, destination = frame[at : at + size], frame[at + size : at + 2 * size]
    return socket.inet_ntop(family, source), socket.inet_ntop(family, destination)


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
