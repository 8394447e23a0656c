"""A burst is carried out run by run, and must come out as if its frames had come one at a time.

Two worlds get the same frames: in the one the engine takes them as bursts, in the other it takes
one frame at each turn, which is never a run. What everybody has received, and everything that is
counted, must then be the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.frames import (
    BROADCAST,
    MULTICAST,
    SHARED_MAC,
    arp,
    echo,
    mac,
    plain,
    rarp,
    tcp,
    udp,
    udp6,
    v4,
    vxlan,
)
from tests.unit.engine_world import SECOND_LEAF, World
from tests.unit.topology import BLUE, LEAF, RED, attachment
from vswitch.attachment import State
from vswitch.phy.memory import QUEUE_LEN, MemoryPort
from vswitch.phy.port import BUDGET, FEW, PortGone, PortId
from vswitch.phy.tunnel import Run
from vswitch.switch import Reason
from vswitch.wire import vnet
from vswitch.wire.ethernet import Buffer
from vswitch.wire.vxlan import Vtep

ALICE, BOB, CAROL, DAVE, ERIN, FAR = mac(1), mac(2), mac(3), mac(4), mac(5), mac(0x99)
ALICE_IP = "10.0.0.1"
LEAVES = (LEAF, SECOND_LEAF)


def make_world() -> World:
    """A guarded alice, bob and a staged carol in one segment; dave and erin in one that floods."""
    made = World(LEAVES)
    made.attach("alice", 1, addresses=(v4(ALICE_IP),))
    made.attach("bob", 2)
    made.attach("carol", 3, state=State.STAGED)
    made.attach("dave", 4, segment=BLUE)
    made.attach("erin", 5, segment=BLUE)
    return made


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
def pair() -> tuple[World, World]:
    """The world of bursts, and the one of single frames."""
    return make_world(), make_world()


def emit_singly(world: World, guest: str, *frames: bytes) -> None:
    """A guest sends frames, and the engine takes one at a turn."""
    for frame in frames:
        world.ports[guest].emit(frame)
    for _ in frames:
        assert world.ports[guest].pending, "a turn took more than one"
        world.engine.pump_port(world.port_id(guest), drain=False)


def assert_same(burst: World, single: World) -> None:
    """Hold two worlds to each other: what has arrived where, and all that is counted."""
    for vtep in LEAVES:
        assert burst.at_leaf(vtep) == single.at_leaf(vtep)
    for guest in single.ports:
        assert burst.heard(guest) == single.heard(guest)
    assert burst.engine.counts == single.engine.counts
    assert burst.engine.events == single.engine.events
    assert burst.gone == single.gone == []
    for one in single.engine.attachments.all():
        assert burst.engine.stats(one.port) == single.engine.stats(one.port)
        assert burst.engine.attachments.get(one.guest).state is one.state


def runs_sent(world: World) -> list[int]:
    """Note the lengths of the runs that the engine sends from now on."""
    noted: list[int] = []
    send_run: Callable[[Vtep, int, Run], int] = world.engine.tunnel.send_run

    def noting(vtep: Vtep, flow: int, run: Run) -> int:
        noted.append(len(run.packets))
        return send_run(vtep, flow, run)

    world.engine.tunnel.send_run = noting  # type: ignore[method-assign]
    return noted


# One flow.


@pytest.mark.parametrize(
    ("guest", "frame", "reason"),
    [
        pytest.param("alice", udp(BOB, ALICE), Reason.LOCAL, id="local"),
        pytest.param("alice", udp(FAR, ALICE), Reason.MISS_REWRITTEN, id="miss"),
        pytest.param("alice", udp6(FAR, ALICE), Reason.MISS_REWRITTEN, id="miss6"),
        pytest.param("alice", tcp(SHARED_MAC, ALICE), Reason.GATEWAY, id="gateway"),
        pytest.param("alice", udp(MULTICAST, ALICE), Reason.GROUP, id="multicast"),
        pytest.param("alice", udp(BROADCAST, ALICE), Reason.GROUP, id="broadcast"),
        pytest.param("alice", arp(BROADCAST, ALICE), Reason.GROUP, id="arp"),
        pytest.param("alice", udp(ALICE, ALICE), Reason.SAME_PORT, id="same_port"),
        pytest.param("alice", udp(FAR, BOB), Reason.SPOOFED_MAC, id="spoofed"),
        pytest.param("alice", udp(FAR, ALICE, "10.9.9.9"), Reason.SPOOFED_ADDRESS, id="address"),
        pytest.param("alice", plain(FAR, ALICE), Reason.MISS_UNROUTABLE, id="unroutable"),
        pytest.param("alice", udp(FAR, ALICE)[:30], Reason.RUNT, id="runt"),
        pytest.param("dave", udp(FAR, DAVE), Reason.MISS_FLOODED, id="flooded"),
        pytest.param("dave", udp(ERIN, DAVE), Reason.LOCAL, id="local_of_blue"),
    ],
)
def test_a_flow_comes_out_as_if_frame_by_frame(
    pair: tuple[World, World], guest: str, frame: bytes, reason: Reason
) -> None:
    burst, single = pair
    burst.emit(guest, *[frame] * BUDGET)
    emit_singly(single, guest, *[frame] * BUDGET)
    assert burst.engine.counts[reason] == BUDGET
    assert burst.engine.stats(burst.port_id(guest))[:2] == (BUDGET, BUDGET * len(frame))
    assert_same(burst, single)


def test_a_run_is_rewritten_and_arrives_whole_and_in_order(world: World) -> None:
    frames = [udp(FAR, ALICE, payload=bytes([number]) * 9) for number in range(BUDGET)]
    world.emit("alice", *frames)
    assert world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF) == [
        vxlan(RED, SHARED_MAC + frame[6:]) for frame in frames
    ]


def test_a_local_run_is_delivered_as_it_was_and_in_order(world: World) -> None:
    frames = [udp(BOB, ALICE, payload=bytes([number]) * 9) for number in range(BUDGET)]
    world.emit("alice", *frames)
    assert world.heard("bob") == frames
    stats = world.engine.stats(world.port_id("bob"))
    assert stats[2:] == (BUDGET, sum(map(len, frames)))


def test_a_multicast_run_reaches_the_others_and_the_leaf(world: World) -> None:
    world.engine.activate("carol")
    world.forget()
    frames = [udp(MULTICAST, ALICE, payload=bytes([number])) for number in range(BUDGET)]
    world.emit("alice", *frames)
    assert world.heard("bob") == world.heard("carol") == frames
    assert world.heard("alice") == world.heard("dave") == []
    assert world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF) == [vxlan(RED, f) for f in frames]


@pytest.mark.parametrize("frame", [udp(FAR, ALICE), udp6(FAR, ALICE)], ids=["ipv4", "ipv6"])
def test_a_run_costs_one_decision_and_one_send(world: World, frame: bytes) -> None:
    """Else all of the above would be true of an engine without runs, too."""
    decide, decided, sent = world.engine.switch.decide, [], runs_sent(world)

    def noting(ingress: PortId, buffer: Buffer) -> object:
        decided.append(ingress)
        return decide(ingress, buffer)

    world.engine.switch.decide = noting  # type: ignore[method-assign, assignment]
    world.emit("alice", *[frame] * BUDGET)
    assert len(decided) == 1
    assert sent == [BUDGET]


def test_a_few_frames_behind_a_long_burst_are_decided_by_what_they_are(
    pair: tuple[World, World],
) -> None:
    """The slots still hold the frames of before; so much as a length must not be taken over."""
    few = [udp(BOB, ALICE, payload=b""), udp(FAR, ALICE, payload=b""), udp(FAR, ALICE)[:20]]
    burst, single = pair
    for world, emit in ((burst, World.emit), (single, emit_singly)):
        emit(world, "alice", *[udp(FAR, ALICE, payload=bytes(300))] * BUDGET)
        emit(world, "alice", *few)
        emit(world, "alice", *few * 5)
    assert_same(burst, single)


# Many flows.

COUNTS = (1, 2, FEW, 20)


@cache
def frames_of(guest: str) -> list[bytes]:
    """Frames of flows of all kinds, most of which others are like but for one thing."""
    own = {"alice": ALICE, "carol": CAROL, "dave": DAVE}[guest]
    other = {"alice": BOB, "carol": BOB, "dave": ERIN}[guest]
    return [
        *(udp(dst, own) for dst in (other, FAR, SHARED_MAC, MULTICAST, BROADCAST, own)),
        *(udp(FAR, own, sport=port) for port in range(5000, 5004)),
        *(udp(FAR, own, dst_ip=f"10.0.0.{last}") for last in (9, 10)),
        udp(FAR, own, src_ip="10.9.9.9"),
        udp(FAR, other),
        udp(FAR, own, payload=b"longer payload"),
        udp6(FAR, own),
        udp6(other, own),
        udp6(other, own, dst_ip="2001:db8::7"),
        tcp(FAR, own, seq=1),
        tcp(FAR, own, seq=2),
        echo(FAR, own, seq=1),
        echo(FAR, own, seq=2),
        arp(BROADCAST, own),
        arp(FAR, own),
        rarp(own),
        plain(FAR, own),
        udp(FAR, own)[:36],
        b"runt",
    ]


@settings(max_examples=40)
@given(
    guest=st.sampled_from(["alice", "alice", "carol", "dave"]),
    stretches=st.lists(
        st.tuples(st.integers(0, 27), st.sampled_from(COUNTS)), min_size=1, max_size=12
    ),
)
def test_any_burst_comes_out_as_if_frame_by_frame(
    guest: str, stretches: list[tuple[int, int]]
) -> None:
    """carol is staged, so that somewhere in her burst she becomes active."""
    burst, single = make_world(), make_world()
    sent = runs_sent(burst)
    kinds = frames_of(guest)
    frames = [kinds[kind] for kind, count in stretches for _ in range(count)]
    for at in range(0, len(frames), BUDGET):
        burst.emit(guest, *frames[at : at + BUDGET])
    emit_singly(single, guest, *frames)
    event(f"runs to the leaf: {any(count > 1 for count in sent)}")
    assert_same(burst, single)


def test_flows_that_take_turns_keep_their_order_each_and_all() -> None:
    """In blocks of four and one by one; there is but one leaf, so the order of all is seen."""
    world = World()
    world.attach("alice", 1)
    flows = {port: iter(range(64)) for port in (1000, 1001, 1002)}
    order = [1000] * 4 + [1001] * 4 + [1002] * 4 + [1000, 1001, 1002] * 4
    frames = [udp(FAR, ALICE, sport=port, payload=bytes([next(flows[port])])) for port in order * 2]
    world.emit("alice", *frames)
    assert world.at_leaf() == [vxlan(RED, SHARED_MAC + frame[6:]) for frame in frames]


def test_a_run_does_not_touch_what_lies_beside_it(world: World) -> None:
    """The header of the run is written before its frames, where those of others end."""
    local, far = udp(BOB, ALICE, payload=b"a" * 33), udp(FAR, ALICE, payload=b"b" * 77)
    world.emit("alice", *[local] * 8, *[far] * 8, *[local] * 8, *[far[:-1]] * 8)
    assert world.heard("bob") == [local] * 16
    rewritten = vxlan(RED, SHARED_MAC + far[6:])
    arrived = world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF)
    assert arrived == [rewritten] * 8 + [rewritten[:-1]] * 8


# Several leaves.


def test_a_run_goes_to_the_leaf_of_its_flow(pair: tuple[World, World]) -> None:
    burst, single = pair
    for port in range(16):
        frames = [udp(FAR, ALICE, sport=port, payload=bytes([n])) for n in range(10)]
        burst.emit("alice", *frames)
        emit_singly(single, "alice", *frames)
        by_leaf = [burst.at_leaf(vtep) for vtep in LEAVES]
        assert sorted(map(len, by_leaf)) == [0, 10]
        assert by_leaf == [single.at_leaf(vtep) for vtep in LEAVES]


def test_the_runs_of_a_guest_are_spread_over_the_leaves_each_as_a_whole(world: World) -> None:
    for burst in range(8):
        ports = range(8 * burst, 8 * burst + 8)
        world.emit("alice", *[udp(FAR, ALICE, sport=port) for port in ports for _ in range(8)])
    by_leaf = [world.at_leaf(vtep) for vtep in LEAVES]
    assert sum(map(len, by_leaf)) == 8 * 64
    for packets in by_leaf:
        assert packets
        assert {packets.count(packet) for packet in packets} == {8}


def test_a_run_to_a_leaf_that_does_not_answer_is_counted(pair: tuple[World, World]) -> None:
    burst, single = pair
    frames = [udp(FAR, ALICE)] * 30 + [udp(MULTICAST, ALICE)] * 30
    for world, emit in ((burst, World.emit), (single, emit_singly)):
        for tunnel in world.leaves.values():
            tunnel.close()
        emit(world, "alice", *frames)
    assert burst.engine.events["uplink_failed"] == 60
    assert burst.heard("bob") == [udp(MULTICAST, ALICE)] * 30
    single.heard("bob")
    assert_same(burst, single)


# Open checksums.


def open_frame(transport: TCP | UDP, destination: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a frame with its checksum left open, its `virtio_net_hdr`, and the whole frame."""
    ether = Ether(dst=destination.hex(":"), src=ALICE.hex(":"))
    whole = bytes(ether / IP(src=ALICE_IP, dst="10.0.0.2") / transport)
    at, protocol = (50, 6) if isinstance(transport, TCP) else (40, 17)
    pseudo = whole[26:34] + struct.pack("!HH", protocol, len(whole) - 34)
    total = sum(struct.unpack("!6H", pseudo))
    open_ = whole[:at] + struct.pack("!H", (total & 0xFFFF) + (total >> 16)) + whole[at + 2 :]
    return open_, struct.pack("<BBHHHH", 1, 0, 0, 0, 34, at - 34), whole


