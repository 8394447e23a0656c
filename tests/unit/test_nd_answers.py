"""What the leaf says by ND, compared byte for byte with what scapy builds, and what it learns.

Above all: what is news of a MAC in one family moves, or takes away, its addresses of both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from leaf.bindings import Outcome, Timers
from leaf.limits import Limits
from leaf.neighbour import Reason
from leaf.punt import Send
from tests.frames import (
    SHARED_MAC,
    link_local,
    mac,
    na,
    ns,
    ra,
    rarp,
    redirect,
    rs,
    v6,
    vxlan,
)
from tests.unit.families import FAMILIES, IPV4, IPV6, Family
from tests.unit.leaf_world import (
    GUESTS,
    GUESTS6,
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    ONE,
    SAME,
    SHARED,
    TWO,
    X1,
    A,
    B,
    C,
    Guest,
    World,
    rebuilt,
    to_gateway,
    topology,
)
from vswitch.wire.vxlan import Vni, Vtep

NEWCOMER = mac(0x77)
GATEWAY, GATEWAY_LL = "2001:db8:1::fe", link_local(SHARED_MAC)
LATE = Guest("1.1.1.77", mac(77), B)
both = pytest.mark.parametrize("family", [pytest.param(f, id=f.name) for f in FAMILIES])


@pytest.fixture
def world() -> World:
    made = World(*GUESTS, *GUESTS6, ipv6=True)
    for guest in (H1, H2, H3, H4, H5):
        made.learn(guest.link_local)
    return made


def sent(send: Send, vni: int = ONE) -> bytes:
    """The frame in what was sent."""
    assert send.packet[:8] == b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"
    return send.packet[8:]


def over(src: bytes, dst: bytes, source: str, to: str, message: Packet) -> bytes:
    """What scapy makes of a message, checksum and all."""
    ether = Ether(src=src.hex(":"), dst=dst.hex(":"))
    return bytes(ether / IPv6(src=source, dst=to, hlim=255) / message)


def says(target: str, shared: bytes, flags: str) -> Packet:
    message = ICMPv6ND_NA(tgt=target, **{flag: int(flag in flags) for flag in "RSO"})
    return message / ICMPv6NDOptDstLLAddr(lladdr=shared.hex(":"))


class Ask(NamedTuple):
    """A question, and the flags of its answer; no address asks by duplicate address detection."""

    what: str
    asker: Guest
    source: Vtep
    target: str
    flags: str
    to: bytes | None = None
    dad: bool = False


ASKS = (
    Ask("for_the_gateway", H1.six, A, GATEWAY, "RSO"),
    Ask("for_the_gateway_unicast", H1.six, A, GATEWAY, "RSO", SHARED_MAC),
    Ask("for_the_gateways_link_local", H1.link_local, A, GATEWAY_LL, "RSO"),
    Ask("for_the_gateways_link_local_unicast", H1.six, A, GATEWAY_LL, "RSO", SHARED_MAC),
    Ask("for_a_remote_guest", H1.six, A, H3.six.ip, "S"),
    Ask("for_a_remote_guest_from_link_local", H1.link_local, A, H3.six.ip, "S"),
    Ask("for_a_remote_link_local_guest", H1.link_local, A, H3.link_local.ip, "S"),
    Ask("from_the_other_group", H4.six, C, H1.six.ip, "S"),
    Ask("with_a_stale_cache", H1.six, A, H3.six.ip, "SO", SHARED_MAC),
    Ask("from_where_the_asker_has_moved_to", H1.six, C, H2.six.ip, "S"),
    Ask("in_the_second_segment", H5.six, A, H6.six.ip, "S"),
    Ask("whether_the_gateway_is_taken", H1.six, A, GATEWAY, "RO", dad=True),
    Ask("whether_the_gateways_link_local_is_taken", H1.six, A, GATEWAY_LL, "RO", dad=True),
)


@pytest.mark.parametrize("ask", [pytest.param(ask, id=ask.what) for ask in ASKS])
def test_an_answer(world: World, ask: Ask) -> None:
    """Unicast to the asker, from the shared MAC of the group that the asker is in now."""
    asker, shared = ask.asker, SHARED[ask.source]
    question = ns(ask.to, asker.mac, "::" if ask.dad else asker.ip, ask.target)
    (send,) = world.punt(ask.source, vxlan(asker.segment, question))
    to = "ff02::1" if ask.dad else asker.ip
    expected = over(shared, asker.mac, ask.target, to, says(ask.target, shared, ask.flags))
    assert sent(send, asker.segment) == expected
    assert send.vtep == ask.source
    assert world.slowpath.events["nd_answers"] == 1
    assert world.slowpath.events["arp_answers"] == 0


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ns(None, H1.mac, H1.six.ip, H2.six.ip), id="a_neighbour"),
        pytest.param(ns(SHARED_MAC, H1.mac, H1.six.ip, H2.six.ip), id="a_neighbour_unicast"),
        pytest.param(ns(None, H1.mac, "::", H1.six.ip), id="own_probe"),
        pytest.param(ns(None, H1.mac, "::", H1.link_local.ip), id="own_link_local_probe"),
        pytest.param(na(None, H1.mac, H1.six.ip), id="announcement"),
        pytest.param(na(None, NEWCOMER, H3.six.ip), id="announcement_that_rebinds"),
        pytest.param(na(SHARED_MAC, H1.mac, H1.six.ip, GATEWAY_LL), id="reply"),
        pytest.param(na(None, H1.mac, GATEWAY), id="claims_the_gateway"),
        pytest.param(na(None, H1.mac, GATEWAY_LL), id="claims_the_gateways_link_local"),
        pytest.param(ra(H1.mac, H1.link_local.ip), id="router_advertisement"),
        pytest.param(rs(H1.mac, hlim=254), id="router_solicitation_from_afar"),
    ],
)
def test_silence(world: World, frame: bytes) -> None:
    assert world.punt(A, vxlan(ONE, frame)) == []
    assert world.slowpath.events["punts_failed"] == 0


def test_every_message_is_counted_by_its_reason_and_family(world: World) -> None:
    world.punt(A, vxlan(ONE, ns(None, H1.mac, H1.six.ip, H2.six.ip)))
    world.punt(A, vxlan(ONE, ns(None, H1.mac, H1.six.ip, H2.six.ip)))
    world.punt(A, vxlan(ONE, ns(None, H1.mac, H1.six.ip, H2.six.ip, hlim=9)))
    counts = world.slowpath.discovery.nd_counts
    assert (counts[Reason.SAME_VTEP], counts[Reason.MALFORMED]) == (2, 1)
    assert sum(counts.values()) == 3
    assert not any(world.slowpath.discovery.arp_counts.values())


# A move never moves one family without the other.


def places(world: World, guest: Guest = H1) -> set[Vtep]:
    """Where the leaf believes the guest's addresses to be, and where it sends packets for them."""
    bound = world.bindings.of_mac(guest.segment, guest.mac)
    assert {b.address for b in bound} == {
        guest.address,
        guest.six.address,
        guest.link_local.address,
    }
    forwarded = {
        world.router.decide(A, to_gateway(asker, target)).vtep
        for asker, target in (
            (H2, guest.ip),
            (H2.six, guest.six.ip),
            (H2.link_local, guest.link_local.ip),
        )
    }
    assert forwarded == {b.vtep for b in bound}
    return {b.vtep for b in bound}


