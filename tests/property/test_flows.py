"""Runs and trains against a naive reading of the same frames, header by header with `struct`.

Frames are drawn as a chain, each with at most a few changes to the one before, since frames that
are drawn by themselves would hardly ever be neighbours of one flow. Behind a frame lies rubbish, as
in a slot that a longer frame was read into before.
"""

from __future__ import annotations

from itertools import pairwise
from struct import pack, unpack
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.frames import MULTICAST, SHARED_MAC, v4, v6, vxlan
from tests.unit.topology import (
    ALICE,
    ALICE_IP,
    ALICE_IP6,
    ALICE_MAC,
    BOB_MAC,
    CAROL_MAC,
    DAVE_MAC,
    ERIN_MAC,
    FAR_MAC,
    OSCAR_MAC,
    build,
    guests,
)
from vswitch.wire import flows
from vswitch.wire.vxlan import flow_hash

PLAIN = bytes(10)
OPEN = bytes((1, 0, 0, 0, 0, 0, 34, 0, 6, 0))
"""A `virtio_net_hdr` of a UDP frame whose checksum is still open."""
OPEN_ELSEWHERE = bytes((1, 0, 0, 0, 0, 0, 34, 0, 16, 0))
IPV4, IPV6 = 0x0800, 0x86DD
ADDRESSES = {
    IPV4: tuple(v4(text) for text in (ALICE_IP, "10.0.0.2", "10.1.0.2", "138.0.0.2")),
    # They differ in the first word, in the last, and in one that lies behind where ports would be.
    IPV6: tuple(v6(text) for text in (ALICE_IP6, "2001:db8::2", "fe80::1", "2001:db8:0:1::1")),
}
SWITCH = build()
PORTS = [one.port for one in guests().values()]
SOME = settings(max_examples=60)
"""A chain is a dozen cases by itself."""


class Frame(NamedTuple):
    """What a frame is made of, and the `virtio_net_hdr` beside it."""

    destination: bytes = BOB_MAC
    source: bytes = ALICE_MAC
    ethertype: int = IPV4
    src: int = 0
    dst: int = 1
    protocol: int = 17
    ports: bytes = b"\x10\0\x20\0"
    ttl: int = 64
    tos: int = 0
    number: int = 0
    """The IPv4 id, and a flow label in IPv6."""
    fragment: int = 0x4000
    words: int = 5
    """The length of the IPv4 header, of which what is beyond five are options."""
    payload: bytes = b"payload"
    cut: int = 1000
    """Where the frame ends at the latest."""
    header: bytes = PLAIN

    def build(self) -> bytes:
        """Build it. The checksums are wrong, which is nothing to those who switch."""
        transport = self.ports + b"\x01\x02\x03\x04" + self.payload
        body = bytes.fromhex("0001080006040001") + self.source + self.ports + bytes(10)
        if self.ethertype in ADDRESSES:
            src, dst = (ADDRESSES[self.ethertype][at] for at in (self.src, self.dst))
        if self.ethertype == IPV4:
            total = self.words * 4 + len(transport)
            first = pack("!BBHHH", 0x40 | self.words, self.tos, total, self.number, self.fragment)
            head = first + pack("!BBH", self.ttl, self.protocol, self.number ^ 0x5555) + src + dst
            body = head + b"\x94\x04\0\0" * (self.words - 5) + transport
        elif self.ethertype == IPV6:
            first = pack("!IH", 6 << 28 | self.tos << 20 | self.number, len(transport))
            body = first + bytes((self.protocol, self.ttl)) + src + dst + transport
        frame = self.destination + self.source + pack("!H", self.ethertype) + body
        return frame[: self.cut]


