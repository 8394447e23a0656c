"""What the demo's captures let through, asked of the kernel itself, and the paths made of it.

A filter works on any socket: here frames go through a pair of local ones, which needs no network.
"""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tools.fabric.topology import Family
from tools.scenario.watch import (
    MARK_PORT,
    Path,
    Program,
    Sighting,
    addressed_elsewhere,
    attach_filter,
    marked,
)
from vswitch.wire import vxlan

OWN, OWN6 = "1.1.1.3", "2001:db8:1::3"


def frame(packet: Packet) -> bytes:
    return bytes(Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / packet)


def datagram(to: str, port: int = 7001) -> bytes:
    """A UDP frame to an address of either family."""
    header = IPv6(src="2001:db8:1::1", dst=to) if ":" in to else IP(src="1.1.1.1", dst=to)
    return frame(header / UDP(sport=4000, dport=port) / Raw(b"mark"))


def passes(program: Program, sent: bytes) -> bool:
    """Say whether a filter lets a frame through."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        attach_filter(receiver, program)
        receiver.setblocking(False)
        try:
            sender.send(sent)
            return receiver.recv(2048) == sent
        except (PermissionError, BlockingIOError):  # A local socket tells its sender.
            return False


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(b"", id="in_a_guest"),
        pytest.param(bytes(vxlan.OVERHEAD_IPV4), id="in_a_tunnel"),
        pytest.param(bytes(vxlan.OVERHEAD_IPV6), id="in_a_tunnel_over_ipv6"),
    ],
)
@pytest.mark.parametrize("to", [OWN, OWN6])
def test_only_the_marked_port_is_followed(before: bytes, to: str) -> None:
    program = marked(len(before))
    assert passes(program, before + datagram(to, MARK_PORT))
    assert not passes(program, before + datagram(to))
    assert not passes(program, before + frame(ARP(pdst=OWN)))


@pytest.mark.parametrize(
    ("own", "sent", "counted"),
    [
        pytest.param(OWN, datagram("1.1.1.2"), True, id="for_somebody_else"),
        pytest.param(OWN, datagram(OWN), False, id="for_us"),
        pytest.param(OWN6, datagram(OWN6), False, id="for_us_in_ipv6"),
        pytest.param(OWN6, datagram("2001:db8:1::2"), True, id="last_word_differs"),
        pytest.param(OWN6, datagram("2001:db8:1:0:1::3"), True, id="third_word_differs"),
        pytest.param(OWN6, datagram("2001:db8:2::3"), True, id="second_word_differs"),
        pytest.param(OWN6, datagram("2001:db9:1::3"), True, id="first_word_differs"),
        pytest.param(OWN6, datagram("ff02::16"), False, id="group"),
        pytest.param(OWN6, datagram("fe80::1"), False, id="link_local"),
        pytest.param(
            OWN6,
            frame(IPv6(src="::", dst="ff02::1:ff00:2") / ICMPv6ND_NS(tgt="2001:db8:1::2")),
            False,
            id="duplicate_address_detection",
        ),
    ],
)
def test_a_bystander_counts_what_is_for_others(own: str, sent: bytes, counted: bool) -> None:
    assert passes(addressed_elsewhere(own), sent) == counted


def sighting(when: int, place: str, *, underlay: bool = False) -> Sighting:
    outer = ("10.99.0.11", "10.99.0.1") if underlay else None
    return Sighting(when, place, False, "00:00:01:01:01:02", 64, 100 if underlay else None, outer)


def test_a_path_names_the_switch_that_no_capture_can_see() -> None:
    path = Path(Family.IPV6, [sighting(1, "H1"), sighting(2, "H2")])
    assert path.places("A") == ["H1", "A", "H2"]


def test_a_path_over_the_underlay_is_what_was_seen() -> None:
    way = ["H1", "B", "leaf", "leaf", "A", "H2"]
    seen = [
        sighting(when, place, underlay=not place.startswith("H")) for when, place in enumerate(way)
    ]
    assert Path(Family.IPV4, seen).places("B") == ["H1", "B", "leaf", "A", "H2"]


def test_a_frame_that_is_lost_at_once_was_seen_at_its_sender() -> None:
    assert Path(Family.IPV4, [sighting(1, "H1")]).places("B") == ["H1"]