NEWS = (
    *((f"{f.name}_question", f.ask(H1.mac, f.of(H1).ip, f.of(H3).ip)) for f in FAMILIES),
    *(
        (f"{f.name}_unicast_question", f.ask(H1.mac, f.of(H1).ip, f.of(H3).ip, to=SHARED_MAC))
        for f in FAMILIES
    ),
    *((f"{f.name}_question_for_no_guest", f.ask(H1.mac, f.of(H1).ip, f.outside)) for f in FAMILIES),
    *((f"{f.name}_announcement", f.announce(H1.mac, f.of(H1).ip)) for f in FAMILIES),
    *((f"{f.name}_reply", f.tell(H1.mac, f.of(H1).ip, f.gateway, to=SHARED_MAC)) for f in FAMILIES),
    *((f"{f.name}_probe", f.ask(H1.mac, f.nobody, f.of(H1).ip)) for f in FAMILIES),
    ("link_local_question", ns(None, H1.mac, H1.link_local.ip, H3.six.ip)),
    ("link_local_announcement", na(None, H1.mac, H1.link_local.ip)),
    ("link_local_probe", ns(None, H1.mac, "::", H1.link_local.ip)),
    ("rarp", rarp(H1.mac)),
)


@pytest.mark.parametrize("frame", [pytest.param(frame, id=name) for name, frame in NEWS])
def test_whatever_a_guest_says_in_one_family_moves_both(world: World, frame: bytes) -> None:
    assert places(world) == {A}
    world.punt(C, vxlan(ONE, frame), 1.0)
    assert places(world) == {C}
    world.punt(B, vxlan(ONE, frame), 2.0)
    assert places(world) == {B}
    assert world.slowpath.routes.counts[Outcome.MOVED] == 2


