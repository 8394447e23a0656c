"""Learning, which only a segment with `miss = "flood"` does, and only by the verb `learn`."""

from __future__ import annotations

import pytest

from tests.frames import MULTICAST, SHARED_MAC, mac, udp, vxlan
from tests.unit.topology import (
    ALICE,
    ALICE_MAC,
    BLUE,
    DAVE,
    DAVE_MAC,
    ERIN,
    ERIN_MAC,
    FAR_MAC,
    GREEN,
    LEAF,
    RED,
    attachment,
    build,
)
from vswitch.fdb import AGE, MAX_LEARNT
from vswitch.phy.port import PortId
from vswitch.switch import UPLINK, Reason, Switch, Verdict
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

NOW = 1000.0
TO_FAR = udp(FAR_MAC, DAVE_MAC)


@pytest.fixture
def switch() -> Switch:
    made = build()
    made.learn(BLUE, FAR_MAC, NOW)
    return made


def test_a_learnt_mac_is_sent_to_the_leaf_alone(switch: Switch) -> None:
    assert switch.decide(DAVE, TO_FAR) == Verdict((UPLINK,), None, Reason.REMOTE)


def test_a_learnt_mac_is_no_local_guest(switch: Switch) -> None:
    """What came from the uplink for a MAC behind the uplink must not go back there."""
    packet = vxlan(BLUE, udp(FAR_MAC, SHARED_MAC))
    assert switch.decide_uplink(LEAF, packet) == Verdict((), None, Reason.UPLINK_MISS)


def test_a_silent_mac_is_forgotten_at_its_age_and_not_before(switch: Switch) -> None:
    assert switch.deadline() == NOW + AGE
    switch.expire(NOW + AGE - 1)
    assert switch.decide(DAVE, TO_FAR).reason is Reason.REMOTE
    switch.expire(NOW + AGE)
    assert switch.decide(DAVE, TO_FAR).reason is Reason.MISS_FLOODED
    assert switch.deadline() is None


def test_a_mac_that_is_heard_again_stays(switch: Switch) -> None:
    switch.learn(BLUE, FAR_MAC, NOW + 200)
    switch.expire(NOW + AGE)
    assert switch.decide(DAVE, TO_FAR).reason is Reason.REMOTE
    assert switch.deadline() == NOW + 200 + AGE


def test_the_deadline_is_that_of_the_oldest_of_all_segments(switch: Switch) -> None:
    other = Vni(40)
    switch.add_segment(other, "flood")
    switch.learn(other, FAR_MAC, NOW - 7)
    assert switch.deadline() == NOW - 7 + AGE


@pytest.mark.parametrize("segment", [RED, GREEN], ids=["rewrite", "drop"])
def test_other_segments_learn_nothing(switch: Switch, segment: Vni) -> None:
    switch.learn(segment, FAR_MAC, NOW)
    assert [one.fdb.learnt for one in switch.segments() if one.vni == segment] == [{}]
    assert switch.decide(ALICE, udp(FAR_MAC, ALICE_MAC)).reason is Reason.MISS_REWRITTEN


def test_an_unknown_segment_and_a_group_teach_nothing(switch: Switch) -> None:
    switch.learn(Vni(99), FAR_MAC, NOW)
    switch.learn(BLUE, Mac(MULTICAST), NOW)
    (blue,) = (one for one in switch.segments() if one.vni == BLUE)
    assert set(blue.fdb.learnt) == {FAR_MAC}


@pytest.mark.parametrize(
    ("claimed", "reason", "egress"),
    [
        pytest.param(ERIN_MAC, Reason.LOCAL, (ERIN,), id="guest"),
        pytest.param(Mac(SHARED_MAC), Reason.GATEWAY, (UPLINK,), id="gateway"),
    ],
)
def test_a_static_mac_is_never_replaced(
    switch: Switch, claimed: Mac, reason: Reason, egress: tuple[PortId, ...]
) -> None:
    """Or the network could take a guest's MAC away by sending one frame with it."""
    switch.learn(BLUE, claimed, NOW)
    switch.expire(NOW + AGE)
    assert switch.decide(DAVE, udp(claimed, DAVE_MAC)) == Verdict(egress, None, reason)


def test_a_guest_that_arrives_takes_its_learnt_mac_over(switch: Switch) -> None:
    port = PortId(41)
    arrived = attachment("far", port, BLUE, FAR_MAC)
    switch.place(arrived)
    switch.expire(NOW + AGE)
    assert switch.decide(DAVE, TO_FAR) == Verdict((port,), None, Reason.LOCAL)
    switch.remove(arrived)
    assert switch.decide(DAVE, TO_FAR).reason is Reason.MISS_FLOODED


def test_a_full_table_refuses_counts_and_floods(switch: Switch) -> None:
    (blue,) = (one for one in switch.segments() if one.vni == BLUE)
    for number in range(MAX_LEARNT - 1):
        switch.learn(BLUE, Mac(b"\x06\0" + number.to_bytes(4, "big")), NOW)
    assert (len(blue.fdb.learnt), blue.fdb.refused) == (MAX_LEARNT, 0)

    late = Mac(mac(0xBEEF))
    switch.learn(BLUE, late, NOW)
    assert (len(blue.fdb.learnt), blue.fdb.refused) == (MAX_LEARNT, 1)
    assert switch.decide(DAVE, udp(late, DAVE_MAC)).reason is Reason.MISS_FLOODED
    # Those that are in are still refreshed, and a guest still finds room.
    switch.learn(BLUE, FAR_MAC, NOW + 1)
    assert blue.fdb.learnt[FAR_MAC] == NOW + 1
    switch.place(attachment("late", PortId(41), BLUE, late))
    assert switch.decide(DAVE, udp(late, DAVE_MAC)).egress == (PortId(41),)


@pytest.mark.parametrize("policy", ["rewrite", "flood", "drop"])
def test_a_change_of_policy_forgets(switch: Switch, policy: str) -> None:
    """Also from flood to flood: what was learnt under one rule is not kept for the next."""
    switch.set_miss(BLUE, policy)  # type: ignore[arg-type]
    (blue,) = (one for one in switch.segments() if one.vni == BLUE)
    assert blue.fdb.learnt == {}
    assert switch.decide(DAVE, TO_FAR).reason is not Reason.REMOTE
    # The guests and the gateway stay.
    assert switch.decide(DAVE, udp(ERIN_MAC, DAVE_MAC)).egress == (ERIN,)
    assert switch.decide(DAVE, udp(SHARED_MAC, DAVE_MAC)).reason is Reason.GATEWAY
