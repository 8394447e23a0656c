"""Neighbour Discovery: what we build is read by scapy, and what scapy builds is read by us.

Every rule of validation has a row that breaks it and nothing else. What nobody should have built is
answered with None or False, never with an exception.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import NoPayload, Packet, Raw

from tests.frames import SHARED_MAC, mac, v6
from vswitch.wire import nd, neighbour
from vswitch.wire.ethernet import Mac

A, B = Mac(mac(1)), Mac(mac(2))
A_TEXT, B_TEXT = A.hex(":"), B.hex(":")
A_IP, B_IP = "2001:db8::1", "2001:db8::ad:beef"
B_GROUP, B_GROUP_MAC = "ff02::1:ffad:beef", "33:33:ff:ad:be:ef"
ALL, ALL_MAC = "ff02::1", "33:33:00:00:00:01"
KINDS = [bytes, bytearray, memoryview]


def layers(frame: bytes) -> list[Packet]:
    """What a frame consists of, one layer after the other, as scapy reads it."""
    found, layer = [], Ether(frame)
    while not isinstance(layer, NoPayload):
        found.append(layer)
        layer = layer.payload
    return found


def assert_is(frame: bytes, expected: Packet) -> None:
    """Compare with what scapy builds: field by field first, for the sake of the message."""
    built = bytes(expected)
    ours, theirs = layers(frame), layers(built)
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.fields == their.fields
    assert frame == built


def over(
    message: Packet, dst: str, src: str = A_TEXT, source: str = A_IP, to: str = B_IP
) -> Packet:
    return Ether(dst=dst, src=src) / IPv6(src=source, dst=to, hlim=255) / message


# Building.


def test_a_question_goes_to_the_group_of_its_target() -> None:
    asks = ICMPv6ND_NS(tgt=B_IP) / ICMPv6NDOptSrcLLAddr(lladdr=A_TEXT)
    assert_is(nd.solicitation(A, v6(A_IP), v6(B_IP)), over(asks, B_GROUP_MAC, to=B_GROUP))


def test_a_unicast_probe_goes_to_its_target() -> None:
    asks = ICMPv6ND_NS(tgt=B_IP) / ICMPv6NDOptSrcLLAddr(lladdr=A_TEXT)
    assert_is(nd.solicitation(A, v6(A_IP), v6(B_IP), B), over(asks, B_TEXT, to=B_IP))


def test_duplicate_address_detection_carries_no_option() -> None:
    expected = over(ICMPv6ND_NS(tgt=B_IP), B_GROUP_MAC, source="::", to=B_GROUP)
    assert_is(nd.solicitation(A, bytes(16), v6(B_IP)), expected)


def test_duplicate_address_detection_in_a_unicast_frame_stays_valid() -> None:
    frame = nd.solicitation(A, bytes(16), v6(B_IP), B)
    assert_is(frame, over(ICMPv6ND_NS(tgt=B_IP), B_TEXT, source="::", to=B_GROUP))
    assert nd.parse(frame) is not None


@pytest.mark.parametrize("router", [False, True])
@pytest.mark.parametrize("override", [False, True])
def test_an_answer_goes_to_the_asker(router: bool, override: bool) -> None:
    frame = nd.advertisement(A, v6(B_IP), B, v6(A_IP), router=router, override=override)
    says = ICMPv6ND_NA(tgt=B_IP, R=int(router), S=1, O=int(override))
    says /= ICMPv6NDOptDstLLAddr(lladdr=A_TEXT)
    assert_is(frame, over(says, B_TEXT, source=B_IP, to=A_IP))


@pytest.mark.parametrize("router", [False, True])
@pytest.mark.parametrize("override", [False, True])
def test_an_answer_to_nobody_goes_to_all_in_a_frame_to_the_asker(
    router: bool, override: bool
) -> None:
    frame = nd.advertisement(A, v6(B_IP), B, bytes(16), router=router, override=override)
    says = ICMPv6ND_NA(tgt=B_IP, R=int(router), S=0, O=int(override))
    says /= ICMPv6NDOptDstLLAddr(lladdr=A_TEXT)
    assert_is(frame, over(says, B_TEXT, source=B_IP, to=ALL))


@pytest.mark.parametrize("router", [False, True])
def test_an_announcement_goes_to_all_nodes(router: bool) -> None:
    says = ICMPv6ND_NA(tgt=A_IP, R=int(router), S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=A_TEXT)
    frame = nd.announcement(A, v6(A_IP), router=router)
    assert_is(frame, over(says, ALL_MAC, source=A_IP, to=ALL))


def test_an_announcement_is_no_routers_unless_told() -> None:
    assert nd.announcement(A, v6(A_IP)) == nd.announcement(A, v6(A_IP), router=False)


NOTHING = nd.Advertisement(0, False, False, 0, None, (), (), 0)
SUBNET = nd.PrefixInfo(v6("2001:db8:1::"), 64, False, True, 86400, 14400)
ULA = nd.PrefixInfo(v6("fd00:1::"), 48, True, False, 0xFFFFFFFF, 0xFFFFFFFF)
SUBNET_OPTION = ICMPv6NDOptPrefixInfo(
    prefix="2001:db8:1::", prefixlen=64, L=0, A=1, R=0, validlifetime=86400, preferredlifetime=14400
)
ULA_OPTION = ICMPv6NDOptPrefixInfo(
    prefix="fd00:1::",
    prefixlen=48,
    L=1,
    A=0,
    R=0,
    validlifetime=0xFFFFFFFF,
    preferredlifetime=0xFFFFFFFF,
)
SOURCE = ICMPv6NDOptSrcLLAddr(lladdr="00:00:de:ad:be:ef")


def says(hop_limit: int = 0, m: int = 0, o: int = 0, lifetime: int = 0) -> Packet:
    """A router advertisement without the values that scapy would choose."""
    return ICMPv6ND_RA(
        chlim=hop_limit, M=m, O=o, H=0, prf=0, routerlifetime=lifetime, reachabletime=0
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param(NOTHING, says() / SOURCE, id="nothing"),
        pytest.param(
            NOTHING._replace(hop_limit=64, lifetime=1800),
            says(64, 0, 0, 1800) / SOURCE,
            id="router",
        ),
        pytest.param(NOTHING._replace(managed=True), says(m=1) / SOURCE, id="managed"),
        pytest.param(NOTHING._replace(other=True), says(o=1) / SOURCE, id="other"),
        pytest.param(
            NOTHING._replace(mtu=1450), says() / SOURCE / ICMPv6NDOptMTU(mtu=1450), id="mtu"
        ),
        pytest.param(
            NOTHING._replace(prefixes=(SUBNET,)), says() / SOURCE / SUBNET_OPTION, id="prefix"
        ),
        pytest.param(
            NOTHING._replace(dns=(v6("2001:db8::53"),), dns_lifetime=1200),
            says() / SOURCE / ICMPv6NDOptRDNSS(dns=["2001:db8::53"], lifetime=1200),
            id="dns",
        ),
        pytest.param(
            nd.Advertisement(
                64,
                True,
                True,
                9000,
                8950,
                (SUBNET, ULA),
                (v6("2001:db8::53"), v6("fd00::53")),
                0xFFFFFFFF,
            ),
            says(64, 1, 1, 9000)
            / SOURCE
            / ICMPv6NDOptMTU(mtu=8950)
            / SUBNET_OPTION
            / ULA_OPTION
            / ICMPv6NDOptRDNSS(dns=["2001:db8::53", "fd00::53"], lifetime=0xFFFFFFFF),
            id="everything",
        ),
    ],
)
@pytest.mark.parametrize(
    ("to_mac", "to_ip"), [(ALL_MAC, ALL), (A_TEXT, "fe80::1")], ids=["all_nodes", "unicast"]
)
def test_scapy_reads_a_router_advertisement(
    said: nd.Advertisement, expected: Packet, to_mac: str, to_ip: str
) -> None:
    source = "fe80::200:deff:fead:beef"
    to = Mac(bytes.fromhex(to_mac.replace(":", "")))
    frame = nd.router_advertisement(Mac(SHARED_MAC), v6(source), to, v6(to_ip), said)
    assert_is(frame, over(expected, to_mac, "00:00:de:ad:be:ef", source, to_ip))


# What kind of message a frame carries.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(ICMPv6ND_RS(), nd.ROUTER_SOLICITATION, id="router_solicitation"),
        pytest.param(ICMPv6ND_RA(), nd.ROUTER_ADVERTISEMENT, id="router_advertisement"),
        pytest.param(ICMPv6ND_NS(tgt=B_IP), nd.SOLICITATION, id="solicitation"),
        pytest.param(ICMPv6ND_NA(tgt=B_IP), nd.ADVERTISEMENT, id="advertisement"),
        pytest.param(ICMPv6ND_Redirect(), nd.REDIRECT, id="redirect"),
        pytest.param(ICMPv6EchoRequest(), None, id="echo"),
        pytest.param(ICMPv6ND_NS(type=132, tgt=B_IP), None, id="type_below"),
        pytest.param(ICMPv6ND_NS(type=138, tgt=B_IP), None, id="type_above"),
        pytest.param(UDP(sport=0x8700), None, id="udp"),
        pytest.param(IPv6ExtHdrDestOpt() / ICMPv6ND_NS(tgt=B_IP), None, id="extension_header"),
    ],
)
def test_the_kind_of_a_frame(kind: type, message: Packet, expected: int | None) -> None:
    assert nd.kind_of(kind(bytes(over(message, B_TEXT)))) == expected


def test_a_frame_that_is_no_ipv6_is_of_no_kind() -> None:
    tagged = Ether(dst=B_TEXT) / Dot1Q(vlan=5) / IPv6(dst=B_IP) / ICMPv6ND_NS(tgt=B_IP)
    other = bytearray(question())
    other[13] = 0xDE
    for frame in (bytes(tagged), bytes(other), bytes(Ether() / ARP()), b"", question()[:54]):
        assert nd.kind_of(frame) is None
    assert nd.kind_of(question()[:55]) == nd.SOLICITATION


# Reading.


def frame_of(message: Packet, *options: Packet, **fields: object) -> bytes:
    """A frame from A to B; `fields` are those of its IPv6 header that differ."""
    packet = IPv6(**{"src": A_IP, "dst": B_IP, "hlim": 255} | fields) / message
    for option in options:
        packet /= option
    return bytes(Ether(dst=B_TEXT, src=A_TEXT) / packet)


SOURCE_OPTION = ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:aa")
TARGET_OPTION = ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:aa")
OPTION_MAC = Mac(mac(0xAA))


def question(*options: Packet, tgt: str = B_IP, code: int = 0, **fields: object) -> bytes:
    return frame_of(ICMPv6ND_NS(tgt=tgt, code=code), *options, **fields)


def answer(*options: Packet, tgt: str = A_IP, s: int = 1, code: int = 0, **fields: object) -> bytes:
    return frame_of(ICMPv6ND_NA(tgt=tgt, R=0, S=s, O=1, code=code), *options, **fields)


REQUEST, REPLY, ZERO = neighbour.REQUEST, neighbour.REPLY, Mac(bytes(6))
ASKED = neighbour.Message(REQUEST, A, v6(A_IP), ZERO, v6(B_IP))
ANSWERED = neighbour.Message(REPLY, A, v6(A_IP), B, v6(B_IP))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(question(), ASKED, id="question"),
        pytest.param(question() + b"\xee" * 9, ASKED, id="question_and_padding"),
        pytest.param(
            question(SOURCE_OPTION),
            ASKED._replace(sender_mac=OPTION_MAC),
            id="question_with_option",
        ),
        pytest.param(question(TARGET_OPTION), ASKED, id="question_with_an_option_of_answers"),
        pytest.param(
            question(ICMPv6NDOptMTU(mtu=1), Raw(b"\x0e\2" + bytes(14)), SOURCE_OPTION),
            ASKED._replace(sender_mac=OPTION_MAC),
            id="question_with_an_option_behind_others",
        ),
        pytest.param(answer(), ANSWERED, id="answer"),
        pytest.param(answer() + b"\xee" * 9, ANSWERED, id="answer_and_padding"),
        pytest.param(
            answer(TARGET_OPTION), ANSWERED._replace(sender_mac=OPTION_MAC), id="answer_with_option"
        ),
        pytest.param(answer(SOURCE_OPTION), ANSWERED, id="answer_with_an_option_of_questions"),
        pytest.param(answer(src="2001:db8::99"), ANSWERED, id="answer_on_behalf_of_another"),
        pytest.param(answer(s=0), ANSWERED._replace(target_ip=v6(A_IP)), id="unsolicited_to_one"),
    ],
)
def test_we_read_scapys_messages(kind: type, frame: bytes, expected: neighbour.Message) -> None:
    assert nd.parse(kind(frame)) == expected


def to(address: str, message: Packet, *options: Packet, source: str = A_IP) -> bytes:
    """A frame to another address, most often a group."""
    return frame_of(message, *options, src=source, dst=address)


@pytest.mark.parametrize(
    ("frame", "probe", "gratuitous"),
    [
        pytest.param(question(), False, False, id="question"),
        pytest.param(to(B_GROUP, ICMPv6ND_NS(tgt=B_IP)), False, False, id="question_to_the_group"),
        pytest.param(
            to(B_GROUP, ICMPv6ND_NS(tgt=B_IP), source="::"), True, False, id="duplicate_detection"
        ),
        pytest.param(answer(), False, False, id="answer"),
        pytest.param(answer(s=0), False, True, id="unsolicited"),
        pytest.param(
            to(ALL, ICMPv6ND_NA(tgt=A_IP, S=0)), False, True, id="unsolicited_to_all_nodes"
        ),
        pytest.param(
            to(ALL, ICMPv6ND_NA(tgt="::", S=0)), False, False, id="unsolicited_about_nobody"
        ),
    ],
)
def test_the_kinds_of_messages(frame: bytes, probe: bool, gratuitous: bool) -> None:
    message = nd.parse(frame)
    assert message is not None
    assert (message.is_probe, message.is_gratuitous) == (probe, gratuitous)


def test_we_read_what_we_build() -> None:
    a, b = v6(A_IP), v6(B_IP)
    for frame, expected in (
        (nd.solicitation(A, a, b), (REQUEST, A, a, ZERO, b)),
        (nd.solicitation(A, bytes(16), b), (REQUEST, A, bytes(16), ZERO, b)),
        (nd.solicitation(A, a, b, B), (REQUEST, A, a, ZERO, b)),
        (nd.advertisement(A, a, B, b, router=True, override=True), (REPLY, A, a, B, b)),
        (nd.advertisement(A, a, B, bytes(16), router=False, override=True), (REPLY, A, a, B, a)),
        (nd.announcement(A, a), (REPLY, A, a, Mac(bytes.fromhex("333300000001")), a)),
    ):
        assert nd.parse(frame) == expected


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes((value,)) + frame[at + 1 :]


BREAK_ANY: list[tuple[str, Callable[[Callable[..., bytes]], bytes]]] = [
    ("hop_limit_254", lambda build: build(hlim=254)),
    ("code", lambda build: build(code=1)),
    ("checksum", lambda build: changed(build(), 57, build()[57] ^ 1)),
    ("version", lambda build: changed(build(), 14, 0x40)),
    ("cut_off", lambda build: build()[:-1]),
    ("target_is_a_group", lambda build: build(tgt="ff02::1:ff00:1")),
    ("source_is_a_group", lambda build: build(src="ff02::1")),
    ("option_of_length_0", lambda build: build(Raw(b"\x0e\0" + bytes(6)))),
    ("option_beyond_the_end", lambda build: build(Raw(b"\x0e\2" + bytes(6)))),
    ("option_is_padding", lambda build: build(Raw(b"\x0e\2" + bytes(6))) + bytes(8)),
    ("option_of_one_byte", lambda build: build(Raw(b"\x0e"))),
    ("extension_header", lambda build: behind_extension(build())),
]


def behind_extension(frame: bytes) -> bytes:
    read = Ether(frame)
    inside = read[IPv6].payload
    return bytes(
        Ether(dst=read.dst, src=read.src)
        / IPv6(src=read[IPv6].src, dst=read[IPv6].dst, hlim=255)
        / IPv6ExtHdrDestOpt()
        / inside
    )


@pytest.mark.parametrize("build", [question, answer])
@pytest.mark.parametrize("damage", [pytest.param(row, id=name) for name, row in BREAK_ANY])
def test_each_rule_for_both_messages(
    damage: Callable[[Callable[..., bytes]], bytes], build: Callable[..., bytes]
) -> None:
    assert nd.parse(build()) is not None
    assert nd.parse(damage(build)) is None


DAD = ICMPv6ND_NS(tgt=B_IP)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(to(B_IP, DAD, source="::"), id="from_nobody_to_one"),
        pytest.param(to(ALL, DAD, source="::"), id="from_nobody_to_all_nodes"),
        pytest.param(to("ff02::1:feff:1", DAD, source="::"), id="from_nobody_to_another_group"),
        pytest.param(to(B_GROUP, DAD, SOURCE_OPTION, source="::"), id="from_nobody_with_option"),
        pytest.param(to(ALL, ICMPv6ND_NA(tgt=A_IP, S=1)), id="solicited_to_all_nodes"),
        pytest.param(question(Raw(b"\1\2" + bytes(14))), id="source_option_of_14_bytes"),
        pytest.param(answer(Raw(b"\2\2" + bytes(14))), id="target_option_of_14_bytes"),
        pytest.param(question(SOURCE_OPTION, SOURCE_OPTION), id="source_option_twice"),
        pytest.param(answer(TARGET_OPTION, TARGET_OPTION), id="target_option_twice"),
    ],
)
def test_each_rule_for_one_message(frame: bytes) -> None:
    assert nd.parse(frame) is None


def summed(message: bytes) -> bytes:
    """A frame with any message at all, under a checksum that is right."""
    raw = bytearray(message)
    raw[2:4] = b"\0\0"
    raw[2:4] = in6_chksum(58, IPv6(src=A_IP, dst=B_IP), bytes(raw)).to_bytes(2, "big")
    return frame_of(Raw(bytes(raw)), nh=58)


@pytest.mark.parametrize("build", [question, answer])
def test_a_message_that_is_too_short_is_refused_for_that(build: Callable[..., bytes]) -> None:
    """And not for its checksum."""
    assert nd.parse(summed(build()[54:])) is not None
    for length in (8, 16, 23):
        assert nd.parse(summed(build()[54 : 54 + length])) is None


@pytest.mark.parametrize(
    "message", [ICMPv6ND_RS(), ICMPv6ND_RA(), ICMPv6ND_Redirect(), ICMPv6EchoRequest()]
)
def test_other_messages_are_no_question_and_no_answer(message: Packet) -> None:
    assert nd.parse(frame_of(message)) is None
    assert nd.claims(frame_of(message)) is None


# Router solicitations.


def solicits(*options: Packet, code: int = 0, **fields: object) -> bytes:
    return frame_of(ICMPv6ND_RS(code=code), *options, **fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(solicits(), id="plain"),
        pytest.param(solicits() + bytes(6), id="padding"),
        pytest.param(solicits(SOURCE_OPTION), id="option"),
        pytest.param(solicits(src="::"), id="from_nobody"),
        pytest.param(solicits(TARGET_OPTION, src="::"), id="from_nobody_with_another_option"),
        pytest.param(to("ff02::2", ICMPv6ND_RS(), SOURCE_OPTION), id="to_all_routers"),
    ],
)
def test_a_router_solicitation(kind: type, frame: bytes) -> None:
    assert nd.is_sound_router_solicitation(kind(frame))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(solicits(hlim=254), id="hop_limit_254"),
        pytest.param(solicits(code=1), id="code"),
        pytest.param(changed(solicits(), 57, solicits()[57] ^ 1), id="checksum"),
        pytest.param(changed(solicits(), 14, 0x40), id="version"),
        pytest.param(summed(b"\x85" + bytes(6)), id="too_short"),
        pytest.param(solicits(SOURCE_OPTION, src="::"), id="from_nobody_with_option"),
        pytest.param(solicits(src="ff02::1"), id="source_is_a_group"),
        pytest.param(solicits(Raw(b"\x0e\0" + bytes(6))), id="option_of_length_0"),
        pytest.param(solicits(Raw(b"\x0e\2" + bytes(6))), id="option_beyond_the_end"),
        pytest.param(question(), id="question"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_sound_router_solicitation(frame: bytes) -> None:
    assert not nd.is_sound_router_solicitation(frame)


# What the spoof guard reads.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(question(), (v6(B_IP), None), id="question"),
        pytest.param(question(SOURCE_OPTION), (v6(B_IP), OPTION_MAC), id="question_with_option"),
        pytest.param(question(TARGET_OPTION), (v6(B_IP), None), id="question_with_answers_option"),
        pytest.param(answer(), (v6(A_IP), None), id="answer"),
        pytest.param(answer(TARGET_OPTION), (v6(A_IP), OPTION_MAC), id="answer_with_option"),
        pytest.param(answer(SOURCE_OPTION), (v6(A_IP), None), id="answer_with_questions_option"),
        pytest.param(answer() + bytes(TARGET_OPTION), (v6(A_IP), None), id="padding_is_no_option"),
        pytest.param(
            answer(ICMPv6NDOptMTU(), TARGET_OPTION), (v6(A_IP), OPTION_MAC), id="option_behind"
        ),
        pytest.param(
            changed(answer(TARGET_OPTION), 57, 0), (v6(A_IP), OPTION_MAC), id="wrong_checksum"
        ),
        pytest.param(answer(TARGET_OPTION, TARGET_OPTION), None, id="option_twice"),
        pytest.param(answer(Raw(b"\2\2" + bytes(14))), None, id="option_of_14_bytes"),
        pytest.param(answer(Raw(b"\x0e\0" + bytes(6))), None, id="option_of_length_0"),
        pytest.param(answer(Raw(b"\x0e\2" + bytes(6))), None, id="option_beyond_the_end"),
        pytest.param(answer(Raw(b"\x0e")), None, id="option_of_one_byte"),
        pytest.param(answer(plen=23), None, id="too_short"),
        pytest.param(answer()[:-1], None, id="cut_off"),
        pytest.param(answer(plen=32), None, id="payload_length_beyond_the_frame"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_what_a_message_claims(
    kind: type, frame: bytes, expected: tuple[bytes, Mac | None] | None
) -> None:
    assert nd.claims(kind(frame)) == expected


# Anything at all.

VALID = [
    question(SOURCE_OPTION),
    answer(TARGET_OPTION),
    answer(ICMPv6NDOptMTU(), TARGET_OPTION, s=0),
    to(B_GROUP, DAD, source="::"),
    solicits(SOURCE_OPTION),
    frame_of(ICMPv6ND_RA(), SOURCE, SUBNET_OPTION),
]


def read_everything(frame: bytes) -> None:
    """Whatever is valid is also something that the guard of the forwarding path can read."""
    for kind in KINDS:
        message = nd.parse(kind(frame))
        claimed = nd.claims(kind(frame))
        nd.is_sound_router_solicitation(kind(frame))
        nd.kind_of(kind(frame))
        if message is not None:
            assert claimed is not None
            address, station = claimed
            claimant = message.target_ip if message.op == REQUEST else message.sender_ip
            assert address == claimant
            assert message.sender_mac == (frame[6:12] if station is None else station)


@given(st.binary(max_size=150))
def test_no_bytes_raise(data: bytes) -> None:
    read_everything(data)


@given(
    st.sampled_from([133, 134, 135, 136, 137]),
    st.binary(max_size=60),
    st.lists(st.sampled_from([0, 1, 2, 3, 5, 25]), max_size=40).map(bytes),
)
def test_no_message_under_a_right_checksum_raises(kind: int, start: bytes, options: bytes) -> None:
    read_everything(summed(bytes((kind, 0, 0, 0)) + start[:20].ljust(20, b"\0") + options))


@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=4),
    st.integers(0, 12),
)
def test_no_changed_frame_raises(valid: bytes, changes: list[tuple[int, int]], fewer: int) -> None:
    frame = bytearray(valid)
    for at, value in changes:
        frame[at % len(frame)] = value
    read_everything(bytes(frame[: len(frame) - fewer]))


def test_a_message_in_the_padding_of_an_empty_packet_is_none() -> None:
    """Found by fuzzing: the type is in the frame, but not in the packet."""
    frame = bytearray(
        nd.solicitation(Mac(b"\x02" * 6), bytes.fromhex("fe80" + "00" * 13 + "02"), bytes(16))
    )
    frame[18:20] = bytes(2)
    assert nd.kind_of(frame) == nd.SOLICITATION
    assert nd.parse(frame) is None
