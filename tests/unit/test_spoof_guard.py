"""The spoof guard: a guest speaks with its own MACs and, where any are listed, its own addresses.

What is held to account is not only the Ethernet header but what ARP, RARP and IP say inside, since
that is what neighbours believe.
"""

from __future__ import annotations

import pytest

from tests.frames import BROADCAST, arp, plain, rarp, tagged, udp, udp6, v4, v6
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
