"""The tunnel interface: VXLAN packets in and out, a train at a time.

A *train* is one buffer with equal-sized packets of which only the last may be shorter; each packet
is a VXLAN header and a frame. All packets of a train have the same VNI, MACs, and IP addresses, and
if there are several, each has a sound IP header: who reads from the kernel splits what does not
belong together, so that one decision holds for all.
A read fills an `Inbox` with trains, whose buffers the next read reuses. A train may be edited in
place and sent on as it is.

What is received waits in *lanes*, each with a buffer of its own, which are read in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from ..wire import flows, vnet
from ..wire.ethernet import Buffer
from ..wire.flows import Bytes
from ..wire.segmenter import Segmenter
from ..wire.vxlan import VXLAN_LEN, Vtep

MAX_TRAIN_LEN = 65_535
"""The longest UDP payload, which is what one GRO receive can hold."""
BUDGET = 16
BUDGET_BYTES = 1 << 18
"""Receives per read, and bytes after which it ends: as with bursts, bounded so that the event loop
is not held."""
_SLOT_LEN = 2 * MAX_TRAIN_LEN
"""Behind a train there is room for as much as its short last packet lacks."""


_segmenter = Segmenter()


class Train:
    """One received train: `length` bytes at `start` of `slot`, `size` bytes a packet.

    `header` is the `virtio_net_hdr` of its only frame, where it is not a complete one.
    """

    __slots__ = ("data", "header", "length", "size", "slot", "source", "start")

    def __init__(
        self,
        slot: Bytes,
        start: int,
        length: int,
        size: int,
        source: Vtep,
        header: Buffer = vnet.PLAIN,
    ) -> None:
        self.header = header
        self.slot = slot
        self.start = start
        self.length = length
        self.size = size
        self.source = source
        self.data = slot.data[start : start + length]

    @property
    def count(self) -> int:
        """How many packets it is."""
        return -(-self.length // self.size) if self.size else 1

    @property
    def datagrams(self) -> int:
        """How many packets it is for whoever counts or polices: of a super-frame, those that it is
        cut into (`vnet.datagrams_of`)."""
        if not vnet.is_super_frame(self.header):
            return self.count
        return vnet.datagrams_of(self.header, self.length - VXLAN_LEN)

    def packets(self) -> list[memoryview]:
        """Return the packets, each with its VXLAN header, as they lie there."""
        data, length, size = self.data, self.length, self.size
        if length <= size:
            return [data]
        return [data[at : min(at + size, length)] for at in range(0, length, size)]

    def complete_packets(self) -> list[memoryview]:
        """Return the packets, as any receiver takes them: a super-frame is cut, which holds until
        the next one is, and an open checksum filled in. None for what contradicts itself."""
        if self.header is vnet.PLAIN:
            return self.packets()
        if not vnet.is_super_frame(self.header):
            return [self.data] if vnet.complete(self.data[VXLAN_LEN:], self.header) else []
        cut = _segmenter.segment(self.data, self.header)
        if cut is None:
            return []
        train, size = cut
        return [train[at : at + size] for at in range(0, len(train), size)]


class Inbox:
    """The trains of one read; reused by the next one."""

    __slots__ = ("places", "slots", "trains")

    def __init__(self) -> None:
        buffer = np.zeros(BUDGET * _SLOT_LEN, dtype=np.uint8)
        self.slots = [buffer[i * _SLOT_LEN : (i + 1) * _SLOT_LEN] for i in range(BUDGET)]
        self.places = [(slot.data[:MAX_TRAIN_LEN], slot) for slot in self.slots]
        """Where to receive into."""
        self.trains: list[Train] = []

    def add(self, slot: Bytes, length: int, size: int, source: Vtep) -> None:
        """Note that packets of `size` bytes have been received into `slot`; split them into trains
        where they do not belong together."""
        if length <= size:
            self.trains.append(Train(slot, 0, length, length, source))
            return
        for start, part in flows.trains(slot, length, size):
            self.trains.append(Train(slot, start, part, min(size, part), source))

    def add_incomplete(self, slot: Bytes, length: int, header: bytes, source: Vtep) -> None:
        """Note that one packet has been received into `slot`, whose frame is a super-frame or has
        an open checksum, as `header` says."""
        # An open checksum is filled in, and the header then says so.
        beside = header if vnet.is_super_frame(header) else bytearray(header)
        self.trains.append(Train(slot, 0, length, length, source, beside))


class Run:
    """Packets of one flow and one length, each in a buffer of its own.

    `table` is all of them, `headers` the `virtio_net_hdr` beside each, which are the same.
    """

    __slots__ = ("headers", "packets", "table")

    def __init__(self, table: Bytes, headers: Sequence[Buffer], packets: list[memoryview]) -> None:
        self.table = table
        self.headers = headers
        self.packets = packets


class Tunnel(Protocol):
    """Our VTEP."""

    def filenos(self) -> list[int]:
        """Return the descriptor of each lane to wait on; none for a tunnel that has none."""

    def read(self, inbox: Inbox, lane: int = 0, most: int = BUDGET) -> None:
        """Fill `inbox` with what waits in one lane, by `most` receives."""

    def send(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        """Send one packet: a VXLAN header and a frame with its `virtio_net_hdr` beside it.

        `flow` is a hash of the inner flow and chooses the outer source port. The packet may be held
        back until `flush`, and must stay as it is until then.
        False where it is known already that it cannot be sent; `faults` says why.
        """

    def send_run(self, vtep: Vtep, flow: int, run: Run) -> int:
        """Send packets of one flow and one length; return how many of them can be sent. They stay
        as they are until `flush`, too."""

    def send_train(self, vtep: Vtep, flow: int, train: Buffer, size: int) -> bool:
        """Send a whole train of packets of `size` bytes, behind what is held back."""

    def flush(self) -> int:
        """Send what was held back to make longer trains. Called at the end of every burst. Return
        how many packets, of those that were held back since the last call, could not be sent."""

    @property
    def room(self) -> dict[Vtep, int]:
        """The longest packet that reaches a VTEP in one piece, as far as it is known."""

    def measure(self, vteps: Iterable[Vtep]) -> None:
        """Find out anew what has room on the way to some VTEPs."""

    @property
    def faults(self) -> dict[str, int]:
        """Count what failed, by the name of the cause (closed set: `FAULTS`)."""

    def close(self) -> None:
        """Release the sockets."""


FAULTS = (
    *(
        "refused",
        "unreachable",
        "too_big",
        "no_buffers",
        "uncuttable",
        "damaged",
        "overrun",
        "other",
    ),
)
"""refused: nobody listens at the VTEP. unreachable: no route to it. too_big: the packet exceeds the
path MTU; the outer packet is never fragmented (RFC 7348 section 4.3). no_buffers: the kernel's
queue is full. uncuttable: a super-frame that contradicts itself, or of an unknown kind. damaged:
received with a wrong checksum of the outer headers, where they are ours to verify and not the
kernel's. overrun: received, but its lane of the shortcut was full. other: any other failed send."""
