"""The shortcut: super-frames through the tunnel in one piece.

Cutting a super-frame of 61 kB into 44 packets and joining those again at the other end costs more
than all else that is done to it. The kernel can do both, and where two VTEPs are on one machine it
need do neither: since Linux 6.17 a TAP takes frames that are cut *inside* a tunnel, as a longer
`virtio_net_hdr` says (`wire/vnet.py`). Such a TAP leads out by the underlay's device
(`underlay.py`). What we put in there are Ethernet frames with all outer headers. A card that can
cuts them itself; for one that cannot, the kernel does before the wire; a veth hands them over
whole. On the wire it is plain VXLAN in each case.

What comes in by that device is taken by packet sockets, which hand over whole super-frames, trains
and single packets as they are, and say which it is: all of it by this way, so that a flow keeps its
order. Going out, single packets and trains leave by the sockets of UDP and super-frames by the TAP,
one behind the other, on to the same queue of the device (one that has several of them, or `fq`,
may take the two for two flows).

To whom. A socket of UDP that is handed a whole super-frame takes it for one long packet, with a
checksum that nobody has filled in. So super-frames go only to VTEPs that take them, which their
packets show: they come from source ports of `WHOLE_PORTS`. We send from those ourselves once our
packet sockets have brought something. Where it goes is what the VTEP's last packet tells: back to
the MAC that it came from. The kernel's routes and its neighbour table are thus not asked, and a
VTEP that has not been heard within `FRESH` is left to the sockets, and so to them. Where all flows
go one way, it would not be heard: so who is sent something, and has nothing to send by the
shortcut, says a word from time to time (`greet`, `vxlan.GREETING`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ..wire import outer, vnet
from ..wire.ethernet import Buffer
from ..wire.outer import Envelope
from ..wire.segmenter import Cut, how_to_cut
from ..wire.vnet import Encap
from ..wire.vxlan import GREETING, VXLAN_LEN, WHOLE_PORTS, Vtep
from .tunnel import BUDGET, BUDGET_BYTES, Inbox
from .underlay import Underlay

FRESH = 1.0
"""Seconds for which a VTEP that was heard is taken to be where it was."""
GREET = 0.3
"""Seconds of silence towards a VTEP that is heard; two greetings in a row may be lost."""
_BETWEEN = 0.001
"""Seconds between two greetings, of which only VTEPs that the daemon has to do with get any."""
_PADDED_LEN = 60 - 42
"""Of a greeting over IPv4 in the shortest frame that Ethernet has."""
_MAX_PEERS = 4096
"""VTEPs that are remembered; anybody in the underlay can make some up."""
_MAX_KNOWN, _MAX_FRONTS = 4096, 1024
"""Fronts of packets that are remembered: of those that came, and of those to one VTEP, where these
are 300 kB."""
_NOT_THIS_ONE = frozenset({errno.EINVAL, errno.EMSGSIZE})
_LOST = frozenset({errno.EBADFD, errno.ENODEV, errno.EFAULT})


class ShortcutGone(OSError):
    """A device was removed under us: the TAP, where it is raised by `send`, or the underlay's."""


class _Way:
    """How a VTEP is reached, as one of its packets has shown."""

    __slots__ = ("_envelope", "_fronts", "is_whole", "macs")

    def __init__(self, macs: bytes, is_whole: bool, envelope: Envelope) -> None:
        self.macs = macs
        """As they came: ours, and that of the next hop."""
        self.is_whole = is_whole
        """Whether it takes super-frames."""
        self._envelope = envelope
        self._fronts: dict[tuple[int, int, int, int, int, int], bytes] = {}

    def front(
        self, source_port: int, length: int, gso: int, cut: Cut, encap: Encap
    ) -> bytes | None:
        """Return all that stands before a super-frame of `length` bytes from the VXLAN header on;
        None where it is too long.

        Those of a stream are mostly of one length, and differ in nothing that is told here.
        """
        inner, mss = cut
        key = (source_port, length, gso, inner.transport_at, inner.header_len, mss)
        front = self._fronts.get(key)
        if front is None:
            around = self._envelope.around(source_port, length)
            if around is None:
                return None
            offset = inner.checksum_at - inner.transport_at
            about = vnet.into_tunnel(gso, inner.transport_at, offset, inner.header_len, mss, encap)
            if len(self._fronts) >= _MAX_FRONTS:
                self._fronts.clear()
            front = self._fronts[key] = about + around
        return front


