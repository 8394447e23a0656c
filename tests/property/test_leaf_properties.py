"""What holds for the leaf whatever comes: hostile bytes, random histories, any reload.

The histories are those of the slow path's verbs. After every one, the tables must agree with each
other and with a plain model: nothing may depend on how a state was reached.
"""

from __future__ import annotations

import copy
import socket
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether

from leaf.bindings import Binding, Bindings, Timers
from leaf.limits import Limits
from leaf.router import HEADER_LEN, IP_AT, Entry, Reason, Router
from leaf.slowpath import SlowPath
from leaf.topology import Segment, Topology
from tests.frames import (
    ALL_NODES_MAC,
    BROADCAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    arp,
    echo6,
    ip,
    ip6,
    link_local,
    mac,
    na,
    ns,
    ra,
    rarp,
    redirect,
    rs,
    v4,
    v6,
    vxlan,
)
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GROUP_ONE,
    GROUP_TWO,
    GUESTS,
    GUESTS6,
    ONE,
    OTHER,
    ROUTER_MAC,
    SAME,
    STRANGER,
    TENANT,
    THIRD_LEAF,
    TWO,
    A,
    B,
    C,
    Guest,
    World,
    forwarded,
    gateway,
    packed,
    rebuilt,
    topology,
)
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

VNIS = (ONE, TWO, SAME, TENANT, OTHER, Vni(99))
PEERS = (A, B, C, FAR_LEAF, THIRD_LEAF, STRANGER)
ADDRESSES = ("1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.77", "2.2.2.5", "2.2.2.6", "3.3.3.7")
ADDRESSES += ("1.1.1.254", "1.1.1.255", "10.10.1.1", "10.20.1.1", "10.20.30.1", "0.0.0.0")
ADDRESSES += ("9.9.9.9", "127.0.0.1", "224.0.0.1")
MACS = (SHARED_MAC, OTHER_SHARED_MAC, ROUTER_MAC, FAR_ROUTER_MAC, BROADCAST, mac(1), mac(3))

ADDRESSES6 = tuple(guest.ip for guest in GUESTS6) + tuple(g.link_local.ip for g in GUESTS[:4])
ADDRESSES6 += ("2001:db8:1::77", "2001:db8:1::fe", "2001:db8:1::", "2001:db8:a10::1", "fe80::77")
ADDRESSES6 += ("2001:db8:a20::1", "2001:db8:9::9", "::", "::1", "::ffff:1.1.1.1", "ff02::1")
ADDRESSES6 += (link_local(SHARED_MAC), link_local(OTHER_SHARED_MAC), "febf::1")

peers = st.sampled_from(PEERS)
addresses = st.sampled_from(ADDRESSES)
addresses6 = st.sampled_from(ADDRESSES6)
EXTENSIONS = (None, None, None, IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(m=1))


