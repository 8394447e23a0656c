"""Gathering a run: what is made of it must be cut into the same datagrams again."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from tests.property.runs import SEGMENTER, gathered, is_gathered_right, number
from tests.property.test_offload import Super
from vswitch.phy.port import BUDGET
from vswitch.wire import flows, vnet
from vswitch.wire.flows import Bytes
from vswitch.wire.gatherer import MAX_LEN
from vswitch.wire.vxlan import VXLAN_LEN

NUMBER = st.integers(0, 0xFFFF)
"""Of an IP packet."""


@st.composite
def datagrams(draw: st.DrawFn) -> Super:
    """What a run stands for: whole datagrams only."""
    size = draw(st.sampled_from([1, 18, 19, 1400, 8972]) | st.integers(1, 1500))
    rows = draw(st.integers(2, min(30, 60_000 // size)))
    payload = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).bytes(rows * size)
    return Super(draw(st.booleans()), False, size, payload, draw(NUMBER), draw(st.booleans()))


def run_of(made: Super, ids: list[int] | None = None) -> tuple[Bytes, bytes]:
    """The datagrams with open checksums, each in a slot of its own, and what stands beside each."""
    packets = []
    for row, at in enumerate(range(0, len(made.payload), made.mss)):
        number = ids[row] if ids else (made.identification + row) & 0xFFFF
        one = made._replace(payload=made.payload[at : at + made.mss], identification=number)
        packets.append(one.packet_and_header()[0])
    size = len(packets[0])
    slots = np.full((len(packets), size + 100), 0xA5, dtype=np.uint8)
    for slot, packet in zip(slots, packets, strict=True):
        slot[:size] = packet
    return slots[:, :size], header_of(made)


def header_of(made: Super) -> bytes:
    return struct.pack("<BBHHHH", 1, 0, 0, 0, made.transport_at, made.checksum_offset)


@given(datagrams())
def test_it_is_the_super_frame_of_these_datagrams(made: Super) -> None:
    """Which scapy has built, as well as what each datagram is."""
    table, header = run_of(made)
    packet, about = made.packet_and_header()
    assert gathered(table, header) == (bytes(packet), about)
    result = SEGMENTER.segment(packet, about)
    assert result is not None
    assert bytes(result[0]) == b"".join(made.expected())


def test_a_whole_burst_is_one_super_frame() -> None:
    made = Super(True, False, 18, bytes(range(256)) * 9)
    table, header = run_of(made)
    assert len(table) == BUDGET
    packet, about = made.packet_and_header()
    assert gathered(table, header) == (bytes(packet), about)


@given(datagrams(), st.data())
def test_what_may_be_cut_keeps_its_numbers(made: Super, data: st.DataObject) -> None:
    """Of the others a number means nothing."""
    assume(made.is_ipv4)
    rows = -(-len(made.payload) // made.mss)
    ids = data.draw(st.lists(NUMBER, min_size=rows, max_size=rows))
    in_order = all((later - earlier) & 0xFFFF == 1 for earlier, later in pairwise(ids))
    is_made = gathered(*run_of(made, ids)) is not None
    assert is_made == (in_order or not made.may_fragment)


@given(datagrams(), st.data())
def test_headers_that_differ_or_are_wrong_are_not_gathered(
    made: Super, data: st.DataObject
) -> None:
    """By one bit, in one datagram."""
    table, header = run_of(made)
    end = VXLAN_LEN + made.header_len
    at = data.draw(st.integers(0, end - 1))
    row = data.draw(st.integers(0, len(table) - 1))
    table[row, at] ^= 1 << data.draw(st.integers(0, 7))
    assert gathered(table, header) is None


@pytest.mark.parametrize("is_ipv4", [True, False])
@pytest.mark.parametrize("what", ["length", "udp_length", "open_sum"])
def test_headers_that_are_wrong_in_all_are_not_gathered(is_ipv4: bool, what: str) -> None:
    made = Super(is_ipv4, False, 50, bytes(500))
    table, header = run_of(made)
    at = made.transport_at
    place = {"length": 17 if is_ipv4 else 19, "udp_length": at + 5, "open_sum": at + 7}[what]
    table[:, VXLAN_LEN + place] ^= 1
    if what == "length" and is_ipv4:
        table[:, VXLAN_LEN + 25] ^= 1  # Its checksum might do for it.
    assert gathered(table, header) is None


@pytest.mark.parametrize(
    "header",
    [
        vnet.PLAIN,
        struct.pack("<BBHHHH", 0, 0, 0, 0, 34, 6),
        struct.pack("<BBHHHH", 1, 5, 42, 50, 34, 6),
        struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 16),
        struct.pack("<BBHHHH", 1, 0, 0, 0, 14, 26),
        struct.pack("<BBHHHH", 3, 0, 0, 0, 34, 6),
    ],
    ids=["complete", "no_flag", "super_frame", "as_of_tcp", "from_ip_on", "verified"],
)
def test_only_open_checksums_of_udp_are_gathered(header: bytes) -> None:
    table, good = run_of(Super(True, False, 50, bytes(500)))
    assert gathered(table, good) is not None
    assert gathered(table, header) is None


def test_tcp_is_not_gathered() -> None:
    made = Super(True, True, 50, bytes(500))
    assert gathered(*run_of(made)) is None


def test_what_would_not_make_several_is_not_gathered() -> None:
    size = MAX_LEN - 42
    for length, is_made in ((size, True), (size + 1, False)):
        table, header = run_of(Super(True, False, length, bytes(2 * length)))
        assert (gathered(table, header) is not None) == is_made


BYTE = st.integers(0, 0xFF)


@given(datagrams(), st.booleans(), st.data())
def test_whatever_is_changed_is_gathered_right_or_not_at_all(
    made: Super, is_numbered: bool, data: st.DataObject
) -> None:
    """In one datagram or in all, in front of the payload or where it begins, and beside them."""
    table, header = run_of(made)
    row = st.integers(0, len(table) - 1) | st.just(slice(None))
    at = st.integers(0, min(VXLAN_LEN + made.header_len + 4, table.shape[1]) - 1)
    for where, place, value in data.draw(st.lists(st.tuples(row, at, BYTE), max_size=3)):
        table[where, place] = value
    if is_numbered:
        number(table)
    beside = bytearray(header)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 9), BYTE), max_size=1)):
        beside[place] = value
    event(f"gathered: {is_gathered_right(table, bytes(beside))}")


@given(datagrams(), st.data())
def test_what_was_gathered_and_cut_is_one_train(made: Super, data: st.DataObject) -> None:
    """At the far end of a tunnel whose kernel has cut it, whatever the guest has numbered."""
    rows = -(-len(made.payload) // made.mss)
    ids = None if made.may_fragment else data.draw(st.lists(NUMBER, min_size=rows, max_size=rows))
    whole = gathered(*run_of(made, ids))
    assert whole is not None
    cut = SEGMENTER.segment(memoryview(whole[0]), whole[1])
    assert cut is not None
    train, size = cut
    slot = np.frombuffer(bytearray(bytes(train) + bytes(size)), np.uint8)
    assert flows.trains(slot, len(train), size) == [(0, len(train))]
