"""What the gateway says by ICMPv6, compared with what scapy builds, and when it keeps silent.

RFC 4443; the rate limits are shared with ICMP and tested in `test_icmp.py`.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from leaf.punt import Send
from leaf.router import IP_AT
from tests.frames import (
    OTHER_SHARED_MAC,
    SHARED_MAC,
    echo6,
    ip6,
    link_local,
    mac,
    na,
    vxlan,
)
from tests.unit.leaf_world import (
    FAR_LEAF,
    GUESTS,
    GUESTS6,
    H1,
    H3,
    H4,
    H5,
    H7,
    ONE,
    ROUTER_MAC,
    SHARED,
    TENANT,
    A,
    B,
    Guest,
    World,
    to_gateway,
)

GATEWAY, NOWHERE = "2001:db8:1::fe", "2001:db8:9::9"
GATEWAY_LL = link_local(SHARED_MAC)


@pytest.fixture
def world() -> World:
    return World(*GUESTS, *GUESTS6, ipv6=True)


def ping(guest: Guest, dst_ip: str, **fields: object) -> bytes:
    return vxlan(guest.segment, echo6(SHARED[guest.vtep], guest.mac, guest.ip, dst_ip, **fields))


def is_said(send: Send, guest: Guest, source: str, message: Packet) -> None:
    """Hold an answer to `guest` to what scapy builds, byte by byte."""
    shared = SHARED[guest.vtep]
    ether = Ether(dst=guest.mac.hex(":"), src=shared.hex(":"))
    expected = bytes(ether / IPv6(src=source, dst=guest.ip, hlim=64) / message)
    assert send.vtep == guest.vtep
    assert send.packet == vxlan(guest.segment, expected)


@pytest.mark.parametrize(
    ("guest", "gateway"),
    [
        pytest.param(H1.six, GATEWAY, id="own"),
        pytest.param(H1.six, "2001:db8:2::fe", id="another_segments"),
        pytest.param(H1.six, "2001:db8:3::fe", id="second_subnets"),
        pytest.param(H4.six, GATEWAY, id="other_group"),
        pytest.param(H1.six, GATEWAY_LL, id="link_local"),
        pytest.param(H1.link_local, GATEWAY_LL, id="link_local_from_link_local"),
        pytest.param(H1.link_local, GATEWAY, id="from_link_local"),
        pytest.param(H4.link_local, link_local(OTHER_SHARED_MAC), id="other_groups_link_local"),
    ],
)
def test_the_gateway_answers_echo(world: World, guest: Guest, gateway: str) -> None:
    (send,) = world.punt(guest.vtep, ping(guest, gateway))
    is_said(send, guest, gateway, ICMPv6EchoReply(id=7, seq=3, data=b"0123456789"))
    assert world.slowpath.events["icmp_sent"] == 1


def test_the_padding_of_a_short_frame_is_not_sent_back(world: World) -> None:
    (send,) = world.punt(A, ping(H1.six, GATEWAY) + b"\xaa" * 9)
    is_said(send, H1.six, GATEWAY, ICMPv6EchoReply(id=7, seq=3, data=b"0123456789"))


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(to_gateway(H1.six, GATEWAY), id="udp"),
        pytest.param(ping(H1.six, GATEWAY)[:-1] + b"x", id="wrong_checksum"),
        pytest.param(ping(H1.six._replace(ip=GATEWAY), GATEWAY), id="from_ourselves"),
        pytest.param(ping(H1.six._replace(ip="2001:db8:1::"), GATEWAY), id="from_the_anycast"),
    ],
)
def test_what_the_gateway_does_not_answer(world: World, packet: bytes) -> None:
    assert world.punt(A, packet) == []
    assert world.slowpath.events["icmp_sent"] == 0
    assert world.slowpath.events["punts_failed"] == 0


# Errors.


def quoted(packet: bytes) -> Raw:
    return Raw(packet[IP_AT:])


@pytest.mark.parametrize(
    ("guest", "gateway"),
    [
        pytest.param(H1.six, GATEWAY, id="first_subnet"),
        pytest.param(H7.six, "2001:db8:3::fe", id="second_subnet_of_the_segment"),
        pytest.param(H5.six, "2001:db8:2::fe", id="another_segment"),
        pytest.param(H4.six, GATEWAY, id="other_group"),
        pytest.param(H1.six._replace(ip="2001:db8:7::7"), GATEWAY, id="a_stranger"),
    ],
)
def test_an_error_comes_from_the_gateway_of_the_senders_subnet(
    world: World, guest: Guest, gateway: str
) -> None:
    packet = to_gateway(guest, NOWHERE)
    (send,) = world.punt(guest.vtep, packet)
    is_said(send, guest, gateway, ICMPv6DestUnreach(code=0) / quoted(packet))


def test_time_exceeded(world: World) -> None:
    packet = to_gateway(H1.six, H3.six.ip, hlim=1)
    (send,) = world.punt(A, packet)
    is_said(send, H1.six, GATEWAY, ICMPv6TimeExceeded(code=0) / quoted(packet))


@pytest.mark.parametrize(
    ("guest", "target", "gateway"),
    [
        pytest.param(H1.six, "2001:db8:1::77", GATEWAY, id="own_subnet"),
        pytest.param(H5.six, "2001:db8:1::77", "2001:db8:2::fe", id="another_subnet"),
        pytest.param(
            H1.link_local,
            "fe80::77",
            GATEWAY_LL,
            id="link_local",
        ),
        pytest.param(
            H4.link_local,
            "fe80::77",
            link_local(OTHER_SHARED_MAC),
            id="link_local_of_the_second_group",
        ),
    ],
)
def test_address_unreachable_when_nobody_has_answered(
    world: World, guest: Guest, target: str, gateway: str
) -> None:
    packet = to_gateway(guest, target)
    world.learn(guest, 9.0)
    world.punt(guest.vtep, packet, 10.0)
    for at in (11.0, 12.0):
        world.slowpath.tick(at)
    (send,) = world.slowpath.tick(13.0)
    is_said(send, guest, gateway, ICMPv6DestUnreach(code=3) / quoted(packet))
    (again,) = world.punt(guest.vtep, packet, 14.0)
    assert again == send


def test_a_long_packet_is_quoted_up_to_1280_bytes_in_all(world: World) -> None:
    packet = to_gateway(H1.six, NOWHERE, payload=bytes(range(256)) * 6)
    (send,) = world.punt(A, packet)
    assert len(send.packet) == IP_AT + 1280
    assert send.packet[IP_AT + 48 :] == packet[IP_AT : IP_AT + 1232]


def test_padding_is_not_quoted(world: World) -> None:
    packet = to_gateway(H1.six, NOWHERE)
    (send,) = world.punt(A, packet + b"\xaa" * 9)
    is_said(send, H1.six, GATEWAY, ICMPv6DestUnreach(code=0) / quoted(packet))


def about(message: Packet, src_ip: str = H1.six.ip) -> bytes:
    ether = Ether(dst=SHARED_MAC.hex(":"), src=H1.mac.hex(":"))
    return vxlan(ONE, bytes(ether / IPv6(src=src_ip, dst=NOWHERE) / message))


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(about(ICMPv6DestUnreach() / Raw(bytes(48))), id="about_an_error"),
        pytest.param(about(ICMPv6TimeExceeded() / Raw(bytes(48))), id="about_time_exceeded"),
        pytest.param(about(ICMPv6EchoRequest(), "::"), id="from_nobody"),
        pytest.param(about(ICMPv6EchoRequest(), "ff02::1"), id="from_a_group"),
        pytest.param(about(ICMPv6EchoRequest(), GATEWAY), id="from_the_gateway"),
    ],
)
def test_no_error_about_such_a_packet(world: World, packet: bytes) -> None:
    """RFC 4443 section 2.4(e)."""
    assert world.punt(A, packet) == []
    assert world.slowpath.events["icmp_sent"] == 0
    assert len(world.punt(A, about(ICMPv6EchoRequest()))) == 1


def test_another_leaf_is_told_nothing(world: World) -> None:
    for dst_ip in (NOWHERE, GATEWAY):
        packet = vxlan(TENANT, ip6(ROUTER_MAC, mac(99), "2001:db8:a20::1", dst_ip))
        assert world.punt(FAR_LEAF, packet) == []
    assert world.slowpath.events["icmp_silent"] == 2


def test_a_segment_without_an_ipv6_gateway_has_no_address_to_speak_from() -> None:
    world = World(*GUESTS)
    assert world.punt(A, to_gateway(H1.six, NOWHERE)) == []
    assert world.slowpath.events["icmp_silent"] == 1


def test_what_waited_and_is_used_up_is_told_so(world: World) -> None:
    packet = to_gateway(H1.six, "2001:db8:1::77", hlim=1)
    world.punt(A, packet, 10.0)
    (send,) = world.punt(B, vxlan(ONE, na(SHARED_MAC, mac(77), "2001:db8:1::77", GATEWAY_LL)), 10.1)
    is_said(send, H1.six, GATEWAY, ICMPv6TimeExceeded(code=0) / quoted(packet))