def test_a_withdrawal_takes_both_families(world: World) -> None:
    news = world.slowpath.routes.withdraw(world.segment(ONE), H1.mac, A)
    assert {binding.address for binding in news.changed} == {
        H1.address,
        H1.six.address,
        H1.link_local.address,
    }
    assert world.bindings.of_mac(ONE, H1.mac) == []
    for asker, target in ((H2, H1), (H2.six, H1.six), (H2.link_local, H1.link_local)):
        verdict = world.router.decide(A, to_gateway(asker, target.ip))
        assert (verdict.reason, verdict.vtep) == ("glean", None)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ns(None, H1.mac, H1.six.ip, H3.six.ip, sender_mac=H2.mac), id="other_sender"),
        pytest.param(na(None, H1.mac, H1.six.ip, sender_mac=H2.mac), id="other_target_mac"),
        pytest.param(ns(None, H1.mac, GATEWAY, H1.six.ip), id="claims_the_gateway"),
        pytest.param(ns(None, H1.mac, GATEWAY_LL, H1.six.ip), id="claims_its_link_local"),
        pytest.param(ns(None, H1.mac, "2001:db8:9::9", H1.six.ip), id="sender_outside"),
        pytest.param(na(None, H1.mac, H1.six.ip, hlim=254), id="from_afar"),
        pytest.param(na(None, H1.mac, H1.six.ip)[:-1], id="cut"),
        pytest.param(rs(H1.mac, H1.link_local.ip), id="router_solicitation"),
        pytest.param(ra(H1.mac, H1.link_local.ip), id="router_advertisement"),
    ],
)
def test_nothing_is_learnt_from_what_is_not_believed(world: World, frame: bytes) -> None:
    before = [repr(binding) for binding in world.bindings.all()]
    world.punt(C, vxlan(ONE, frame))
    assert [repr(binding) for binding in world.bindings.all()] == before


# A duplicate address (RFC 4862 section 5.4).

PROBE = vxlan(ONE, ns(None, NEWCOMER, "::", H3.six.ip))
OWNER_ANSWERS = vxlan(ONE, na(SHARED_MAC, H3.mac, H3.six.ip, GATEWAY_LL))


def test_a_duplicate_is_reported_after_the_owner_has_answered(world: World) -> None:
    assert world.punt(A, PROBE, 10.0) == []
    (question,) = world.slowpath.tick(10.0)
    asks = ICMPv6ND_NS(tgt=H3.six.ip) / ICMPv6NDOptSrcLLAddr(lladdr=SHARED_MAC.hex(":"))
    assert question.vtep == B
    assert sent(question) == over(SHARED_MAC, H3.mac, GATEWAY_LL, H3.six.ip, asks)
    (send,) = world.punt(B, OWNER_ANSWERS, 10.5)
    told = over(SHARED_MAC, NEWCOMER, H3.six.ip, "ff02::1", says(H3.six.ip, SHARED_MAC, "O"))
    assert (send.vtep, sent(send)) == (A, told)
    assert world.punt(B, OWNER_ANSWERS, 10.6) == []