@pytest.mark.parametrize("transport", [TCP, UDP])
def test_the_open_checksums_of_a_run_are_complete_on_the_wire(
    world: World, transport: type[TCP | UDP]
) -> None:
    expected = []
    for number in range(BUDGET):
        body = transport(sport=4000, dport=5000) / (bytes([number]) * 11)
        frame, header, whole = open_frame(body, FAR)
        assert frame != whole
        world.ports["alice"].emit(frame, header)
        expected.append(vxlan(RED, SHARED_MAC + whole[6:]))
    sent = runs_sent(world)
    world.engine.pump_port(world.port_id("alice"))
    assert sent == [BUDGET]
    assert world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF) == expected


class Witness(MemoryPort):
    """A guest that notes the `virtio_net_hdr` beside each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[bytes] = []

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        self.headers.append(bytes(header))
        return super().write(frame, header)


def add(world: World, guest: str, own: bytes, port: MemoryPort) -> PortId:
    """Attach a guest to a port of the test's own."""
    attached = world.engine.add(attachment(guest, PortId(-1), RED, own), port)
    world.ports[guest] = port
    world.forget()
    return attached.port


@pytest.mark.parametrize("destination", [mac(7), MULTICAST], ids=["unicast", "multicast"])
def test_an_open_checksum_stays_open_for_a_neighbour(world: World, destination: bytes) -> None:
    """With its header beside it; only what leaves the host is completed, and after the others."""
    add(world, "grace", mac(7), witness := Witness())
    made = [
        open_frame(UDP(sport=1, dport=2) / bytes([number]), destination) for number in range(20)
    ]
    for frame, header, _ in made:
        world.ports["alice"].emit(frame, header)
    world.engine.pump_port(world.port_id("alice"))
    assert world.heard("grace") == [frame for frame, _, _ in made]
    assert witness.headers == [header for _, header, _ in made]
    sent_up = world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF)
    wanted = [vxlan(RED, whole) for _, _, whole in made] if destination == MULTICAST else []
    assert sent_up == wanted


