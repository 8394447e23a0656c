"""IPv6 and ICMPv6: what we build is read by scapy, and what scapy builds is read by us.

And what nobody should have built is answered with None or False, never with an exception.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils6 import in6_getnsma, in6_getnsmac, in6_mactoifaceid

from tests.frames import v6
from vswitch.wire import icmp6, ipv6
from vswitch.wire.ethernet import Mac

A_TEXT, B_TEXT = "2001:db8::1", "2001:db8::2"
A, B = v6(A_TEXT), v6(B_TEXT)
KINDS = [bytes, bytearray, memoryview]


def recomputed(packet: bytes) -> bytes:
    """The packet with lengths and checksums as scapy computes them."""
    read = IPv6(packet)
    del read.plen, read.payload.cksum
    return bytes(read)


# IPv6.


def test_the_offsets_are_where_scapy_puts_the_fields() -> None:
    frame = bytes(Ether() / IPv6(src=A_TEXT, dst=B_TEXT, nh=99, hlim=77))
    assert frame[ipv6.NEXT_HEADER_AT] == 99
    assert frame[ipv6.HOP_LIMIT_AT] == 77
    assert frame[ipv6.SOURCE_AT : ipv6.SOURCE_AT + 16] == A
    assert frame[ipv6.DESTINATION_AT : ipv6.DESTINATION_AT + 16] == B
    assert len(frame) == ipv6.MIN_FRAME_LEN


def test_scapy_reads_our_packet() -> None:
    read = IPv6(ipv6.build(A, B, 17, b"abcdefgh", hop_limit=9))
    assert (read.version, read.tc, read.fl, read.plen) == (6, 0, 0, 8)
    assert (read.nh, read.hlim, read.src, read.dst) == (17, 9, A_TEXT, B_TEXT)
    assert bytes(read.payload) == b"abcdefgh"


def test_the_hop_limit_is_64_unless_told() -> None:
    assert IPv6(ipv6.build(A, B, 59, b"")).hlim == 64


def sound() -> bytearray:
    return bytearray(bytes(IPv6(src=A_TEXT, dst=B_TEXT) / UDP() / Raw(b"payload")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0, 6])
def test_a_sound_packet(kind: type, padding: int) -> None:
    assert ipv6.is_sound(kind(bytes(sound()) + bytes(padding)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_packet_without_payload_is_sound(kind: type) -> None:
    assert ipv6.is_sound(kind(bytes(IPv6(src=A_TEXT, dst=B_TEXT, nh=59))))


def version_4(packet: bytearray) -> bytearray:
    packet[0] = 0x45
    return packet


def long_by_one(packet: bytearray) -> bytearray:
    packet[5] += 1
    return packet


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(bytearray(), id="empty"),
        pytest.param(bytearray(bytes(IPv6(nh=59))[:39]), id="header_cut_off"),
        pytest.param(version_4(sound()), id="version_4"),
        pytest.param(sound()[:-1], id="cut_off_by_one"),
        pytest.param(long_by_one(sound()), id="payload_length_beyond_the_packet"),
    ],
)
def test_a_packet_that_is_not_sound(packet: bytearray) -> None:
    assert not ipv6.is_sound(packet)


@pytest.mark.parametrize(
    ("text", "link_local", "multicast"),
    [
        pytest.param("fe80::1", True, False, id="link_local"),
        pytest.param("febf:ffff::1", True, False, id="last_link_local"),
        pytest.param("fec0::1", False, False, id="site_local"),
        pytest.param("fe7f::1", False, False, id="before_link_local"),
        pytest.param("ff02::1", False, True, id="all_nodes"),
        pytest.param("ff0e::1", False, True, id="global_group"),
        pytest.param("fd00::1", False, False, id="unique_local"),
        pytest.param(A_TEXT, False, False, id="global"),
        pytest.param("::", False, False, id="unspecified"),
    ],
)
def test_scopes(text: str, link_local: bool, multicast: bool) -> None:
    assert ipv6.is_link_local(v6(text)) == link_local
    assert ipv6.is_multicast(v6(text)) == multicast


def test_named_addresses() -> None:
    assert v6("::") == ipv6.UNSPECIFIED
    assert v6("::1") == ipv6.LOOPBACK
    assert v6("ff02::1") == ipv6.ALL_NODES
    assert v6("ff02::2") == ipv6.ALL_ROUTERS


@given(st.binary(min_size=16, max_size=16))
def test_the_group_of_an_address_is_that_of_scapy(address: bytes) -> None:
    group = ipv6.solicited_node(address)
    assert group == in6_getnsma(address)
    assert ipv6.group_mac(group).hex(":") == in6_getnsmac(group)


def test_the_mac_of_a_group() -> None:
    assert ipv6.group_mac(ipv6.ALL_NODES).hex(":") == "33:33:00:00:00:01"
    assert ipv6.group_mac(v6("ff02::1:ffad:beef")).hex(":") == "33:33:ff:ad:be:ef"


@pytest.mark.parametrize(
    ("mac_text", "address"),
    [
        pytest.param("00:00:de:ad:be:ef", "fe80::200:deff:fead:beef", id="shared_mac"),
        pytest.param("52:54:00:12:34:56", "fe80::5054:ff:fe12:3456", id="local_bit_set"),
    ],
)
def test_the_link_local_address_of_a_mac(mac_text: str, address: str) -> None:
    assert ipv6.link_local(Mac(bytes.fromhex(mac_text.replace(":", "")))) == v6(address)


@given(st.binary(min_size=6, max_size=6))
def test_every_link_local_address_is_that_of_scapy(station: bytes) -> None:
    expected = v6("fe80::" + in6_mactoifaceid(station.hex(":")))
    assert ipv6.link_local(Mac(station)) == expected


@given(
    st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16), st.binary(max_size=80)
)
def test_a_checksum_over_the_pseudo_header_is_that_of_scapy(
    a: bytes, b: bytes, load: bytes
) -> None:
    """By way of an echo request, whose checksum covers it."""
    message = icmp6.build(128, 0, b"\0\7\0\1", load, a, b)
    packet = ipv6.build(a, b, ipv6.ICMP, message)
    assert recomputed(packet) == packet
    assert icmp6.verifies(packet)


# Extension headers.

EXTENSIONS = {
    "hop_by_hop": IPv6ExtHdrHopByHop(options=[]),
    "routing": IPv6ExtHdrRouting(addresses=["2001:db8::9"]),
    "destination": IPv6ExtHdrDestOpt(options=[]),
    "first_fragment": IPv6ExtHdrFragment(offset=0, m=1, id=5),
}


def chain(*names: str, inside: Packet | None = None) -> bytes:
    packet = IPv6(src=A_TEXT, dst=B_TEXT)
    for name in names:
        packet /= EXTENSIONS[name]
    return bytes(packet / (inside or UDP(sport=1, dport=2)))


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        pytest.param(chain(), (17, 40), id="none"),
        *(
            pytest.param(chain(name), (17, 40 + (24 if name == "routing" else 8)), id=name)
            for name in EXTENSIONS
        ),
        pytest.param(chain(*EXTENSIONS), (17, 40 + 8 + 24 + 8 + 8), id="all_four"),
        pytest.param(chain(*["destination"] * 8), (17, 40 + 64), id="eight"),
        pytest.param(chain(*["destination"] * 9), None, id="nine"),
        pytest.param(bytes(IPv6(nh=59)), (59, 40), id="no_next_header"),
        pytest.param(bytes(IPv6(nh=17)), (17, 40), id="nothing_behind_the_header"),
        pytest.param(bytes(IPv6(nh=50) / Raw(bytes(8))), (50, 40), id="encrypted"),
        pytest.param(
            bytes(IPv6() / IPv6ExtHdrFragment(offset=1, nh=17) / Raw(bytes(8))),
            None,
            id="later_fragment",
        ),
        pytest.param(bytes(IPv6(nh=0)), None, id="extension_is_missing"),
        pytest.param(bytes(IPv6(nh=0) / Raw(b"\x11")), None, id="extension_of_one_byte"),
        pytest.param(bytes(IPv6(nh=0) / Raw(b"\x11\1" + bytes(13))), None, id="extension_cut_off"),
        pytest.param(bytes(IPv6(nh=44) / Raw(bytes(7))), None, id="fragment_header_cut_off"),
        pytest.param(
            bytes(IPv6(nh=0, plen=0) / Raw(b"\x11" + bytes(7))), None, id="extension_is_padding"
        ),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_upper_layer(kind: type, packet: bytes, expected: tuple[int, int] | None) -> None:
    assert ipv6.upper_layer(kind(packet)) == expected


# ICMPv6.


def test_errors_have_a_layout_that_scapy_reads() -> None:
    about = bytes(IPv6(src=A_TEXT, dst=B_TEXT) / TCP())
    for kind, code, rest, layer in (
        (icmp6.UNREACHABLE, icmp6.ADDRESS_UNREACHABLE, bytes(4), ICMPv6DestUnreach),
        (icmp6.UNREACHABLE, icmp6.NO_ROUTE, bytes(4), ICMPv6DestUnreach),
        (icmp6.UNREACHABLE, icmp6.BEYOND_SCOPE, bytes(4), ICMPv6DestUnreach),
        (icmp6.TOO_BIG, 0, (1450).to_bytes(4, "big"), ICMPv6PacketTooBig),
        (icmp6.TIME_EXCEEDED, 0, bytes(4), ICMPv6TimeExceeded),
    ):
        message = icmp6.error(kind, code, rest, about, B, A)
        packet = ipv6.build(B, A, ipv6.ICMP, message)
        read = IPv6(packet)[layer]
        assert (read.type, read.code) == (kind, code)
        assert bytes(read)[4:8] == rest
        assert bytes(read.payload) == about
        if layer is ICMPv6PacketTooBig:
            assert read.mtu == 1450
        assert recomputed(packet) == packet


@pytest.mark.parametrize(
    ("length", "whole"),
    [(100, 148), (1231, 1279), (1232, 1280), (1233, 1280), (9000, 1280)],
)
def test_an_error_fits_the_smallest_mtu(length: int, whole: int) -> None:
    about = ipv6.build(A, B, 17, bytes(range(256)) * 36)[:length]
    message = icmp6.error(icmp6.TIME_EXCEEDED, 0, bytes(4), memoryview(about), B, A)
    packet = ipv6.build(B, A, ipv6.ICMP, message)
    assert len(packet) == whole
    assert message[8:] == about[: whole - 48]
    assert recomputed(packet) == packet


def ping(load: bytes = b"0123456789", **fields: object) -> IPv6:
    return IPv6(src=A_TEXT, dst=B_TEXT) / ICMPv6EchoRequest(id=7, seq=9, data=load, **fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("load", [b"", b"odd", b"0123456789", bytes(1400)])
@pytest.mark.parametrize("padding", [0, 5])
def test_an_echo_is_answered(kind: type, load: bytes, padding: int) -> None:
    message = icmp6.echo_reply(kind(bytes(ping(load)) + b"\xee" * padding))
    assert message is not None
    packet = ipv6.build(B, A, ipv6.ICMP, message)
    assert packet == bytes(IPv6(src=B_TEXT, dst=A_TEXT) / ICMPv6EchoReply(id=7, seq=9, data=load))


def readdressed(**addresses: str) -> bytes:
    packet = ping()
    for name, value in addresses.items():
        setattr(packet, name, value)
    return bytes(packet)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(bytes(ping(code=1)), id="code"),
        pytest.param(bytes(ping(cksum=0x1234)), id="checksum"),
        pytest.param(
            bytes(IPv6(src=A_TEXT, dst=B_TEXT) / ICMPv6EchoReply(id=7, seq=9)), id="reply"
        ),
        pytest.param(bytes(ping())[:6] + b"\x11" + bytes(ping())[7:], id="udp"),
        pytest.param(bytes(IPv6(src=A_TEXT, dst=B_TEXT, nh=58)), id="no_message"),
        pytest.param(
            bytes(IPv6(src=A_TEXT, dst=B_TEXT, nh=58) / Raw(bytes(ping())[40:47])), id="cut_off"
        ),
        pytest.param(chain("destination", inside=ICMPv6EchoRequest()), id="extension_header"),
        pytest.param(readdressed(dst="ff02::1"), id="to_a_group"),
        pytest.param(readdressed(src="ff02::1"), id="from_a_group"),
        pytest.param(readdressed(src="::"), id="from_nobody"),
    ],
)
def test_what_is_no_echo_request_gets_no_reply(packet: bytes) -> None:
    assert ipv6.is_sound(packet)
    assert icmp6.echo_reply(packet) is None


TO_B = IPv6(src=A_TEXT, dst=B_TEXT)
NO_TYPE = bytes(IPv6(src=A_TEXT, dst=B_TEXT, nh=58))
"""An ICMPv6 message of no bytes; the padding behind it is none of its business."""


@pytest.mark.parametrize(
    ("packet", "may"),
    [
        pytest.param(bytes(TO_B / UDP()), True, id="udp"),
        pytest.param(bytes(TO_B / TCP()), True, id="tcp"),
        pytest.param(bytes(ping()), True, id="echo_request"),
        pytest.param(bytes(TO_B / ICMPv6EchoReply()), True, id="echo_reply"),
        pytest.param(bytes(TO_B / ICMPv6ND_NS(tgt=B_TEXT)), True, id="solicitation"),
        pytest.param(bytes(TO_B / ICMPv6MLReport2()), True, id="multicast_report"),
        pytest.param(chain(*EXTENSIONS), True, id="udp_behind_extension_headers"),
        pytest.param(chain("hop_by_hop", inside=ICMPv6EchoRequest()), True, id="echo_behind_one"),
        pytest.param(bytes(IPv6(src="fe80::1", dst=B_TEXT) / UDP()), True, id="link_local_source"),
        pytest.param(bytes(TO_B / ICMPv6DestUnreach()), False, id="unreachable"),
        pytest.param(bytes(TO_B / ICMPv6PacketTooBig()), False, id="too_big"),
        pytest.param(bytes(TO_B / ICMPv6TimeExceeded()), False, id="time_exceeded"),
        pytest.param(bytes(TO_B / Raw(b"\x7f" + bytes(7))), True, id="no_icmp_at_all"),
        pytest.param(
            bytes(IPv6(src=A_TEXT, dst=B_TEXT, nh=58) / Raw(b"\x7f" + bytes(7))),
            False,
            id="unknown_error",
        ),
        pytest.param(bytes(TO_B / ICMPv6ND_Redirect()), False, id="redirect"),
        *(
            pytest.param(chain(name, inside=ICMPv6TimeExceeded()), False, id=f"error_behind_{name}")
            for name in EXTENSIONS
        ),
        pytest.param(chain(*EXTENSIONS, inside=ICMPv6ND_Redirect()), False, id="redirect_behind"),
        pytest.param(chain(*["destination"] * 9), False, id="too_many_extension_headers"),
        pytest.param(
            bytes(TO_B / IPv6ExtHdrFragment(offset=9, nh=17) / Raw(bytes(8))),
            False,
            id="later_fragment",
        ),
        pytest.param(NO_TYPE, False, id="no_type"),
        pytest.param(NO_TYPE + b"\x80" * 6, False, id="type_is_padding"),
        pytest.param(bytes(IPv6(src=A_TEXT, dst="ff02::5") / UDP()), False, id="to_a_group"),
        pytest.param(bytes(IPv6(src="ff02::5", dst=B_TEXT) / UDP()), False, id="from_a_group"),
        pytest.param(bytes(IPv6(src="::", dst=B_TEXT) / UDP()), False, id="from_nobody"),
        pytest.param(bytes(IPv6(src="::1", dst=B_TEXT) / UDP()), False, id="from_loopback"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_errors_may_be_about(kind: type, packet: bytes, may: bool) -> None:
    assert ipv6.is_sound(packet)
    assert icmp6.may_be_answered(kind(packet)) is may


# Anything at all.


def ask_everything(packet: bytes) -> None:
    if ipv6.is_sound(packet):
        ipv6.upper_layer(packet)
        icmp6.verifies(packet)
        icmp6.echo_reply(packet)
        icmp6.may_be_answered(packet)


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    ask_everything(data)


@given(
    st.sampled_from([6 << 4]),
    st.sampled_from([0, 43, 44, 58, 60]),
    st.lists(st.sampled_from([0, 1, 2, 43, 44, 58, 60, 128, 255]), max_size=96).map(bytes),
    st.integers(0, 8),
)
def test_no_chain_of_headers_raises(first: int, following: int, load: bytes, fewer: int) -> None:
    length = max(0, len(load) - fewer)
    start = bytes((first, 0, 0, 0, 0, length, following, 64))
    ask_everything(start + A + B + load)


@given(
    st.sampled_from([bytes(ping()), chain(*EXTENSIONS), chain("first_fragment", inside=ping()[1])]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(0, 12),
)
def test_no_changed_packet_raises(valid: bytes, changes: list[tuple[int, int]], fewer: int) -> None:
    packet = bytearray(valid)
    for at, value in changes:
        packet[at % len(packet)] = value
    ask_everything(bytes(packet[: len(packet) - fewer]))
