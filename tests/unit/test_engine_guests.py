"""How guests arrive in the engine, announce themselves, and leave.

The leaf's side of an announcement is read by scapy.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from tests.frames import BROADCAST, SHARED_MAC, arp, mac, rarp, tagged, udp, v4, v6, vxlan
from tests.unit.engine_world import SECOND_LEAF, World
from tests.unit.topology import BLUE, LEAF, RED, attachment
from vswitch.attachment import AttachmentError, StaleSequence, State, UnknownGuest
from vswitch.engine import ACTIVATION_BURST, ACTIVATION_RATE
from vswitch.phy.memory import MemoryPort
from vswitch.phy.port import Port, PortGone, PortId
from vswitch.switch import Reason
from vswitch.wire.vxlan import Vni

ALICE, BOB, CAROL, FAR = mac(1), mac(2), mac(3), mac(0x99)
ALICE_IP = v4("10.0.0.1")


def announced(packets: list[bytes]) -> list[tuple[int, str, str, str]]:
    """What announcements say: ethertype, sender MAC, sender and target address."""
    said: list[tuple[int, str, str, str]] = []
    for packet in packets:
        frame = VXLAN(packet)[Ether]
        if ICMPv6ND_NA in frame:
            message = frame[ICMPv6ND_NA]
            assert (frame.dst, frame[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
            assert (frame[IPv6].hlim, message.R, message.S, message.O) == (255, 0, 0, 1)
            assert frame.src == message[ICMPv6NDOptDstLLAddr].lladdr
            said.append((frame.type, frame.src, frame[IPv6].src, message.tgt))
            continue
        assert frame.dst == "ff:ff:ff:ff:ff:ff"
        inside = frame.payload if isinstance(frame.payload, ARP) else ARP(bytes(frame.payload))
        assert frame.src == inside.hwsrc
        said.append((frame.type, inside.hwsrc, inside.psrc, inside.pdst))
    return said


RARP_OF_ALICE = (0x8035, ALICE.hex(":"), "0.0.0.0", "0.0.0.0")
ARP_OF_ALICE = (0x0806, ALICE.hex(":"), "10.0.0.1", "10.0.0.1")
NA_OF_ALICE = (0x86DD, ALICE.hex(":"), "2001:db8::1", "2001:db8::1")
ALL_OF_ALICE = [RARP_OF_ALICE, ARP_OF_ALICE, NA_OF_ALICE]


@pytest.fixture
def world() -> World:
    """An active alice with an address of each family, and an active bob."""
    made = World()
    made.attach("alice", 1, addresses=(ALICE_IP, v6("2001:db8::1")))
    made.attach("bob", 2)
    return made


# Announcements.


def test_a_cold_start_is_announced_at_once() -> None:
    world = World()
    new = attachment("alice", PortId(-1), RED, ALICE, addresses=(ALICE_IP,))
    world.engine.add(new, MemoryPort())
    packets = world.at_leaf()
    assert announced(packets) == [RARP_OF_ALICE, ARP_OF_ALICE]
    assert all(VXLAN(packet).vni == RED for packet in packets)
    assert world.engine.events["activations"] == 1
    assert world.engine.events["announcements"] == 2


def test_a_staged_guest_is_not_announced() -> None:
    world = World()
    new = attachment("alice", PortId(-1), RED, ALICE, addresses=(ALICE_IP,), state=State.STAGED)
    world.engine.add(new, MemoryPort())
    assert world.at_leaf() == []
    assert world.engine.deadline() is None
    assert world.engine.events["activations"] == 0


def test_with_several_macs_only_they_are_announced() -> None:
    """Only the guest knows which of them has which address."""
    world = World()
    new = attachment("alice", PortId(-1), RED, ALICE, CAROL, addresses=(ALICE_IP,))
    world.engine.add(new, MemoryPort())
    said = announced(world.at_leaf())
    assert [(kind, sender) for kind, sender, _, _ in said] == [
        (0x8035, ALICE.hex(":")),
        (0x8035, CAROL.hex(":")),
    ]


def test_the_announcement_is_repeated_on_time_and_then_no_more(world: World) -> None:
    world.engine.activate("alice")
    world.forget()
    start = world.clock.now
    heard_after = []
    while (deadline := world.engine.deadline()) is not None:
        world.clock.now = deadline
        world.engine.tick(deadline)
        said = announced(world.at_leaf())
        if RARP_OF_ALICE in said:
            assert ARP_OF_ALICE in said
            assert NA_OF_ALICE in said
            heard_after.append(round(deadline - start, 6))
    assert heard_after == [0.05, 0.2, 0.45, 0.8]


def test_a_guest_that_has_gone_is_announced_no_more(world: World) -> None:
    world.engine.detach("alice")
    world.engine.detach("bob")
    world.engine.tick(world.clock.now + 10)
    assert world.at_leaf() == []


def test_a_rarp_is_consumed_and_announced(world: World) -> None:
    world.emit("alice", rarp(ALICE))
    assert world.heard("bob") == []
    assert announced(world.at_leaf()) == ALL_OF_ALICE
    assert world.engine.counts[Reason.ACTIVATION] == 1
    assert world.engine.counts[Reason.GROUP] == 0


def test_a_forged_rarp_announces_nothing(world: World) -> None:
    world.emit("bob", rarp(BOB, sender_mac=ALICE), rarp(ALICE))
    assert world.at_leaf() == []
    assert world.engine.counts[Reason.SPOOFED_ARP] == world.engine.counts[Reason.SPOOFED_MAC] == 1


def test_announcements_go_to_every_leaf_and_so_do_their_repetitions() -> None:
    world = World((LEAF, SECOND_LEAF))
    world.attach("alice", 1, addresses=(ALICE_IP,))
    world.engine.activate("alice")
    for vtep in (LEAF, SECOND_LEAF):
        assert announced(world.at_leaf(vtep)) == [RARP_OF_ALICE, ARP_OF_ALICE]
    world.engine.tick(world.clock.now + 0.05)
    for vtep in (LEAF, SECOND_LEAF):
        assert announced(world.at_leaf(vtep)) == [RARP_OF_ALICE, ARP_OF_ALICE]


def test_new_leaves_are_told_who_is_here(world: World) -> None:
    world.attach("carol", 3, state=State.STAGED)
    world.leaves[SECOND_LEAF] = world.network.tunnel(SECOND_LEAF)
    world.engine.set_leaves((SECOND_LEAF,))
    said = announced(world.at_leaf(SECOND_LEAF))
    assert said[:3] == ALL_OF_ALICE
    assert [sender for _, sender, _, _ in said[3:]] == [BOB.hex(":")]
    assert world.at_leaf(LEAF) == []

    # From now on frames go to the new leaf and are taken from it alone.
    world.emit("alice", udp(FAR, ALICE))
    assert len(world.at_leaf(SECOND_LEAF)) == 1
    world.send_down(vxlan(RED, udp(BOB, SHARED_MAC)), vtep=LEAF)
    assert world.heard("bob") == []


def test_an_announcement_that_no_leaf_took_is_counted(world: World) -> None:
    world.leaves[LEAF].close()
    world.emit("alice", rarp(ALICE))
    assert world.engine.events["uplink_failed"] == 3  # The RARP and one for each address.


def test_activations_are_policed(world: World) -> None:
    """A guest that shouts RARP must not make us shout at the leaves for it."""
    shouts = 30
    world.emit("bob", *[rarp(BOB)] * shouts)
    permitted = int(ACTIVATION_BURST)
    assert len(world.at_leaf()) == permitted
    assert world.engine.events["activations_policed"] == shouts - permitted
    assert world.engine.counts[Reason.ACTIVATION] == shouts

    world.clock.now += 1.0
    world.emit("bob", *[rarp(BOB)] * shouts)
    assert len(world.at_leaf()) == int(ACTIVATION_RATE)


def test_one_guests_shouting_does_not_silence_another(world: World) -> None:
    world.emit("bob", *[rarp(BOB)] * 30)
    world.forget()
    world.emit("alice", rarp(ALICE))
    assert RARP_OF_ALICE in announced(world.at_leaf())


# The first frame of a staged guest.


@pytest.fixture
def moving(world: World) -> World:
    """carol is on her way here."""
    world.attach("carol", 3, state=State.STAGED, addresses=(v4("10.0.0.3"),))
    return world


def test_the_first_frame_activates_and_is_itself_forwarded(moving: World) -> None:
    frame = udp(BOB, CAROL, src_ip="10.0.0.3")
    moving.emit("carol", frame)
    assert moving.heard("bob") == [frame]
    assert moving.engine.attachments.get("carol").state is State.ACTIVE
    assert [sender for _, sender, _, _ in announced(moving.at_leaf())] == [CAROL.hex(":")] * 2
    back = udp(CAROL, BOB)
    moving.emit("bob", back)
    assert moving.heard("carol") == [back]


def test_a_first_frame_that_misses_is_rewritten_like_any_other(moving: World) -> None:
    frame = udp(FAR, CAROL, src_ip="10.0.0.3")
    moving.emit("carol", frame)
    assert moving.at_leaf()[-1] == vxlan(RED, SHARED_MAC + frame[6:])


def test_a_gratuitous_arp_activates_and_is_heard_by_the_neighbours(moving: World) -> None:
    frame = arp(BROADCAST, CAROL, "10.0.0.3", "10.0.0.3")
    moving.emit("carol", frame)
    assert moving.heard("bob") == moving.heard("alice") == [frame]
    assert moving.engine.attachments.get("carol").state is State.ACTIVE


def test_a_rarp_activates_and_is_heard_by_nobody(moving: World) -> None:
    moving.emit("carol", rarp(CAROL))
    assert moving.engine.attachments.get("carol").state is State.ACTIVE
    assert moving.heard("bob") == []
    assert len(announced(moving.at_leaf())) == 2


def test_the_rest_of_the_first_burst_is_forwarded_too(moving: World) -> None:
    frames = [udp(BOB, CAROL, src_ip="10.0.0.3", sport=number) for number in range(5)]
    moving.emit("carol", *frames)
    assert moving.heard("bob") == frames
    assert moving.engine.counts[Reason.ACTIVATION] == 1
    assert moving.engine.counts[Reason.LOCAL] == 5


def test_frames_of_the_hosts_own_kernel_do_not_activate(moving: World) -> None:
    moving.emit("carol", udp(BOB, mac(0x77)))
    assert moving.engine.attachments.get("carol").state is State.STAGED
    assert moving.heard("bob") == moving.at_leaf() == []
    assert moving.engine.counts[Reason.NOT_ACTIVE] == 1


def test_a_first_frame_is_held_to_the_rules_once_it_has_activated(moving: World) -> None:
    moving.emit("carol", tagged(udp(BOB, CAROL), 0), udp(BOB, CAROL, src_ip="10.0.0.66"))
    assert moving.heard("bob") == []
    assert moving.engine.counts[Reason.TAGGED] == 1
    assert moving.engine.counts[Reason.SPOOFED_ADDRESS] == 1


def test_a_parked_port_is_put_into_service(world: World) -> None:
    port = world.attach("carol", 3, state=State.STAGED)
    port.park(True)
    world.engine.activate("carol")
    assert not port.parked
    world.emit("bob", udp(CAROL, BOB))
    assert len(world.heard("carol")) == 1


def test_a_staged_guest_whose_mac_is_active_elsewhere_stays_staged(world: World) -> None:
    """Both cannot be right; the one that was first keeps its MAC, and somebody is told."""
    world.attach("bob-again", 2, state=State.STAGED)
    world.emit("bob-again", udp(ALICE, BOB))
    assert world.engine.attachments.get("bob-again").state is State.STAGED
    assert world.heard("alice") == world.at_leaf() == []
    assert world.log.warnings() == ["not activated"]
    world.emit("alice", udp(BOB, ALICE))
    assert len(world.heard("bob")) == 1


def test_what_guests_say_does_not_outrun_the_sequences_of_the_orchestrator(world: World) -> None:
    """QEMU sends five RARPs after a migration. They are no verbs of whoever counts the sequence:
    the next verb with the next number must still be the newest."""
    world.attach("carol", 3, state=State.STAGED, sequence=5)
    world.emit("carol", *[rarp(CAROL)] * 5)
    world.engine.activate("carol", 6)
    world.emit("carol", *[rarp(CAROL)] * 5)
    attached, _ = world.engine.detach("carol", 7)
    assert attached.guest == "carol"


def test_refused_news_does_not_put_a_parked_port_into_service(world: World) -> None:
    """While the guest still runs elsewhere, an enabled queue here would take frames from it."""
    stale = world.attach("carol", 3, state=State.STAGED, sequence=10)
    taken = world.attach("bob-again", 2, state=State.STAGED)
    stale.park(True)
    taken.park(True)
    with pytest.raises(StaleSequence):
        world.engine.activate("carol", 9)
    with pytest.raises(AttachmentError, match="is active at guest 'bob'"):
        world.engine.activate("bob-again")
    assert (stale.parked, taken.parked) == (True, True)


# Coming and going.


def test_a_guest_that_has_left_is_a_miss(world: World) -> None:
    port_id = world.port_id("bob")
    attached, port = world.engine.detach("bob")
    assert (attached.guest, attached.port) == ("bob", port_id)
    assert port is world.ports["bob"]
    assert port_id not in world.engine.ports()
    frame = udp(BOB, ALICE)
    world.emit("alice", frame)
    assert world.at_leaf() == [vxlan(RED, SHARED_MAC + frame[6:])]


def test_a_guest_that_is_leaving_is_a_miss_and_may_still_speak(world: World) -> None:
    assert world.engine.suspend("bob") is world.ports["bob"]
    from_bob, to_bob = udp(ALICE, BOB), udp(BOB, ALICE)
    world.emit("bob", from_bob)
    world.emit("alice", to_bob)
    assert world.heard("alice") == [from_bob]
    assert world.heard("bob") == []
    assert world.at_leaf() == [vxlan(RED, SHARED_MAC + to_bob[6:])]
    world.engine.tick(world.clock.now + 10)
    assert BOB.hex(":") not in {sender for _, sender, _, _ in announced(world.at_leaf())}


def test_a_guest_that_stays_after_all_is_announced_again(world: World) -> None:
    world.engine.suspend("alice")
    world.engine.activate("alice")
    assert announced(world.at_leaf()) == ALL_OF_ALICE
    world.emit("bob", udp(ALICE, BOB))
    assert len(world.heard("alice")) == 1


def test_a_rarp_that_was_still_on_its_way_does_not_keep_a_guest_that_is_leaving(
    world: World,
) -> None:
    """It would be announced here once more, after it has been announced where it is now."""
    world.engine.suspend("bob")
    world.emit("bob", rarp(BOB))
    assert world.engine.attachments.get("bob").state is State.DEPARTING
    assert world.at_leaf() == []


def test_a_port_number_is_not_used_again(world: World) -> None:
    """What was decided for the old port must not reach a new guest."""
    old = world.port_id("bob")
    world.engine.detach("bob")
    world.attach("bob", 2)
    assert world.port_id("bob") > old


def state_of(world: World) -> object:
    return (
        [(one.guest, one.sequence, one.state) for one in world.engine.attachments.all()],
        world.engine.ports(),
        [(one.vni, one.members, dict(one.fdb.verdicts)) for one in world.engine.switch.segments()],
        dict(world.engine.events),
    )


@pytest.mark.parametrize(
    ("guest", "number", "segment"),
    [
        pytest.param("alice", 9, RED, id="name_taken"),
        pytest.param("new", 1, RED, id="mac_taken"),
        # The segment may have been removed while the guest's device was being opened.
        pytest.param("new", 9, Vni(99), id="no_such_segment"),
    ],
)
def test_a_guest_that_cannot_be_taken_in_leaves_no_trace(
    world: World, guest: str, number: int, segment: Vni
) -> None:
    before = state_of(world)
    new = attachment(guest, PortId(-1), segment, mac(number))
    with pytest.raises(AttachmentError):
        world.engine.add(new, MemoryPort())
    assert state_of(world) == before
    assert world.at_leaf() == []


def test_late_news_leaves_the_engine_as_it_is(world: World) -> None:
    world.attach("carol", 3, sequence=10)
    before = state_of(world)
    with pytest.raises(StaleSequence):
        world.engine.detach("carol", 9)
    with pytest.raises(StaleSequence):
        world.engine.activate("carol", 9)
    with pytest.raises(UnknownGuest):
        world.engine.activate("nobody")
    assert state_of(world) == before
    assert world.at_leaf() == []


# A device that vanishes.


def test_a_port_that_vanishes_in_a_burst_is_removed_and_the_others_go_on(world: World) -> None:
    world.attach("carol", 3)
    bob = world.port_id("bob")
    world.ports["bob"].gone = True
    to_bob, to_carol = udp(BOB, ALICE), udp(CAROL, ALICE)
    world.emit("alice", to_carol, to_bob, to_bob, to_carol)

    assert world.heard("carol") == [to_carol, to_carol]
    assert world.gone == [(bob, world.ports["bob"])]
    assert world.engine.events["ports_gone"] == 1
    with pytest.raises(UnknownGuest):
        world.engine.attachments.get("bob")
    assert bob not in world.engine.ports()
    # The second frame to bob was decided without him.
    assert world.engine.counts[Reason.LOCAL] == 3
    assert world.at_leaf() == [vxlan(RED, SHARED_MAC + to_bob[6:])]


def test_a_port_that_vanishes_under_a_broadcast_does_not_keep_it_from_the_others(
    world: World,
) -> None:
    world.attach("carol", 3)
    world.ports["bob"].gone = True
    frame = udp(BROADCAST, ALICE)
    world.emit("alice", frame, frame)
    assert world.heard("carol") == [frame, frame]
    assert world.at_leaf() == [vxlan(RED, frame)] * 2
    assert world.engine.events["ports_gone"] == 1


def test_a_port_that_vanishes_under_a_train_does_not_keep_it_from_the_others(
    world: World,
) -> None:
    world.attach("carol", 3)
    world.ports["bob"].gone = True
    frame = arp(BROADCAST, FAR)
    world.send_down(vxlan(RED, frame), vxlan(RED, frame))
    assert world.heard("alice") == world.heard("carol") == [frame, frame]
    assert world.engine.events["ports_gone"] == 1
    assert len(world.gone) == 1


def test_a_port_that_vanishes_while_it_is_read_is_removed(world: World) -> None:
    alice = world.port_id("alice")
    world.ports["alice"].gone = True
    world.engine.pump_port(alice)
    assert world.gone == [(alice, world.ports["alice"])]
    assert world.engine.events["ports_gone"] == 1
    assert "port gone" in world.log.warnings()
    world.engine.pump_port(alice)
    assert world.engine.events["ports_gone"] == 1


class Witness(World):
    """Notes what is left of a port at the moment at which the owner hears that it has gone."""

    def on_gone(self, port_id: PortId, port: Port) -> None:
        behind = self.engine.attachments.of_port(port_id)
        members = [member for one in self.engine.switch.segments() for member in one.members]
        self.left = (port_id in self.engine.ports(), behind, port_id in members)


def test_the_owner_hears_of_a_vanished_port_when_it_is_out_of_all_tables() -> None:
    """So that it may attach the guest again from there."""
    world = Witness()
    world.attach("bob", 2).gone = True
    world.engine.pump_port(world.port_id("bob"))
    assert world.left == (False, None, False)


class VanishingPort(MemoryPort):
    """A port whose device goes away between its staging and its activation."""

    def park(self, parked: bool) -> None:
        if not parked:
            raise PortGone("the device was removed")


@pytest.mark.parametrize("way", ["first_frame", "verb"])
def test_a_port_that_vanished_before_its_activation_leaves_consistent_tables(
    world: World, way: str
) -> None:
    """Active in the one table and absent from the other is a guest that nobody can reach.

    Whether it stays staged or is removed, and with what error, is not asked here.
    """
    new = attachment("carol", PortId(-1), RED, CAROL, state=State.STAGED)
    port = VanishingPort()
    world.engine.add(new, port)
    with suppress(OSError, AttachmentError):
        if way == "verb":
            world.engine.activate("carol")
        else:
            port.emit(udp(BOB, CAROL))
            world.engine.pump_port(new.port)
    active = {one.port for one in world.engine.attachments.all() if one.state is State.ACTIVE}
    members = {member for one in world.engine.switch.segments() for member in one.members}
    assert active == members


# Time.


def test_the_deadline_is_the_nearest_of_all_tables() -> None:
    world = World()
    assert world.engine.deadline() is None
    world.attach("dave", 4, segment=BLUE)
    start = world.clock.now
    assert world.engine.deadline() == start + 0.05
    world.send_down(vxlan(BLUE, udp(mac(4), FAR)))
    world.engine.tick(start + 1)
    assert world.engine.deadline() == start + 300
    world.engine.tick(start + 301)
    assert world.engine.deadline() is None


def test_a_new_policy_reaches_the_switch(world: World) -> None:
    world.engine.set_miss(RED, "drop")
    world.emit("alice", udp(FAR, ALICE))
    assert world.at_leaf() == []
    assert world.engine.counts[Reason.MISS_DROPPED] == 1
