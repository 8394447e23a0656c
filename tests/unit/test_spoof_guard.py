"""The spoof guard: a guest speaks with its own MACs and, where any are listed, its own addresses.

What is held to account is not only the Ethernet header but what ARP, RARP and IP say inside, since
that is what neighbours believe.
"""

from __future__ import annotations

from struct import pack

import pytest
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet

from tests.frames import (
    BROADCAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    arp,
    echo6,
    ip6,
    link_local,
    mac,
    na,
    ns,
    plain,
    ra,
    rarp,
    redirect,
    rs,
    tagged,
    udp,
    udp6,
    v4,
    v6,
)
from tests.unit.engine_world import World
from tests.unit.topology import (
    ALICE,
    ALICE_IP,
    ALICE_IP6,
    ALICE_MAC,
    BOB,
    BOB_MAC,
    BOB_SECOND_MAC,
    FAR_MAC,
    OSCAR,
    OSCAR_MAC,
    RED,
    attachment,
    build,
    empty_switch,
)
from vswitch.phy.port import PortId
from vswitch.switch import Reason, Switch

STOLEN_IP, STOLEN_IP6 = "10.0.0.66", "2001:db8::66"


@pytest.fixture
def switch() -> Switch:
    return build()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(udp(BOB_MAC, BOB_MAC), Reason.SPOOFED_MAC, id="ethernet_source"),
        pytest.param(
            arp(BROADCAST, ALICE_MAC, sender_mac=BOB_MAC), Reason.SPOOFED_ARP, id="arp_sender_mac"
        ),
        pytest.param(
            arp(BROADCAST, ALICE_MAC, sender_ip=STOLEN_IP), Reason.SPOOFED_ARP, id="arp_sender_ip"
        ),
        pytest.param(
            arp(BOB_MAC, ALICE_MAC, sender_ip=STOLEN_IP, op=2),
            Reason.SPOOFED_ARP,
            id="arp_reply_sender_ip",
        ),
        pytest.param(rarp(ALICE_MAC, sender_mac=BOB_MAC), Reason.SPOOFED_ARP, id="rarp_sender_mac"),
        pytest.param(
            udp(BOB_MAC, ALICE_MAC, src_ip=STOLEN_IP), Reason.SPOOFED_ADDRESS, id="ipv4_source"
        ),
        pytest.param(
            udp6(BOB_MAC, ALICE_MAC, src_ip=STOLEN_IP6), Reason.SPOOFED_ADDRESS, id="ipv6_source"
        ),
        # A priority tag (VLAN 0) is read by guests as if it were not there.
        pytest.param(
            tagged(arp(BROADCAST, ALICE_MAC, sender_ip=STOLEN_IP), 0),
            Reason.TAGGED,
            id="forgery_behind_a_priority_tag",
        ),
        # Cut so short that the field to be examined is not there.
        pytest.param(udp(BOB_MAC, ALICE_MAC)[:33], Reason.RUNT, id="cut_ipv4"),
        pytest.param(udp6(BOB_MAC, ALICE_MAC)[:53], Reason.RUNT, id="cut_ipv6"),
        pytest.param(arp(BOB_MAC, ALICE_MAC)[:41], Reason.RUNT, id="cut_arp"),
        pytest.param(rarp(ALICE_MAC)[:41], Reason.RUNT, id="cut_rarp"),
    ],
)
def test_a_forgery_is_dropped(switch: Switch, frame: bytes, reason: Reason) -> None:
    verdict = switch.decide(ALICE, frame)
    assert verdict.reason is reason
    assert verdict.egress == ()


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(udp(BOB_MAC, ALICE_MAC, src_ip=ALICE_IP), id="own_ipv4"),
        pytest.param(udp6(BOB_MAC, ALICE_MAC, src_ip=ALICE_IP6), id="own_ipv6"),
        pytest.param(arp(BOB_MAC, ALICE_MAC, sender_ip=ALICE_IP), id="own_arp"),
        pytest.param(arp(BOB_MAC, ALICE_MAC, sender_ip="0.0.0.0"), id="arp_probe"),
        pytest.param(udp(BOB_MAC, ALICE_MAC, src_ip="0.0.0.0"), id="dhcp_discover"),
        pytest.param(udp6(BOB_MAC, ALICE_MAC, src_ip="::"), id="duplicate_address_detection"),
        # Every interface has one, made of its MAC or at random; nobody lists it.
        pytest.param(udp6(BOB_MAC, ALICE_MAC, src_ip="fe80::5"), id="ipv6_link_local"),
        pytest.param(plain(BOB_MAC, ALICE_MAC), id="no_addresses_inside"),
    ],
)
def test_what_is_its_own_passes(switch: Switch, frame: bytes) -> None:
    assert switch.decide(ALICE, frame).egress == (BOB,)