class _Peer:
    """A VTEP that was heard."""

    __slots__ = ("heard", "measured", "spoken", "vtep", "way")

    def __init__(self, vtep: Vtep) -> None:
        self.vtep = vtep
        self.way: _Way | None = None
        self.heard = self.measured = self.spoken = 0.0
        """When it was heard, its room looked at, and something sent to it by the shortcut."""


class _Known(NamedTuple):
    """What the front of a packet says, where it says all: in it, nothing is left to verify."""

    peer: _Peer
    way: _Way
    header: bytes
    """The `virtio_net_hdr` of the inner frame."""
    size: int
    """Of the packets of a train; 0 where it is not one."""


class Shortcut:
    """The way for super-frames, beside the sockets of a tunnel."""

    def __init__(
        self, underlay: Underlay, local: Vtep, port: int, room: Mapping[Vtep, int]
    ) -> None:
        """Take over `underlay`, which is the way of our VTEP `local`. `room` is what fits on the
        way to each VTEP that the daemon has to do with, and changes all the time."""
        self._underlay = underlay
        self._local, self._port, self._room = local, port, room
        self._own = ipaddress.ip_address(local).packed
        self._to_port = port.to_bytes(2, "big")
        self._layout = outer.LAYOUTS[4 if len(self._own) == 4 else 6]
        self._encap = self._layout.encap
        self._lanes = underlay.filenos()
        self._peers: dict[bytes, _Peer] = {}
        self._by_vtep: dict[Vtep, _Peer] = {}
        self._known: dict[bytes, _Known] = {}
        self._silent_to: _Peer | None = None
        """One of those that are heard, and to which nothing was said for a while."""
        self._greeted = 0.0
        self._front = memoryview(bytearray(vnet.VNET_LEN + self._layout.length))
        self._head = self._front[vnet.VNET_LEN :]

    def __str__(self) -> str:
        return f"{self._underlay.name} on {self._underlay.link.name}"

    def filenos(self) -> list[int]:
        """Return the descriptor of each lane."""
        return self._lanes

    def skip(self, sock: socket.socket) -> None:
        """Have a socket of UDP leave alone what comes by this way."""
        self._underlay.skip(sock)

    def overrun(self) -> int:
        """Return how many packets found their lane full since the last call."""
        return self._underlay.overrun()

    def read(self, inbox: Inbox, lane: int, most: int = BUDGET) -> int:
        """Fill `inbox` with what waits in one lane, `most` frames of it. Return how many of them
        were left out, since their outer headers are damaged. Raises ShortcutGone."""
        fd, readv, front = self._lanes[lane], os.readv, self._front
        fixed, get = len(front), self._known.get
        now, total, damaged = time.monotonic(), 0, 0
        for view, slot in inbox.places if most >= BUDGET else inbox.places[:most]:
            try:
                length = readv(fd, (front, view)) - fixed
            except BlockingIOError:
                break
            except OSError as error:
                if not self._underlay.is_bound():
                    raise ShortcutGone(*error.args) from error
                break  # The link is down, and may come back.
            known = get(bytes(front)) if length >= 0 else None
            if known is None:
                length, known = self._look(view, length)
                if known is None:
                    damaged += 1
                    continue
            peer = known.peer
            peer.way, peer.heard = known.way, now
            if now - peer.spoken > GREET and known.way.is_whole and peer.vtep in self._room:
                self._silent_to = peer
            if length <= _PADDED_LEN and view[:VXLAN_LEN] == GREETING:
                continue
            if known.header is not vnet.PLAIN:
                inbox.add_incomplete(slot, length, known.header, peer.vtep)
            else:
                inbox.add(slot, length, known.size or length, peer.vtep)
            total += length
            if total > BUDGET_BYTES:
                break
        return damaged

    def greet(self) -> Vtep | None:
        """Return a VTEP that is to be sent a greeting now, from one of the ports that say that we
        take super-frames. Called after reading."""
        peer = self._silent_to
        if peer is None:
            return None
        self._silent_to, now = None, time.monotonic()
        if now - self._greeted < _BETWEEN:
            return None  # Its next packet is soon enough.
        self._greeted = peer.spoken = now
        return peer.vtep

    def _look(self, view: memoryview, length: int) -> tuple[int, _Known | None]:
        """Look at a packet whose front is a new one. Return its length, less padding, and what is
        known of it; None where it is damaged."""
        if length < 0 or not self._is_sound():
            return 0, None
        received = vnet.out_of_tunnel(self._front, self._encap)
        if received is None:
            return 0, None
        if not received.is_verified:
            length = outer.sound_length(self._head, self._layout, view[:length])
            if length < 0:
                return 0, None
        peer, way = self._sender()
        known = _Known(peer, way, received.header, received.size)
        if self._front[0] & vnet.NEEDS_CHECKSUM:
            # Elsewhere the checksum, which is in it, makes every front another one.
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[bytes(self._front)] = known
        return length, known

    def _is_sound(self) -> bool:
        """Say whether it is a packet to our VTEP, in whose headers everything has its place."""
        head, at = self._head, self._layout.udp_at
        return (
            outer.has_sound_header(head, self._layout)
            and head[self._layout.destination] == self._own
            and head[at + 2 : at + 4] == self._to_port
        )

    def _sender(self) -> tuple[_Peer, _Way]:
        """Return who has sent what was just read, and the way back."""
        head = self._head
        source = bytes(head[self._layout.source])
        peer = self._peers.get(source)
        if peer is None:
            peer = self._remember(source)
        macs, way = bytes(head[:12]), peer.way
        is_whole = head[self._layout.udp_at] >= WHOLE_PORTS.start >> 8
        if way is None or way.macs != macs or way.is_whole != is_whole:
            envelope = Envelope(macs[6:], macs[:6], self._local, peer.vtep, self._port)
            way = _Way(macs, is_whole and not macs[0] & 1, envelope)
        return peer, way

    def _remember(self, source: bytes) -> _Peer:
        if len(self._peers) >= _MAX_PEERS:
            self._peers.clear()
            self._by_vtep.clear()
            self._known.clear()
        peer = self._peers[source] = _Peer(Vtep(str(ipaddress.ip_address(source))))
        self._by_vtep[peer.vtep] = peer
        return peer

    def takes(self, vtep: Vtep) -> bool:
        """Say whether super-frames to a VTEP can go this way."""
        return self._way_to(self._by_vtep.get(vtep), time.monotonic()) is not None

    def _way_to(self, peer: _Peer | None, now: float) -> _Way | None:
        if peer is None or peer.way is None or not peer.way.is_whole or now - peer.heard > FRESH:
            return None
        return peer.way

    def send(
        self,
        vtep: Vtep,
        source_port: int,
        packet: memoryview,
        header: Buffer,
        measure: Callable[[Iterable[Vtep]], None],
    ) -> int | None:
        """Send a super-frame. Return 0, or the errno of a failure; None for one that cannot go this
        way, and has to be cut.

        Nobody tells us here that the path has become narrower, so `measure` is called for a VTEP
        once in `FRESH`, which enters what it finds into our `room`. Raises ShortcutGone.
        """
        peer, now = self._by_vtep.get(vtep), time.monotonic()
        way = self._way_to(peer, now)
        if peer is None or way is None:
            return None
        if now - peer.measured > FRESH:
            peer.measured = now
            measure((vtep,))
        cut = how_to_cut(packet, header, self._room.get(vtep, 0))
        if cut is None:
            return None
        front = way.front(source_port, len(packet), header[1], cut, self._encap)
        if front is None:
            return None
        try:
            self._underlay.write((front, packet))
        except OSError as error:
            if error.errno in _LOST:
                raise ShortcutGone(*error.args) from error
            return None if error.errno in _NOT_THIS_ONE else error.errno
        peer.spoken = now
        return 0

    def close(self) -> None:
        """Close the way."""
        self._underlay.close()
