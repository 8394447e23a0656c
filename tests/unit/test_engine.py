"""The engine carries frames: between ports, up to the leaves, down from them.

How guests come and go in it is in `test_engine_guests.py`.
"""

from __future__ import annotations

import pytest
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.frames import (
    BROADCAST,
    MULTICAST,
    SHARED_MAC,
    arp,
    mac,
    na,
    ns,
    plain,
    rs,
    tcp,
    udp,
    vxlan,
)
from tests.unit.engine_world import OWN, SECOND_LEAF, World
from tests.unit.topology import BLUE, GREEN, LEAF, RED, STRANGER
from vswitch.engine import NEIGHBOUR_RATE
from vswitch.phy.port import BUDGET
from vswitch.phy.tunnel import BUDGET as TRAIN_BUDGET
from vswitch.switch import Reason
from vswitch.wire.vxlan import Vtep

ALICE, BOB, CAROL, FAR = mac(1), mac(2), mac(3), mac(0x99)


@pytest.fixture
def world() -> World:
    """Three guests in one segment and one in another."""
    made = World()
    for number, guest in enumerate(("alice", "bob", "carol"), 1):
        made.attach(guest, number)
    made.attach("frank", 7, segment=GREEN)
    return made


# Between guests.


def test_a_local_frame_reaches_its_guest_alone_and_as_it_was(world: World) -> None:
    frame = udp(BOB, ALICE)
    world.emit("alice", frame)
    assert world.heard("bob") == [frame]
    assert world.heard("alice") == world.heard("carol") == world.heard("frank") == []
    assert world.at_leaf() == []
    assert world.engine.counts[Reason.LOCAL] == 1


def test_a_burst_is_delivered_in_order(world: World) -> None:
    frames = [udp(BOB, ALICE, payload=bytes([number]) * number) for number in range(1, 40)]
    world.emit("alice", *frames)
    assert world.heard("bob") == frames


def test_a_burst_ends_at_its_budget_and_the_rest_waits(world: World) -> None:
    frames = [udp(BOB, ALICE, sport=number) for number in range(BUDGET + 5)]
    world.emit("alice", *frames)
    assert world.heard("bob") == frames[:BUDGET]
    world.engine.pump_port(world.port_id("alice"))
    assert world.heard("bob") == frames[BUDGET:]


def test_the_frames_of_a_burst_do_not_touch_each_other(world: World) -> None:
    """A frame that goes up gets its VXLAN header written before it, where the one ahead ends."""
    local, far = udp(BOB, ALICE, payload=b"a" * 33), udp(FAR, ALICE, payload=b"b" * 77)
    world.emit("alice", local, far, local, far, far)
    assert world.heard("bob") == [local, local]
    assert world.at_leaf() == [vxlan(RED, SHARED_MAC + far[6:])] * 3


def test_pumping_a_port_that_is_not_there_is_nothing(world: World) -> None:
    """Its readiness and its end may have been reported in one turn of the loop."""
    port_id = world.port_id("alice")
    world.engine.detach("alice")
    world.engine.pump_port(port_id)
    assert sum(world.engine.counts.values()) == 0


# Up to the leaf.


def test_a_miss_arrives_with_six_other_bytes_and_no_more(world: World) -> None:
    frame = tcp(FAR, ALICE)
    world.emit("alice", frame)
    (packet,) = world.at_leaf()
    assert packet == vxlan(RED, SHARED_MAC + frame[6:])
    # The same in the eyes of a third party.
    read = VXLAN(packet)
    assert (read.vni, read[Ether].dst, read[Ether].src) == (
        RED,
        SHARED_MAC.hex(":"),
        ALICE.hex(":"),
    )
    assert bytes(read[Ether].payload) == frame[14:]
    assert world.heard("bob") == world.heard("carol") == []