def test_a_second_prober_does_not_take_the_first_ones_answer(world: World) -> None:
    """A host of IPv6 asks only once, so the first would hold the address to be free."""
    world.punt(A, PROBE, 10.0)
    world.punt(C, vxlan(ONE, ns(None, mac(66), "::", H3.six.ip)), 10.001)
    assert len(world.slowpath.tick(10.001)) == 1
    sends = world.punt(B, OWNER_ANSWERS, 10.002)
    assert [(send.vtep, sent(send)[:6]) for send in sends] == [(A, NEWCOMER), (C, mac(66))]


def test_a_silent_owner_loses_its_address_without_a_word(world: World) -> None:
    world.punt(A, PROBE, 10.0)
    asked = [send for step in range(6) for send in world.slowpath.tick(10.0 + step)]
    assert len(asked) == 3
    assert world.bindings.get(ONE, H3.six.address) is None
    assert world.punt(A, vxlan(ONE, na(None, NEWCOMER, H3.six.ip)), 17.0) == []
    assert world.bindings.of_mac(ONE, NEWCOMER)[0].address == H3.six.address


# Questions of our own.


@both
def test_a_silent_binding_is_asked_by_unicast_and_then_forgotten(family: Family) -> None:
    guest = family.of(H4)
    world = World(guest, ipv6=True, timers=Timers(60.0, 1.0, 3))
    for at in (60.0, 61.0, 62.0):
        assert world.slowpath.deadline() == at
        (send,) = world.slowpath.tick(at)
        frame = Ether(sent(send))
        assert (send.vtep, frame.dst) == (C, H4.mac.hex(":"))
        assert frame.src == SHARED[C].hex(":")
        if family is IPV6:
            asks = ICMPv6ND_NS(tgt=guest.ip) / ICMPv6NDOptSrcLLAddr(lladdr=frame.src)
            own = link_local(SHARED[C])
            assert sent(send) == over(SHARED[C], H4.mac, own, guest.ip, asks)
        else:
            assert frame[ARP].pdst == guest.ip
    assert world.slowpath.tick(63.0) == []
    assert world.bindings.get(ONE, guest.address) is None
    counted = world.slowpath.events
    assert (counted["arp_questions"], counted["nd_questions"]) == (
        (3, 0) if family is IPV4 else (0, 3)
    )


@pytest.mark.parametrize("guest", [H4.six, H4.link_local], ids=["global", "link_local"])
def test_an_answer_to_our_question_confirms(guest: Guest) -> None:
    world = World(guest, ipv6=True)
    world.slowpath.tick(60.0)
    assert (
        world.punt(C, vxlan(ONE, na(SHARED[C], H4.mac, guest.ip, link_local(SHARED[C]))), 60.5)
        == []
    )
    assert world.slowpath.discovery.nd_counts[Reason.REPLY] == 1
    binding = world.bindings.get(ONE, guest.address)
    assert binding is not None and (binding.state, binding.heard) == ("reachable", 60.5)


@pytest.mark.parametrize(
    ("asker", "target"),
    [
        pytest.param(H1.six, LATE.six, id="global"),
        pytest.param(H1.link_local, LATE.link_local, id="link_local"),
    ],
)
@pytest.mark.parametrize("way", ["packet", "question"])
def test_an_unbound_address_is_asked_for_by_multicast_and_what_waited_goes_on(
    world: World, asker: Guest, target: Guest, way: str
) -> None:
    packet = to_gateway(asker, target.ip)
    if way == "question":
        packet = vxlan(ONE, ns(None, asker.mac, asker.ip, target.ip))
    sends = world.punt(A, packet, 10.0)
    assert [send.vtep for send in sends] == [A, B, C]
    group = b"\x33\x33\xff" + target.address[13:]
    for send in sends:
        shared = SHARED[send.vtep]
        asks = ICMPv6ND_NS(tgt=target.ip) / ICMPv6NDOptSrcLLAddr(lladdr=shared.hex(":"))
        to = "ff02::1:ff" + f"{target.address[13]:02x}:" + target.address[14:].hex()
        assert sent(send) == over(shared, group, link_local(shared), to, asks)
    assert world.slowpath.events["nd_questions"] == 3
    released = world.punt(B, vxlan(ONE, na(SHARED_MAC, LATE.mac, target.ip, GATEWAY_LL)), 10.2)
    if way == "packet":
        (send,) = released
        hops = Ether(sent(send))[IPv6].hlim
        assert (send.vtep, send.packet[8:14], hops) == (
            B,
            LATE.mac,
            63 if target == LATE.six else 64,
        )
    else:
        assert released == []
        (answer,) = world.punt(A, packet, 11.0)
        told = says(target.ip, SHARED_MAC, "S")
        assert sent(answer) == over(SHARED_MAC, asker.mac, target.ip, asker.ip, told)