def test_frames_that_differ_only_in_their_header_are_no_run(world: World) -> None:
    """Else a whole frame would have its checksum summed into itself."""
    frame, header, whole = open_frame(UDP(sport=1, dport=2) / b"payload", FAR)
    sent = runs_sent(world)
    for number in range(16):
        kind = (frame, header) if number // 4 % 2 else (whole, vnet.PLAIN)
        world.ports["alice"].emit(*kind)
    world.engine.pump_port(world.port_id("alice"))
    assert sent == [4] * 4
    packet = vxlan(RED, SHARED_MAC + whole[6:])
    assert world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF) == [packet] * 16


def test_a_run_whose_checksum_cannot_be_where_it_is_said_to_be_is_counted(world: World) -> None:
    for _ in range(10):
        world.ports["alice"].emit(udp(FAR, ALICE), struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 6000))
    world.emit("alice", *[udp(BOB, ALICE)] * 10)
    assert world.engine.events["uplink_failed"] == 10
    assert world.engine.counts[Reason.MISS_REWRITTEN] == 10
    assert world.heard("bob") == [udp(BOB, ALICE)] * 10


def test_super_frames_of_one_length_are_no_run(world: World) -> None:
    """Each is a train, which is cut by itself; as a run they could not be completed."""
    sent = runs_sent(world)
    for _ in range(20):
        header = struct.pack("<BBHHHH", 1, 1, 54, 100, 34, 16)
        world.ports["alice"].emit(tcp(FAR, ALICE) + bytes(900), header)
    world.engine.pump_port(world.port_id("alice"))
    assert sent == []
    assert world.engine.events["uplink_failed"] == 0
    assert len(world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF)) == 20