def test_a_frame_to_the_gateway_goes_up_as_it_was(world: World) -> None:
    frame = udp(SHARED_MAC, ALICE)
    world.emit("alice", frame)
    assert world.at_leaf() == [vxlan(RED, frame)]


def test_the_vni_is_that_of_the_guests_segment(world: World) -> None:
    frame = udp(SHARED_MAC, mac(7))
    world.emit("frank", frame)
    assert world.at_leaf() == [vxlan(GREEN, frame)]


@pytest.mark.parametrize("group", [BROADCAST, MULTICAST])
def test_a_group_goes_to_the_others_and_once_to_the_leaf(world: World, group: bytes) -> None:
    frame = udp(group, ALICE)
    world.emit("alice", frame)
    assert world.heard("bob") == world.heard("carol") == [frame]
    assert world.heard("alice") == world.heard("frank") == []
    assert world.at_leaf() == [vxlan(RED, frame)]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(plain(FAR, ALICE), Reason.MISS_UNROUTABLE, id="unroutable"),
        pytest.param(udp(BOB, FAR), Reason.SPOOFED_MAC, id="spoofed"),
        pytest.param(b"short", Reason.RUNT, id="runt"),
    ],
)
def test_a_drop_is_counted_and_goes_nowhere(world: World, frame: bytes, reason: Reason) -> None:
    world.emit("alice", frame, udp(BOB, ALICE))
    assert world.engine.counts[reason] == 1
    assert world.at_leaf() == []
    assert world.heard("bob") == [udp(BOB, ALICE)]


def test_a_leaf_that_does_not_answer_is_counted(world: World) -> None:
    world.leaves[LEAF].close()
    world.emit("alice", udp(FAR, ALICE), arp(BROADCAST, ALICE), udp(BOB, ALICE))
    assert world.engine.events["uplink_failed"] == 2
    assert udp(BOB, ALICE) in world.heard("bob")


@pytest.mark.parametrize("room", [{}, {LEAF: 1450}], ids=["unknown", "known"])
def test_a_frame_that_no_tunnel_takes_is_counted(world: World, room: dict[Vtep, int]) -> None:
    """Of what is unknown the room is that of the longest packet there is."""
    world.engine.tunnel.room.update(room)
    world.emit("alice", udp(FAR, ALICE, payload=bytes(65_500)), udp(BOB, ALICE))
    assert (world.engine.events["too_big"], world.at_leaf()) == (1, [])
    assert udp(BOB, ALICE) in world.heard("bob")


# Down from the leaf.


def test_a_packet_is_delivered_without_its_vxlan_header(world: World) -> None:
    frame = udp(BOB, SHARED_MAC)
    world.send_down(vxlan(RED, frame))
    assert world.heard("bob") == [frame]
    assert world.heard("alice") == world.heard("carol") == []
    assert world.engine.counts[Reason.UPLINK_LOCAL] == 1


def test_a_group_packet_reaches_the_segment_and_does_not_go_back(world: World) -> None:
    frame = arp(BROADCAST, FAR)
    world.send_down(vxlan(RED, frame))
    for guest in ("alice", "bob", "carol"):
        assert world.heard(guest) == [frame]
    assert world.heard("frank") == []
    assert world.at_leaf() == []


def test_a_train_is_delivered_whole_and_in_order(world: World) -> None:
    """Four packets of one size and a shorter last one, in one buffer, as GRO hands them over."""
    frames = [udp(BOB, SHARED_MAC, payload=bytes([n]) * 100) for n in range(4)]
    frames.append(udp(BOB, SHARED_MAC, payload=b"the last"))
    packets = [vxlan(RED, frame) for frame in frames]
    world.leaves[LEAF].send_train(OWN, 0, b"".join(packets), len(packets[0]))
    world.engine.pump_tunnel()
    assert world.heard("bob") == frames
    assert world.engine.counts[Reason.UPLINK_LOCAL] == 5
    stats = world.engine.stats(world.port_id("bob"))
    assert stats.received_frames == 5
    assert stats.received_bytes == sum(map(len, frames))


