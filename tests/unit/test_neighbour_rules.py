"""The rules of the leaf for ARP and ND, a named row for every reason and for every design line.

The rows are written once and hold for both families. `rows` is held to the enum. `design` is the
table of the design document: what is answered, and with silence where the vswitch has already
delivered the question. The bytes of the answers are the subject of `test_arp_answers.py` and
`test_nd_answers.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from leaf import gateway
from leaf import neighbour as rules
from leaf.neighbour import ANSWERED, BELIEVED, STEPS, Reason
from tests.frames import (
    BROADCAST,
    MULTICAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    arp,
    link_local,
    mac,
    na,
    ns,
    v4,
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
    H7,
    ONE,
    SAME,
    X1,
    A,
    B,
    C,
    World,
    packed,
)
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

NEWCOMER = mac(0x77)
BOTH = [pytest.param(family, id=family.name) for family in FAMILIES]
both = pytest.mark.parametrize("family", BOTH)


@pytest.fixture
def world() -> World:
    made = World(*GUESTS, *GUESTS6, ipv6=True)
    for guest in (H1, H2, H3, H4, H5):
        made.learn(guest.link_local)
    return made


def decide(world: World, source: Vtep, frame: bytes, segment: Vni = ONE) -> rules.Verdict:
    return rules.decide(
        world.segment(segment),
        source,
        Mac(frame[:6]),
        Mac(frame[6:12]),
        gateway.read(frame),
        lambda address: world.bindings.get(segment, address),
    )


class Row(NamedTuple):
    """A message that comes from `source`, and what the rules say of it."""

    reason: Reason
    source: Vtep
    frame: bytes


def rows(f: Family) -> tuple[Row, ...]:
    h1, h2, h3 = f.of(H1), f.of(H2), f.of(H3)
    return (
        Row(Reason.MALFORMED, A, f.malformed(h1.mac, h1.ip, h3.ip)),
        Row(Reason.SENDER_MISMATCH, A, f.ask(h1.mac, h1.ip, h3.ip, sender_mac=h2.mac)),
        Row(Reason.CLAIMS_GATEWAY, A, f.ask(h1.mac, f.gateway, h3.ip)),
        Row(Reason.SENDER_OUTSIDE, A, f.ask(h1.mac, f.outside, h3.ip)),
        Row(Reason.ANNOUNCED, A, f.announce(h1.mac, h1.ip)),
        Row(Reason.REPLY, A, f.tell(h1.mac, h1.ip, f.gateway, to=SHARED_MAC)),
        Row(Reason.GATEWAY, A, f.ask(h1.mac, h1.ip, f.gateway)),
        Row(Reason.TARGET_OUTSIDE, A, f.ask(h1.mac, h1.ip, f.outside)),
        Row(Reason.UNKNOWN, A, f.ask(h1.mac, h1.ip, f.host(77))),
        Row(Reason.OWN, A, f.ask(h1.mac, f.nobody, h1.ip)),
        Row(Reason.SAME_VTEP, A, f.ask(h1.mac, h1.ip, h2.ip)),
        Row(Reason.CONFLICT, A, f.ask(NEWCOMER, f.nobody, h3.ip)),
        Row(Reason.HEALED, A, f.ask(h1.mac, h1.ip, h3.ip, to=SHARED_MAC)),
        Row(Reason.REMOTE, A, f.ask(h1.mac, h1.ip, h3.ip)),
    )


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=f"{f.name}-{row.reason.value}") for f in FAMILIES for row in rows(f)],
)
def test_a_message(world: World, row: Row) -> None:
    assert decide(world, row.source, row.frame).reason is row.reason


@both
def test_every_reason_has_one_row(family: Family) -> None:
    assert Counter(row.reason for row in rows(family)) == Counter(Reason)


def test_every_reason_ends_exactly_one_step() -> None:
    assert Counter(reason for step in STEPS for reason in step.reasons) == Counter(Reason)


class Line(NamedTuple):
    """A line of the design's table: who asks for what, and whether the leaf answers at once."""

    what: str
    source: Vtep
    frame: bytes
    answered: bool
    believed: bool = True