@st.composite
def frames6(draw: st.DrawFn) -> bytes:
    """IPv6 and ND frames near enough to sound ones to get deep into the code."""
    dst, src = draw(st.sampled_from((*MACS, ALL_NODES_MAC))), draw(st.sampled_from(MACS))
    to = draw(st.sampled_from((None, None, dst)))
    one, two = draw(addresses6), draw(addresses6)
    hops = draw(st.sampled_from((255, 255, 255, 254, 64, 1, 0)))
    extensions = draw(st.sampled_from(EXTENSIONS))
    sender = draw(st.sampled_from((None, None, *MACS)))
    match draw(st.integers(0, 8)):
        case 0 | 1:
            return ns(to, src, one, two, sender, extensions, hlim=hops)
        case 2:
            return na(to, src, one, two, sender, extensions, hlim=hops)
        case 3:
            return na(to, src, one, sender_mac=sender, sender_ip=draw(addresses6))
        case 4:
            return rs(src, one, hlim=hops)
        case 5:
            return ra(src, one, dst, two)
        case 6:
            return redirect(dst, src, one, two, draw(addresses6), draw(addresses6))
        case 7:
            return echo6(dst, src, one, two, hlim=hops)
        case _:
            payload = draw(st.binary(max_size=40))
            return ip6(dst, src, one, two, payload=payload, extensions=extensions, hlim=hops)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames near enough to sound ones to get deep into the code."""
    dst, src = draw(st.sampled_from(MACS)), draw(st.sampled_from(MACS))
    if draw(st.booleans()):
        payload, ttl = draw(st.binary(max_size=40)), draw(st.integers(0, 255))
        return ip(dst, src, draw(addresses), draw(addresses), payload=payload, ttl=ttl)
    sender, op = draw(st.sampled_from(MACS)), draw(st.integers(0, 4))
    return arp(dst, src, draw(addresses), draw(addresses), sender_mac=sender, op=op)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Packets from sound to random: cut, lengthened, with some bytes changed."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=120))
    frame = draw(frames() | frames6())
    packet = bytearray(vxlan(draw(st.sampled_from(VNIS)), frame))
    for _ in range(draw(st.integers(0, 3))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del packet[draw(st.integers(0, len(packet))) :]
    return bytes(packet) + draw(st.binary(max_size=8))


def state(world: World) -> list[object]:
    """Everything that the leaf remembers, as a copy."""
    slowpath = world.slowpath
    fibs = [
        world.router.fib(vrf.name, version) for vrf in world.topology.vrfs for version in (4, 6)
    ]
    return [
        [(copy.copy(fib.hosts), fib.prefixes) for fib in fibs],
        [repr(binding) for binding in world.bindings.all()],
        len(slowpath.asker.gleaner),
        slowpath.asker.gleaner.negative,
        dict(slowpath.discovery.arp_counts),
        dict(slowpath.discovery.nd_counts),
        dict(slowpath.events),
    ]


FREE = Limits(1e9, 1e9, 1e9, guest_punts=1e9, guest_gleans=1e9)


def is_question(packet: bytes) -> bool:
    """An ARP request, or a neighbour solicitation to a solicited-node group."""
    frame = packet[8:]
    return frame[12:14] == b"\x08\x06" or (frame[:3] == b"\x33\x33\xff" and frame[54] == 135)


@given(st.lists(st.tuples(peers, packets()), min_size=1, max_size=10))
def test_no_packet_raises_and_deciding_changes_nothing(arrivals: list[tuple[Vtep, bytes]]) -> None:
    world = World(*GUESTS, *GUESTS6, ipv6=True)
    before = state(world)
    verdicts = [world.router.decide(source, packet) for source, packet in arrivals]
    again = [world.router.decide(source, memoryview(packet)) for source, packet in arrivals]
    assert verdicts == again
    assert state(world) == before


@given(st.lists(st.tuples(peers, packets()), min_size=1, max_size=20))
def test_the_slow_path_survives_whatever_it_is_handed(
    arrivals: list[tuple[Vtep, bytes]],
) -> None:
    """What comes of it is sound: to peers of ours, from a gateway's MAC, to one station or asking.

    What is not sound ends as a verdict of the rules and is no failure: the router has seen to it
    that a packet fits its verdict.
    """
    world = World(*GUESTS, *GUESTS6, ipv6=True, limits=FREE)
    failures: list[Exception] = []
    world.slowpath = SlowPath(
        world.topology, world.router, world.bindings, FREE, on_failure=failures.append
    )
    world.slowpath.advertiser.advertise(1e9)  # Not of interest here.
    for now, (source, packet) in enumerate(arrivals):
        sends = world.punt(source, packet, float(now))
        sends += world.slowpath.tick(float(now))
        for send in sends:
            assert send.vtep in (A, B, C, FAR_LEAF, THIRD_LEAF)
            assert send.packet[14:20] in (SHARED_MAC, OTHER_SHARED_MAC, ROUTER_MAC)
            assert not send.packet[8] & 1 or is_question(send.packet)
        consistent(world.bindings, world.router, world.topology)
    assert failures == []
    assert world.slowpath.events["punts_failed"] == 0


@given(st.sampled_from(Reason), peers, packets())
def test_the_slow_path_survives_a_verdict_that_does_not_fit(
    reason: Reason, source: Vtep, packet: bytes
) -> None:
    """Cut packets, other segments, another reason: a bug in one place must not end the daemon."""
    world = World(*GUESTS, *GUESTS6, ipv6=True)
    for segment in (world.segment(ONE), None):
        verdict = world.router.decide(source, packet)._replace(reason=reason, segment=segment)
        world.slowpath.admit(reason, source, packet, 1, 1.0)
        world.slowpath.handle(verdict, source, [packet], 1.0)


@given(
    source=st.sampled_from((A, B, FAR_LEAF)),
    dst_ip=st.sampled_from([guest.ip for guest in GUESTS] + ["10.10.1.1", "10.20.1.1"]),
    src_ip=st.integers(0x0B000000, 0x7EFFFFFF),
    ttl=st.integers(2, 255),
    payload=st.binary(max_size=60),
    padding=st.binary(max_size=20),
    tos=st.integers(0, 255),
)
def test_a_forwarded_packet_differs_only_where_a_router_may_change_it(
    source: Vtep,
    dst_ip: str,
    src_ip: int,
    ttl: int,
    payload: bytes,
    padding: bytes,
    tos: int,
) -> None:
    world = World(*GUESTS)
    sender = ".".join(str(part) for part in src_ip.to_bytes(4, "big"))
    vni, dst = (TENANT, ROUTER_MAC) if source == FAR_LEAF else (TWO, SHARED_MAC)
    frame = ip(dst, mac(0x50), sender, dst_ip, payload=payload, ttl=ttl, tos=tos)
    packet = vxlan(vni, frame) + padding
    verdict = world.router.decide(source, packet)
    if verdict.vtep is None:
        assert verdict.reason is Reason.LOOP
        return
    after = forwarded(packet, verdict)
    assert len(after) == len(packet)
    assert (after[:4], after[7]) == (packet[:4], packet[7])
    # After the two MACs: all is as it was, but for the TTL and the checksum.
    ttl_at, sum_at = IP_AT + 8, IP_AT + 10
    blank = bytearray(after)
    blank[HEADER_LEN - 20 : HEADER_LEN] = packet[:HEADER_LEN]
    blank[ttl_at], blank[sum_at : sum_at + 2] = packet[ttl_at], packet[sum_at : sum_at + 2]
    assert blank == packet
    parsed = Ether(after[8:])[IP]
    assert parsed.ttl == (ttl if verdict.reason is Reason.BRIDGED else ttl - 1)
    written = parsed.chksum
    del parsed.chksum
    assert IP(bytes(parsed)).chksum == written


@given(
    dst=st.sampled_from([*GUESTS6, *(guest.link_local for guest in GUESTS)]),
    src_ip=st.binary(min_size=8, max_size=8),
    hops=st.integers(2, 255),
    payload=st.binary(max_size=60),
    padding=st.binary(max_size=20),
    tc=st.integers(0, 255),
    fl=st.integers(0, 0xFFFFF),
)
def test_a_forwarded_ipv6_packet_differs_only_in_its_hop_limit(
    dst: Guest, src_ip: bytes, hops: int, payload: bytes, padding: bytes, tc: int, fl: int
) -> None:
    world = World(*GUESTS, *GUESTS6, *(guest.link_local for guest in GUESTS), ipv6=True)
    sender = "2001:db8:5::" + src_ip.hex(":", 2)
    frame = ip6(SHARED_MAC, mac(0x50), sender, dst.ip, payload=payload, hlim=hops, tc=tc, fl=fl)
    packet = vxlan(dst.segment, frame) + padding
    verdict = world.router.decide(dst.vtep, packet)
    assert verdict.vtep == dst.vtep
    after = forwarded(packet, verdict)
    kept = dst.segment == TWO or dst.ip.startswith("fe80")
    assert (verdict.reason is Reason.BRIDGED) == kept
    at = IP_AT + 7
    assert after[at] == hops - (not kept)
    assert after[HEADER_LEN:at] + after[at + 1 :] == packet[HEADER_LEN:at] + packet[at + 1 :]
    assert Ether(after[8:])[IPv6].src == Ether(packet[8:])[IPv6].src


# Random histories.


def gateways_of(topology_: Topology) -> dict[str, set[bytes]]:
    return {
        vrf.name: {g.address for segment in vrf.segments for g in segment.gateways}
        for vrf in topology_.vrfs
    }


def segment_mac(segment: Segment) -> bytes:
    return next(iter(segment.shared_macs))


def _text(binding: Binding) -> str:
    return socket.inet_ntop(socket.AF_INET6, binding.address)


def consistent(bindings: Bindings, router: Router, topology_: Topology) -> None:
    """Hold the indices to each other, a MAC to one place, and the FIB to the bindings."""
    every = bindings.all()
    assert len(bindings) == len(every)
    for binding in every:
        assert bindings.get(binding.segment, binding.address) is binding
        own = bindings.of_mac(binding.segment, binding.mac)
        assert any(one is binding for one in own)
        assert {(one.mac, one.vtep, one.sequence, one.has_moved) for one in own} == {
            (binding.mac, binding.vtep, binding.sequence, binding.has_moved)
        }
    # No index knows more than the other: every MAC's bindings are found by their addresses.
    assert sum(len(own) for own in bindings._by_mac.values()) == len(every)
    assert all(bindings._by_mac.values())

    segments = {segment.vni: segment for segment in topology_.segments}
    wanted: dict[str, dict[bytes, tuple[str, bytes]]] = {vrf.name: {} for vrf in topology_.vrfs}
    for binding in every:
        segment = segments[binding.segment]
        shared = segment.vteps[binding.vtep].shared_mac
        header = b"\x08\0\0\0" + segment.vni.to_bytes(3, "big") + b"\0" + binding.mac + shared
        if binding.address[:2] == b"\xfe\x80":
            asked = vxlan(segment.vni, ip6(segment_mac(segment), mac(9), "::2", _text(binding)))
            verdict = router.decide(next(iter(segment.vteps)), asked)
            assert (verdict.vtep, verdict.header) == (binding.vtep, header)
            continue
        wanted[segment.vrf][binding.address] = (binding.vtep, header)
    for vrf, gateways in gateways_of(topology_).items():
        found = router.fib(vrf).hosts | router.fib(vrf, 6).hosts
        assert {a for a, e in found.items() if e.verdict.reason is Reason.GATEWAY} == gateways
        hosts = {
            a: (e.verdict.vtep, e.verdict.header) for a, e in found.items() if a not in gateways
        }
        assert hosts == wanted[vrf]


Step = tuple[str, tuple[Any, ...]]
some_segment = st.sampled_from((ONE, TWO, SAME))
some_mac = st.integers(1, 4).map(lambda number: Mac(mac(number)))
some_host = st.integers(1, 9)
some_vtep = st.sampled_from((A, B))
some_sequence = st.one_of(st.none(), st.integers(0, 6))
steps = st.one_of(
    st.tuples(
        st.just("learn"),
        st.tuples(some_segment, some_host, some_mac, some_vtep, some_sequence, st.booleans()),
    ),
    st.tuples(st.just("arrived"), st.tuples(some_segment, some_mac, some_vtep)),
    st.tuples(st.just("withdraw"), st.tuples(some_segment, some_mac, some_vtep, some_sequence)),
    st.tuples(st.just("time"), st.tuples(st.sampled_from((0.3, 1.0, 2.5, 59.0, 61.0)))),
    st.tuples(st.just("doubt"), st.tuples(st.integers(0, 9))),
)


def address(vni: int, host: int) -> bytes:
    """Of five hosts: of each third one an IPv6 address, and a link-local one."""
    subnet = 2 if vni == TWO else 1
    if host % 3 == 0:
        return v6(f"2001:db8:{subnet}::{host}")
    if host % 3 == 1:
        return v6(f"fe80::{host}")
    return v4(f"{subnet}.{subnet}.{subnet}.{host}")


class History:
    """A leaf to which one thing happens after another."""

    def __init__(self, capacity: int = 8) -> None:
        self.world = World(capacity=capacity, timers=Timers(60.0, 1.0, 3), ipv6=True)
        self.now = 0.0

    def play(self, what: str, how: tuple[Any, ...]) -> None:
        world, slowpath = self.world, self.world.slowpath
        self.now += 0.01
        if what == "learn":
            vni, host, guest, vtep, sequence, configured = how
            slowpath.discovery.learn(
                world.segment(vni),
                address(vni, host),
                guest,
                vtep,
                self.now,
                sequence=sequence,
                configured=configured,
            )
        elif what == "arrived":
            vni, guest, vtep = how
            world.punt(vtep, vxlan(vni, rarp(guest)), self.now)
        elif what == "withdraw":
            vni, guest, vtep, sequence = how
            slowpath.routes.withdraw(world.segment(vni), guest, vtep, sequence)
        elif what == "doubt":
            every = world.bindings.all()
            if every:
                world.bindings.probe_now(every[how[0] % len(every)], self.now)
        else:
            end = self.now + how[0]
            while (at := slowpath.deadline()) is not None and at <= end:
                self.now = max(self.now, at)
                slowpath.tick(self.now)
            self.now = end


@given(st.lists(steps, max_size=40))
def test_after_any_history_the_tables_agree(history: list[Step]) -> None:
    made = History()
    for what, how in history:
        made.play(what, how)
        consistent(made.world.bindings, made.world.router, made.world.topology)


@given(st.lists(steps, max_size=25))
def test_older_news_never_changes_anything(history: list[Step]) -> None:
    """Everything with a sequence, told again one older than what is known: nothing happens."""
    made = History()
    for what, how in history:
        made.play(what, how)
    bindings = made.world.bindings
    before = state(made.world)[:2]
    for binding in bindings.all():
        if binding.sequence == 0:
            continue
        old, here = binding.sequence - 1, (binding.segment, binding.mac)
        segment = made.world.segment(binding.segment)
        for vtep in (A, B):
            made.world.slowpath.routes.withdraw(segment, binding.mac, vtep, old)
            bindings.arrived(*here, vtep, made.now, sequence=old)
            made.world.slowpath.discovery.learn(
                segment, binding.address, binding.mac, vtep, made.now, sequence=old
            )
    assert state(made.world)[:2] == before


@given(st.lists(steps, max_size=30))
def test_in_the_end_only_what_is_configured_is_left(history: list[Step]) -> None:
    made = History()
    for what, how in history:
        made.play(what, how)
    made.play("time", (1000.0,))
    assert {binding.state for binding in made.world.bindings.all()} <= {"configured"}
    assert made.world.slowpath.deadline() is None
    consistent(made.world.bindings, made.world.router, made.world.topology)


# Reload: what is, does not depend on how it came about.


def reshaped(chance: Random) -> Topology:
    """A topology that differs from the world's in any of the ways in which a file may."""
    new = topology(ipv6=True)
    one, two = new.vrfs[0].segments
    for segment in new.segments:
        for vtep in (A, B, C):
            if chance.random() < 0.3:
                segment.vteps.pop(vtep, None)
            elif chance.random() < 0.3:
                segment.vteps[vtep] = chance.choice((GROUP_ONE, GROUP_TWO))
    if chance.random() < 0.3:
        one.gateways = (gateway("1.1.1.3", "1.1.1.0/29"),)
    elif chance.random() < 0.3:
        one.gateways = (gateway("2001:db8:1::3", "2001:db8:1::/125"),)
    if chance.random() < 0.3:
        one.hop_neutral = not one.hop_neutral
    if chance.random() < 0.3:
        new.vrfs[0].segments.remove(two)
    if chance.random() < 0.3:
        del new.vrfs[1]
    if chance.random() < 0.5 or two not in new.vrfs[0].segments or len(one.gateways) == 1:
        new.vrfs[0].routes.clear()
    return rebuilt(new)