def test_the_shortest_whole_headers_pass(switch: Switch) -> None:
    for frame in (
        udp(BOB_MAC, ALICE_MAC)[:34],
        udp6(BOB_MAC, ALICE_MAC)[:54],
        arp(BOB_MAC, ALICE_MAC)[:42],
    ):
        assert switch.decide(ALICE, frame).reason is Reason.LOCAL


def test_a_guest_may_send_from_each_of_its_macs(switch: Switch) -> None:
    for own in (BOB_MAC, BOB_SECOND_MAC):
        assert switch.decide(BOB, udp(ALICE_MAC, own)).reason is Reason.LOCAL


def test_every_mac_of_a_guest_may_speak_for_every_other(switch: Switch) -> None:
    """A bond answers with either MAC in its ARP; they belong to one attachment."""
    frame = arp(ALICE_MAC, BOB_MAC, sender_mac=BOB_SECOND_MAC)
    assert switch.decide(BOB, frame).reason is Reason.LOCAL


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(udp(ALICE_MAC, BOB_MAC, src_ip=STOLEN_IP), id="ipv4"),
        pytest.param(udp6(ALICE_MAC, BOB_MAC, src_ip=STOLEN_IP6), id="ipv6"),
        pytest.param(arp(ALICE_MAC, BOB_MAC, sender_ip=STOLEN_IP), id="arp"),
    ],
)
def test_without_a_list_any_address_will_do(switch: Switch, frame: bytes) -> None:
    assert switch.decide(BOB, frame).reason is Reason.LOCAL


def test_without_a_list_the_mac_inside_arp_is_still_held_to(switch: Switch) -> None:
    frame = arp(ALICE_MAC, BOB_MAC, sender_mac=FAR_MAC)
    assert switch.decide(BOB, frame).reason is Reason.SPOOFED_ARP


@pytest.mark.parametrize(
    ("listed", "frame", "reason"),
    [
        pytest.param(
            v4("10.0.0.9"), udp6(BOB_MAC, FAR_MAC, src_ip=STOLEN_IP6), Reason.LOCAL, id="only_ipv4"
        ),
        pytest.param(
            v6("2001:db8::9"), udp(BOB_MAC, FAR_MAC, src_ip=STOLEN_IP), Reason.LOCAL, id="only_ipv6"
        ),
        pytest.param(
            v4("10.0.0.9"),
            udp(BOB_MAC, FAR_MAC, src_ip=STOLEN_IP),
            Reason.SPOOFED_ADDRESS,
            id="only_ipv4_forged",
        ),
        pytest.param(
            v6("2001:db8::9"),
            udp6(BOB_MAC, FAR_MAC, src_ip=STOLEN_IP6),
            Reason.SPOOFED_ADDRESS,
            id="only_ipv6_forged",
        ),
    ],
)
def test_a_list_of_one_family_says_nothing_of_the_other(
    switch: Switch, listed: bytes, frame: bytes, reason: Reason
) -> None:
    port = PortId(40)
    switch.place(attachment("zoe", port, RED, FAR_MAC, addresses=(listed,)))
    assert switch.decide(port, frame).reason is reason


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(udp(BOB_MAC, FAR_MAC, src_ip=STOLEN_IP), id="mac_and_address"),
        pytest.param(arp(BOB_MAC, OSCAR_MAC, sender_mac=ALICE_MAC), id="arp_sender"),
        pytest.param(arp(BOB_MAC, OSCAR_MAC)[:30], id="cut_arp"),
    ],
)
def test_with_the_guard_off_nothing_is_examined(switch: Switch, frame: bytes) -> None:
    """A guest that is itself a router or a bridge needs it off."""
    assert switch.decide(OSCAR, frame).egress == (BOB,)


