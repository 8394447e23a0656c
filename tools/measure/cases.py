"""The single decisions and transformations whose cost `--micro` tells, each as a repeatable batch.

A batch runs its operation many times from C (`map`), so that almost nothing of what is measured is
the loop. Inputs that differ between two sizes of a table would measure the processor's caches, so
every size works on as many different frames or addresses as the smallest one has.

    python -m tools.measure.cases NAME COUNT     runs COUNT batches of one case, for perf to count
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from random import Random
from typing import Any, Final, NamedTuple

from leaf.bindings import Bindings
from leaf.fib import Fib, Prefix
from leaf.router import Router
from leaf.topology import Gateway, Group, Segment, Topology, Vrf
from vswitch.attachment import Attachment, State
from vswitch.phy.port import PortId
from vswitch.switch import Switch
from vswitch.wire.coalescer import Coalescer
from vswitch.wire.ethernet import Mac
from vswitch.wire.segmenter import Segmenter
from vswitch.wire.vxlan import Vni, Vtep

RED = Vni(100)
LEAF, A, B = Vtep("192.0.2.1"), Vtep("192.0.2.11"), Vtep("192.0.2.12")
SHARED = Mac(bytes.fromhex("0000deadbeef"))
DIFFERENT: Final = 10
"""Destinations in turn, in tables of every size."""
OPERATIONS: Final = 10_000
"""In a batch of decisions or look-ups."""
FLOWS: Final = (100, 1000)
"""How many addresses are looked up in turn, in tables of every size. A hundred are what is in use
at one moment, and lie in the nearest cache; with a thousand, those of a large table do not."""
SUPER_PAYLOAD, MSS = 62_000, 1398
"""A guest's super-frame, and its segments at an MTU of 1,450 with TCP timestamps."""
TRAINS: Final = 50
"""Super-frames in a batch."""


class Batch(NamedTuple):
    """Something to run, and how many operations that is."""

    run: Callable[[], object]
    operations: int


class Case(NamedTuple):
    """A row of the report."""

    name: str
    title: str
    prepare: Callable[[], Batch]


def _exhaust(calls: Callable[[], Iterable[object]]) -> None:
    deque(calls(), maxlen=0)


# -- packets -------------------------------------------------------------------------------------


def _mac(number: int) -> Mac:
    return Mac(b"\x02\x00" + number.to_bytes(4, "big"))


def _address(number: int) -> bytes:
    """Of 10.0.0.0/8, spread over the whole of it, none twice."""
    return b"\x0a" + ((number * 40_503 + 1) & 0xFFFFFF).to_bytes(3, "big")


def _sum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total = int.from_bytes(data + b"\0" * (len(data) & 1), "big") % 0xFFFF
    return 0xFFFF - total


def _ipv4(
    dst_mac: bytes, src_mac: bytes, dst: bytes, protocol: int, payload: bytes, more: int = 0
) -> bytes:
    """Return a frame. `more` is what a super-frame's length leaves out of `payload`."""
    length = 20 + len(payload) + more
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, 0x4000, 64, protocol, 0, _FROM, dst)
    head = head[:10] + struct.pack("!H", _sum(head)) + head[12:]
    return dst_mac + src_mac + b"\x08\x00" + head + payload


_FROM = _address(0)


def _udp_frame(dst_mac: bytes, dst: bytes = b"\x0a\0\0\x09") -> bytes:
    datagram = struct.pack("!HHHH", 1, 2, 8 + 1000, 0) + bytes(1000)
    return _ipv4(dst_mac, _mac(1), dst, 17, datagram)


def _vxlan(frame: bytes) -> bytes:
    return struct.pack("!BxxxI", 8, RED << 8) + frame