def shown(router: Router, topology_: Topology) -> list[object]:
    """What a router would do, without the objects that differ from build to build."""

    def entry(one: Entry) -> object:
        verdicts = (one.verdict, one.bridged)
        said = [v and (v.reason, v.vtep, v.header, v.segment and v.segment.vni) for v in verdicts]
        return (said, one.vni, one.via)

    return [
        (
            vrf.name,
            {a: entry(e) for a, e in router.fib(vrf.name, version).hosts.items()},
            {p: entry(e) for p, e in router.fib(vrf.name, version).prefixes.items()},
        )
        for vrf in topology_.vrfs
        for version in (4, 6)
    ]


def fits(binding: Binding, topology_: Topology) -> bool:
    for segment in topology_.segments:
        if segment.vni == binding.segment:
            taken = {g.address for g in segment.gateways}
            return (
                binding.vtep in segment.vteps
                and segment.gateway_for(binding.address) is not None
                and binding.address not in taken
            )
    return False


@given(st.lists(steps, max_size=25), st.integers(0, 10_000))
def test_a_reload_ends_where_a_fresh_start_would(history: list[Step], seed: int) -> None:
    made = History(capacity=100)
    for what, how in history:
        made.play(what, how)
    before = [(b, repr(b)) for b in made.world.bindings.all()]
    new = reshaped(Random(seed))
    lost = made.world.slowpath.replace_topology(new)

    assert {id(b) for b in lost} == {id(b) for b, _ in before if not fits(b, new)}
    # What stays is untouched, its timers included.
    kept = [(b, said) for b, said in before if fits(b, new)]
    assert [repr(b) for b in made.world.bindings.all()] == [said for _, said in kept]
    consistent(made.world.bindings, made.world.router, new)

    fresh_router = Router(new)
    fresh = SlowPath(new, fresh_router, Bindings(capacity=100), Limits())
    for binding, _ in kept:
        segment = fresh_router.segment(binding.segment)
        assert segment is not None
        fresh.discovery.learn(segment, binding.address, binding.mac, binding.vtep, 0.0)
    assert shown(made.world.router, new) == shown(fresh_router, new)