def design(f: Family) -> tuple[Line, ...]:
    h1, h2, h3 = f.of(H1), f.of(H2), f.of(H3)
    me, ip = h1.mac, h1.ip
    return (
        Line("target_is_the_gateway", A, f.ask(me, ip, f.gateway), True),
        Line("target_is_the_gateway_unicast", A, f.ask(me, ip, f.gateway, to=SHARED_MAC), True),
        Line("target_at_another_vswitch", A, f.ask(me, ip, h3.ip), True),
        Line("target_at_the_askers_vswitch", A, f.ask(me, ip, h2.ip), False),
        Line("the_same_unicast_to_the_shared_mac", A, f.ask(me, ip, h2.ip, to=SHARED_MAC), False),
        Line("the_same_to_another_groups", A, f.ask(me, ip, h2.ip, to=OTHER_SHARED_MAC), False),
        Line("target_unknown", A, f.ask(me, ip, f.host(77)), False),
        Line("target_unknown_unicast", A, f.ask(me, ip, f.host(77), to=SHARED_MAC), False),
        Line("own_probe", A, f.ask(me, f.nobody, ip), False),
        Line("own_probe_after_a_move", B, f.ask(me, f.nobody, ip), False),
        Line("announcement", A, f.announce(me, ip), False),
        Line("gratuitous_reply", A, f.tell(me, ip, ip, to=BROADCAST), False),
        Line("probe_for_anothers_address", A, f.ask(NEWCOMER, f.nobody, h3.ip), False),
        Line("probe_for_a_neighbours_address", A, f.ask(NEWCOMER, f.nobody, h2.ip), False),
        Line("probe_for_the_gateways_address", A, f.ask(me, f.nobody, f.gateway), True),
        Line("rewritten_unicast_question", A, f.ask(me, ip, h3.ip, to=SHARED_MAC), True),
        Line("sender_mac_differs", A, f.ask(me, ip, f.gateway, sender_mac=h3.mac), False, False),
        Line("sender_outside", A, f.ask(me, f.host(1, 2), f.gateway), False, False),
        Line("sender_is_the_gateway", A, f.ask(me, f.gateway, ip), False, False),
        Line("gateway_announced", A, f.announce(me, f.gateway), False, False),
        Line("gateway_told", A, f.tell(me, f.gateway, ip, to=SHARED_MAC), False, False),
        Line("shared_mac_as_sender", A, f.ask(SHARED_MAC, f.host(66), h3.ip), False, False),
        Line(
            "another_groups_shared_mac_as_sender",
            A,
            f.ask(OTHER_SHARED_MAC, f.host(66), h3.ip),
            False,
            False,
        ),
    )


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, id=f"{f.name}-{line.what}") for f in FAMILIES for line in design(f)],
)
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


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ns(None, H1.mac, H1.six.ip, H3.six.ip, hlim=254), id="hop_limit"),
        pytest.param(ns(None, H1.mac, H1.six.ip, H3.six.ip)[:-1], id="cut"),
        pytest.param(ns(None, H1.mac, "::", H3.six.ip, sender_mac=H1.mac), id="probe_with_a_mac"),
        pytest.param(ns(None, H1.mac, H1.six.ip, "ff02::1"), id="target_is_a_group"),
        pytest.param(ns(None, H1.mac, "ff02::5", H3.six.ip), id="source_is_a_group"),
        pytest.param(ns(None, H1.mac, H1.six.ip, H3.six.ip)[:-2] + b"\x01\x02", id="checksum"),
        pytest.param(na(None, H1.mac, H1.six.ip, hlim=64), id="advertisement_hop_limit"),
        pytest.param(na(None, H1.mac, "ff02::5", sender_ip=H1.six.ip), id="advertised_group"),
    ],
)
def test_what_rfc_4861_lets_no_host_act_on_is_malformed(world: World, frame: bytes) -> None:
    assert decide(world, A, frame).reason is Reason.MALFORMED


@pytest.mark.parametrize(("family", "whole"), [(IPV4, 42), (IPV6, 86)], ids=["ipv4", "ipv6"])
def test_a_cut_message_is_malformed(world: World, family: Family, whole: int) -> None:
    frame = family.ask(H1.mac, family.of(H1).ip, family.of(H3).ip)
    for length in range(14, whole):
        assert decide(world, A, frame[:length]).reason is Reason.MALFORMED
    assert decide(world, A, frame[:whole]).reason is Reason.REMOTE


@both
def test_a_group_as_sender_is_no_station(world: World, family: Family) -> None:
    frame = family.ask(MULTICAST, family.of(H1).ip, family.of(H3).ip)
    assert decide(world, A, frame).reason is Reason.SENDER_MISMATCH


