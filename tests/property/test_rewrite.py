"""A train is rewritten as its packets would be one by one, and nothing else in its slot is touched.

The rewriting of one packet, the measure here, is held to a full recomputation in
`tests/unit/test_router_rewrite.py`. The slot and the rewriter are shared by all examples, as they
are by all trains of a leaf: a view kept for another shape must do no harm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from leaf.rewrite import FEW, MAX_SHAPES, Rewriter
from leaf.router import CHECKSUM_AT, TTL_AT, Reason, Verdict
from tests.frames import mac, udp, vxlan
from tests.unit.leaf_world import B, forwarded
from tests.unit.test_router_rewrite import BRIDGED, ROUTED
from vswitch.phy.tunnel import Inbox, Train
from vswitch.wire import flows

SLOT = Inbox().slots[0]
REWRITER = Rewriter()
WHOLE_HEADERS = 42
"""The length of a train's shortest packet: VXLAN, Ethernet and IPv4 headers."""
EDGES = (0, 1, 0xFE, 0xFEFE, 0xFEFF, 0xFF00, 0xFF01, 0xFFFE, 0xFFFF)
"""Checksums about which the addition of 0x0100 carries, and the two zeros."""
OTHER = Verdict(Reason.ROUTED, B, bytes(range(100, 120)))