def test_with_the_guard_off_a_group_is_still_no_source(switch: Switch) -> None:
    assert switch.decide(OSCAR, udp(BOB_MAC, BROADCAST)).reason is Reason.GROUP_SOURCE


def test_with_the_guard_off_a_list_of_addresses_binds_nobody() -> None:
    switch = empty_switch()
    switch.place(attachment("zoe", OSCAR, RED, OSCAR_MAC, addresses=(v4(ALICE_IP),), guard=False))
    frame = udp(FAR_MAC, OSCAR_MAC, src_ip=STOLEN_IP)
    assert switch.decide(OSCAR, frame).reason is Reason.MISS_REWRITTEN


# Neighbour discovery.

OWN_LL, GATEWAY_LL = link_local(ALICE_MAC), link_local(SHARED_MAC)


def behind(*headers: Packet) -> bytes:
    """A stolen address, announced behind extension headers."""
    chain = headers[0].copy()
    for header in headers[1:]:
        chain /= header.copy()
    return na(None, ALICE_MAC, STOLEN_IP6, extensions=chain, sender_ip=ALICE_IP6)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(na(None, ALICE_MAC, STOLEN_IP6, sender_ip=ALICE_IP6), id="announced_address"),
        pytest.param(
            na(BOB_MAC, ALICE_MAC, STOLEN_IP6, "2001:db8::2", sender_ip=ALICE_IP6),
            id="told_address",
        ),
        pytest.param(na(None, ALICE_MAC, ALICE_IP6, sender_mac=BOB_MAC), id="target_mac"),
        pytest.param(
            na(None, ALICE_MAC, OWN_LL, sender_mac=BOB_MAC), id="target_mac_of_link_local"
        ),
        pytest.param(ns(None, ALICE_MAC, ALICE_IP6, "2001:db8::2", BOB_MAC), id="source_mac"),
        pytest.param(ns(BOB_MAC, ALICE_MAC, OWN_LL, "2001:db8::2", BOB_MAC), id="source_mac_ll"),
        pytest.param(na(None, ALICE_MAC, ALICE_IP6)[:-1], id="cut"),
        pytest.param(na(None, ALICE_MAC, ALICE_IP6)[:-7] + bytes(7), id="option_without_a_mac"),
        pytest.param(ra(ALICE_MAC, OWN_LL), id="router_advertisement"),
        pytest.param(ra(ALICE_MAC, OWN_LL, BOB_MAC, "fe80::2"), id="router_advertisement_to_one"),
        pytest.param(
            redirect(BOB_MAC, ALICE_MAC, OWN_LL, "2001:db8::2", STOLEN_IP6, OWN_LL), id="redirect"
        ),
        pytest.param(behind(IPv6ExtHdrDestOpt()), id="behind_options"),
        pytest.param(behind(IPv6ExtHdrHopByHop()), id="behind_hop_by_hop"),
        pytest.param(behind(IPv6ExtHdrRouting()), id="behind_routing"),
        pytest.param(behind(IPv6ExtHdrFragment()), id="in_an_atomic_fragment"),
        pytest.param(behind(IPv6ExtHdrFragment(m=1)), id="in_a_first_fragment"),
        pytest.param(
            behind(IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment()), id="behind_all"
        ),
        pytest.param(behind(IPv6ExtHdrDestOpt())[:-1], id="behind_options_and_cut"),
    ],
)
def test_forged_neighbour_discovery_is_dropped(switch: Switch, frame: bytes) -> None:
    """It would draw a neighbour's traffic: RFC 6105, RFC 6980, RFC 7113."""
    verdict = switch.decide(ALICE, frame)
    assert (verdict.reason, verdict.egress) == (Reason.SPOOFED_ND, ())