def test_several_trains_wait_in_line_and_the_budget_is_kept(world: World) -> None:
    frames = [udp(BOB, SHARED_MAC, sport=number) for number in range(TRAIN_BUDGET + 3)]
    world.send_down(*(vxlan(RED, frame) for frame in frames))
    assert world.heard("bob") == frames[:TRAIN_BUDGET]
    world.engine.pump_tunnel()
    assert world.heard("bob") == frames[TRAIN_BUDGET:]
    world.engine.pump_tunnel()
    assert world.heard("bob") == []


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(vxlan(RED, udp(FAR, SHARED_MAC)), Reason.UPLINK_MISS, id="miss"),
        pytest.param(vxlan(99, udp(BOB, SHARED_MAC)), Reason.UPLINK_UNKNOWN_VNI, id="vni"),
        pytest.param(b"", Reason.UPLINK_BAD_VXLAN, id="empty"),
    ],
)
def test_what_is_not_ours_is_dropped_and_never_sent_back_up(
    world: World, packet: bytes, reason: Reason
) -> None:
    world.send_down(packet)
    assert world.engine.counts[reason] == 1
    assert world.at_leaf() == []
    assert all(world.heard(guest) == [] for guest in world.ports)


def test_a_stranger_is_not_listened_to(world: World) -> None:
    world.leaves[STRANGER] = world.network.tunnel(STRANGER)
    world.send_down(vxlan(RED, udp(BOB, SHARED_MAC)), vtep=STRANGER)
    assert world.heard("bob") == []
    assert world.engine.counts[Reason.UPLINK_NOT_A_LEAF] == 1


def test_a_flooding_segment_learns_from_the_uplink() -> None:
    world = World()
    world.attach("dave", 4, segment=BLUE)
    world.attach("erin", 5, segment=BLUE)
    to_far = udp(FAR, mac(4))
    world.emit("dave", to_far)
    assert world.heard("erin") == [to_far]
    assert world.at_leaf() == [vxlan(BLUE, to_far)]

    world.send_down(vxlan(BLUE, udp(mac(4), FAR)))
    world.emit("dave", to_far)
    assert world.heard("erin") == []
    assert world.at_leaf() == [vxlan(BLUE, to_far)]

    assert world.engine.deadline() is not None
    world.clock.now += 1000.0
    world.engine.tick(world.clock.now)
    world.emit("dave", to_far)
    assert world.heard("erin") == [to_far]


# Ports that are full, and what is counted.


def test_a_full_port_loses_frames_and_they_are_counted(world: World) -> None:
    world.ports["bob"].park(True)
    world.emit("alice", udp(BOB, ALICE), arp(BROADCAST, ALICE))
    assert world.engine.events["port_full"] == 2
    assert len(world.heard("carol")) == 1
    assert world.engine.stats(world.port_id("bob"))[2:] == (0, 0)


def test_a_full_port_loses_a_train_and_has_received_nothing_of_it(world: World) -> None:
    world.ports["bob"].park(True)
    packets = [vxlan(RED, udp(BOB, SHARED_MAC, payload=bytes([n]) * 100)) for n in range(3)]
    world.leaves[LEAF].send_train(OWN, 0, b"".join(packets), len(packets[0]))
    world.engine.pump_tunnel()
    assert world.engine.events["port_full"] == 3
    assert world.engine.stats(world.port_id("bob"))[2:] == (0, 0)


def test_a_port_counts_what_its_guest_sent_and_received(world: World) -> None:
    sent = [udp(BOB, ALICE), udp(FAR, ALICE), b"runt"]
    world.emit("alice", *sent)
    assert world.engine.stats(world.port_id("alice")) == (3, sum(map(len, sent)), 0, 0)
    assert world.engine.stats(world.port_id("bob")) == (0, 0, 1, len(sent[0]))


# Several leaves.


