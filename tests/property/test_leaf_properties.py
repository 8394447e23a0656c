"""What holds for the leaf whatever comes: hostile bytes, random histories, any reload.

The histories are those of the slow path's verbs. After every one, the tables must agree with each
other and with a plain model: nothing may depend on how a state was reached.
"""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from leaf.bindings import Binding, Bindings, Timers
from leaf.router import HEADER_LEN, IP_AT, Entry, Reason, Router
from leaf.slowpath import Limits, SlowPath
from leaf.topology import Topology
from tests.frames import BROADCAST, OTHER_SHARED_MAC, SHARED_MAC, arp, ip, mac, rarp, v4, vxlan
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GROUP_ONE,
    GROUP_TWO,
    GUESTS,
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
    World,
    forwarded,
    gateway,
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

peers = st.sampled_from(PEERS)
addresses = st.sampled_from(ADDRESSES)


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
    packet = bytearray(vxlan(draw(st.sampled_from(VNIS)), draw(frames())))
    for _ in range(draw(st.integers(0, 3))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del packet[draw(st.integers(0, len(packet))) :]
    return bytes(packet) + draw(st.binary(max_size=8))


def state(world: World) -> list[object]:
    """Everything that the leaf remembers, as a copy."""
    slowpath = world.slowpath
    fibs = [world.router.fib(vrf.name) for vrf in world.topology.vrfs]
    return [
        [(copy.copy(fib.hosts), fib.prefixes) for fib in fibs],
        [repr(binding) for binding in world.bindings.all()],
        len(slowpath.gleaner),
        slowpath.gleaner.negative,
        dict(slowpath.arp_counts),
        dict(slowpath.events),
    ]


@given(st.lists(st.tuples(peers, packets()), min_size=1, max_size=10))
def test_no_packet_raises_and_deciding_changes_nothing(arrivals: list[tuple[Vtep, bytes]]) -> None:
    world = World(*GUESTS)
    before = state(world)
    verdicts = [world.router.decide(source, packet) for source, packet in arrivals]
    again = [world.router.decide(source, memoryview(packet)) for source, packet in arrivals]
    assert verdicts == again
    assert state(world) == before


@given(st.lists(st.tuples(peers, packets()), min_size=1, max_size=20))
def test_the_slow_path_survives_whatever_it_is_handed(
    arrivals: list[tuple[Vtep, bytes]],
) -> None:
    """What comes of it is sound: to peers of ours, from a gateway's MAC, to one station or ARP."""
    world = World(*GUESTS, limits=Limits(1e9, 1e9, 1e9))
    for now, (source, packet) in enumerate(arrivals):
        verdict = world.router.decide(source, packet)
        sends = world.slowpath.handle(verdict, source, packet, float(now))
        sends += world.slowpath.tick(float(now))
        for send in sends:
            assert send.vtep in (A, B, C, FAR_LEAF, THIRD_LEAF)
            assert send.packet[14:20] in (SHARED_MAC, OTHER_SHARED_MAC, ROUTER_MAC)
            assert not send.packet[8] & 1 or send.packet[20:22] == b"\x08\x06"
        consistent(world.bindings, world.router, world.topology)
    assert world.slowpath.events["punts_failed"] <= len(arrivals)


@given(st.sampled_from(Reason), peers, packets())
def test_the_slow_path_survives_a_verdict_that_does_not_fit(
    reason: Reason, source: Vtep, packet: bytes
) -> None:
    """Cut packets, other segments, another reason: a bug in one place must not end the daemon."""
    world = World(*GUESTS)
    for segment in (world.segment(ONE), None):
        verdict = world.router.decide(source, packet)._replace(reason=reason, segment=segment)
        world.slowpath.handle(verdict, source, packet, 1.0)


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


# Random histories.


def gateways_of(topology_: Topology) -> dict[str, set[bytes]]:
    return {
        vrf.name: {g.address for segment in vrf.segments for g in segment.gateways}
        for vrf in topology_.vrfs
    }


def consistent(bindings: Bindings, router: Router, topology_: Topology) -> None:
    """Hold the indices to each other, a MAC to one place, and the FIB to the bindings."""
    every = bindings.all()
    assert len(bindings) == len(every)
    for binding in every:
        assert bindings.get(binding.segment, binding.address) is binding
        own = bindings.of_mac(binding.segment, binding.mac)
        assert any(one is binding for one in own)
        assert {(one.mac, one.vtep, one.sequence) for one in own} == {
            (binding.mac, binding.vtep, binding.sequence)
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
        wanted[segment.vrf][binding.address] = (binding.vtep, header)
    for vrf, gateways in gateways_of(topology_).items():
        found = router.fib(vrf).hosts
        assert {a for a, e in found.items() if e.verdict.reason is Reason.GATEWAY} == gateways
        hosts = {
            a: (e.verdict.vtep, e.verdict.header) for a, e in found.items() if a not in gateways
        }
        assert hosts == wanted[vrf]


Step = tuple[str, tuple[Any, ...]]
some_segment = st.sampled_from((ONE, TWO, SAME))
some_mac = st.integers(1, 4).map(lambda number: Mac(mac(number)))
some_host = st.integers(1, 5)
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
    return v4(f"2.2.2.{host}" if vni == TWO else f"1.1.1.{host}")


class History:
    """A leaf to which one thing happens after another."""

    def __init__(self, capacity: int = 8) -> None:
        self.world = World(capacity=capacity, timers=Timers(60.0, 1.0, 3))
        self.now = 0.0

    def play(self, what: str, how: tuple[Any, ...]) -> None:
        world, slowpath = self.world, self.world.slowpath
        self.now += 0.01
        if what == "learn":
            vni, host, guest, vtep, sequence, configured = how
            slowpath.learn(
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
            slowpath.withdraw(world.segment(vni), guest, vtep, sequence)
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
            made.world.slowpath.withdraw(segment, binding.mac, vtep, old)
            bindings.arrived(*here, vtep, made.now, sequence=old)
            made.world.slowpath.learn(
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
    new = topology()
    one, two = new.vrfs[0].segments
    for segment in new.segments:
        for vtep in (A, B, C):
            if chance.random() < 0.3:
                segment.vteps.pop(vtep, None)
            elif chance.random() < 0.3:
                segment.vteps[vtep] = chance.choice((GROUP_ONE, GROUP_TWO))
    if chance.random() < 0.3:
        one.gateways = (gateway("1.1.1.3", "1.1.1.0/29"),)
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
            {a: entry(e) for a, e in router.fib(vrf.name).hosts.items()},
            {p: entry(e) for p, e in router.fib(vrf.name).prefixes.items()},
        )
        for vrf in topology_.vrfs
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
        segment = fresh.segment(binding.segment)
        assert segment is not None
        fresh.learn(segment, binding.address, binding.mac, binding.vtep, 0.0)
    assert shown(made.world.router, new) == shown(fresh_router, new)