def test_neighbour_discovery_from_a_stolen_source_is_a_stolen_source(switch: Switch) -> None:
    for frame in (
        na(None, ALICE_MAC, STOLEN_IP6),
        ns(None, ALICE_MAC, STOLEN_IP6, "2001:db8::2"),
    ):
        assert switch.decide(ALICE, frame).reason is Reason.SPOOFED_ADDRESS


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ns(BOB_MAC, ALICE_MAC, ALICE_IP6, "2001:db8::2"), id="question"),
        pytest.param(ns(BOB_MAC, ALICE_MAC, OWN_LL, "2001:db8::2"), id="question_link_local"),
        pytest.param(ns(BOB_MAC, ALICE_MAC, "::", ALICE_IP6), id="duplicate_detection"),
        pytest.param(ns(BOB_MAC, ALICE_MAC, "::", OWN_LL), id="of_link_local"),
        pytest.param(na(BOB_MAC, ALICE_MAC, ALICE_IP6, "2001:db8::2"), id="answer"),
        pytest.param(na(BOB_MAC, ALICE_MAC, OWN_LL, "fe80::2"), id="answer_link_local"),
        pytest.param(na(BOB_MAC, ALICE_MAC, ALICE_IP6, sender_ip=OWN_LL), id="announcement"),
        pytest.param(
            ip6(BOB_MAC, ALICE_MAC, ALICE_IP6, "2001:db8::2", extensions=IPv6ExtHdrDestOpt()),
            id="options_before_udp",
        ),
        pytest.param(
            ip6(
                BOB_MAC,
                ALICE_MAC,
                ALICE_IP6,
                "2001:db8::2",
                extensions=IPv6ExtHdrFragment(offset=9),
            ),
            id="a_later_fragment",
        ),
        pytest.param(echo6(BOB_MAC, ALICE_MAC, ALICE_IP6, "2001:db8::2"), id="echo"),
    ],
)
def test_honest_neighbour_discovery_passes(switch: Switch, frame: bytes) -> None:
    assert switch.decide(ALICE, frame).egress == (BOB,)


def test_every_guest_may_look_for_a_router(switch: Switch) -> None:
    for frame in (rs(ALICE_MAC), rs(ALICE_MAC, OWN_LL), rs(ALICE_MAC, ALICE_IP6)):
        assert switch.decide(ALICE, frame).reason is Reason.GROUP


def test_without_a_list_the_macs_inside_nd_are_still_held_to(switch: Switch) -> None:
    assert switch.decide(BOB, na(ALICE_MAC, BOB_MAC, STOLEN_IP6)).reason is Reason.LOCAL
    for frame in (
        na(ALICE_MAC, BOB_MAC, STOLEN_IP6, sender_mac=FAR_MAC),
        ns(ALICE_MAC, BOB_MAC, STOLEN_IP6, ALICE_IP6, FAR_MAC),
        ra(BOB_MAC, link_local(BOB_MAC)),
    ):
        assert switch.decide(BOB, frame).reason is Reason.SPOOFED_ND
    bond = na(ALICE_MAC, BOB_MAC, STOLEN_IP6, sender_mac=BOB_SECOND_MAC)
    assert switch.decide(BOB, bond).reason is Reason.LOCAL


def test_with_the_guard_off_a_guest_may_be_a_router(switch: Switch) -> None:
    for frame in (
        ra(OSCAR_MAC, link_local(OSCAR_MAC)),
        na(None, OSCAR_MAC, STOLEN_IP6, sender_mac=ALICE_MAC),
    ):
        assert switch.decide(OSCAR, frame).reason is Reason.GROUP


