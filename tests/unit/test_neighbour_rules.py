"""The ARP rules of the leaf, a named row for every reason, and one for every line of the design.

`ROWS` is held to the enum. `DESIGN` is the table of the design document: what is answered, and with
silence where the vswitch has already delivered the question. The bytes of the answers are the
subject of `test_arp_answers.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from leaf import neighbour as rules
from leaf.neighbour import ANSWERED, BELIEVED, STEPS, Reason
from tests.frames import BROADCAST, MULTICAST, OTHER_SHARED_MAC, SHARED_MAC, arp, mac, v4
from tests.unit.leaf_world import (
    GUESTS,
    H1,
    H2,
    H3,
    H4,
    H5,
    H7,
    ONE,
    SAME,
    X1,
    A,
    B,
    C,
    World,
)
from vswitch.wire import arp as wire
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

GATEWAY = "1.1.1.254"
NEWCOMER = mac(0x77)


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


def decide(world: World, source: Vtep, frame: bytes, segment: Vni = ONE) -> rules.Verdict:
    return rules.decide(
        world.segment(segment),
        source,
        Mac(frame[:6]),
        Mac(frame[6:12]),
        wire.parse(frame),
        lambda address: world.bindings.get(segment, address),
    )


class Row(NamedTuple):
    """A message that comes from `source`, and what the rules say of it."""

    reason: Reason
    source: Vtep
    frame: bytes


ROWS = (
    Row(Reason.MALFORMED, A, arp(BROADCAST, H1.mac, H1.ip, H3.ip, op=9)),
    Row(Reason.SENDER_MISMATCH, A, arp(BROADCAST, H1.mac, H1.ip, H3.ip, sender_mac=H2.mac)),
    Row(Reason.CLAIMS_GATEWAY, A, arp(BROADCAST, H1.mac, GATEWAY, H3.ip)),
    Row(Reason.SENDER_OUTSIDE, A, arp(BROADCAST, H1.mac, "9.9.9.9", H3.ip)),
    Row(Reason.ANNOUNCED, A, arp(BROADCAST, H1.mac, H1.ip, H1.ip)),
    Row(Reason.REPLY, A, arp(SHARED_MAC, H1.mac, H1.ip, GATEWAY, op=2)),
    Row(Reason.GATEWAY, A, arp(BROADCAST, H1.mac, H1.ip, GATEWAY)),
    Row(Reason.TARGET_OUTSIDE, A, arp(BROADCAST, H1.mac, H1.ip, "9.9.9.9")),
    Row(Reason.UNKNOWN, A, arp(BROADCAST, H1.mac, H1.ip, "1.1.1.77")),
    Row(Reason.OWN, A, arp(BROADCAST, H1.mac, "0.0.0.0", H1.ip)),
    Row(Reason.SAME_VTEP, A, arp(BROADCAST, H1.mac, H1.ip, H2.ip)),
    Row(Reason.CONFLICT, A, arp(BROADCAST, NEWCOMER, "0.0.0.0", H3.ip)),
    Row(Reason.HEALED, A, arp(SHARED_MAC, H1.mac, H1.ip, H3.ip)),
    Row(Reason.REMOTE, A, arp(BROADCAST, H1.mac, H1.ip, H3.ip)),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.reason.value) for row in ROWS])
def test_a_message(world: World, row: Row) -> None:
    assert decide(world, row.source, row.frame).reason is row.reason


def test_every_reason_has_one_row() -> None:
    assert Counter(row.reason for row in ROWS) == Counter(Reason)


def test_every_reason_ends_exactly_one_step() -> None:
    assert Counter(reason for step in STEPS for reason in step.reasons) == Counter(Reason)


class Line(NamedTuple):
    """A line of the design's table: who asks for what, and whether the leaf answers at once."""

    what: str
    source: Vtep
    frame: bytes
    answered: bool
    believed: bool = True