def _super_frame() -> tuple[bytes, bytes]:
    """Return a TCP super-frame with its checksum still open, and its `virtio_net_hdr`."""
    options = b"\x01\x01\x08\x0a" + bytes(8)
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 7, 9, 8 << 4, 0x18, 1000, 0, 0) + options
    dst = b"\x0a\0\0\x09"
    payload = bytes(range(256)) * (SUPER_PAYLOAD // 256 + 1)
    segment = tcp + payload[:SUPER_PAYLOAD]
    pseudo = 0xFFFF - _sum(_FROM + dst + struct.pack("!HH", 6, len(segment)))
    segment = segment[:16] + struct.pack("!H", pseudo) + segment[18:]
    header = struct.pack("<BBHHHH", 1, 1, 14 + 20 + len(tcp), MSS, 34, 16)
    return _ipv4(SHARED, _mac(1), dst, 6, segment), header


# -- the vswitch's and the leaf's decision -------------------------------------------------------


def _switch(ports: int, local: bool) -> Batch:
    switch = Switch(SHARED, [LEAF])
    switch.add_segment(RED, "rewrite")
    for number in range(1, ports + 1):
        macs = frozenset({_mac(number)})
        switch.place(Attachment(f"g{number}", PortId(number), RED, macs, state=State.ACTIVE))
    first = 2 if local else 1_000_000
    kinds = [memoryview(_udp_frame(_mac(first + n))) for n in range(DIFFERENT - 1)]
    frames = [kinds[n % len(kinds)] for n in range(OPERATIONS)]
    return Batch(
        partial(_exhaust, lambda: map(switch.decide, repeat(PortId(1)), frames)), OPERATIONS
    )


def _router(count: int) -> Batch:
    group = Group("one", SHARED)
    gateway = Gateway(bytes((10, 255, 255, 254)), Prefix(10 << 24, 8))
    segment = Segment("red", RED, "tenant", (gateway,), {A: group, B: group})
    router = Router(Topology(_mac(0xFFFF), [Vrf("tenant", Vni(5000), [segment])], {}))
    bindings = Bindings()
    for number in range(count):
        news = bindings.learn(RED, _address(number), _mac(number), B, 0.0)
        router.bind(segment, news.changed[0])
    kinds = [
        memoryview(bytearray(_vxlan(_udp_frame(SHARED, _address(1 + n))))) for n in range(DIFFERENT)
    ]
    packets = [kinds[n % DIFFERENT] for n in range(OPERATIONS)]
    return Batch(partial(_exhaust, lambda: map(router.decide, repeat(A), packets)), OPERATIONS)


def _fib(count: int, flows: int) -> Batch:
    fib: Fib[int] = Fib(32)
    for number in range(count):
        fib.hosts[_address(number)] = number
    chance = Random(count)
    used = [_address(chance.randrange(count)) for _ in range(flows)]
    # Made anew, as they are for every packet: a bytes object remembers its hash.
    joined = memoryview(b"".join(chance.choices(used, k=OPERATIONS)))
    spans = [joined[at : at + 4] for at in range(0, len(joined), 4)]
    return Batch(partial(_exhaust, lambda: map(fib.lookup, map(bytes, spans))), OPERATIONS)


# -- super-frames and trains ---------------------------------------------------------------------


def _cut() -> tuple[Callable[[], Any], Any]:
    """Return a function that cuts the super-frame, and what it gives."""
    frame, header = _super_frame()
    packet = memoryview(bytearray(_vxlan(frame)))
    cut = partial(Segmenter().segment, packet, header)
    made = cut()
    if made is None:
        raise ValueError("segment() does not take the super-frame")
    return cut, made


def _segment() -> Batch:
    cut, _ = _cut()
    return Batch(partial(_exhaust, lambda: (cut() for _ in range(TRAINS))), TRAINS)


def _coalesce() -> Batch:
    import numpy as np

    train, size = _cut()[1]
    slot = np.zeros(1 << 17, dtype=np.uint8)
    slot[: len(train)] = np.frombuffer(train, np.uint8)
    join = partial(Coalescer().coalesce, slot, 0, len(train), size)
    if join() is None:
        raise ValueError("coalesce() does not take what segment() made")
    return Batch(partial(_exhaust, lambda: (join() for _ in range(TRAINS))), TRAINS)


CASES = {
    case.name: case
    for case in (
        *(
            Case(
                f"{what}-{n}", f"vswitch decision, {what}, {n:,} ports", partial(_switch, n, local)
            )
            for what, local in (("local", True), ("miss", False))
            for n in (10, 1000)
        ),
        *(
            Case(f"route-{n}", f"leaf decision, {n:,} bindings", partial(_router, n))
            for n in (1000, 100_000)
        ),
        *(
            Case(f"fib-{n}-{flows}", f"FIB look-up, {n:,} routes, {flows:,} in use", prepare)
            for flows in FLOWS
            for n in (1000, 10_000, 100_000)
            for prepare in (partial(_fib, n, flows),)
        ),
        Case("segment", "segment 62 kB of TCP into a train", _segment),
        Case("coalesce", "coalesce that train", _coalesce),
    )
}


def main() -> None:
    """Run a case so often, and print nothing: what counts is looking on."""
    name, count = sys.argv[1], int(sys.argv[2])
    batch = CASES[name].prepare()
    for _ in range(count):
        batch.run()


if __name__ == "__main__":
    main()
