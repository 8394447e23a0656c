"""The in-memory twins of a port and of the tunnels, for tests on a virtual clock.

A `MemoryPort` has a guest's side: `emit` hands a frame to the switch, `received` holds what the
switch delivered. A `MemoryNetwork` is an underlay: every `MemoryTunnel` on it has a VTEP, and what
one sends waits in the other's queue until it is read. Nothing is delivered by itself: whoever runs
the test decides whose turn it is, so a run can be repeated exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ..wire import vnet
from ..wire.ethernet import Buffer
from ..wire.flows import Bytes
from ..wire.gatherer import Gatherer, can_gather
from ..wire.train import Layout
from ..wire.vxlan import VXLAN_LEN, Vtep
from .port import BUDGET, Burst, PortGone
from .tunnel import BUDGET as RECEIVES
from .tunnel import FAULTS, MAX_TRAIN_LEN, Inbox, Run, Train

QUEUE_LEN = 4096
"""Frames that wait at most; a full queue drops the newest, as a device does."""

_gatherer = Gatherer()
"""One for all tunnels: what is sent is copied before anything else is made."""


class MemoryPort:
    """A port whose guest is the test."""

    def __init__(self) -> None:
        self.received: deque[bytes] = deque(maxlen=None)
        self._outgoing: deque[tuple[bytes, bytes]] = deque()
        self.parked = False
        self.gone = False
        self.closed = False

    def emit(self, frame: bytes, header: bytes = vnet.PLAIN) -> None:
        """The guest sends `frame`, with this `virtio_net_hdr` beside it."""
        if len(self._outgoing) < QUEUE_LEN and not self.parked:
            self._outgoing.append((frame, header))

    @property
    def pending(self) -> bool:
        return bool(self._outgoing)

    def fileno(self) -> int:
        return -1

    def read(self, burst: Burst, most: int = BUDGET) -> None:
        burst.lengths.clear()
        if self.gone:
            raise PortGone("the memory port was removed")
        for header, target in burst.targets[:most]:
            if not self._outgoing:
                return
            frame, noted = self._outgoing.popleft()
            target[: len(frame)] = frame
            header[:] = noted
            burst.lengths.append(len(frame))

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        if self.gone:
            raise PortGone("the memory port was removed")
        if self.parked or len(self.received) >= QUEUE_LEN:
            return False
        self.received.append(bytes(frame))
        return True

    def write_train(self, train: Train) -> int:
        return sum(self.write(packet[VXLAN_LEN:], train.header) for packet in train.packets())

    def park(self, parked: bool) -> None:
        self.parked = parked

    def close(self) -> None:
        self.closed = True


class MemoryNetwork:
    """An underlay. `lost` decides which packets vanish; by default none."""

    def __init__(self, *, gathers: bool = False) -> None:
        """`gathers`: runs of datagrams leave as super-frames, as they do by the shortcut."""
        self.gathers = gathers
        self.tunnels: dict[Vtep, MemoryTunnel] = {}
        self.lost: Callable[[Vtep, Vtep, bytes], bool] = lambda source, vtep, packet: False

    def tunnel(self, local: Vtep) -> MemoryTunnel:
        """Return the tunnel end at `local`, new or replaced."""
        self.tunnels[local] = MemoryTunnel(self, local)
        return self.tunnels[local]


class MemoryTunnel:
    """A VTEP on a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, local: Vtep) -> None:
        self._network = network
        self.local = local
        self.incoming: deque[tuple[Vtep, bytes, int, bytes]] = deque()
        """Sender, packets, their size, and the `virtio_net_hdr` of a super-frame."""
        self.room: dict[Vtep, int] = {}
        self.faults = dict.fromkeys(FAULTS, 0)

    @property
    def pending(self) -> bool:
        return bool(self.incoming)

    def filenos(self) -> list[int]:
        return []

    def read(self, inbox: Inbox, lane: int = 0, most: int = RECEIVES) -> None:
        inbox.trains.clear()
        for slot in inbox.slots[:most]:
            if not self.incoming:
                return
            source, packets, size, header = self.incoming.popleft()
            slot.data[: len(packets)] = packets
            if any(header):
                inbox.add_incomplete(slot, len(packets), header, source)
            else:
                inbox.add(slot, len(packets), size, source)

    def send(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        """Send a packet, a super-frame in one piece."""
        return self._send(vtep, bytes(packet), len(packet), bytes(header))

    def send_run(self, vtep: Vtep, flow: int, run: Run) -> int:
        layout = can_gather(run.table, run.headers[0]) if self._network.gathers else None
        if layout is not None:
            return self._send_gathered(vtep, flow, run.table, layout)
        frames = run.table[:, VXLAN_LEN:]
        if any(run.headers[0]) and not vnet.complete_all(frames, run.headers):
            return 0
        return sum(self.send(vtep, flow, packet) for packet in run.packets)

    def _send_gathered(self, vtep: Vtep, flow: int, table: Bytes, layout: Layout) -> int:
        sent = 0
        for count, packet, header in _gatherer.gather_all(table, layout, MAX_TRAIN_LEN):
            sent += count * self.send(vtep, flow, packet, header)
        return sent

    def send_train(self, vtep: Vtep, flow: int, train: Buffer, size: int) -> bool:
        return self._send(vtep, bytes(train), size, vnet.PLAIN)

    def _send(self, vtep: Vtep, packets: bytes, size: int, header: bytes) -> bool:
        peer = self._network.tunnels.get(vtep)
        if peer is None:
            self.faults["refused"] += 1
            return False
        if self._network.lost(self.local, vtep, packets) or len(peer.incoming) >= QUEUE_LEN:
            return True
        peer.incoming.append((self.local, packets, size, header))
        return True

    def flush(self) -> int:
        """Nothing is held back."""
        return 0

    def measure(self, vteps: Iterable[Vtep]) -> None:
        """Room is what the test says."""

    def close(self) -> None:
        self._network.tunnels.pop(self.local, None)