# A staged guest.


@pytest.mark.parametrize("destination", [BOB, FAR, MULTICAST], ids=["local", "miss", "group"])
def test_a_staged_guest_whose_first_burst_is_a_run_loses_nothing(
    pair: tuple[World, World], destination: bytes
) -> None:
    burst, single = pair
    frames = [udp(destination, CAROL, payload=bytes([number])) for number in range(BUDGET)]
    burst.emit("carol", *frames)
    emit_singly(single, "carol", *frames)
    assert burst.engine.attachments.get("carol").state is State.ACTIVE
    assert burst.engine.counts[Reason.ACTIVATION] == 1
    if destination == BOB:
        assert list(burst.ports["bob"].received) == frames
    else:
        packets = [
            bytes(packet) for leaf in LEAVES for _, packet, _, _ in burst.leaves[leaf].incoming
        ]
        assert len([packet for packet in packets if packet[20:22] == b"\x08\x00"]) == BUDGET
    assert_same(burst, single)


def test_a_staged_port_on_which_others_speak_stays_staged(pair: tuple[World, World]) -> None:
    """The host's own kernel, say: its frames are no sign of the guest."""
    burst, single = pair
    burst.emit("carol", *[udp(BOB, FAR)] * BUDGET)
    emit_singly(single, "carol", *[udp(BOB, FAR)] * BUDGET)
    assert burst.engine.counts[Reason.NOT_ACTIVE] == BUDGET
    assert burst.engine.attachments.get("carol").state is State.STAGED
    assert_same(burst, single)


