"""What the gateway says by ICMP, read by scapy, and about what it must keep silent.

RFC 1812 sections 4.3.2 (errors) and 4.3.3.6 (echo); the rate limits are the slow path's.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, IPOption_NOP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from leaf.limits import Limits
from leaf.punt import Send
from leaf.router import IP_AT
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, echo, fragments, ip, mac, vxlan
from tests.unit.leaf_world import (
    FAR_LEAF,
    GUESTS,
    H1,
    H2,
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
    C,
    Guest,
    World,
    to_gateway,
)

GATEWAY = "1.1.1.254"


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


def read(send: Send, guest: Guest) -> IP:
    """Read an answer to `guest`, and hold it to what is the same for all: envelope, checksums."""
    assert send.vtep == guest.vtep
    assert send.packet[:8] == b"\x08\0\0\0" + guest.segment.to_bytes(3, "big") + b"\0"
    frame = Ether(send.packet[8:])
    shared = SHARED[guest.vtep].hex(":")
    assert (frame.dst, frame.src, frame.type) == (guest.mac.hex(":"), shared, 0x0800)
    packet = frame[IP]
    written = (packet.chksum, packet[ICMP].chksum)
    del packet.chksum, packet[ICMP].chksum
    again = IP(bytes(packet))
    assert (again.chksum, again[ICMP].chksum) == written
    assert (again.dst, again.proto, again.ttl) == (guest.ip, 1, 64)
    return again


def ping(guest: Guest, dst_ip: str, **fields: object) -> bytes:
    inside = ICMP(type=8, id=7, seq=3) / Raw(b"0123456789")
    ether = Ether(dst=SHARED[guest.vtep].hex(":"), src=guest.mac.hex(":"))
    packet = ether / IP(src=guest.ip, dst=dst_ip, **fields) / inside
    return vxlan(guest.segment, bytes(packet))


# Echo.


def test_the_gateway_answers_echo(world: World) -> None:
    (send,) = world.punt(A, ping(H1, GATEWAY))
    answer = read(send, H1)
    assert answer.src == GATEWAY
    assert (answer[ICMP].type, answer[ICMP].code) == (0, 0)
    assert (answer[ICMP].id, answer[ICMP].seq) == (7, 3)
    assert answer[Raw].load == b"0123456789"
    assert world.slowpath.events["icmp_sent"] == 1


def test_the_padding_of_a_short_frame_is_not_sent_back(world: World) -> None:
    inside = Ether(dst=SHARED_MAC.hex(":"), src=H1.mac.hex(":")) / IP(src=H1.ip, dst=GATEWAY)
    packet = vxlan(ONE, bytes(inside / ICMP(type=8, id=7, seq=3)).ljust(60, b"\xaa"))
    (send,) = world.punt(A, packet)
    assert read(send, H1).len == 28


@pytest.mark.parametrize("gateway", ["2.2.2.254", "3.3.3.126"])
def test_a_gateway_of_another_subnet_answers_in_its_own_name(world: World, gateway: str) -> None:
    (send,) = world.punt(A, ping(H1, gateway))
    assert read(send, H1).src == gateway


def test_options_do_not_disturb_echo(world: World) -> None:
    (send,) = world.punt(A, ping(H1, GATEWAY, options=[IPOption_NOP()] * 8))
    assert read(send, H1)[Raw].load == b"0123456789"


def test_the_other_group_is_answered_from_its_shared_mac(world: World) -> None:
    (send,) = world.punt(C, ping(H4, GATEWAY))
    assert send.packet[14:20] == OTHER_SHARED_MAC
    read(send, H4)


def _with(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(to_gateway(H1, GATEWAY), id="udp"),
        pytest.param(_with(ping(H1, GATEWAY), IP_AT + 20, 0), id="echo_reply"),
        pytest.param(_with(ping(H1, GATEWAY), IP_AT + 20, 13), id="timestamp"),
        pytest.param(_with(ping(H1, GATEWAY), IP_AT + 21, 1), id="code_1"),
        pytest.param(_with(ping(H1, GATEWAY), IP_AT + 30, 9), id="wrong_checksum"),
        pytest.param(ping(H1, GATEWAY, len=26), id="cut_short"),
        pytest.param(ping(H1, GATEWAY, frag=3), id="a_later_fragment"),
        pytest.param(ping(H1, GATEWAY, flags="MF"), id="a_first_fragment"),
        pytest.param(ping(H1._replace(ip="0.0.0.0"), GATEWAY), id="from_nowhere"),
    ],
)
def test_what_the_gateway_does_not_answer(world: World, packet: bytes) -> None:
    assert world.punt(A, packet) == []
    assert world.slowpath.events["icmp_sent"] == 0
    assert world.slowpath.events["punts_failed"] == 0


# Errors.


def test_time_exceeded(world: World) -> None:
    (send,) = world.punt(A, to_gateway(H1, H3.ip, ttl=1))
    error = read(send, H1)
    assert error.src == GATEWAY
    assert (error[ICMP].type, error[ICMP].code) == (11, 0)


def test_net_unreachable(world: World) -> None:
    (send,) = world.punt(A, to_gateway(H1, "9.9.9.9"))
    error = read(send, H1)
    assert (error[ICMP].type, error[ICMP].code) == (3, 0)


@pytest.mark.parametrize(
    ("guest", "gateway"),
    [
        pytest.param(H1, GATEWAY, id="first_subnet"),
        pytest.param(H7, "3.3.3.126", id="second_subnet_of_the_segment"),
        pytest.param(H5, "2.2.2.254", id="another_segment"),
        pytest.param(H1._replace(ip="7.7.7.7"), GATEWAY, id="a_stranger"),
    ],
)
def test_an_error_comes_from_the_gateway_of_the_senders_subnet(
    world: World, guest: Guest, gateway: str
) -> None:
    (send,) = world.punt(guest.vtep, to_gateway(guest, "9.9.9.9"))
    assert read(send, guest).src == gateway


def test_an_error_quotes_the_packet_as_it_came(world: World) -> None:
    packet = to_gateway(H1, "9.9.9.9", ttl=1)
    (send,) = world.punt(A, packet)
    read(send, H1)
    assert send.packet[IP_AT + 28 :] == packet[IP_AT:]


def test_a_long_packet_is_quoted_up_to_576_bytes_in_all(world: World) -> None:
    packet = to_gateway(H1, "9.9.9.9", payload=bytes(range(256)) * 5)
    (send,) = world.punt(A, packet)
    assert read(send, H1).len == 576
    assert send.packet[IP_AT + 28 :] == packet[IP_AT : IP_AT + 548]


def test_padding_is_not_quoted(world: World) -> None:
    packet = to_gateway(H1, "9.9.9.9", payload=b"") + b"\xaa" * 18
    (send,) = world.punt(A, packet)
    assert read(send, H1).len == 20 + 8 + 28


def about(inner: object, src_ip: str = H1.ip, **fields: object) -> bytes:
    ether = Ether(dst=SHARED_MAC.hex(":"), src=H1.mac.hex(":"))
    return vxlan(ONE, bytes(ether / IP(src=src_ip, dst="9.9.9.9", **fields) / inner))


@pytest.mark.parametrize(
    "packet",
    [
        *(
            pytest.param(about(ICMP(type=kind) / Raw(bytes(28))), id=f"icmp_error_{kind}")
            for kind in (3, 4, 5, 11, 12)
        ),
        pytest.param(about(ICMP(type=77)), id="icmp_of_unknown_type"),
        pytest.param(about(b"", proto=1), id="icmp_without_a_type"),
        pytest.param(about(TCP(), frag=5), id="a_later_fragment"),
        pytest.param(about(TCP(), frag=1, flags="MF"), id="a_fragment_in_the_middle"),
        pytest.param(about(TCP(), src_ip="0.0.0.0"), id="from_nowhere"),
        pytest.param(about(TCP(), src_ip="224.0.0.5"), id="from_a_group"),
        pytest.param(about(TCP(), src_ip="127.0.0.1"), id="from_loopback"),
        pytest.param(about(TCP(), src_ip="255.255.255.255"), id="from_broadcast"),
    ],
)
def test_no_error_about_such_a_packet(world: World, packet: bytes) -> None:
    """RFC 1812 section 4.3.2.7: errors must not breed errors, nor go to more than one host."""
    assert world.punt(A, packet) == []
    assert world.slowpath.events["icmp_sent"] == 0


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(about(TCP()), id="tcp"),
        pytest.param(about(ICMP(type=8)), id="echo"),
        pytest.param(about(ICMP(type=0)), id="echo_reply"),
        pytest.param(about(TCP(), flags="MF"), id="a_first_fragment"),
        pytest.param(about(TCP(), flags="DF"), id="not_to_be_fragmented"),
    ],
)
def test_an_error_about_such_a_packet(world: World, packet: bytes) -> None:
    (send,) = world.punt(A, packet)
    assert read(send, H1)[ICMP].type == 3


def test_of_real_fragments_only_the_first_is_answered(world: World) -> None:
    parts = fragments(ip(SHARED_MAC, H1.mac, H1.ip, "9.9.9.9", payload=bytes(300)))
    assert len(parts) > 2
    sends = [world.punt(A, vxlan(ONE, part)) for part in parts]
    assert [len(each) for each in sends] == [1] + [0] * (len(parts) - 1)


def test_another_leaf_is_told_nothing(world: World) -> None:
    """Between leaves there is no gateway address to speak from, and no guest to speak to."""
    for dst_ip in ("9.9.9.9", GATEWAY):
        packet = vxlan(TENANT, ip(ROUTER_MAC, mac(99), "10.20.0.1", dst_ip))
        assert world.punt(FAR_LEAF, packet) == []
    assert world.slowpath.events["icmp_silent"] == 2


def test_no_redirects(world: World) -> None:
    """H1 sends to its neighbour H2 by way of the leaf: a router would say so, the leaf does not."""
    packet = to_gateway(H1, H2.ip)
    assert world.router.decide(A, packet).vtep == A
    assert world.punt(A, packet) == []


# Rates.


def test_icmp_is_limited_for_each_vtep_by_itself() -> None:
    world = World(*GUESTS, limits=Limits(icmp=5.0))
    from_a = [len(world.punt(A, ping(H1, GATEWAY), 10.0)) for _ in range(8)]
    assert from_a == [1] * 5 + [0] * 3
    assert world.slowpath.events["icmp_policed"] == 3
    assert len(world.punt(B, ping(H3, GATEWAY), 10.0)) == 1
    assert len(world.punt(A, ping(H1, GATEWAY), 10.25)) == 1
    assert len(world.punt(A, ping(H1, GATEWAY), 10.25)) == 0


def test_errors_and_answers_share_one_limit() -> None:
    world = World(*GUESTS, limits=Limits(icmp=2.0))
    assert len(world.punt(A, ping(H1, GATEWAY), 10.0)) == 1
    assert len(world.punt(A, to_gateway(H1, "9.9.9.9"), 10.0)) == 1
    assert len(world.punt(A, to_gateway(H1, H3.ip, ttl=1), 10.0)) == 0


def test_a_rate_below_one_a_second_still_lets_one_pass() -> None:
    """The configuration permits it; a bucket that holds less than one token never opens."""
    world = World(*GUESTS, limits=Limits(icmp=0.5))
    passed = sum(len(world.punt(A, ping(H1, GATEWAY), float(at))) for at in range(10, 20))
    assert passed in (5, 6)


def test_the_fixtures_echo_is_an_echo(world: World) -> None:
    """The shared builder of frames, once from end to end, so that it may be trusted elsewhere."""
    packet = vxlan(ONE, echo(SHARED_MAC, H1.mac, H1.ip, GATEWAY))
    (send,) = world.punt(A, packet)
    assert read(send, H1)[ICMP].type == 0