MACS = (ALICE_MAC, BOB_MAC, CAROL_MAC, OSCAR_MAC, DAVE_MAC, ERIN_MAC, FAR_MAC, SHARED_MAC)
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "destination": st.sampled_from([*MACS, MULTICAST, b"\xff" * 6]),
    "source": st.sampled_from([*MACS, MULTICAST]),
    "ethertype": st.sampled_from([IPV4, IPV4, IPV6, IPV6, 0x0806, 0x8100, 0x88B5]),
    "src": st.integers(0, 3),
    "dst": st.integers(0, 3),
    "protocol": st.sampled_from([17, 6, 1, 58, 44]),
    "ports": st.sampled_from([b"\x10\0\x20\0", b"\x10\0\x20\x01", b"\x10\x01\x20\0", b"\x11\0 \0"]),
    "ttl": st.integers(0, 255),
    "tos": st.sampled_from([0, 1, 0x80]),
    "number": st.integers(0, 0xFFFF),
    "fragment": st.sampled_from([0x4000, 0, 0x2000, 1, 0x100]),
    "words": st.sampled_from([5, 6, 15]),
    "payload": st.sampled_from([b"payload", b"another", b"longer payload", b"", bytes(1400)]),
    "cut": st.sampled_from([1000, 1000, 0, 13, 14, 33, 34, 37, 38, 39, 53, 54, 57, 58, 59]),
    "header": st.sampled_from([PLAIN, PLAIN, OPEN, OPEN_ELSEWHERE]),
}


@st.composite
def chains(draw: st.DrawFn, /, **fixed: Any) -> list[Frame]:
    """A burst of frames of which most are followed by their like."""
    frame, chain = Frame(**fixed), list[Frame]()
    changing = sorted(set(CHOICES) - set(fixed))
    for _ in range(draw(st.integers(1, 7))):
        for field in draw(st.lists(st.sampled_from(changing), max_size=2)):
            frame = frame._replace(**{field: draw(CHOICES[field])})
        chain += [frame] * draw(st.integers(1, 4))
    return chain


def heads_of(frames: list[bytes], rubbish: int) -> npt.NDArray[np.uint8]:
    """The heads as they lie in the slots of a burst."""
    table = np.random.default_rng(rubbish).integers(0, 256, (len(frames), 2000), dtype=np.uint8)
    if rubbish % 2:  # The same behind each: what was left by a burst of equal frames.
        table[:] = table[0]
    for row, frame in zip(table, frames, strict=True):
        row[: len(frame)] = np.frombuffer(frame, np.uint8)
    return table[:, : flows.FLOW_LEN]


def runs_of(chain: list[Frame], rubbish: int = 0) -> list[tuple[int, int]]:
    frames = [frame.build() for frame in chain]
    notes = np.array([list(frame.header) for frame in chain], dtype=np.uint8)
    return flows.runs(heads_of(frames, rubbish), notes, [len(frame) for frame in frames])


def flow_of(frame: bytes) -> tuple[Any, ...] | None:
    """Parse what names a flow; None for what has none, and so is decided on by itself."""
    if len(frame) < 38:
        return None
    ethernet = unpack("!6s6sH", frame[:14])
    if ethernet[2] == IPV4:
        # With options the first of them stand where the ports would, as in the flow hash.
        fields = unpack("!BBHHHBBH4s4s4s", frame[14:38])
        version, tos, _length, _id, fragment, _ttl, protocol, _checksum, src, dst, ports = fields
        return (*ethernet, version, tos, fragment, protocol, src, dst, ports)
    if ethernet[2] == IPV6 and len(frame) >= 58:
        return (*ethernet, *unpack("!IHBB16s16s4s", frame[14:58]))
    return None


def belong(one: Frame, other: Frame) -> bool:
    """Say, from their headers, whether one decision holds for both."""
    first, second = one.build(), other.build()
    flow = flow_of(first)
    same = len(first) == len(second) and one.header == other.header
    return same and flow is not None and flow == flow_of(second)