class Immovable(MemoryPort):
    """A port whose device is gone by the time at which it is put into service."""

    def park(self, parked: bool) -> None:
        if not parked:
            raise PortGone("the device was removed")


def test_a_staged_port_that_vanishes_at_its_first_run_is_removed_and_harms_nothing() -> None:
    world, port = make_world(), Immovable()
    new = attachment("grace", PortId(-1), RED, mac(7), state=State.STAGED)
    world.engine.add(new, port)
    for _ in range(BUDGET):
        port.emit(udp(BOB, mac(7)))
    world.engine.pump_port(new.port)
    assert world.gone == [(new.port, port)]
    assert world.heard("bob") == []
    assert new.port not in world.engine.ports()


# Ports that are full, and ports that vanish.


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_port_that_fills_up_in_a_run_has_what_it_took(
    pair: tuple[World, World], room: int
) -> None:
    frames = [udp(BOB, ALICE, payload=bytes([number])) for number in range(BUDGET)]
    for world, emit in zip(pair, (World.emit, emit_singly), strict=True):
        world.ports["bob"].received.extend([b"before"] * (QUEUE_LEN - room))
        emit(world, "alice", *frames)
        assert list(world.ports["bob"].received)[QUEUE_LEN - room :] == frames[:room]
        assert world.engine.events["port_full"] == BUDGET - room
    assert_same(*pair)


