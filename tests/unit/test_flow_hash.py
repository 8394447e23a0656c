"""The flow hash: what belongs together takes one way, and what does not is spread.

It chooses the outer source port and, with several leaves, the leaf. If packets of one flow had
different hashes, they would overtake each other.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from tests.frames import arp, echo, fragments, mac, plain, tcp, udp, udp6
from vswitch.wire.vxlan import flow_hash

A, B = mac(1), mac(2)


def hashes(frames: list[bytes]) -> set[int]:
    return {flow_hash(frame) for frame in frames}


def ipv6(payload: object, src: str = "2001:db8::1") -> bytes:
    return plain(B, A, 0x86DD, bytes(IPv6(src=src, dst="2001:db8::2") / payload))


def test_the_kind_of_buffer_makes_no_difference() -> None:
    frame = udp(B, A)
    assert flow_hash(frame) == flow_hash(bytearray(frame)) == flow_hash(memoryview(frame))


def test_the_segments_of_a_connection_keep_together() -> None:
    assert len(hashes([tcp(B, A, seq=number * 1400) for number in range(20)])) == 1


def test_a_rewritten_destination_does_not_change_the_flow() -> None:
    """The frames before and after a move must not take different ways for that alone."""
    assert flow_hash(udp(mac(9), A)) == flow_hash(udp(B, A))


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([udp(B, A, sport=4000 + n) for n in range(64)], id="source_port"),
        pytest.param([udp(B, A, dport=4000 + n) for n in range(64)], id="destination_port"),
        pytest.param([udp(B, A, src_ip=f"10.0.1.{n}") for n in range(64)], id="source"),
        pytest.param([udp(B, A, dst_ip=f"10.0.1.{n}") for n in range(64)], id="destination"),
        pytest.param([udp6(B, A, src_ip=f"2001:db8::{n:x}") for n in range(64)], id="ipv6"),
        pytest.param([ipv6(UDP(sport=n, dport=9)) for n in range(64)], id="ipv6_port"),
        pytest.param([plain(B, mac(n)) for n in range(64)], id="mac"),
    ],
)
def test_different_flows_are_spread(frames: list[bytes]) -> None:
    """Over the smallest pool of source ports with a choice, both are used."""
    assert len(hashes(frames)) == len(frames)
    assert {flow_hash(frame) % 2 for frame in frames} == {0, 1}


def test_all_fragments_of_a_packet_keep_together() -> None:
    """The first has ports and the others have not, so ports cannot count for any of them."""
    parts = fragments(udp(B, A, payload=bytes(range(250))))
    assert len(parts) == 5
    assert len(hashes(parts)) == 1


def test_all_fragments_of_an_ipv6_packet_keep_together() -> None:
    parts = [
        ipv6(IPv6ExtHdrFragment(nh=17, offset=offset, m=offset < 16, id=7) / Raw(bytes(64)))
        for offset in (0, 8, 16)
    ]
    assert len(hashes(parts)) == 1


def test_the_pings_of_one_run_keep_together() -> None:
    """Behind the IP header of ICMP stands a checksum, different in each, and no port."""
    assert len(hashes([echo(B, A, seq=number) for number in range(20)])) == 1


def test_the_pings_of_one_ipv6_run_keep_together() -> None:
    pings = [ipv6(ICMPv6EchoRequest(id=7, seq=number)) for number in range(20)]
    assert len(hashes(pings)) == 1


def test_frames_that_end_early_have_a_hash_too() -> None:
    """A frame is at least its Ethernet header by the time that it is hashed, and may be no more."""
    for frame in (udp(B, A), udp6(B, A), arp(B, A), plain(B, A, 0x0800, bytes(ICMP()))):
        for length in range(14, len(frame)):
            assert isinstance(flow_hash(frame[:length]), int)