# Router advertisements.


def advertised(shared: bytes, dst: bytes, *subnets: int) -> bytes:
    """The advertisement of a segment of the world, as scapy builds it."""
    message: Packet = ICMPv6ND_RA(chlim=64, M=0, O=0, prf=0, routerlifetime=1800)
    message /= ICMPv6NDOptSrcLLAddr(lladdr=shared.hex(":")) / ICMPv6NDOptMTU(mtu=1450)
    for subnet in subnets:
        message /= ICMPv6NDOptPrefixInfo(
            prefix=f"2001:db8:{subnet}::",
            prefixlen=64,
            L=1,
            A=1,
            R=0,
            validlifetime=2592000,
            preferredlifetime=604800,
        )
    message /= ICMPv6NDOptRDNSS(dns=["2001:db8:1::53"], lifetime=1800)
    return over(shared, dst, link_local(shared), "ff02::1", message)


@pytest.mark.parametrize("source_ip", ["::", H1.link_local.ip, H1.six.ip])
@pytest.mark.parametrize("vtep", [A, C])
def test_a_router_solicitation_is_answered_to_the_asker_alone(
    world: World, source_ip: str, vtep: Vtep
) -> None:
    (send,) = world.punt(vtep, vxlan(ONE, rs(H1.mac, source_ip)))
    assert send.vtep == vtep
    assert sent(send) == advertised(SHARED[vtep], H1.mac, 1, 3)
    assert world.slowpath.events["router_advertisements"] == 1


def test_each_segment_advertises_its_own_prefixes(world: World) -> None:
    (send,) = world.punt(A, vxlan(TWO, rs(H5.mac)))
    assert sent(send, TWO) == advertised(SHARED_MAC, H5.mac, 2)


def test_a_guest_that_has_become_active_is_advertised_to_at_once(world: World) -> None:
    """Known or not: what it has from before its move may be another group's."""
    for guest in (H1.mac, NEWCOMER):
        (send,) = world.punt(C, vxlan(ONE, rarp(guest)))
        assert (send.vtep, sent(send)) == (C, advertised(SHARED[C], guest, 1, 3))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(rs(H1.mac, hlim=254), id="hop_limit"),
        pytest.param(rs(H1.mac)[:-1], id="cut"),
        pytest.param(rs(H1.mac)[:-1] + b"\x01", id="checksum"),
    ],
)
def test_an_unsound_router_solicitation_is_counted(world: World, frame: bytes) -> None:
    assert world.punt(A, vxlan(ONE, frame)) == []
    assert world.slowpath.events["router_malformed"] == 1


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ra(H1.mac, H1.link_local.ip), id="to_all"),
        pytest.param(ra(H1.mac, GATEWAY_LL, SHARED_MAC, H3.link_local.ip), id="to_one"),
        pytest.param(
            redirect(SHARED_MAC, H1.mac, GATEWAY_LL, H3.six.ip, "2001:db8::9", H1.link_local.ip),
            id="redirect",
        ),
    ],
)
def test_a_rogue_router_ends_here(world: World, frame: bytes) -> None:
    assert world.punt(A, vxlan(ONE, frame)) == []
    assert world.slowpath.events["router_rogue"] == 1


def test_nothing_is_advertised_where_nothing_is_configured() -> None:
    world = World(ipv6=True)
    for segment in world.topology.segments:
        segment.advertised = None
    world.slowpath.advertiser.advertise(0.0)
    assert world.slowpath.deadline() is None
    assert world.punt(A, vxlan(ONE, rs(H1.mac))) == []
    assert world.punt(A, vxlan(ONE, rarp(H1.mac))) == []
    assert world.slowpath.events["router_advertisements"] == 0