DESIGN = (
    Line("target_is_the_gateway", A, arp(BROADCAST, H1.mac, H1.ip, GATEWAY), True),
    Line("target_is_the_gateway_unicast", A, arp(SHARED_MAC, H1.mac, H1.ip, GATEWAY), True),
    Line("target_at_another_vswitch", A, arp(BROADCAST, H1.mac, H1.ip, H3.ip), True),
    Line("target_at_the_askers_vswitch", A, arp(BROADCAST, H1.mac, H1.ip, H2.ip), False),
    Line("the_same_unicast_to_the_shared_mac", A, arp(SHARED_MAC, H1.mac, H1.ip, H2.ip), False),
    Line("the_same_to_another_groups", A, arp(OTHER_SHARED_MAC, H1.mac, H1.ip, H2.ip), False),
    Line("target_unknown", A, arp(BROADCAST, H1.mac, H1.ip, "1.1.1.77"), False),
    Line("target_unknown_unicast", A, arp(SHARED_MAC, H1.mac, H1.ip, "1.1.1.77"), False),
    Line("own_probe", A, arp(BROADCAST, H1.mac, "0.0.0.0", H1.ip), False),
    Line("own_probe_after_a_move", B, arp(BROADCAST, H1.mac, "0.0.0.0", H1.ip), False),
    Line("announcement", A, arp(BROADCAST, H1.mac, H1.ip, H1.ip), False),
    Line("gratuitous_reply", A, arp(BROADCAST, H1.mac, H1.ip, H1.ip, op=2), False),
    Line("probe_for_anothers_address", A, arp(BROADCAST, NEWCOMER, "0.0.0.0", H3.ip), False),
    Line("probe_for_a_neighbours_address", A, arp(BROADCAST, NEWCOMER, "0.0.0.0", H2.ip), False),
    Line("probe_for_the_gateways_address", A, arp(BROADCAST, H1.mac, "0.0.0.0", GATEWAY), True),
    Line("rewritten_unicast_question", A, arp(SHARED_MAC, H1.mac, H1.ip, H3.ip), True),
    Line(
        "sender_mac_differs",
        A,
        arp(BROADCAST, H1.mac, H1.ip, GATEWAY, sender_mac=H3.mac),
        False,
        False,
    ),
    Line("sender_outside", A, arp(BROADCAST, H1.mac, "2.2.2.1", GATEWAY), False, False),
    Line("sender_is_the_gateway", A, arp(BROADCAST, H1.mac, GATEWAY, H1.ip), False, False),
    Line("gateway_announced", A, arp(BROADCAST, H1.mac, GATEWAY, GATEWAY), False, False),
    Line("shared_mac_as_sender", A, arp(BROADCAST, SHARED_MAC, "1.1.1.66", H3.ip), False, False),
    Line(
        "another_groups_shared_mac_as_sender",
        A,
        arp(BROADCAST, OTHER_SHARED_MAC, "1.1.1.66", H3.ip),
        False,
        False,
    ),
)


@pytest.mark.parametrize("line", [pytest.param(line, id=line.what) for line in DESIGN])
def test_a_line_of_the_design(world: World, line: Line) -> None:
    reason = decide(world, line.source, line.frame).reason
    assert (reason in ANSWERED) == line.answered
    assert (reason in BELIEVED) == line.believed


def test_only_what_is_believed_is_answered() -> None:
    assert ANSWERED < BELIEVED


# The rows of one message cannot show these.


@pytest.mark.parametrize(("at", "value"), [(14, 2), (16, 9), (18, 8), (19, 16), (21, 0), (21, 3)])
def test_any_other_kind_of_arp_is_malformed(world: World, at: int, value: int) -> None:
    """Hardware type, protocol, the two lengths, the operation: each wrong by itself."""
    frame = bytearray(arp(BROADCAST, H1.mac, H1.ip, H3.ip))
    frame[at] = value
    assert decide(world, A, bytes(frame)).reason is Reason.MALFORMED


def test_a_cut_message_is_malformed(world: World) -> None:
    frame = arp(BROADCAST, H1.mac, H1.ip, H3.ip)
    for length in range(14, 42):
        assert decide(world, A, frame[:length]).reason is Reason.MALFORMED
    assert decide(world, A, frame[:42]).reason is Reason.REMOTE


def test_a_group_as_sender_is_no_station(world: World) -> None:
    frame = arp(BROADCAST, MULTICAST, H1.ip, H3.ip)
    assert decide(world, A, frame).reason is Reason.SENDER_MISMATCH


