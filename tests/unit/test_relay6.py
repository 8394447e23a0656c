"""DHCPv6 relayed to servers elsewhere (RFC 8415 section 19). Messages are scapy's."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers import dhcp6 as s
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from leaf.config import Config
from leaf.configured import topology
from leaf.relay import Reason
from leaf.router import Reason as Routed
from leaf.snoop import Outcome
from leaf.topology import Relay
from tests.frames import link_local, mac, v6, vxlan
from tests.unit.leaf_world import DEFAULT_LIMITS, H1, ONE, A, B
from tests.unit.relay_world import (
    GATEWAY6,
    LEASE,
    OWN,
    OWN6,
    SERVER,
    SERVER6,
    RelayWorld,
    frame6,
    lease6,
    message6,
    reply6,
)
from vswitch.service.settings import check
from vswitch.wire import dhcp6 as wire
from vswitch.wire import ipv6

ONE_MAC = mac(7)
ADDRESS = "2001:db8:1::100"
INTERFACE = b"100/192.0.2.11/" + ONE_MAC.hex(":").encode()


@pytest.fixture
def world() -> RelayWorld:
    return RelayWorld()


def said(packet: bytes) -> Any:
    return Ether(packet[8:])


# What goes to the servers.


def test_a_message_goes_out_whole_in_a_relay_forward(world: RelayWorld) -> None:
    frame = message6(ONE_MAC, s.DHCP6_Solicit)
    assert world.router.decide(A, vxlan(ONE, frame)).reason is Routed.DHCP
    (asked,) = world.ask(A, frame)
    assert (asked.server, asked.relay) == (SERVER6, OWN6)
    read = s.DHCP6_RelayForward(asked.payload)
    assert (read.msgtype, read.hopcount) == (12, 0)
    assert (read.linkaddr, read.peeraddr) == (GATEWAY6, link_local(ONE_MAC))
    assert read[s.DHCP6OptIfaceId].ifaceid == INTERFACE
    assert read[s.DHCP6OptClientLinkLayerAddr].clladdr == ONE_MAC.hex(":")
    # By hand, since scapy takes the type of a VSS option for no part of its length.
    inside = frame[62:]
    vss, carried = b"\0\x44\0\x07\0tenant", b"\0\x09" + len(inside).to_bytes(2, "big") + inside
    assert asked.payload.endswith(vss + carried)
    assert world.counted(Reason.RELAYED) == 1


GUESTS_RELAY = s.DHCP6_RelayForward(linkaddr="::", peeraddr="fe80::1") / s.DHCP6OptIfaceId(
    ifaceid=INTERFACE
)
REFUSED: dict[str, tuple[bytes, Reason]] = {
    "a_relay_of_its_own": (frame6(ONE_MAC, GUESTS_RELAY), Reason.FORGED),
    "an_advertisement": (message6(ONE_MAC, s.DHCP6_Advertise), Reason.ROGUE),
    "a_reply": (message6(ONE_MAC, s.DHCP6_Reply), Reason.ROGUE),
    "a_relay_reply": (frame6(ONE_MAC, s.DHCP6_RelayReply()), Reason.ROGUE),
    "a_lease_query": (frame6(ONE_MAC, s.DHCP6_Solicit(msgtype=14)), Reason.MALFORMED),
    "not_from_the_link": (
        message6(ONE_MAC, s.DHCP6_Solicit, source="2001:db8:1::7"),
        Reason.MALFORMED,
    ),
    "cut_off": (frame6(ONE_MAC, s.DHCP6_Solicit() / b"\0\3\0\xff"), Reason.MALFORMED),
    "nothing": (frame6(ONE_MAC, Packet()), Reason.MALFORMED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_relayed(world: RelayWorld, name: str) -> None:
    frame, reason = REFUSED[name]
    assert world.ask(A, frame) == []
    assert world.counted(reason) == 1


def test_without_a_server_of_the_family_there_is_silence(world: RelayWorld) -> None:
    world.serve(Relay((SERVER,), OWN, None))
    assert world.ask(A, message6(ONE_MAC, s.DHCP6_Solicit)) == []
    assert world.counted(Reason.NO_SERVER) == 1


# What comes back.


def test_an_answer_goes_to_its_guest_as_it_was_inside(world: RelayWorld) -> None:
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Solicit))[0]
    inside = bytes(s.DHCP6_Advertise(trid=0xABCDEF) / s.DHCP6OptStatusCode())
    (sent,) = world.tell(reply6(asked, inside=inside))
    assert sent.vtep == A
    frame = said(sent.packet)
    shared = world.segment(ONE).vteps[A].shared_mac
    assert (frame.dst, frame.src) == (ONE_MAC.hex(":"), shared.hex(":"))
    assert v6(frame[IPv6].src) == ipv6.link_local(shared)
    assert frame[IPv6].dst == link_local(ONE_MAC)
    assert (frame[UDP].sport, frame[UDP].dport) == (547, 546)
    assert bytes(frame[UDP].payload) == inside
    raw, again = bytes(frame), Ether(bytes(frame))
    del again[UDP].chksum
    assert bytes(again) == raw
    assert world.counted(Reason.DELIVERED) == 1


def test_an_answer_follows_a_guest_that_has_moved(world: RelayWorld) -> None:
    guest = H1.six
    world.learn(guest)
    asked = world.ask(A, message6(guest.mac, s.DHCP6_Renew, guest.ip))[0]
    world.learn(guest, at=B)
    (sent,) = world.tell(reply6(asked, (guest.ip, LEASE)))
    assert sent.vtep == B
    assert world.bound(guest.ip) == (guest.mac, B)


BAD: dict[str, tuple[dict[str, Any], Reason]] = {
    "no_interface": ({"interface": None}, Reason.BAD_REPLY),
    "nothing_inside": ({"inside": b""}, Reason.BAD_REPLY),
    "a_message_of_a_client": (
        {"inside": bytes(s.DHCP6_Solicit())},
        Reason.BAD_REPLY,
    ),
    "a_reply_to_another_relay": ({"inside": bytes(s.DHCP6_RelayReply())}, Reason.BAD_REPLY),
    "cut_off_inside": ({"inside": b"\x07abc\0\3\0\xff"}, Reason.BAD_REPLY),
    "too_short_inside": ({"inside": b"\x07a"}, Reason.BAD_REPLY),
    "another_interface": ({"interface": b"eth0"}, Reason.NOT_OURS),
    "an_interface_that_is_no_text": ({"interface": b"100/\xff/x"}, Reason.NOT_OURS),
    "another_hop": ({"hopcount": 1}, Reason.NOT_OURS),
    "another_link": ({"linkaddr": "2001:db8:9::fe"}, Reason.NOT_OURS),
    "a_peer_elsewhere": ({"peeraddr": "2001:db8:1::7"}, Reason.NOT_OURS),
    "of_no_segment": ({"interface": INTERFACE.replace(b"100", b"999")}, Reason.NO_PLACE),
    "at_no_vtep": ({"interface": INTERFACE.replace(b".11", b".99")}, Reason.NO_PLACE),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_delivered(world: RelayWorld, name: str) -> None:
    fields, reason = BAD[name]
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Request, ADDRESS))[0]
    assert world.tell(reply6(asked, (ADDRESS, LEASE), **fields)) == []
    assert world.counted(reason) == 1
    assert world.bound(ADDRESS) is None


def test_an_interface_that_stands_twice_is_none(world: RelayWorld) -> None:
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Request, ADDRESS))[0]
    payload = reply6(asked, (ADDRESS, LEASE)) + wire.option(wire.INTERFACE_ID, INTERFACE)
    assert world.tell(payload) == []
    assert world.counted(Reason.BAD_REPLY) == 1


def test_a_reply_that_is_cut_anywhere_is_none(world: RelayWorld) -> None:
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Request, ADDRESS))[0]
    payload = reply6(asked, (ADDRESS, LEASE))
    for length in range(len(payload)):
        assert wire.relay_reply(payload[:length]) is None
    whole = wire.relay_reply(payload)
    assert whole is not None and wire.given(whole.payload) == [(v6(ADDRESS), LEASE)]


def test_only_servers_are_listened_to(world: RelayWorld) -> None:
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Request, ADDRESS))[0]
    assert world.tell(reply6(asked, (ADDRESS, LEASE)), server=v6("fd00::99")) == []
    assert world.counted(Reason.NOT_A_SERVER) == 1


def test_a_server_is_held_to_its_rate() -> None:
    world = RelayWorld(limits=DEFAULT_LIMITS._replace(server_dhcp=2.0))
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Solicit))[0]
    assert [len(world.tell(reply6(asked))) for _ in range(4)] == [1, 1, 0, 0]
    assert world.counted(Reason.SERVER_POLICED) == 2


def test_what_does_not_fit_into_the_tunnel_is_dropped_and_binds_nothing(world: RelayWorld) -> None:
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Request, ADDRESS))[0]
    payload = reply6(asked, (ADDRESS, LEASE))
    assert world.tell(payload, room={A: 100}) == []
    assert world.counted(Reason.TOO_BIG) == 1
    assert world.counted(Reason.DELIVERED) == 0
    assert world.bound(ADDRESS) is None
    assert len(world.tell(payload, room={A: 1472})) == 1


# What is bound.


def test_a_lease_is_a_binding_until_it_is_over(world: RelayWorld) -> None:
    lease6(world, ONE_MAC, ADDRESS, seconds=50)
    assert world.bound(ADDRESS) == (ONE_MAC, A)
    world.slowpath.tick(49.0)
    assert world.bound(ADDRESS) == (ONE_MAC, A)
    world.slowpath.tick(50.0)
    assert world.bound(ADDRESS) is None
    assert world.counted(Outcome.EXPIRED) == 1


def test_an_advertisement_binds_nothing(world: RelayWorld) -> None:
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Solicit))[0]
    assert len(world.tell(reply6(asked, (ADDRESS, LEASE), kind=s.DHCP6_Advertise))) == 1
    assert world.bound(ADDRESS) is None


def test_a_server_takes_away_by_a_lifetime_of_nothing(world: RelayWorld) -> None:
    lease6(world, ONE_MAC, ADDRESS)
    asked = world.ask(A, message6(ONE_MAC, s.DHCP6_Rebind, ADDRESS))[0]
    world.tell(reply6(asked, (ADDRESS, 0), ("2001:db8:1::101", LEASE)))
    assert world.bound(ADDRESS) is None
    assert world.bound("2001:db8:1::101") == (ONE_MAC, A)
    assert world.counted(Outcome.TAKEN_AWAY) == 1
    # Not from another guest, of whom the server does not speak.
    asked = world.ask(A, message6(mac(8), s.DHCP6_Rebind, "2001:db8:1::101"))[0]
    world.tell(reply6(asked, ("2001:db8:1::101", 0)))
    assert world.bound("2001:db8:1::101") == (ONE_MAC, A)
    assert len(world.slowpath.relayer.snooped) == 1


@pytest.mark.parametrize("kind", [s.DHCP6_Release, s.DHCP6_Decline])
def test_what_is_given_back_is_unbound(world: RelayWorld, kind: type[Packet]) -> None:
    lease6(world, ONE_MAC, ADDRESS)
    assert len(world.ask(A, message6(mac(8), kind, ADDRESS))) == 1
    assert world.bound(ADDRESS) == (ONE_MAC, A)
    assert len(world.ask(A, message6(ONE_MAC, kind, ADDRESS))) == 1
    assert world.bound(ADDRESS) is None
    assert len(world.slowpath.relayer.snooped) == 0


@pytest.mark.parametrize("address", [GATEWAY6, "2001:db8:1::", "2001:db8:9::1", "fe80::7"])
def test_only_what_a_guest_can_have_is_bound(world: RelayWorld, address: str) -> None:
    assert len(lease6(world, ONE_MAC, address)) == 1
    assert world.bound(address) is None
    assert world.counted(Outcome.OUTSIDE) == 1


# Two leaves, and what guests are told.


def test_two_leaves_share_nothing_and_a_guest_renews_through_either() -> None:
    left, right = RelayWorld(), RelayWorld(own6=v6("fd00::2"))
    guest = H1.six
    lease6(left, guest.mac, guest.ip, vtep=A)
    (asked,) = right.ask(B, message6(guest.mac, s.DHCP6_Renew, guest.ip))
    assert asked.relay == v6("fd00::2")  # Where the server answers to.
    (sent,) = right.tell(reply6(asked, (guest.ip, LEASE)))
    assert sent.vtep == B
    assert right.bound(guest.ip) == (guest.mac, B)


@pytest.mark.parametrize(("servers", "flags"), [([], False), (["fd00::53"], True)])
def test_where_there_is_a_server_guests_are_told_to_ask_it(servers: list[str], flags: bool) -> None:
    config = check(
        {
            "leaf": {"vtep": "192.0.2.1", "relay6": "fd00::1"},
            "group": [{"name": "one", "shared-mac": "00:00:de:ad:be:ef"}],
            "vrf": [{"name": "tenant", "vni": 5000}],
            "segment": [
                {
                    "name": "red",
                    "vni": 100,
                    "vrf": "tenant",
                    "gateway": ["1.1.1.254/24", "2001:db8:1::fe/64"],
                    "dhcp": {"mode": "relay", "servers": ["10.0.0.53", *servers]},
                }
            ],
        },
        Config,
        "leaf.toml",
    )
    advertised = topology(config).segments[0].advertised
    assert advertised is not None
    assert (advertised.managed, advertised.other) == (flags, flags)