def test_advertisements_are_limited_like_any_answer() -> None:
    world = World(ipv6=True, limits=Limits(guest_punts=5.0))
    assert sum(len(world.punt(A, vxlan(ONE, rs(H1.mac)), 5.0)) for _ in range(50)) == 5
    assert len(world.punt(A, vxlan(ONE, rs(H2.mac)), 5.0)) == 1


def moments(world: World, end: float) -> dict[int, list[float]]:
    """When each segment's vswitches get an advertisement to all, following the deadline."""
    seen: dict[int, list[float]] = {ONE: [], TWO: [], SAME: []}
    while (at := world.slowpath.deadline()) is not None and at <= end:
        sends = world.slowpath.tick(at)
        assert sends
        for vni, moments_of in seen.items():
            mine = [s for s in sends if int.from_bytes(s.packet[4:7], "big") == vni]
            if mine:
                assert [s.vtep for s in mine] == list(world.segment(Vni(vni)).vteps)
                moments_of.append(at)
    return seen


def test_periodic_advertisements() -> None:
    """RFC 4861 section 6.2.4: three at the start, then each in its interval, and not in step."""
    world = World(ipv6=True)
    world.slowpath.advertiser.advertise(100.0)
    seen = moments(world, 5000.0)
    waits = set()
    for times in seen.values():
        assert times[:3] == [100.0, 116.0, 132.0]
        gaps = {round(two - one, 6) for one, two in pairwise(times[2:])}
        assert len(times) > 8
        assert all(200.0 <= gap <= 600.0 for gap in gaps)
        waits |= gaps
    assert len(waits) == 3


def test_a_periodic_advertisement_goes_to_all_nodes_from_each_groups_gateway() -> None:
    world = World(ipv6=True)
    world.slowpath.advertiser.advertise(100.0)
    sends = [s for s in world.slowpath.tick(100.0) if s.packet[6] == ONE]
    for send in sends:
        group = bytes.fromhex("333300000001")
        assert sent(send) == advertised(SHARED[send.vtep], group, 1, 3)
    assert [s.vtep for s in sends] == [A, B, C]


def test_a_new_segment_is_advertised_from_when_it_comes_and_one_that_goes_no_more() -> None:
    world = World(ipv6=True)
    new = topology(ipv6=True)
    two = new.vrfs[0].segments.pop()
    new.vrfs[0].routes.clear()
    world.slowpath.replace_topology(rebuilt(new))
    world.slowpath.advertiser.advertise(100.0)
    world.slowpath.tick(100.0)
    again = topology(ipv6=True)
    del again.vrfs[1]
    world.slowpath.replace_topology(rebuilt(again))
    world.slowpath.advertiser.advertise(110.0)
    assert world.slowpath.deadline() == 110.0
    assert {s.packet[6] for s in world.slowpath.tick(110.0)} == {two.vni}
    assert world.slowpath.deadline() == 116.0
    assert {s.packet[6] for s in world.slowpath.tick(116.0)} == {ONE}


def test_a_reload_that_changes_nothing_keeps_the_times() -> None:
    world = World(ipv6=True)
    world.slowpath.advertiser.advertise(100.0)
    world.slowpath.tick(100.0)
    world.slowpath.replace_topology(topology(ipv6=True))
    world.slowpath.advertiser.advertise(105.0)
    assert world.slowpath.deadline() == 116.0


def test_the_gateway_of_an_unknown_mac_is_that_of_its_segment(world: World) -> None:
    """X1 is of another tenant, with the same prefix and the same gateway."""
    (send,) = world.punt(B, vxlan(SAME, ns(None, X1.mac, X1.six.ip, GATEWAY)))
    assert sent(send, SAME) == over(
        SHARED_MAC, X1.mac, GATEWAY, X1.six.ip, says(GATEWAY, SHARED_MAC, "RSO")
    )
    assert world.router.fib("other", 6).hosts[v6(GATEWAY)].verdict.reason == "gateway"