def naive(chain: list[Frame]) -> list[tuple[int, int]]:
    """The longest runs there are, found frame by frame."""
    starts = [at for at in range(1, len(chain)) if not belong(chain[at - 1], chain[at])]
    return list(pairwise((0, *starts, len(chain))))


# Runs.


@SOME
@given(chains(), st.integers(0, 9))
def test_a_run_holds_neighbours_of_one_flow_in_order_and_nothing_is_missing(
    chain: list[Frame], rubbish: int
) -> None:
    found = runs_of(chain, rubbish)
    assert [index for first, end in found for index in range(first, end)] == [*range(len(chain))]
    longest = naive(chain)
    for run in found:
        assert any(first <= run[0] and run[1] <= end for first, end in longest), run
    event(f"runs of more than one: {sum(end - first > 1 for first, end in found) > 0}")


@SOME
@given(chains(ethertype=IPV4), st.integers(0, 9))
def test_of_ipv4_the_runs_are_the_longest_there_are(chain: list[Frame], rubbish: int) -> None:
    assert runs_of(chain, rubbish) == naive(chain)


@SOME
@given(chains(cut=1000, header=PLAIN, number=0, payload=b"", tos=0, ttl=64), st.integers(0, 9))
def test_what_is_decided_for_the_first_of_a_run_holds_for_all(
    chain: list[Frame], rubbish: int
) -> None:
    """Asked of the decision and of the flow hash themselves, on ports of every kind."""
    for first, end in runs_of(chain, rubbish):
        frames = [frame.build() for frame in chain[first:end]]
        for frame in frames[1:]:
            assert flow_hash(frame) == flow_hash(frames[0])
            for port in PORTS:
                assert SWITCH.decide(port, frame) == SWITCH.decide(port, frames[0])


FLOWS = {
    "udp": Frame(payload=bytes(20)),
    "tcp": Frame(protocol=6, payload=bytes(20)),
    "icmp": Frame(protocol=1, payload=bytes(20)),
    "options": Frame(words=7, payload=bytes(20)),
    "udp6": Frame(ethertype=IPV6, cut=70),
    "to_the_gateway": Frame(destination=SHARED_MAC, ethertype=IPV6, protocol=6),
}


@pytest.mark.parametrize("frame", FLOWS.values(), ids=FLOWS)
def test_every_bit_that_makes_another_decision_splits_a_run(frame: Frame) -> None:
    """Each bit of the headers, in one of four frames."""
    before = frame.build()
    notes, lengths = np.zeros((4, 10), np.uint8), [len(before)] * 4
    heads = heads_of([before] * 4, 0).copy()
    splits = 0
    for bit in range(8 * 58):
        at, index = bit // 8, bit % 4
        after = bytearray(before)
        after[at] ^= 1 << bit % 8
        heads[index, at] = after[at]
        found = flows.runs(heads, notes, lengths)
        heads[index, at] = before[at]
        if (
            flow_of(bytes(after)) != flow_of(before)
            or flow_hash(after) != flow_hash(before)
            or any(SWITCH.decide(port, after) != SWITCH.decide(port, before) for port in PORTS)
        ):
            splits += 1
            assert (index, index + 1) in found, f"bit {bit % 8} of byte {at}"
        else:
            assert found == [(0, 4)], f"bit {bit % 8} of byte {at}"
    assert 8 * 30 < splits <= 8 * 58