class Leaving(MemoryPort):
    """A port whose device vanishes after so many frames."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        self.gone = len(self.received) >= self.after
        return super().write(frame, header)


@pytest.mark.parametrize("after", [0, 1, 30, 63])
def test_a_port_that_vanishes_in_a_run_has_what_came_before(world: World, after: int) -> None:
    """The rest of the run is lost, as it is with a device that vanishes a moment later."""
    port_id = add(world, "grace", mac(7), port := Leaving(after))
    frames = [udp(mac(7), ALICE, payload=bytes([number])) for number in range(BUDGET)]
    world.emit("alice", *frames)
    assert list(port.received) == frames[:after]
    assert world.gone == [(port_id, port)]
    assert world.engine.events["ports_gone"] == 1
    assert world.engine.events["port_full"] == 0
    assert port_id not in world.engine.ports()
    assert world.engine.attachments.of_port(port_id) is None
    assert world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF) == []

    # The next ones are a miss, and find the guest where it is now.
    world.emit("alice", *frames)
    assert world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF) == [
        vxlan(RED, SHARED_MAC + frame[6:]) for frame in frames
    ]
    assert len(world.gone) == 1


def test_a_port_that_vanishes_in_a_run_does_not_keep_it_from_the_others(world: World) -> None:
    add(world, "grace", mac(7), port := Leaving(5))
    add(world, "heidi", mac(8), MemoryPort())
    frames = [udp(MULTICAST, ALICE, payload=bytes([number])) for number in range(30)]
    behind = [udp(BOB, ALICE)] * 10 + [udp(mac(7), ALICE)] * 10
    world.emit("alice", *frames, *behind)
    assert list(port.received) == frames[:5]
    assert world.heard("heidi") == frames
    assert world.heard("bob") == [*frames, *behind[:10]]
    sent_up = world.at_leaf(LEAF) + world.at_leaf(SECOND_LEAF)
    # What is to the vanished guest, in a later run of the burst, is decided without it.
    expected = [vxlan(RED, frame) for frame in frames]
    expected += [vxlan(RED, SHARED_MAC + frame[6:]) for frame in behind[10:]]
    assert sorted(sent_up) == sorted(expected)
    assert world.engine.events["ports_gone"] == 1


def test_a_port_that_vanished_before_its_run_is_removed_once(world: World) -> None:
    bob = world.port_id("bob")
    world.ports["bob"].gone = True
    world.emit("alice", *[udp(BOB, ALICE)] * BUDGET)
    assert world.gone == [(bob, world.ports["bob"])]
    assert world.engine.counts[Reason.LOCAL] == BUDGET
    assert world.engine.stats(world.port_id("alice"))[0] == BUDGET