class Case(NamedTuple):
    """A train of rubbish, but for its type, IPv4, and the two fields that are computed with."""

    rows: int
    size: int
    missing: int = 0
    """By how much the last packet is shorter."""
    start: int = 0
    ttl: int = 64
    checksums: tuple[int, ...] = (0x1234,)
    """Of the first packets; those of the others are rubbish."""
    seed: int = 0

    @property
    def length(self) -> int:
        return self.rows * self.size - self.missing

    def packets(self) -> list[bytes]:
        table = np.random.default_rng(self.seed).integers(0, 256, (self.rows, self.size), np.uint8)
        table[:, 20:22] = (0x08, 0x00)
        table[:, TTL_AT] = self.ttl
        for row, checksum in zip(table, self.checksums, strict=False):
            row[CHECKSUM_AT : CHECKSUM_AT + 2] = list(checksum.to_bytes(2, "big"))
        packets = [bytes(row) for row in table]
        packets[-1] = packets[-1][: self.size - self.missing]
        return packets

    def lay(self, slot: npt.NDArray[np.uint8]) -> Train:
        """Put the train into a slot that is full of something else."""
        slot[:] = 0xA5
        joined = b"".join(self.packets())
        slot[self.start : self.start + self.length] = np.frombuffer(joined, np.uint8)
        return Train(slot, self.start, self.length, self.size, B)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.integers(1, 64))
    size = draw(st.integers(WHOLE_HEADERS, 200) | st.integers(WHOLE_HEADERS, 65_000 // rows))
    return Case(
        rows,
        size,
        missing=draw(st.just(0) | st.integers(0, size - WHOLE_HEADERS)),
        start=draw(st.sampled_from([0, 1, size, 3 * size]) | st.integers(0, 500)),
        ttl=draw(st.sampled_from([2, 64, 255]) | st.integers(2, 255)),
        checksums=(*draw(st.permutations(EDGES)),),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=100)
@given(cases(), st.sampled_from([ROUTED, BRIDGED, OTHER]))
@example(Case(rows=64, size=1023, missing=1023 - WHOLE_HEADERS, checksums=EDGES), ROUTED)
@example(Case(rows=FEW, size=100, missing=58, checksums=EDGES), ROUTED)
@example(Case(rows=FEW + 1, size=100, missing=58, checksums=EDGES), ROUTED)
@example(Case(rows=1, size=WHOLE_HEADERS, ttl=255), BRIDGED)
def test_a_train_is_rewritten_as_its_packets_one_by_one(case: Case, verdict: Verdict) -> None:
    train = case.lay(SLOT)
    expected = [forwarded(packet, verdict) for packet in case.packets()]
    REWRITER.rewrite(train, verdict)
    assert [bytes(packet) for packet in train.packets()] == expected
    room = case.start + case.rows * case.size
    assert (SLOT[: case.start] == 0xA5).all()
    assert (SLOT[room:] == 0xA5).all()
    event(f"by columns: {case.rows > FEW}")


@pytest.mark.parametrize("ttl", [0, 1, 255])
def test_a_bridged_train_keeps_any_ttl(ttl: int) -> None:
    case = Case(rows=10, size=60, ttl=ttl)
    train = case.lay(SLOT)
    REWRITER.rewrite(train, BRIDGED)
    assert [packet[20:] for packet in train.packets()] == [packet[20:] for packet in case.packets()]


def test_every_checksum_there_is() -> None:
    """All 65,536, in trains of 64."""
    packets = np.zeros((64, WHOLE_HEADERS), np.uint8)
    packets[:, TTL_AT] = 2
    for first in range(0, 0x10000, 64):
        packets[:, CHECKSUM_AT] = first >> 8
        packets[:, CHECKSUM_AT + 1] = range(first & 0xFF, (first & 0xFF) + 64)
        train = Train(SLOT, 0, packets.size, WHOLE_HEADERS, B)
        train.data[:] = packets.tobytes()
        expected = [forwarded(bytes(packet), ROUTED) for packet in train.packets()]
        REWRITER.rewrite(train, ROUTED)
        assert [bytes(packet) for packet in train.packets()] == expected


def test_two_trains_of_one_slot_are_rewritten_each_by_its_own_verdict() -> None:
    """As they lie there after one receive: the second behind the first, and it alone is shorter."""
    first = Case(rows=5, size=100, ttl=9, seed=1)
    second = Case(rows=6, size=100, missing=50, ttl=200, seed=2)
    joined = b"".join([*first.packets(), *second.packets()])
    for order in ((0, 1), (1, 0)):
        SLOT[: len(joined)] = np.frombuffer(joined, np.uint8)
        trains = (Train(SLOT, 0, 500, 100, B), Train(SLOT, 500, 550, 100, B))
        for index in order:
            REWRITER.rewrite(trains[index], (ROUTED, OTHER)[index])
        for train, case, verdict in zip(trains, (first, second), (ROUTED, OTHER), strict=True):
            expected = [forwarded(packet, verdict) for packet in case.packets()]
            assert [bytes(packet) for packet in train.packets()] == expected


def test_more_shapes_than_are_kept_are_rewritten_all_the_same() -> None:
    """Starts in one slot, sizes, numbers of packets, and slots: what a view is found by."""
    rewriter, slots = Rewriter(), Inbox().slots[:3]
    for number in range(MAX_SHAPES + 50):
        case = Case(FEW + 1 + number % 5, 50 + number % 7, start=number, seed=number % 4)
        for slot in slots:
            _rewritten_twice(rewriter, slot, case)


def _rewritten_twice(rewriter: Rewriter, slot: npt.NDArray[Any], case: Case) -> None:
    """By a new view, and by the one that was kept."""
    joined = b"".join(case.packets())
    expected = b"".join(forwarded(packet, ROUTED) for packet in case.packets())
    for _ in range(2):
        slot[case.start : case.start + case.length] = np.frombuffer(joined, np.uint8)
        rewriter.rewrite(Train(slot, case.start, case.length, case.size, B), ROUTED)
        assert slot[case.start : case.start + case.length].tobytes() == expected


def test_no_train_that_is_received_is_shorter_than_what_is_written() -> None:
    """The premise of it all: who splits what is received never makes a train with such a packet."""
    packet = vxlan(7, udp(mac(1), mac(2), payload=bytes(50)))
    assert len(packet) == 100
    for rest in range(1, WHOLE_HEADERS):
        slot = np.frombuffer(bytearray(packet * 5), np.uint8)
        assert flows.trains(slot, 300 + rest, 100) == [(0, 300), (300, rest)]