@pytest.mark.parametrize("sender", ["1.1.1.0", "1.1.1.255", "3.3.3.127", "2.2.2.5", "255.1.1.1"])
def test_no_guest_has_such_an_address(world: World, sender: str) -> None:
    for frame in (
        arp(BROADCAST, H1.mac, sender, H3.ip),
        arp(BROADCAST, H1.mac, sender, sender),
        arp(SHARED_MAC, H1.mac, sender, GATEWAY, op=2),
    ):
        assert decide(world, A, frame).reason is Reason.SENDER_OUTSIDE


def test_a_reply_without_an_address_teaches_nothing(world: World) -> None:
    frame = arp(SHARED_MAC, H1.mac, "0.0.0.0", GATEWAY, op=2)
    assert decide(world, A, frame).reason is Reason.SENDER_OUTSIDE


@pytest.mark.parametrize("target", ["0.0.0.0", "1.1.1.0", "1.1.1.255", "2.2.2.5", "224.0.0.1"])
def test_nobody_has_such_a_target(world: World, target: str) -> None:
    """Not even by gleaning: the question would be flooded to no avail."""
    frame = arp(BROADCAST, H1.mac, H1.ip, target)
    assert decide(world, A, frame).reason is Reason.TARGET_OUTSIDE


def test_both_subnets_of_a_segment_are_inside(world: World) -> None:
    assert decide(world, A, arp(BROADCAST, H1.mac, H1.ip, H7.ip)).reason is Reason.REMOTE
    assert decide(world, B, arp(BROADCAST, H7.mac, H7.ip, "3.3.3.126")).reason is Reason.GATEWAY
    assert decide(world, B, arp(BROADCAST, H7.mac, H7.ip, GATEWAY)).reason is Reason.GATEWAY


def test_another_segments_guests_are_not_looked_up(world: World) -> None:
    """X1 has the address of H1; a question of its tenant is about X1."""
    frame = arp(BROADCAST, mac(0x12), "1.1.1.2", X1.ip)
    verdict = decide(world, A, frame, SAME)
    assert verdict.reason is Reason.REMOTE
    assert verdict.bound is world.bindings.get(SAME, X1.address)
    frame = arp(BROADCAST, H1.mac, H1.ip, H5.ip)
    assert decide(world, A, frame).reason is Reason.TARGET_OUTSIDE


def test_ones_own_address_is_told_by_the_mac_not_by_the_place(world: World) -> None:
    """After a move the binding still names the old vswitch when the guest probes for itself."""
    for source in (A, B, C):
        frame = arp(BROADCAST, H1.mac, "0.0.0.0", H1.ip)
        assert decide(world, source, frame).reason is Reason.OWN


def test_a_second_address_of_ones_own_is_own_too(world: World) -> None:
    world.slowpath.learn(world.segment(ONE), v4("1.1.1.101"), H1.mac, A, 0.0)
    frame = arp(BROADCAST, H1.mac, H1.ip, "1.1.1.101")
    assert decide(world, C, frame).reason is Reason.OWN


def test_the_place_of_the_question_counts_not_that_of_the_askers_binding(world: World) -> None:
    """H1 has moved to C, and its first word is a question: the binding still says A."""
    frame = arp(BROADCAST, H1.mac, H1.ip, H2.ip)
    assert decide(world, C, frame).reason is Reason.REMOTE
    assert decide(world, A, frame).reason is Reason.SAME_VTEP
    frame = arp(BROADCAST, H1.mac, H1.ip, H4.ip)
    assert decide(world, C, frame).reason is Reason.SAME_VTEP


def test_what_is_bound_is_told_where_the_reason_speaks_of_it(world: World) -> None:
    for row in ROWS:
        bound = decide(world, row.source, row.frame).bound
        expects = {Reason.OWN, Reason.SAME_VTEP, Reason.CONFLICT, Reason.HEALED, Reason.REMOTE}
        assert (bound is not None) == (row.reason in expects)


def test_deciding_changes_nothing(world: World) -> None:
    before = [repr(binding) for binding in world.bindings.all()]
    for row in ROWS:
        decide(world, row.source, row.frame)
    assert [repr(binding) for binding in world.bindings.all()] == before