@pytest.fixture
def racked() -> World:
    """Two leaves."""
    made = World((LEAF, SECOND_LEAF))
    made.attach("alice", 1)
    made.attach("bob", 2)
    return made


def test_a_flow_keeps_to_one_leaf(racked: World) -> None:
    frames = [tcp(FAR, ALICE, seq=number) for number in range(30)]
    racked.emit("alice", *frames)
    first, second = racked.at_leaf(LEAF), racked.at_leaf(SECOND_LEAF)
    assert sorted((len(first), len(second))) == [0, 30]
    assert first + second == [vxlan(RED, SHARED_MAC + frame[6:]) for frame in frames]


def test_many_flows_use_both_leaves_and_each_frame_goes_to_one(racked: World) -> None:
    racked.emit("alice", *(udp(FAR, ALICE, sport=number) for number in range(60)))
    first, second = racked.at_leaf(LEAF), racked.at_leaf(SECOND_LEAF)
    assert first and second
    assert len(first) + len(second) == 60


def test_a_broadcast_that_is_not_arp_goes_to_one_leaf(racked: World) -> None:
    """A second copy would be a second DHCP request."""
    racked.emit("alice", udp(BROADCAST, ALICE))
    assert len(racked.at_leaf(LEAF) + racked.at_leaf(SECOND_LEAF)) == 1


@pytest.mark.parametrize("destination", [BROADCAST, SHARED_MAC], ids=["broadcast", "gateway"])
def test_arp_goes_to_every_leaf(racked: World, destination: bytes) -> None:
    """Each must know the bindings."""
    frame = arp(destination, ALICE)
    racked.emit("alice", frame)
    assert racked.at_leaf(LEAF) == racked.at_leaf(SECOND_LEAF) == [vxlan(RED, frame)]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ns(None, ALICE, "2001:db8::1", "2001:db8::2"), id="question"),
        pytest.param(ns(SHARED_MAC, ALICE, "2001:db8::1", "2001:db8::2"), id="unicast_question"),
        pytest.param(na(None, ALICE, "2001:db8::1"), id="announcement"),
        pytest.param(rs(ALICE), id="router_solicitation"),
    ],
)
def test_nd_goes_to_every_leaf(racked: World, frame: bytes) -> None:
    racked.emit("alice", frame)
    assert racked.at_leaf(LEAF) == racked.at_leaf(SECOND_LEAF) == [vxlan(RED, frame)]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(BROADCAST, ALICE), id="arp"),
        pytest.param(ns(None, ALICE, "2001:db8::1", "2001:db8::2"), id="nd"),
    ],
)
def test_a_flood_of_questions_stays_on_its_host(world: World, frame: bytes) -> None:
    permitted, beyond = int(NEIGHBOUR_RATE), 500
    for _ in range(permitted + beyond):
        world.emit("alice", frame)
    assert len(world.at_leaf()) == permitted
    assert world.engine.events["neighbour_policed"] == beyond
    # All else, and all others, go on.
    world.emit("alice", udp(FAR, ALICE))
    world.emit("bob", arp(BROADCAST, BOB))
    assert len(world.at_leaf()) == 2
    world.clock.now += 0.1
    for _ in range(beyond):
        world.emit("alice", frame)
    assert len(world.at_leaf()) == NEIGHBOUR_RATE // 10


def test_one_dead_leaf_does_not_keep_arp_from_the_other(racked: World) -> None:
    racked.leaves[LEAF].close()
    racked.emit("alice", arp(BROADCAST, ALICE))
    assert len(racked.at_leaf(SECOND_LEAF)) == 1
    assert racked.engine.events["uplink_failed"] == 1


def test_every_leaf_may_send_down(racked: World) -> None:
    for vtep in (LEAF, SECOND_LEAF):
        racked.send_down(vxlan(RED, udp(BOB, SHARED_MAC)), vtep=vtep)
    assert len(racked.heard("bob")) == 2
