"""The real tunnel: VXLAN over UDP sockets.

A pool of sockets sends, each bound to a source port of 49152-65535; the flow hash chooses one, so
that ECMP in the underlay spreads flows and keeps each in order (RFC 7348 section 5). The pool is
not connected: a leaf has hundreds of peers.

*Lanes* receive: several sockets on the VXLAN port, over which the kernel spreads what comes by its
addresses and ports (SO_REUSEPORT), and which the daemon serves in turn. A flood of one guest fills
the buffer of its lane, where its packets wait in line; those of most others come by another lane
and pass it. A flow keeps to one lane, and so its order. The first socket is bound alone, so that a
second daemon on the same address is refused, and is opened to the others after that.

Trains. `UDP_SEGMENT` sends a whole train by one call (Linux 4.18), `UDP_GRO` receives one (5.0).
Single packets of one size and one source port that follow each other within a burst make a train
too: they are held back until a packet that does not fit, or `flush`, and leave in the order in
which they came. Whether the kernel can do it is found by trying; where it cannot, each packet is a
call, and the log says so once.

`IP_RECVERR` makes ICMP errors visible on such sockets: they surface as an error of the *next* send,
which was then not made and is tried once more. The error queue is drained at that moment.
`IP_PMTUDISC_DO` sets DF: a VTEP must not fragment (RFC 7348 section 4.3). What the kernel knows of
the path MTU (of the device, the route, and from ICMP) it tells a connected socket: `measure` asks
for it, from time to time and whenever a packet was too big.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Literal

from ..wire import vnet, vxlan
from ..wire.ethernet import Buffer
from ..wire.offload import MAX_SUPER_LEN, Segmenter
from ..wire.vxlan import VXLAN_LEN, Vtep
from .shortcut import Shortcut, ShortcutGone
from .tunnel import BUDGET, BUDGET_BYTES, FAULTS, Inbox, Run
from .underlay import Underlay, UnderlayError

_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_RECVERR = 10, 2, 11
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_DO, _IPV6_RECVERR = 23, 2, 25
_IP_MTU, _IPV6_MTU = 14, 24
_SOL_UDP, _UDP_NO_CHECK6_RX, _UDP_SEGMENT, _UDP_GRO = 17, 102, 103, 104
_MAX_ROWS = 64
"""UDP_SEGMENT takes no more (Linux UDP_MAX_SEGMENTS)."""
_MAX_SEND = 65_507
"""The longest payload of an IPv4 datagram, which a train is until the kernel cuts it; IPv6 would
take 20 bytes more."""
_SEGMENT_SIZE = Struct("@H")
_GRO_SIZE = Struct("@i")
_ANCILLARY_LEN = socket.CMSG_SPACE(_GRO_SIZE.size)
_CANNOT_SEGMENT = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT})
"""What a train can fail with where its packets, one by one, may still go. Of these EMSGSIZE says
nothing of the kernel: it may be news of an earlier packet, that the path has become narrower."""
_LANES = 8
_RECEIVE_BUFFER = 1 << 20
"""Of a lane. The kernel doubles it, and caps it at net.core.rmem_max. That is some ten milliseconds
of super-frames and a hundred of small packets; with half of it, TCP lost one packet in thirty."""
_FAULT_OF = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EMSGSIZE: "too_big",
    errno.ENOBUFS: "no_buffers",
    errno.EAGAIN: "no_buffers",
}
_OF_AN_EARLIER_SEND = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES}
)
"""EACCES is what ICMPv6 "prohibited" and "reject route" become (RFC 4443 section 3.1)."""


class TunnelError(Exception):
    """The tunnel could not be opened; the text says what to do."""


class UdpTunnel:
    """Our VTEP on the underlay."""

    def __init__(
        self,
        local: Vtep,
        port: int = vxlan.PORT,
        source_ports: int = 16,
        *,
        offload: bool = True,
        shortcut: Callable[[], Shortcut] | None = None,
        notice: Callable[[str], None] = lambda said: None,
    ) -> None:
        """Bind to `local`. `source_ports` is the size of the sending pool, a power of two.

        `shortcut` opens the way for super-frames, once the address is known to be ours; it may
        raise UnderlayError. `notice` is told what the kernel cannot do. Raises TunnelError.
        """
        self._notice = notice
        self._shortcut: Shortcut | None = None
        self._sends_whole = self._claims_whole = False
        """Whether super-frames go by the shortcut, and whether we say that we take them."""
        self._sends_trains = offload
        self._segmenter = Segmenter()
        self._held: list[Buffer] = []
        """Packets of one size that wait to leave as a train."""
        self._held_for: tuple[int, Vtep, int] = (0, Vtep(""), 0)
        """Their source port's index, VTEP, and size."""
        self._lost = 0
        """Of those, how many could not be sent since the last `flush`."""
        self._local, self._port = local, port
        self._version = ipaddress.ip_address(local).version
        self.faults = dict.fromkeys(FAULTS, 0)
        self.room: dict[Vtep, int] = {}
        self._pool: list[socket.socket] = []
        self._ports: list[int] = []
        """The source ports of those, where we claim to take super-frames."""
        self._lanes = [self._bound(local, port)]
        try:
            self._lanes[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            while len(self._lanes) < _LANES:
                self._lanes.append(self._bound(local, port, shared=True))
            for lane in self._lanes:
                lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
                if self._version == 6:
                    # A zero checksum must be taken (RFC 7348 section 5, RFC 6935); we send none.
                    lane.setsockopt(_SOL_UDP, _UDP_NO_CHECK6_RX, 1)
            if offload:
                self._receive_trains()
            self._mask = source_ports - 1
            self._pool = self._open_pool(vxlan.SOURCE_PORTS)
            if shortcut is not None:
                self._open_shortcut(shortcut)
        except BaseException:
            self.close()
            raise

    def _bound(self, local: Vtep, port: int, shared: bool = False) -> socket.socket:
        family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
            sock.bind((local, port))
        except OSError as error:
            sock.close()
            hint = "; a new one of IPv6 is usable only after duplicate detection (a second)"
            remedy = {
                errno.EADDRINUSE: "another process (or a kernel VXLAN device) holds this port:"
                f" `ss -ulnp sport = :{port}` names it",
                errno.EADDRNOTAVAIL: "no interface has this address: add it, or change `vtep`"
                + (hint if self._version == 6 else ""),
            }.get(error.errno or 0, "check the address and the rights of this process")
            raise TunnelError(
                f"cannot bind the tunnel to {local} port {port}: {error.strerror}; {remedy}"
            ) from error
        return sock

    def _open_shortcut(self, shortcut: Callable[[], Shortcut]) -> None:
        try:
            self._shortcut = shortcut()
        except UnderlayError as error:
            self._notice(f"super-frames are cut here, and not by the kernel: {error}")
            return
        self._sends_whole = True
        for lane in self._lanes:
            self._shortcut.skip(lane)

    def _open_pool(self, ports: Iterable[int]) -> list[socket.socket]:
        """Open the sockets that send, from the first of these ports that are free. Raises
        TunnelError; then none is open."""
        pool: list[socket.socket] = []
        candidates = iter(ports)
        try:
            while len(pool) <= self._mask:
                try:
                    pool.append(self._bound(self._local, next(candidates)))
                except TunnelError as error:
                    cause = error.__cause__
                    if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
                        continue  # Somebody's ephemeral port; the next one will do.
                    raise
                if self._version == 4:
                    pool[-1].setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
                    pool[-1].setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
                else:
                    pool[-1].setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_DO)
                    pool[-1].setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        except BaseException:
            for sock in pool:
                sock.close()
            raise
        return pool

    def _claim_whole(self, claim: bool) -> None:
        """Send from the ports that tell others whether we take super-frames."""
        self._claims_whole = claim
        try:
            pool = self._open_pool(vxlan.WHOLE_PORTS if claim else vxlan.SOURCE_PORTS)
        except TunnelError as error:
            self._notice(f"the source ports stay as they are: {error}")
            return
        self._pool, old = pool, self._pool
        self._ports = [sock.getsockname()[1] for sock in pool]
        for sock in old:
            sock.close()

    @property
    def way(self) -> str:
        """Say by what packets go, for people."""
        return f"sockets, and super-frames by {self._shortcut}" if self._sends_whole else "sockets"

    def filenos(self) -> list[int]:
        queues = self._shortcut.filenos() if self._shortcut else []
        return [*(lane.fileno() for lane in self._lanes), *queues]

    def _receive_trains(self) -> None:
        try:
            for lane in self._lanes:
                lane.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError:
            self._notice("the kernel has no UDP_GRO: packets are received one by one")

    def read(self, inbox: Inbox, lane: int = 0, most: int = BUDGET) -> None:
        inbox.trains.clear()
        if lane >= _LANES:
            assert self._shortcut is not None
            self._read_shortcut(self._shortcut, inbox, lane - _LANES, most)
            return
        receive, add, total = self._lanes[lane].recvmsg_into, inbox.add, 0
        for view, slot in inbox.places if most >= BUDGET else inbox.places[:most]:
            try:
                length, control, _, source = receive((view,), _ANCILLARY_LEN)
            except BlockingIOError:
                return
            except OSError:
                continue  # An ICMP error for this socket: nothing was received.
            size = _GRO_SIZE.unpack(control[0][2])[0] if control else length
            add(slot, length, size, Vtep(source[0]))
            total += length
            if total > BUDGET_BYTES:
                return

    def _read_shortcut(self, shortcut: Shortcut, inbox: Inbox, lane: int, most: int) -> None:
        try:
            self.faults["damaged"] += shortcut.read(inbox, lane, most)
        except ShortcutGone:
            # The sockets take what comes by another device, or by a new one of that name.
            self._notice(
                "the underlay's device has vanished: super-frames are cut here from now on"
            )
            self._sends_whole = False
            self._claim_whole(False)
            return
        if inbox.trains and self._sends_whole and not self._claims_whole:
            self._claim_whole(True)

    def send(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        if header[1]:
            return self._send_super(vtep, flow, packet, header)
        if header[0] and not vnet.complete(memoryview(packet)[VXLAN_LEN:], header):
            self.faults["uncuttable"] += 1
            return False
        if not self._sends_trains:
            return self._send_one(self._pool[flow & self._mask], vtep, packet)
        size = len(packet)
        key = (flow & self._mask, vtep, size)
        held = self._held
        if key != self._held_for or len(held) >= _MAX_ROWS or (len(held) + 1) * size > _MAX_SEND:
            self._release()
            self._held_for = key
        held.append(packet)
        return True

    def send_run(self, vtep: Vtep, flow: int, run: Run) -> int:
        packets, index = run.packets, flow & self._mask
        if any(run.headers[0]) and not vnet.complete_all(run.table[:, VXLAN_LEN:], run.headers):
            self.faults["uncuttable"] += len(packets)
            return 0
        if not self._sends_trains:
            return sum(self._send_one(self._pool[index], vtep, packet) for packet in packets)
        size = len(packets[0])
        key, held = (index, vtep, size), self._held
        if key != self._held_for:
            self._release()
            self._held_for = key
        most = min(_MAX_ROWS, _MAX_SEND // size)
        for packet in packets:
            if len(held) >= most:
                self._release()
            held.append(packet)
        return len(packets)

    def _send_super(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer) -> bool:
        whole = memoryview(packet)
        if self._sends_whole and self._ports and self._shortcut is not None:
            self._release()  # What came before leaves before.
            port = self._ports[flow & self._mask]
            try:
                refusal = self._shortcut.send(vtep, port, whole, header, self.room, self.measure)
            except ShortcutGone:
                refusal = None
                self._sends_whole = False
                self._notice(
                    f"{self._shortcut} has vanished: super-frames are cut here from now on"
                )
            if refusal is not None:
                if refusal:
                    self._count(refusal)
                return not refusal
        room = self.room.get(vtep, MAX_SUPER_LEN)
        cut = self._segmenter.segment(whole, header, room)
        if cut is None:
            self.faults["uncuttable"] += 1
            return False
        train, size = cut
        if len(train) <= size:
            # Not held back: the next super-frame is cut into the same buffer.
            self._release()
            return self._send_one(self._pool[flow & self._mask], vtep, train)
        return self.send_train(vtep, flow, train, size)

    def send_train(self, vtep: Vtep, flow: int, train: Buffer, size: int) -> bool:
        if len(train) <= size:
            return self.send(vtep, flow, train)
        self._release()  # What came before leaves before.
        sock = self._pool[flow & self._mask]
        step = min(_MAX_ROWS, _MAX_SEND // size) * size
        sent = True
        for at in range(0, len(train), step):
            part = train[at : at + step]
            if len(part) <= size or not self._sends_trains:
                rows = [part[row : row + size] for row in range(0, len(part), size)]
                sent &= not self._send_each(sock, vtep, rows)
            else:
                sent &= not self._send_rows(sock, vtep, [part], size)
        return sent

    def flush(self) -> int:
        self._release()
        lost, self._lost = self._lost, 0
        return lost

    def _release(self) -> None:
        """Send what was held back."""
        held = self._held
        if not held:
            return
        index, vtep, size = self._held_for
        sock = self._pool[index]
        try:
            if len(held) == 1:
                self._lost += not self._send_one(sock, vtep, held[0])
            else:
                self._lost += self._send_rows(sock, vtep, held, size)
        finally:
            held.clear()

    def _send_rows(self, sock: socket.socket, vtep: Vtep, parts: list[Buffer], size: int) -> int:
        """Send packets of `size` bytes, which `parts` hold one behind the other, by one call.
        Return how many could not be sent."""
        control = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
        try:
            sock.sendmsg(parts, control, 0, (vtep, self._port))
            return 0
        except OSError as error:
            if error.errno in _OF_AN_EARLIER_SEND:
                self._count(error.errno)
                self._drain_errors(sock)
            elif error.errno not in _CANNOT_SEGMENT:
                self._count(error.errno)
                return sum(-(-len(part) // size) for part in parts)
            refusal = error
        rows = [part[at : at + size] for part in parts for at in range(0, len(part), size)]
        lost = self._send_each(sock, vtep, rows)
        if not lost and refusal.errno in _CANNOT_SEGMENT - {errno.EMSGSIZE}:
            # Each of them went, so it was the train that the kernel did not like.
            self._sends_trains = False
            self._notice("the kernel has no UDP_SEGMENT here: packets are sent one by one")
        return lost

    def _send_each(self, sock: socket.socket, vtep: Vtep, rows: list[Buffer]) -> int:
        return sum([not self._send_one(sock, vtep, row) for row in rows])

    def _send_one(self, sock: socket.socket, vtep: Vtep, packet: Buffer) -> bool:
        try:
            sock.sendto(packet, (vtep, self._port))
        except OSError as error:
            return self._recover(sock, error, vtep, packet)
        return True

    def _recover(self, sock: socket.socket, error: OSError, vtep: Vtep, packet: Buffer) -> bool:
        """Count a failed send; where it failed for an earlier packet's sake, send once more."""
        self._count(error.errno)
        if error.errno == errno.EMSGSIZE:
            self.measure((vtep,))
            if len(packet) > self.room.get(vtep, 0):
                return False
        elif error.errno not in _OF_AN_EARLIER_SEND:
            return False
        self._drain_errors(sock)
        try:
            sock.sendto(packet, (vtep, self._port))
        except OSError as second:
            self._count(second.errno)
            return False
        return True

    def _count(self, number: int | None) -> None:
        self.faults[_FAULT_OF.get(number or 0, "other")] += 1

    @staticmethod
    def _drain_errors(sock: socket.socket) -> None:
        for _ in range(BUDGET):
            try:
                sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return

    def measure(self, vteps: Iterable[Vtep]) -> None:
        if self._version == 4:
            family, level, option, headers = socket.AF_INET, socket.IPPROTO_IP, _IP_MTU, 28
        else:
            family, level, option, headers = socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_MTU, 48
        if self._shortcut is not None:
            self.faults["overrun"] += self._shortcut.overrun()
        for vtep in vteps:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                try:
                    asking.connect((vtep, self._port))
                    self.room[vtep] = asking.getsockopt(level, option) - headers
                except OSError:
                    self.room.pop(vtep, None)  # No route at the moment; sending will say so.

    def close(self) -> None:
        for sock in (*self._lanes, *self._pool):
            sock.close()
        if self._shortcut is not None:
            self._shortcut.close()


Offload = Literal["auto", "sockets", "off"]
"""auto: all that the kernel can do. sockets: without the shortcut, so that packets pass the host's
own firewall and IPsec. off: packet by packet."""


def open_tunnel(
    local: Vtep, port: int, source_ports: int, offload: Offload, notice: Callable[[str], None]
) -> UdpTunnel:
    """Open the tunnel as configured. `notice` is told what the kernel cannot do. Raises
    TunnelError."""
    return UdpTunnel(
        local,
        port,
        source_ports,
        offload=offload != "off",
        shortcut=(lambda: Shortcut(Underlay(local, port), local, port))
        if offload == "auto"
        else None,
        notice=notice,
    )