# A guest moves as a whole: never one family without the other.

NEWS_ADDRESSES = {number: (f"1.1.1.{number}", f"2001:db8:1::{number}") for number in range(1, 4)}
news = st.tuples(
    st.integers(1, 3),
    st.sampled_from((A, B, C)),
    st.sampled_from(
        (
            *("arp", "arp_probe", "garp", "arp_reply", "ns", "ns_unicast", "dad", "na", "na_reply"),
            *("ll_ns", "ll_na", "ll_dad", "rarp", "withdraw", "restart"),
        )
    ),
)


def said(number: int, what: str) -> bytes:
    """What the guest `number` says of itself, as a frame."""
    station = mac(number)
    four, six = NEWS_ADDRESSES[number]
    local = link_local(station)
    gateway6 = link_local(SHARED_MAC)
    match what:
        case "arp":
            return arp(BROADCAST, station, four, "1.1.1.99")
        case "arp_probe":
            return arp(BROADCAST, station, "0.0.0.0", four)
        case "garp":
            return arp(BROADCAST, station, four, four)
        case "arp_reply":
            return arp(SHARED_MAC, station, four, "1.1.1.254", op=2)
        case "ns":
            return ns(None, station, six, "2001:db8:1::99")
        case "ns_unicast":
            return ns(SHARED_MAC, station, six, "2001:db8:1::fe")
        case "dad":
            return ns(None, station, "::", six)
        case "na":
            return na(None, station, six)
        case "na_reply":
            return na(SHARED_MAC, station, six, gateway6)
        case "ll_ns":
            return ns(None, station, local, gateway6)
        case "ll_na":
            return na(None, station, local)
        case "ll_dad":
            return ns(None, station, "::", local)
    return rarp(station)