# Three ways past the guard that a review has found.


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(na(None, ALICE_MAC, GATEWAY_LL, sender_ip=ALICE_IP6), id="announced"),
        pytest.param(na(None, ALICE_MAC, GATEWAY_LL), id="announced_as_itself"),
        pytest.param(ns(None, ALICE_MAC, GATEWAY_LL, "2001:db8::2"), id="asked_as"),
    ],
)
def test_nobody_is_the_default_router(switch: Switch, frame: bytes) -> None:
    """Guests know the gateway by this address: who has it has all that leaves the subnet."""
    assert switch.decide(ALICE, frame).egress == ()


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(behind(*[IPv6ExtHdrDestOpt()] * 9), id="nine_headers"),
        pytest.param(
            behind(IPv6ExtHdrFragment(m=1), IPv6ExtHdrDestOpt(len=30)), id="chain_beyond_fragment"
        ),
    ],
)
def test_a_chain_of_headers_that_hides_what_it_ends_in_is_dropped(
    switch: Switch, frame: bytes
) -> None:
    """Receivers walk any number of headers; RFC 7112 wants the whole chain in the first one."""
    assert switch.decide(ALICE, frame).egress == ()


def checksum_of(frame: bytes) -> int:
    """The one's complement sum of the pseudo-header and the message, which is 0xffff if right."""
    words = frame[22:54] + pack("!II", len(frame) - 54, 58) + frame[54:]
    total = sum(words[at] << 8 | words[at + 1] for at in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_every_advertisement_of_a_burst_is_examined() -> None:
    """The frames agree in all that a run is told by: the forged ones make up in the reserved field
    what their target changes in the checksum."""
    own = na(None, ALICE_MAC, ALICE_IP6)
    forged = bytearray(na(None, ALICE_MAC, STOLEN_IP6, sender_ip=ALICE_IP6))
    forged[56:58] = own[56:58]
    forged[60:62] = pack("!H", 0xFFFF - checksum_of(bytes(forged)))
    assert checksum_of(own) == checksum_of(bytes(forged)) == 0xFFFF
    world = World()
    world.attach("alice", 1, addresses=(v6(ALICE_IP6),))
    world.attach("bob", 2)
    world.emit("alice", own, *[bytes(forged)] * 20)
    assert world.heard("bob") == [own]


# Link-local addresses, which nobody lists.

ANOTHERS_LL = link_local(FAR_MAC)
OTHER_GATEWAYS_LL = link_local(OTHER_SHARED_MAC)


@pytest.mark.parametrize("stolen", [ANOTHERS_LL, OTHER_GATEWAYS_LL], ids=["neighbour", "gateway"])
@pytest.mark.parametrize("thief", ["alice", "bob"], ids=["with_a_list", "without"])
def test_a_link_local_address_that_is_made_of_anothers_mac_is_anothers(
    switch: Switch, thief: str, stolen: str
) -> None:
    port, own, to = (ALICE, ALICE_MAC, BOB_MAC) if thief == "alice" else (BOB, BOB_MAC, ALICE_MAC)
    assert switch.decide(port, udp6(to, own, src_ip=stolen)).reason is Reason.SPOOFED_ADDRESS
    honest = link_local(own)
    assert switch.decide(port, udp6(to, own, src_ip=honest)).reason is Reason.LOCAL
    told = na(to, own, stolen, honest, sender_ip=honest)
    assert switch.decide(port, told).reason is Reason.SPOOFED_ND


def test_each_mac_of_a_guest_makes_a_link_local_address(switch: Switch) -> None:
    frame = na(ALICE_MAC, BOB_MAC, link_local(BOB_SECOND_MAC), "fe80::2")
    assert switch.decide(BOB, frame).reason is Reason.LOCAL


def test_a_link_local_address_at_random_or_listed_passes() -> None:
    switch = build()
    port = PortId(40)
    listed = (v6(ANOTHERS_LL), v6("2001:db8::40"))
    switch.place(attachment("zoe", port, RED, mac(0x40), addresses=listed))
    for source in (ANOTHERS_LL, "fe80::1234:5678:9abc:def0", "fe80::40"):
        frame = na(BOB_MAC, mac(0x40), source, "fe80::2")
        assert switch.decide(port, frame).reason is Reason.LOCAL
