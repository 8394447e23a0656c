"""Bindings and their host routes: they come, go and outlast a reload together."""

from __future__ import annotations

import pytest

from leaf.bindings import Outcome, Timers
from leaf.router import Reason
from leaf.topology import Topology
from tests.frames import v4, vxlan
from tests.unit.leaf_world import (
    GROUP_TWO,
    GUESTS,
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    ONE,
    TWO,
    X1,
    A,
    B,
    C,
    World,
    gateway,
    questions,
    rebuilt,
    to_gateway,
    topology,
)


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


def test_a_silent_guest_is_asked_and_then_leaves_the_fib() -> None:
    world = World(H3, timers=Timers(confirm_after=60.0, probe_interval=1.0, probes=3))
    asked = []
    for _ in range(4):
        at = world.slowpath.deadline()
        assert at is not None
        asked += questions(world.slowpath.tick(at))
    assert asked == [(B, H3.ip)] * 3
    assert world.router.decide(A, to_gateway(H1, H3.ip)).reason is Reason.GLEAN
    assert world.slowpath.routes.counts[Outcome.EXPIRED] == 1
    assert world.slowpath.deadline() is None


def test_withdrawal_takes_every_address_out_of_the_fib(world: World) -> None:
    world.slowpath.discovery.learn(world.segment(ONE), v4("1.1.1.101"), H1.mac, A, 0.0)
    news = world.slowpath.routes.withdraw(world.segment(ONE), H1.mac, A)
    assert news.outcome is Outcome.WITHDRAWN
    for address in (H1.ip, "1.1.1.101"):
        assert world.router.decide(A, to_gateway(H2, address)).reason is Reason.GLEAN
    assert world.router.decide(B, vxlan(X1.segment, to_gateway(X1, X1.ip)[8:])).vtep == B


def test_a_stale_withdrawal_leaves_the_fib_alone(world: World) -> None:
    world.learn(H1, at=B)
    assert world.slowpath.routes.withdraw(world.segment(ONE), H1.mac, A).outcome is Outcome.STALE
    assert world.router.decide(A, to_gateway(H2, H1.ip)).vtep == B


def test_forgetting_takes_the_host_routes_too(world: World) -> None:
    gone = [b for b in world.bindings.all() if b.mac in (H1.mac, H6.mac)]
    world.slowpath.routes.forget(gone)
    assert world.router.decide(A, to_gateway(H2, H1.ip)).reason is Reason.GLEAN
    assert world.router.decide(A, to_gateway(H5, H6.ip)).reason is Reason.GLEAN
    assert len(world.bindings) == len(GUESTS) - 2


# Reload.


def lost_names(world: World, new: Topology) -> set[tuple[int, bytes]]:
    return {(b.segment, b.address) for b in world.slowpath.replace_topology(rebuilt(new))}


def test_the_same_topology_loses_nothing(world: World) -> None:
    before = dict(world.router.fib("tenant").hosts)
    assert lost_names(world, topology()) == set()
    assert {a: e.verdict[:3] for a, e in world.router.fib("tenant").hosts.items()} == {
        a: e.verdict[:3] for a, e in before.items()
    }


def test_a_vswitch_that_is_gone_takes_its_bindings_along(world: World) -> None:
    new = topology()
    for segment in new.segments:
        segment.vteps.pop(B, None)
    lost = lost_names(world, new)
    assert lost == {(g.segment, g.address) for g in GUESTS if g.vtep == B}
    assert world.router.decide(A, to_gateway(H1, H3.ip)).reason is Reason.GLEAN
    assert world.router.decide(A, to_gateway(H1, H4.ip)).vtep == C


def test_a_segment_that_is_gone_takes_its_bindings_along(world: World) -> None:
    new = topology()
    del new.vrfs[1].segments[0], new.vrfs[0].segments[1]
    new.vrfs[0].routes.clear()
    assert lost_names(world, new) == {(g.segment, g.address) for g in (H5, H6, X1)}
    assert world.router.segment(TWO) is None
    assert world.router.decide(A, to_gateway(H1, H3.ip)).vtep == B


def test_a_subnet_or_gateway_that_changes_takes_what_no_longer_fits(world: World) -> None:
    new = topology()
    new.vrfs[0].routes.clear()
    new.segments[0].gateways = (gateway("1.1.1.3", "1.1.1.0/24"),)
    assert lost_names(world, new) == {(ONE, H3.address), (ONE, v4("3.3.3.7"))}
    assert world.router.decide(A, to_gateway(H1, "1.1.1.3")).reason is Reason.GATEWAY
    assert world.router.decide(A, to_gateway(H1, H4.ip)).vtep == C


def test_a_vswitchs_new_group_shows_in_what_is_forwarded(world: World) -> None:
    new = topology()
    new.segments[0].vteps[B] = GROUP_TWO
    assert lost_names(world, new) == set()
    header = world.router.decide(A, to_gateway(H1, H3.ip)).header
    assert header is not None and header[14:20] == GROUP_TWO.shared_mac


def test_a_segments_options_take_effect(world: World) -> None:
    new = topology()
    new.segments[0].hop_neutral = True
    world.slowpath.replace_topology(rebuilt(new))
    assert world.router.decide(A, to_gateway(H1, H3.ip)).reason is Reason.BRIDGED