@SOME
@given(
    st.lists(
        st.tuples(st.sampled_from(list(FLOWS.values())), st.sampled_from(MACS), st.integers(1, 30)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 9),
)
@example([(FLOWS["udp6"], FAR_MAC, 64)], 0)
@example([(FLOWS["udp"], FAR_MAC, 64)], 0)
def test_equal_frames_are_one_run_whatever_their_protocol(
    stretches: list[tuple[Frame, bytes, int]], rubbish: int
) -> None:
    chain: list[Frame] = []
    for frame, destination, count in stretches:
        chain += [frame._replace(destination=destination)] * count
    assert runs_of(chain, rubbish) == naive(chain)


def test_what_is_different_in_each_packet_of_a_flow_does_not_split_it() -> None:
    """Id, TTL, checksum and payload; else every frame would be a run."""
    chain = [Frame(number=at, ttl=at, payload=bytes([at]) * 9) for at in range(64)]
    assert runs_of(chain) == [(0, 64)]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(Frame(ethertype=0x0806), id="arp"),
        pytest.param(Frame(ethertype=0x8035), id="rarp"),
        pytest.param(Frame(ethertype=0x8100), id="tagged"),
        pytest.param(Frame(cut=37), id="no_ports"),
        pytest.param(Frame(cut=13), id="runt"),
        pytest.param(Frame(cut=0), id="empty"),
        pytest.param(Frame(ethertype=IPV6, cut=57), id="ipv6_no_ports"),
    ],
)
def test_what_has_no_flow_is_by_itself_even_beside_its_like(frame: Frame) -> None:
    """Behind a short frame lies what was read before: it must not be taken for its ports."""
    assert runs_of([frame] * 4, 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_another_length_or_another_virtio_header_is_another_run() -> None:
    frame = Frame()
    longer, noted = frame._replace(payload=b"payload!"), frame._replace(header=OPEN)
    chain = [frame] * 3 + [longer] * 3 + [frame] * 3 + [noted] * 3
    assert runs_of(chain) == [(0, 3), (3, 6), (6, 9), (9, 12)]


@pytest.mark.parametrize("at", range(10))
def test_every_byte_of_a_virtio_header_is_compared(at: int) -> None:
    notes = np.zeros((3, 10), np.uint8)
    notes[1, at] = 1
    frames = [Frame().build()] * 3
    found = flows.runs(heads_of(frames, 0), notes, [len(frames[0])] * 3)
    assert found == [(0, 1), (1, 2), (2, 3)]


def test_one_frame_is_one_run() -> None:
    assert runs_of([Frame()]) == [(0, 1)]


def test_the_world_of_these_tests_has_a_guard_and_a_table() -> None:
    """Else the decisions above would all be the same."""
    assert len({SWITCH.decide(ALICE, Frame(destination=mac).build()) for mac in MACS}) > 3
    assert SWITCH.decide(ALICE, Frame(src=1).build()) != SWITCH.decide(ALICE, Frame().build())


# Trains.

BITS = st.sampled_from([1 << bit for bit in range(8)])


def forwarded_by(packet: bytes) -> tuple[Any, ...] | None:
    """Parse what a leaf and a vswitch forward a packet by, all headers up to the IPv4 addresses;
    None for what a router must not forward (RFC 1812 section 5.2.2)."""
    if len(packet) < 42:
        return None
    version, tos, length, _id, fragment, ttl, protocol, _checksum, src, dst = unpack(
        "!BBHHHBBH4s4s", packet[22:42]
    )
    head_len = 4 * (version & 15)
    head = packet[22 : 22 + head_len]
    if (
        sum(unpack(f"!{head_len // 2}H", head)) % 0xFFFF
        or not head_len <= length <= len(packet) - 22
    ):
        return None
    return packet[:22], version, tos, fragment, ttl, protocol, src, dst


def summed(packet: bytes) -> bytes:
    """Fill in the IPv4 header checksum."""
    head_len = 4 * (packet[22] & 15)
    total = sum(unpack(f"!{head_len // 2}H", packet[22:32] + bytes(2) + packet[34 : 22 + head_len]))
    return packet[:32] + pack("!H", -total % 0xFFFF) + packet[34:]


@SOME
@given(
    chains(ethertype=IPV4, cut=1000, payload=b"", header=PLAIN, words=5),
    st.integers(0, 60),
    st.integers(0, 59),
    st.booleans(),
    st.dictionaries(st.integers(0, 27), st.tuples(st.sampled_from([24, 25, 32, 33]), BITS)),
    st.dictionaries(st.integers(0, 27), st.integers(0, 200)),
)
@example([Frame(number=at) for at in range(8)], 40, 0, False, {3: (33, 1)}, {})
@example([Frame(number=at) for at in range(8)], 40, 0, False, {}, {3: 0xFFFF, 5: 19, 7: 40})
@example([Frame(number=at) for at in range(8)], 40, 40, False, {}, {})
@example([Frame(words=6)] * 4, 40, 0, True, {2: (42, 1)}, {})
def test_trains_are_the_longest_there_are(
    chain: list[Frame],
    more: int,
    less: int,
    has_options: bool,
    damaged: dict[int, tuple[int, int]],
    lengths: dict[int, int],
) -> None:
    """A packet that must not be forwarded is by itself, wherever in the others it stands."""
    if has_options:
        chain = [frame._replace(words=6) for frame in chain]
    packets = [vxlan(7, frame.build() + bytes(more)) for frame in chain]
    size = len(packets[0])
    for at, packet in enumerate(packets):
        length = pack("!H", lengths[at]) if at in lengths else packet[24:26]
        packets[at] = summed(packet[:24] + length + packet[26:])
        if at in damaged:
            where, bit = damaged[at]
            after = bytearray(packets[at])
            after[where] ^= bit
            packets[at] = bytes(after)
    if len(packets) > 1:  # The last may be shorter, down to one byte.
        packets[-1] = packets[-1][: max(1, size - less)]
    joined = b"".join(packets)
    slot = np.frombuffer(bytearray(joined + packets[0] + bytes(size)), np.uint8)
    found = flows.trains(slot, len(joined), size)

    expected = [[packets[0]]]
    for before, packet in pairwise(packets):
        if forwarded_by(packet) is not None and forwarded_by(before) == forwarded_by(packet):
            expected[-1].append(packet)
        else:
            expected.append([packet])
    assert [joined[start : start + length] for start, length in found] == [
        b"".join(train) for train in expected
    ]
    assert [start for start, _ in found] == [0, *np.cumsum([length for _, length in found])[:-1]]


@pytest.mark.parametrize("size", [1, 8, 41])
@pytest.mark.parametrize("short", [0, 1])
def test_packets_without_a_whole_header_are_by_themselves(size: int, short: int) -> None:
    """They are alike, but there is too little of them to know."""
    length = 5 * size - (short if size > 1 else 0)
    slot = np.zeros(6 * size, np.uint8)
    found = flows.trains(slot, length, size)
    assert found == [(at, min(size, length - at)) for at in range(0, length, size)]


@pytest.mark.parametrize("last", [50, 99, 100])
def test_one_packet_and_two_are_trains_too(last: int) -> None:
    packet = summed(vxlan(7, Frame(payload=b"").build() + bytes(50)))
    assert len(packet) == 100
    slot = np.frombuffer(bytearray(packet * 3), np.uint8)
    assert flows.trains(slot, 100, 100) == [(0, 100)]
    assert flows.trains(slot, 100 + last, 100) == [(0, 100 + last)]


@pytest.mark.parametrize("where", [0, 3, 7])
def test_an_ipv6_packet_that_claims_to_be_longer_than_it_is_is_by_itself(where: int) -> None:
    packets = [bytearray(vxlan(7, Frame(ethertype=IPV6).build())) for _ in range(8)]
    size = len(packets[0])
    slot = np.frombuffer(bytearray(b"".join(packets)), np.uint8)
    assert flows.trains(slot, 8 * size, size) == [(0, 8 * size)]
    packets[where][26] += 1
    slot = np.frombuffer(bytearray(b"".join(packets)), np.uint8)
    starts = sorted({0, where, min(where + 1, 7) if where < 7 else where})
    assert [start // size for start, _ in flows.trains(slot, 8 * size, size)] == starts
