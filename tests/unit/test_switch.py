"""The decision of the vswitch, a named row for every reason that it can give.

The names of the rows are the reasons themselves, and a test holds the table to the enum: a reason
cannot be added without an example of a frame that gets it.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import NamedTuple

import pytest

from tests.frames import (
    BRIDGE_GROUP,
    BROADCAST,
    MULTICAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    arp,
    plain,
    ra,
    rarp,
    tagged,
    tcp,
    udp,
    udp6,
    vxlan,
)
from tests.unit.topology import (
    ALICE,
    ALICE_MAC,
    BLUE,
    BOB,
    BOB_MAC,
    BOB_SECOND_MAC,
    CAROL,
    CAROL_MAC,
    DAVE,
    DAVE_MAC,
    ERIN,
    ERIN_MAC,
    FAR_MAC,
    FRANK,
    FRANK_MAC,
    GREEN,
    LEAF,
    OSCAR,
    RED,
    STRANGER,
    build,
    guests,
)
from vswitch.attachment import State
from vswitch.phy.port import PortId
from vswitch.switch import STEPS, UPLINK, UPLINK_STEPS, Reason, Switch, Verdict
from vswitch.wire.vxlan import Vni, Vtep

HEARD_AT = 50.0
LEARNT_MAC = bytes.fromhex("0200000000aa")


@pytest.fixture
def switch() -> Switch:
    made = build()
    made.learn(BLUE, LEARNT_MAC, HEARD_AT)
    return made


class FromGuest(NamedTuple):
    """A frame from a guest and what is expected of it."""

    reason: Reason
    ingress: PortId
    frame: bytes
    egress: tuple[PortId, ...] = ()
    rewrite: bytes | None = None


class FromUplink(NamedTuple):
    """A VXLAN packet from the tunnel and what is expected of it."""

    reason: Reason
    source: Vtep
    packet: bytes
    egress: tuple[PortId, ...] = ()


GUEST_ROWS = (
    FromGuest(Reason.NO_PORT, PortId(77), udp(BOB_MAC, ALICE_MAC)),
    FromGuest(Reason.RUNT, ALICE, BOB_MAC + ALICE_MAC + b"\x08"),
    FromGuest(Reason.GROUP_SOURCE, ALICE, udp(BOB_MAC, MULTICAST)),
    FromGuest(Reason.NOT_ACTIVE, CAROL, udp(BOB_MAC, FAR_MAC)),
    FromGuest(Reason.SPOOFED_MAC, ALICE, udp(FAR_MAC, BOB_MAC)),
    FromGuest(Reason.TAGGED, ALICE, tagged(udp(BOB_MAC, ALICE_MAC), 5)),
    FromGuest(Reason.SPOOFED_ADDRESS, ALICE, udp(BOB_MAC, ALICE_MAC, src_ip="10.0.0.66")),
    FromGuest(Reason.SPOOFED_ARP, ALICE, arp(BROADCAST, ALICE_MAC, sender_mac=BOB_MAC)),
    FromGuest(Reason.SPOOFED_ND, ALICE, ra(ALICE_MAC, "fe80::1")),
    FromGuest(Reason.LINK_LOCAL_GROUP, ALICE, plain(BRIDGE_GROUP, ALICE_MAC, 0x0026)),
    FromGuest(Reason.ACTIVATION, CAROL, udp(BOB_MAC, CAROL_MAC)),
    FromGuest(Reason.GROUP, ALICE, arp(BROADCAST, ALICE_MAC), (BOB, OSCAR, UPLINK)),
    FromGuest(Reason.GATEWAY, ALICE, udp(SHARED_MAC, ALICE_MAC), (UPLINK,)),
    FromGuest(Reason.SAME_PORT, BOB, udp(BOB_SECOND_MAC, BOB_MAC)),
    FromGuest(Reason.LOCAL, ALICE, udp(BOB_MAC, ALICE_MAC), (BOB,)),
    FromGuest(Reason.REMOTE, DAVE, udp(LEARNT_MAC, DAVE_MAC), (UPLINK,)),
    FromGuest(Reason.MISS_REWRITTEN, ALICE, udp(FAR_MAC, ALICE_MAC), (UPLINK,), SHARED_MAC),
    FromGuest(Reason.MISS_UNROUTABLE, ALICE, plain(FAR_MAC, ALICE_MAC)),
    FromGuest(Reason.MISS_FLOODED, DAVE, udp(FAR_MAC, DAVE_MAC), (ERIN, UPLINK)),
    FromGuest(Reason.MISS_DROPPED, FRANK, udp(FAR_MAC, FRANK_MAC)),
)
UPLINK_ROWS = (
    FromUplink(Reason.UPLINK_NOT_A_LEAF, STRANGER, vxlan(RED, udp(BOB_MAC, FAR_MAC))),
    FromUplink(Reason.UPLINK_BAD_VXLAN, LEAF, b"\0" + vxlan(RED, udp(BOB_MAC, FAR_MAC))[1:]),
    FromUplink(Reason.UPLINK_UNKNOWN_VNI, LEAF, vxlan(99, udp(BOB_MAC, FAR_MAC))),
    FromUplink(Reason.UPLINK_RUNT, LEAF, vxlan(RED, BOB_MAC + FAR_MAC + b"\x08")),
    FromUplink(Reason.UPLINK_TAGGED, LEAF, vxlan(RED, tagged(udp(BOB_MAC, FAR_MAC), 5))),
    FromUplink(Reason.UPLINK_LINK_LOCAL_GROUP, LEAF, vxlan(RED, plain(BRIDGE_GROUP, FAR_MAC))),
    FromUplink(Reason.UPLINK_GROUP, LEAF, vxlan(RED, arp(BROADCAST, FAR_MAC)), (ALICE, BOB, OSCAR)),
    FromUplink(Reason.UPLINK_LOCAL, LEAF, vxlan(RED, udp(BOB_SECOND_MAC, FAR_MAC)), (BOB,)),
    FromUplink(Reason.UPLINK_MISS, LEAF, vxlan(RED, udp(FAR_MAC, SHARED_MAC))),
)


def named(rows: tuple[FromGuest, ...] | tuple[FromUplink, ...]) -> list[object]:
    return [pytest.param(row, id=row.reason.value) for row in rows]


@pytest.mark.parametrize("row", named(GUEST_ROWS))
def test_a_frame_from_a_guest(switch: Switch, row: FromGuest) -> None:
    verdict = switch.decide(row.ingress, row.frame)
    assert verdict == Verdict(row.egress, row.rewrite, row.reason)


@pytest.mark.parametrize("row", named(UPLINK_ROWS))
def test_a_packet_from_the_uplink(switch: Switch, row: FromUplink) -> None:
    verdict = switch.decide_uplink(row.source, row.packet)
    assert verdict == Verdict(row.egress, None, row.reason)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_kind_of_buffer_makes_no_difference(switch: Switch, kind: type) -> None:
    """The engine hands over memoryviews, whose slices are no dictionary keys by themselves."""
    for row in GUEST_ROWS:
        assert switch.decide(row.ingress, kind(row.frame)).reason is row.reason
    for other in UPLINK_ROWS:
        assert switch.decide_uplink(other.source, kind(other.packet)).reason is other.reason


def test_every_reason_has_one_row() -> None:
    rows = Counter(row.reason for row in (*GUEST_ROWS, *UPLINK_ROWS))
    assert rows == Counter(Reason)


def test_every_reason_ends_exactly_one_step() -> None:
    ends = Counter(reason for step in (*STEPS, *UPLINK_STEPS) for reason in step.reasons)
    assert ends == Counter(Reason)


# What a row of one frame cannot show: that an earlier rule wins over a later one.


def test_a_runt_of_thirteen_bytes_and_an_empty_one_are_runts(switch: Switch) -> None:
    for length in (0, 13):
        assert switch.decide(ALICE, bytes(length)).reason is Reason.RUNT


def test_a_bare_header_is_long_enough(switch: Switch) -> None:
    frame = plain(BOB_MAC, ALICE_MAC, payload=b"")
    assert switch.decide(ALICE, frame).reason is Reason.LOCAL


def test_a_group_source_is_told_apart_from_a_spoofed_one_also_when_staged(switch: Switch) -> None:
    assert switch.decide(CAROL, udp(BOB_MAC, BROADCAST)).reason is Reason.GROUP_SOURCE


def test_a_provider_tag_is_a_tag(switch: Switch) -> None:
    frame = tagged(udp(BOB_MAC, ALICE_MAC), 5, provider=True)
    assert switch.decide(ALICE, frame).reason is Reason.TAGGED


def test_a_tag_is_refused_without_a_spoof_guard_too(switch: Switch) -> None:
    """A port is an access port whether or not its guest is trusted."""
    frame = tagged(udp(BOB_MAC, FAR_MAC), 5)
    assert switch.decide(OSCAR, frame).reason is Reason.TAGGED


@pytest.mark.parametrize("last", [0x00, 0x0E, 0x0F])
def test_the_sixteen_link_local_groups_stay(switch: Switch, last: int) -> None:
    group = BRIDGE_GROUP[:5] + bytes([last])
    assert switch.decide(ALICE, plain(group, ALICE_MAC)).reason is Reason.LINK_LOCAL_GROUP
    packet = vxlan(RED, plain(group, FAR_MAC))
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_LINK_LOCAL_GROUP


def test_the_seventeenth_is_an_ordinary_group(switch: Switch) -> None:
    group = BRIDGE_GROUP[:5] + b"\x10"
    assert switch.decide(ALICE, plain(group, ALICE_MAC)).reason is Reason.GROUP
    packet = vxlan(RED, plain(group, FAR_MAC))
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_GROUP


@pytest.mark.parametrize("group", [BROADCAST, MULTICAST], ids=["broadcast", "multicast"])
@pytest.mark.parametrize("ingress", [ALICE, DAVE, FRANK], ids=["rewrite", "flood", "drop"])
def test_a_group_is_forwarded_as_it_is_under_every_policy(
    switch: Switch, ingress: PortId, group: bytes
) -> None:
    source = {ALICE: ALICE_MAC, DAVE: DAVE_MAC, FRANK: FRANK_MAC}[ingress]
    verdict = switch.decide(ingress, udp(group, source))
    assert verdict.reason is Reason.GROUP
    assert verdict.rewrite is None
    assert verdict.egress.count(UPLINK) == 1


def test_a_guest_alone_in_its_segment_still_reaches_the_leaf(switch: Switch) -> None:
    verdict = switch.decide(FRANK, arp(BROADCAST, FRANK_MAC))
    assert verdict == Verdict((UPLINK,), None, Reason.GROUP)


def test_the_rarp_of_an_active_guest_is_consumed(switch: Switch) -> None:
    assert switch.decide(BOB, rarp(BOB_MAC)) == Verdict((), None, Reason.ACTIVATION)


# The miss, for the sake of which all of this exists.


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(tcp(FAR_MAC, ALICE_MAC), id="ipv4"),
        pytest.param(udp6(FAR_MAC, ALICE_MAC), id="ipv6"),
        pytest.param(arp(FAR_MAC, ALICE_MAC), id="unicast_arp_probe"),
        pytest.param(arp(FAR_MAC, ALICE_MAC, op=2), id="unicast_arp_reply"),
        pytest.param(udp(OTHER_SHARED_MAC, ALICE_MAC), id="shared_mac_of_another_group"),
        pytest.param(arp(OTHER_SHARED_MAC, ALICE_MAC), id="arp_to_another_group"),
    ],
)
def test_what_can_be_routed_or_answered_is_rewritten(switch: Switch, frame: bytes) -> None:
    expected = Verdict((UPLINK,), SHARED_MAC, Reason.MISS_REWRITTEN)
    assert switch.decide(ALICE, frame) == expected


def test_the_mac_of_another_segment_is_a_miss(switch: Switch) -> None:
    """A segment sees no other segment's guests; between them is a router's work."""
    assert switch.decide(ALICE, udp(DAVE_MAC, ALICE_MAC)).reason is Reason.MISS_REWRITTEN
    packet = vxlan(RED, udp(DAVE_MAC, SHARED_MAC))
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_MISS


def test_the_stale_mac_of_a_guest_that_was_local_is_rewritten(switch: Switch) -> None:
    before = switch.decide(ALICE, udp(BOB_MAC, ALICE_MAC))
    assert before.reason is Reason.LOCAL
    switch.remove(guests()["bob"])
    for stale in (BOB_MAC, BOB_SECOND_MAC):
        verdict = switch.decide(ALICE, udp(stale, ALICE_MAC))
        assert verdict == Verdict((UPLINK,), SHARED_MAC, Reason.MISS_REWRITTEN)
        packet = vxlan(RED, udp(stale, SHARED_MAC))
        assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_MISS


def test_a_removed_guest_is_in_no_group_and_its_port_is_unknown(switch: Switch) -> None:
    frame = arp(BROADCAST, ALICE_MAC)
    assert BOB in switch.decide(ALICE, frame).egress
    switch.remove(guests()["bob"])
    assert switch.decide(ALICE, frame).egress == (OSCAR, UPLINK)
    assert switch.decide_uplink(LEAF, vxlan(RED, frame)).egress == (ALICE, OSCAR)
    assert switch.decide(BOB, udp(ALICE_MAC, BOB_MAC)).reason is Reason.NO_PORT


def test_a_new_policy_holds_from_the_next_frame(switch: Switch) -> None:
    frame = udp(FAR_MAC, ALICE_MAC)
    switch.set_miss(RED, "drop")
    assert switch.decide(ALICE, frame).reason is Reason.MISS_DROPPED
    switch.set_miss(RED, "flood")
    assert switch.decide(ALICE, frame).egress == (BOB, OSCAR, UPLINK)
    switch.set_miss(RED, "rewrite")
    assert switch.decide(ALICE, frame).reason is Reason.MISS_REWRITTEN


def test_a_flooded_miss_follows_the_members(switch: Switch) -> None:
    """The verdict is kept between frames, so it must fall when the segment changes."""
    frame = udp(FAR_MAC, DAVE_MAC)
    assert switch.decide(DAVE, frame).egress == (ERIN, UPLINK)
    switch.remove(guests()["erin"])
    assert switch.decide(DAVE, frame).egress == (UPLINK,)


# A staged guest does not run here yet.


def test_a_staged_guest_is_sent_nothing(switch: Switch) -> None:
    assert switch.decide(ALICE, udp(CAROL_MAC, ALICE_MAC)).reason is Reason.MISS_REWRITTEN
    assert CAROL not in switch.decide(ALICE, arp(BROADCAST, ALICE_MAC)).egress
    packet = vxlan(RED, udp(CAROL_MAC, SHARED_MAC))
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_MISS
    assert CAROL not in switch.decide_uplink(LEAF, vxlan(RED, arp(BROADCAST, FAR_MAC))).egress


def test_an_activated_guest_is_sent_everything(switch: Switch) -> None:
    carol = guests()["carol"]
    carol.state = State.ACTIVE
    switch.place(carol)
    switch.place(carol)  # Placing twice is placing once.
    assert switch.decide(ALICE, udp(CAROL_MAC, ALICE_MAC)).egress == (CAROL,)
    assert switch.decide(ALICE, arp(BROADCAST, ALICE_MAC)).egress == (BOB, OSCAR, CAROL, UPLINK)
    assert switch.decide_uplink(LEAF, vxlan(RED, udp(CAROL_MAC, FAR_MAC))).egress == (CAROL,)
    assert switch.decide(CAROL, udp(BOB_MAC, CAROL_MAC)).egress == (BOB,)


def test_the_end_of_a_staged_guest_leaves_the_active_owner_of_its_mac_alone(
    switch: Switch,
) -> None:
    """A migration that is called off on a host where the guest still runs under another port."""
    aborted = copy.copy(guests()["bob"])
    aborted.guest, aborted.port, aborted.state = "bob-again", PortId(50), State.STAGED
    switch.place(aborted)
    switch.remove(aborted)
    assert switch.decide(ALICE, udp(BOB_MAC, ALICE_MAC)).egress == (BOB,)
    assert switch.decide_uplink(LEAF, vxlan(RED, udp(BOB_MAC, FAR_MAC))).egress == (BOB,)


# A guest that is leaving is sent nothing more, and what it has sent still goes its way.


@pytest.fixture
def leaving(switch: Switch) -> Switch:
    bob = guests()["bob"]
    bob.state = State.DEPARTING
    switch.place(bob)
    return switch


def test_a_frame_for_a_guest_that_is_leaving_follows_it(leaving: Switch) -> None:
    for gone in (BOB_MAC, BOB_SECOND_MAC):
        verdict = leaving.decide(ALICE, udp(gone, ALICE_MAC))
        assert verdict == Verdict((UPLINK,), SHARED_MAC, Reason.MISS_REWRITTEN)
        packet = vxlan(RED, udp(gone, SHARED_MAC))
        assert leaving.decide_uplink(LEAF, packet).reason is Reason.UPLINK_MISS
    broadcast = arp(BROADCAST, ALICE_MAC)
    assert leaving.decide(ALICE, broadcast).egress == (OSCAR, UPLINK)
    assert leaving.decide_uplink(LEAF, vxlan(RED, broadcast)).egress == (ALICE, OSCAR)


def test_a_frame_from_a_guest_that_is_leaving_is_forwarded(leaving: Switch) -> None:
    assert leaving.decide(BOB, udp(ALICE_MAC, BOB_MAC)).egress == (ALICE,)
    assert leaving.decide(BOB, udp(FAR_MAC, BOB_MAC)).reason is Reason.MISS_REWRITTEN
    assert leaving.decide(BOB, arp(BROADCAST, BOB_MAC)).egress == (ALICE, OSCAR, UPLINK)
    # It is no member any more, and yet its view of the members must not grow stale.
    leaving.remove(guests()["oscar"])
    assert leaving.decide(BOB, arp(BROADCAST, BOB_MAC)).egress == (ALICE, UPLINK)


def test_a_guest_that_stays_after_all_is_back(leaving: Switch) -> None:
    leaving.place(guests()["bob"])
    assert leaving.decide(ALICE, udp(BOB_MAC, ALICE_MAC)).egress == (BOB,)
    assert leaving.decide_uplink(LEAF, vxlan(RED, udp(BOB_MAC, FAR_MAC))).egress == (BOB,)


# The tunnel's side.


def test_only_the_new_leaves_are_listened_to(switch: Switch) -> None:
    packet = vxlan(RED, udp(BOB_MAC, FAR_MAC))
    switch.set_leaves([STRANGER])
    assert switch.decide_uplink(STRANGER, packet).reason is Reason.UPLINK_LOCAL
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_NOT_A_LEAF


@pytest.mark.parametrize("length", range(8))
def test_a_cut_vxlan_header_is_a_bad_one(switch: Switch, length: int) -> None:
    packet = vxlan(RED, udp(BOB_MAC, FAR_MAC))[:length]
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_BAD_VXLAN


def test_all_24_bits_of_the_vni_count(switch: Switch) -> None:
    wide = Vni(0xABCDEF)
    switch.add_segment(wide, "rewrite")
    frame = arp(BROADCAST, FAR_MAC)
    assert switch.decide_uplink(LEAF, vxlan(wide, frame)).reason is Reason.UPLINK_GROUP
    for near in (0xABCDEE, 0xABCCEF, 0xAACDEF):
        assert switch.decide_uplink(LEAF, vxlan(near, frame)).reason is Reason.UPLINK_UNKNOWN_VNI


def test_the_shared_mac_from_the_uplink_never_goes_back_up(switch: Switch) -> None:
    packet = vxlan(RED, udp(SHARED_MAC, FAR_MAC))
    assert switch.decide_uplink(LEAF, packet) == Verdict((), None, Reason.UPLINK_MISS)


def test_a_removed_segment_is_unknown(switch: Switch) -> None:
    switch.remove(guests()["frank"])
    switch.remove_segment(GREEN)
    packet = vxlan(GREEN, arp(BROADCAST, FAR_MAC))
    assert switch.decide_uplink(LEAF, packet).reason is Reason.UPLINK_UNKNOWN_VNI
    assert [segment.vni for segment in switch.segments()] == [RED, BLUE]
    assert [switch.has_segment(vni) for vni in (RED, GREEN)] == [True, False]


# Deciding changes nothing, so that `trace` may ask a live switch.


def tables(switch: Switch) -> list[object]:
    """Everything that later decisions depend on, as a copy."""
    return copy.deepcopy(
        [
            (
                segment.vni,
                segment.miss,
                segment.fdb.verdicts,
                segment.fdb.learnt,
                segment.fdb.refused,
                segment.from_uplink,
                segment.members,
                segment.uplink_group,
            )
            for segment in switch.segments()
        ]
    )


def test_deciding_changes_nothing(switch: Switch) -> None:
    before = tables(switch)
    for row in GUEST_ROWS:
        switch.decide(row.ingress, row.frame)
    for other in UPLINK_ROWS:
        switch.decide_uplink(other.source, other.packet)
    assert tables(switch) == before
    # And the second asking gets the answer of the first.
    test_frames = [(row.ingress, row.frame, row.egress) for row in GUEST_ROWS]
    for ingress, frame, egress in test_frames:
        assert switch.decide(ingress, frame).egress == egress


def test_an_uplink_frame_to_a_local_guest_teaches_nothing(switch: Switch) -> None:
    """Not even where the segment learns: that is for the engine to ask with `learn`."""
    switch.decide_uplink(LEAF, vxlan(BLUE, udp(ERIN_MAC, FAR_MAC)))
    assert switch.decide(DAVE, udp(FAR_MAC, DAVE_MAC)).reason is Reason.MISS_FLOODED
