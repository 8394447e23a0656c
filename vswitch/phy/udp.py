"""The real tunnel: VXLAN over UDP sockets.

This chooses for each packet by which source port it leaves, in what train, and when. Opening the
sockets (`sockets.py`), sending by one of them (`source.py`), what is known of the ways to the VTEPs
(`paths.py`) and the shortcut (`shortcut.py`) are beneath it.

Trains. `UDP_SEGMENT` sends a whole train by one call, `UDP_GRO` receives one (Linux 5.0). Single
packets of one size and one source port that follow each other within a burst make a train too: they
are held back until a packet that does not fit, or `flush`, and leave in the order in which they
came. How long a train the kernel takes is found by trying. Where it takes none, each packet is a
call, and the log says so once.

Super-frames are cut into trains, or leave whole by the shortcut. Where they can do that, a run of
datagrams becomes one, too: for all who come after us it is then no more work than one packet. That
we take whole ones ourselves is said by our source ports, from when the shortcut has first brought
us a packet until the underlay's device vanishes. We send them from then on too, as long as its TAP
is there.

An engine calls `read` and the sending verbs for every burst, run or packet, so they are methods
right here: one that passed the call on to a receiver or a sender would cost another call, and to
bind theirs as attributes costs as much (both some 20 ns, in CPython 3.11).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Literal, Protocol

from ..wire import vnet, vxlan
from ..wire.ethernet import Buffer
from ..wire.flows import Bytes
from ..wire.gatherer import Gatherer, can_gather
from ..wire.segmenter import Segmenter
from ..wire.train import MAX_SUPER_LEN, Layout
from ..wire.vxlan import VXLAN_LEN, Vtep
from . import sockets
from .paths import Paths
from .shortcut import Shortcut, ShortcutGone
from .sockets import LANES, TunnelError
from .source import MAX_ROWS, MAX_SEND, OLD_MAX_ROWS, SourcePort
from .tunnel import BUDGET, BUDGET_BYTES, Inbox, Run
from .underlay import Underlay, UnderlayError

_GRO_SIZE = Struct("@i")
_ANCILLARY_LEN = socket.CMSG_SPACE(_GRO_SIZE.size)


class UdpTunnel:
    """Our VTEP on the underlay."""

    def __init__(
        self,
        local: Vtep,
        port: int = vxlan.PORT,
        source_ports: int = 16,
        *,
        offload: bool = True,
        shortcut: Callable[[dict[Vtep, int]], Shortcut] | None = None,
        notice: Callable[[str], None] = lambda said: None,
    ) -> None:
        """Bind to `local`. `source_ports` is the size of the sending pool, a power of two.

        `shortcut` opens the way for super-frames, once the address is known to be ours; it is given
        the `room` that is to be, and may raise UnderlayError. `notice` is told what the kernel
        cannot do. Raises TunnelError.
        """
        self._notice = notice
        self._shortcut: Shortcut | None = None
        self._sends_whole = self._claims_whole = False
        """Whether super-frames go by the shortcut, and whether we say that we take them."""
        self._most_rows = MAX_ROWS if offload else 1
        """Packets in a train: fewer where the kernel has refused as many, and 1 for no trains."""
        self._segmenter = Segmenter()
        self._gatherer = Gatherer()
        self._held: list[Buffer] = []
        """Packets of one size that wait to leave as a train."""
        self._held_for: tuple[int, Vtep, int] = (0, Vtep(""), 0)
        """Their source port's index, VTEP, and size."""
        self._lost = 0
        """Of those, how many could not be sent since the last `flush`."""
        self._local, self._port = local, port
        self._mask = source_ports - 1
        self._paths = Paths(local, port)
        self.faults, self.room = self._paths.faults, self._paths.room
        self._pool: list[SourcePort] = []
        self._lanes = sockets.open_lanes(local, port)
        try:
            if offload and not sockets.receive_trains(self._lanes):
                notice("the kernel has no UDP_GRO: packets are received one by one")
            self._pool = self._open_pool(vxlan.SOURCE_PORTS)
            if shortcut is not None:
                self._open_shortcut(shortcut)
        except BaseException:
            self.close()
            raise

    def _open_shortcut(self, shortcut: Callable[[dict[Vtep, int]], Shortcut]) -> None:
        try:
            self._shortcut = shortcut(self.room)
        except UnderlayError as error:
            self._notice(f"super-frames are cut here, and not by the kernel: {error}")
            return
        self._sends_whole = True
        for lane in self._lanes:
            self._shortcut.skip(lane)

    def _open_pool(self, ports: Iterable[int]) -> list[SourcePort]:
        pool = sockets.open_pool(self._local, self._mask + 1, ports)
        return [SourcePort(sock, self._paths, self._shorten_trains) for sock in pool]

    def _shorten_trains(self, rows: int) -> None:
        """The kernel has refused a train of so many packets."""
        if rows > OLD_MAX_ROWS:
            self._most_rows = min(self._most_rows, OLD_MAX_ROWS)
        elif self._most_rows > 1:
            self._most_rows = 1
            self._notice("the kernel has no UDP_SEGMENT here: packets are sent one by one")

    def _claim_whole(self, claim: bool) -> None:
        """Send from the ports that tell others whether we take super-frames."""
        self._claims_whole = claim
        try:
            pool = self._open_pool(vxlan.WHOLE_PORTS if claim else vxlan.SOURCE_PORTS)
        except TunnelError as error:
            self._notice(f"the source ports stay as they are: {error}")
            return
        self._pool, old = pool, self._pool
        for source in old:
            source.close()

    @property
    def way(self) -> str:
        """Say by what packets go, for people."""
        return f"sockets, and super-frames by {self._shortcut}" if self._sends_whole else "sockets"

    def filenos(self) -> list[int]:
        queues = self._shortcut.filenos() if self._shortcut else []
        return [*(lane.fileno() for lane in self._lanes), *queues]

    def read(self, inbox: Inbox, lane: int = 0, most: int = BUDGET) -> None:
        inbox.trains.clear()
        if lane >= LANES:
            assert self._shortcut is not None
            self._read_shortcut(self._shortcut, inbox, lane - LANES, most)
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
            if length == VXLAN_LEN and view[:length] == vxlan.GREETING:
                continue
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
        silent_to = shortcut.greet() if self._claims_whole else None
        if silent_to is not None:
            self._pool[0].send((silent_to, self._port), vxlan.GREETING)

    def send(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        if header[1]:
            return self._send_super(vtep, flow, packet, header)
        if header[0] and not vnet.complete(memoryview(packet)[VXLAN_LEN:], header):
            self.faults["uncuttable"] += 1
            return False
        if self._most_rows == 1:
            return self._pool[flow & self._mask].send((vtep, self._port), packet)
        size = len(packet)
        key = (flow & self._mask, vtep, size)
        held = self._held
        if (
            key != self._held_for
            or len(held) >= self._most_rows
            or (len(held) + 1) * size > MAX_SEND
        ):
            self._release()
            self._held_for = key
        held.append(packet)
        return True

    def send_run(self, vtep: Vtep, flow: int, run: Run) -> int:
        packets, index = run.packets, flow & self._mask
        shortcut = self._way_for_whole(self._pool[index])
        if shortcut is not None and shortcut.takes(vtep):
            layout = can_gather(run.table, run.headers[0])
            if layout is not None:
                return self._send_gathered(vtep, flow, run.table, layout)
        if any(run.headers[0]) and not vnet.complete_all(run.table[:, VXLAN_LEN:], run.headers):
            self.faults["uncuttable"] += len(packets)
            return 0
        if self._most_rows == 1:
            source, address = self._pool[index], (vtep, self._port)
            return len(packets) - source.send_each(address, packets)
        size = len(packets[0])
        key, held = (index, vtep, size), self._held
        if key != self._held_for:
            self._release()
            self._held_for = key
        most = min(self._most_rows, MAX_SEND // size)
        for packet in packets:
            if len(held) >= most:
                self._release()
            held.append(packet)
        return len(packets)

    def _send_gathered(self, vtep: Vtep, flow: int, table: Bytes, layout: Layout) -> int:
        """Send a run as super-frames, as few as it takes; return how many packets that was."""
        sent = 0
        for count, packet, header in self._gatherer.gather_all(table, layout, MAX_SEND):
            sent += count * self._send_super(vtep, flow, packet, header)
        return sent

    def _way_for_whole(self, source: SourcePort) -> Shortcut | None:
        """Return the shortcut, where super-frames may leave by it."""
        return self._shortcut if self._sends_whole and source.claims_whole else None

    def _send_super(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer) -> bool:
        whole, source = memoryview(packet), self._pool[flow & self._mask]
        shortcut = self._way_for_whole(source)
        if shortcut is not None:
            self._release()  # What came before leaves before.
            try:
                refusal = shortcut.send(vtep, source.number, whole, header, self.measure)
            except ShortcutGone:
                refusal = None
                self._sends_whole = False
                self._notice(f"{shortcut} has vanished: super-frames are cut here from now on")
            if refusal is not None:
                if refusal:
                    self._paths.count(refusal)
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
            return source.send((vtep, self._port), train)
        return self.send_train(vtep, flow, train, size)

    def send_train(self, vtep: Vtep, flow: int, train: Buffer, size: int) -> bool:
        if len(train) <= size:
            return self.send(vtep, flow, train)
        self._release()  # What came before leaves before.
        source, address = self._pool[flow & self._mask], (vtep, self._port)
        sent, at = True, 0
        while at < len(train):
            part = train[at : at + min(self._most_rows, MAX_SEND // size) * size]
            at += len(part)
            if len(part) <= size:
                sent &= source.send(address, part)
            else:
                sent &= not source.send_train(address, [part], size)
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
        source, address = self._pool[index], (vtep, self._port)
        try:
            if len(held) == 1:
                self._lost += not source.send(address, held[0])
            else:
                self._lost += source.send_train(address, held, size)
        finally:
            held.clear()

    def measure(self, vteps: Iterable[Vtep]) -> None:
        if self._shortcut is not None:
            self.faults["overrun"] += self._shortcut.overrun()
        self._paths.measure(vteps)

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        for source in self._pool:
            source.close()
        if self._shortcut is not None:
            self._shortcut.close()


Offload = Literal["auto", "sockets", "off"]
"""auto: all that the kernel can do. sockets: without the shortcut, so that packets pass the host's
own firewall and IPsec. off: packet by packet."""


class TunnelSettings(Protocol):
    """What a daemon's configuration says of its tunnel."""

    @property
    def vtep(self) -> Vtep: ...

    @property
    def udp_port(self) -> int: ...

    @property
    def source_ports(self) -> int: ...

    @property
    def offload(self) -> Offload: ...


def open_tunnel(own: TunnelSettings, notice: Callable[[str], None]) -> UdpTunnel:
    """Open the tunnel as configured. `notice` is told what the kernel cannot do. Raises
    TunnelError."""
    local, port = own.vtep, own.udp_port
    return UdpTunnel(
        local,
        port,
        own.source_ports,
        offload=own.offload != "off",
        shortcut=(lambda room: Shortcut(Underlay(local, port), local, port, room))
        if own.offload == "auto"
        else None,
        notice=notice,
    )