NO_GUESTS = (
    *((IPV4, text) for text in ("1.1.1.0", "1.1.1.255", "3.3.3.127", "2.2.2.5", "255.1.1.1")),
    *((IPV6, text) for text in ("2001:db8:1::", "2001:db8:2::5", "fe80::", "::1", "febf::1")),
)


@pytest.mark.parametrize(("family", "sender"), NO_GUESTS, ids=lambda of: getattr(of, "name", of))
def test_no_guest_has_such_an_address(world: World, family: Family, sender: str) -> None:
    for frame in (
        family.ask(H1.mac, sender, family.of(H3).ip),
        family.announce(H1.mac, sender),
        family.tell(H1.mac, sender, family.gateway, to=SHARED_MAC),
    ):
        assert decide(world, A, frame).reason is Reason.SENDER_OUTSIDE


@both
def test_a_reply_without_an_address_teaches_nothing(world: World, family: Family) -> None:
    frame = family.tell(H1.mac, family.nobody, family.gateway, to=SHARED_MAC)
    assert decide(world, A, frame).reason is Reason.SENDER_OUTSIDE


NO_TARGETS = (
    *((IPV4, text) for text in ("0.0.0.0", "1.1.1.0", "1.1.1.255", "2.2.2.5", "224.0.0.1")),
    *((IPV6, text) for text in ("::", "::1", "2001:db8:1::", "2001:db8:2::5", "febf::1", "fe80::")),
)


@pytest.mark.parametrize(("family", "target"), NO_TARGETS, ids=lambda of: getattr(of, "name", of))
def test_nobody_has_such_a_target(world: World, family: Family, target: str) -> None:
    """Not even by gleaning: the question would be flooded to no avail."""
    frame = family.ask(H1.mac, family.of(H1).ip, target)
    assert decide(world, A, frame).reason is Reason.TARGET_OUTSIDE


@both
def test_both_subnets_of_a_segment_are_inside(world: World, family: Family) -> None:
    h1, h7 = family.of(H1), family.of(H7)
    assert decide(world, A, family.ask(h1.mac, h1.ip, h7.ip)).reason is Reason.REMOTE
    for address in (family.gateway, family.second_gateway):
        assert decide(world, B, family.ask(h7.mac, h7.ip, address)).reason is Reason.GATEWAY


@both
def test_another_segments_guests_are_not_looked_up(world: World, family: Family) -> None:
    """X1 has the address of H1; a question of its tenant is about X1."""
    x1 = family.of(X1)
    verdict = decide(world, A, family.ask(mac(0x12), family.host(2), x1.ip), SAME)
    assert verdict.reason is Reason.REMOTE
    assert verdict.bound is world.bindings.get(SAME, x1.address)
    frame = family.ask(H1.mac, family.of(H1).ip, family.of(H5).ip)
    assert decide(world, A, frame).reason is Reason.TARGET_OUTSIDE


@both
def test_ones_own_address_is_told_by_the_mac_not_by_the_place(world: World, family: Family) -> None:
    """After a move the binding still names the old vswitch when the guest probes for itself."""
    for source in (A, B, C):
        frame = family.ask(H1.mac, family.nobody, family.of(H1).ip)
        assert decide(world, source, frame).reason is Reason.OWN


@both
def test_a_second_address_of_ones_own_is_own_too(world: World, family: Family) -> None:
    second = family.host(101)
    world.slowpath.discovery.learn(world.segment(ONE), packed(second), H1.mac, A, 0.0)
    frame = family.ask(H1.mac, family.of(H1).ip, second)
    assert decide(world, C, frame).reason is Reason.OWN


@both
def test_the_place_of_the_question_counts_not_that_of_the_askers_binding(
    world: World, family: Family
) -> None:
    """H1 has moved to C, and its first word is a question: the binding still says A."""
    frame = family.ask(H1.mac, family.of(H1).ip, family.of(H2).ip)
    assert decide(world, C, frame).reason is Reason.REMOTE
    assert decide(world, A, frame).reason is Reason.SAME_VTEP
    frame = family.ask(H1.mac, family.of(H1).ip, family.of(H4).ip)
    assert decide(world, C, frame).reason is Reason.SAME_VTEP


@both
def test_what_is_bound_is_told_where_the_reason_speaks_of_it(world: World, family: Family) -> None:
    for row in rows(family):
        bound = decide(world, row.source, row.frame).bound
        expects = {Reason.OWN, Reason.SAME_VTEP, Reason.CONFLICT, Reason.HEALED, Reason.REMOTE}
        assert (bound is not None) == (row.reason in expects)


