"""Completing a run of frames at once is completing each of them, and touches nothing else.

The frames are rubbish: a sum is a sum. Where the checksum begins and where it is written is drawn
as a lying guest would write it, beyond the end as well. `complete`, the measure here, is held to
scapy in `tests/unit/test_wire_vnet.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.unit.test_router_rewrite import naive
from vswitch.wire import vnet

HEADROOM, ROOM = 8, 5
"""What lies before and behind the frames in each row of the table."""


class Case(NamedTuple):
    """Frames of one length, and the `virtio_net_hdr` that stands beside each."""

    rows: int
    size: int
    start: int
    offset: int
    flags: int = 1
    gso: int = 0
    seed: int = 0
    fill: int | None = None
    """All bytes the same, where it is given: zeros have a sum of their own."""

    def table(self) -> npt.NDArray[np.uint8]:
        width = HEADROOM + self.size + ROOM
        table = np.random.default_rng(self.seed).integers(0, 256, (self.rows, width), np.uint8)
        if self.fill is not None:
            table[:, HEADROOM:-ROOM] = self.fill
        return table

    def headers(self) -> list[memoryview]:
        packed = vnet.HEADER.pack(self.flags, self.gso, 54, 1400, self.start, self.offset)
        return [memoryview(bytearray(packed)) for _ in range(self.rows)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = draw(st.integers(2, 100) | st.sampled_from([1398, 1399, 9000, 65_549, 65_550]))
    start = draw(st.integers(0, min(size + 2, 60)))
    last = min(max(0, size - start - 2), 0xFFFE)
    # Anywhere, and now and then just where it does not fit.
    offset = draw(st.integers(0, min(60, last)) | st.sampled_from([last, last + 1]))
    return Case(
        rows=draw(st.integers(1, 64 if size < 10_000 else 3)),
        size=size,
        start=start,
        offset=offset,
        flags=draw(st.sampled_from([1, 1, 1, 1, 3, 0, 2])),
        gso=draw(st.sampled_from([0] * 8 + [1, 0x81])),
        seed=draw(st.integers(0, 99)),
        fill=draw(st.sampled_from([None, None, None, 0, 0xFF])),
    )


def both_ways(case: Case, table: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Complete frame by frame and all at once; hold the one to the other, and return the table."""
    one_by_one, headers = table.copy(), case.headers()
    done = {
        vnet.complete(row.data[HEADROOM : HEADROOM + case.size], header)
        for row, header in zip(one_by_one, headers, strict=True)
    }
    at_once, noted = table.copy(), case.headers()
    frames = at_once[:, HEADROOM : HEADROOM + case.size]
    assert {vnet.complete_all(frames, noted)} == done
    assert at_once.tobytes() == one_by_one.tobytes()
    assert noted == headers
    if done == {False}:
        assert at_once.tobytes() == table.tobytes()
        assert noted == case.headers()
    return at_once


@settings(max_examples=100)
@given(cases())
@example(Case(rows=64, size=65_550, start=0, offset=0, fill=0xFF))
@example(Case(rows=2, size=2, start=0, offset=0))
@example(Case(rows=2, size=3, start=0, offset=1))
@example(Case(rows=2, size=60, start=61, offset=0))
@example(Case(rows=2, size=60, start=65_535, offset=65_535))
def test_all_at_once_is_one_by_one(case: Case) -> None:
    before = case.table()
    after = both_ways(case, before)
    event(f"changed: {before.tobytes() != after.tobytes()}")


@settings(max_examples=60)
@given(
    rows=st.integers(1, 64),
    size=st.integers(42, 120),
    offset=st.sampled_from([6, 16]),
    zero=st.integers(0, 63),
    seed=st.integers(0, 99),
)
def test_a_checksum_of_zero_is_written_as_its_other_zero(
    rows: int, size: int, offset: int, zero: int, seed: int
) -> None:
    """In UDP zero would say that there is none (RFC 768). One of the frames comes to it."""
    case, row = Case(rows, size, 20, offset, seed=seed), zero % rows
    table = case.table()
    frame = table[row, HEADROOM : HEADROOM + size]
    at = case.start + offset
    frame[at : at + 2] = 0
    padded = bytes(frame[case.start :]) + bytes((size - case.start) & 1)
    # What is missing to a sum of 0xffff, whose complement is zero.
    frame[at : at + 2] = list(naive(padded).to_bytes(2, "big"))
    after = both_ways(case, table)
    values = after[:, HEADROOM + at : HEADROOM + at + 2]
    assert bytes(values[row]) == b"\xff\xff"
    assert all(bytes(value) != b"\0\0" for value in values)


REFUSED: dict[str, dict[str, Any]] = {
    "one_byte_beyond": {"start": 20, "offset": 39},
    "far_beyond": {"start": 0xFFFF, "offset": 0xFFFF},
    "starts_beyond": {"start": 61, "offset": 0},
    "tcp_super_frame": {"start": 34, "offset": 16, "gso": 1},
    "udp_super_frame": {"start": 34, "offset": 6, "gso": 5},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_completed_is_refused_unchanged(fields: dict[str, Any]) -> None:
    case = Case(rows=8, size=60, **fields)
    table, headers = case.table(), case.headers()
    before = table.tobytes()
    assert not vnet.complete_all(table[:, HEADROOM:-ROOM], headers)
    assert table.tobytes() == before
    assert headers == case.headers()


def test_the_last_two_bytes_may_be_the_checksum() -> None:
    """One less than what is refused above."""
    case = Case(rows=8, size=60, start=20, offset=38)
    table, headers = case.table(), case.headers()
    table[:, HEADROOM + 58 : -ROOM] = 0
    assert vnet.complete_all(table[:, HEADROOM:-ROOM], headers)
    assert headers == [bytes(10)] * 8
    assert [naive(bytes(row[HEADROOM + 20 : -ROOM])) for row in table] == [0] * 8