@given(st.lists(news, max_size=40))
def test_a_move_never_moves_one_family_without_the_other(
    history: list[tuple[int, Vtep, str]],
) -> None:
    """After any news all addresses of a MAC are where it last spoke, or none is left of it."""
    world = World(ipv6=True, limits=FREE)
    segment = world.segment(ONE)
    where: dict[int, Vtep] = {}

    def start(number: int, vtep: Vtep) -> None:
        for address_ in (*map(packed, NEWS_ADDRESSES[number]), v6(link_local(mac(number)))):
            world.slowpath.discovery.learn(segment, address_, Mac(mac(number)), vtep, 0.0)
        where[number] = vtep

    for number in NEWS_ADDRESSES:
        start(number, A)
    for now, (number, vtep, what) in enumerate(history):
        if what == "restart":
            start(number, vtep)
        elif what == "withdraw":
            world.slowpath.routes.withdraw(segment, Mac(mac(number)), vtep)
            if where.get(number) == vtep:
                del where[number]
        elif number in where:
            world.punt(vtep, vxlan(ONE, said(number, what)), float(now))
            where[number] = vtep
        for one, texts in NEWS_ADDRESSES.items():
            bound = world.bindings.of_mac(ONE, Mac(mac(one)))
            assert {b.vtep for b in bound} == ({where[one]} if one in where else set())
            assert len(bound) == (3 if one in where else 0)
            for text in (*texts, link_local(mac(one))):
                build = ip6 if ":" in text else ip
                src = "2001:db8:1::50" if ":" in text else "1.1.1.50"
                asked = vxlan(ONE, build(SHARED_MAC, mac(0x50), src, text))
                assert world.router.decide(A, asked).vtep == where.get(one)
        consistent(world.bindings, world.router, world.topology)