@both
def test_deciding_changes_nothing(world: World, family: Family) -> None:
    before = [repr(binding) for binding in world.bindings.all()]
    for row in rows(family):
        decide(world, row.source, row.frame)
    assert [repr(binding) for binding in world.bindings.all()] == before


# Link-local addresses: guests' and the gateway's.

GATEWAY_LL, OTHER_GATEWAY_LL = link_local(SHARED_MAC), link_local(OTHER_SHARED_MAC)


@pytest.mark.parametrize(
    ("reason", "source", "frame"),
    [
        pytest.param(
            Reason.GATEWAY, A, ns(None, H1.mac, H1.link_local.ip, GATEWAY_LL), id="gateway"
        ),
        # The default router of a guest that has moved here from the other group.
        pytest.param(
            Reason.GATEWAY, A, ns(None, H1.mac, H1.six.ip, OTHER_GATEWAY_LL), id="other_groups"
        ),
        pytest.param(
            Reason.GATEWAY, A, ns(SHARED_MAC, H1.mac, H1.six.ip, GATEWAY_LL), id="gateway_nud"
        ),
        pytest.param(Reason.GATEWAY, A, ns(None, H1.mac, "::", GATEWAY_LL), id="gateway_dad"),
        pytest.param(
            Reason.REMOTE, A, ns(None, H1.mac, H1.link_local.ip, H3.link_local.ip), id="remote"
        ),
        pytest.param(
            Reason.HEALED,
            A,
            ns(SHARED_MAC, H1.mac, H1.link_local.ip, H3.link_local.ip),
            id="healed",
        ),
        pytest.param(
            Reason.SAME_VTEP, A, ns(None, H1.mac, H1.link_local.ip, H2.link_local.ip), id="near"
        ),
        pytest.param(
            Reason.REMOTE, A, ns(None, H1.mac, H1.link_local.ip, H3.six.ip), id="asks_for_a_global"
        ),
        pytest.param(Reason.OWN, C, ns(None, H1.mac, "::", H1.link_local.ip), id="own_dad"),
        pytest.param(
            Reason.CONFLICT, A, ns(None, NEWCOMER, "::", H3.link_local.ip), id="anothers_dad"
        ),
        pytest.param(Reason.UNKNOWN, A, ns(None, H1.mac, "::", "fe80::9"), id="dad_of_news"),
        pytest.param(
            Reason.CLAIMS_GATEWAY, A, na(None, H1.mac, GATEWAY_LL), id="announces_the_gateway"
        ),
        pytest.param(
            Reason.CLAIMS_GATEWAY,
            A,
            na(SHARED_MAC, H1.mac, OTHER_GATEWAY_LL, GATEWAY_LL),
            id="answers_as_another_gateway",
        ),
        pytest.param(
            Reason.CLAIMS_GATEWAY, A, ns(None, H1.mac, GATEWAY_LL, H3.six.ip), id="asks_as_gateway"
        ),
    ],
)
def test_a_link_local_address(world: World, reason: Reason, source: Vtep, frame: bytes) -> None:
    assert decide(world, source, frame).reason is reason


def test_a_link_local_address_is_of_one_segment(world: World) -> None:
    """H3's is bound in ONE; in SAME nobody has it."""
    frame = ns(None, X1.mac, X1.link_local.ip, H3.link_local.ip)
    assert decide(world, A, frame, SAME).reason is Reason.UNKNOWN


def test_without_ipv6_no_link_local_address_is_anybodys() -> None:
    world = World(*GUESTS)
    frame = ns(None, H1.mac, H1.link_local.ip, GATEWAY_LL)
    assert decide(world, A, frame).reason is Reason.SENDER_OUTSIDE


def test_the_families_do_not_answer_for_each_other(world: World) -> None:
    """The last four bytes of an IPv6 address are nobody's IPv4 address."""
    assert world.bindings.get(ONE, v4(H3.ip)) is not world.bindings.get(ONE, H3.six.address)
    world.slowpath.routes.forget([b for b in world.bindings.all() if b.address == H3.address])
    assert decide(world, A, IPV4.ask(H1.mac, H1.ip, H3.ip)).reason is Reason.UNKNOWN
    assert decide(world, A, IPV6.ask(H1.mac, H1.six.ip, H3.six.ip)).reason is Reason.REMOTE
