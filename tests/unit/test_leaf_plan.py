"""What a reload of the leaf's configuration would change, as a plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leaf.plan import Change, plan
from tests.unit.leaf_file import (
    Table,
    binding,
    changed,
    dhcp,
    good,
    read,
    relay,
    route,
)


def planned(change: Callable[[Table], object]) -> tuple[list[tuple[str, str, str]], list[str]]:
    made = plan(read(good()), changed(change))
    return [tuple(one) for one in made.changes], made.needs_restart


PLANS: dict[str, tuple[Callable[[Table], object], list[tuple[str, str, str]]]] = {
    "nothing": (lambda t: None, []),
    "a_group_changes": (
        lambda t: t["group"][1].update({"shared-mac": "00:00:de:ad:be:01"}),
        [("change", "group", "two")],
    ),
    "a_vswitch_comes": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "192.0.2.14", "group": "one"}),
        [("add", "vswitch", "d")],
    ),
    "a_vswitch_goes": (lambda t: t["vswitch"].pop(2), [("remove", "vswitch", "c")]),
    "a_remote_leaf_moves": (
        lambda t: t["remote-leaf"][0].update(vtep="192.0.2.3"),
        [("change", "remote-leaf", "far")],
    ),
    "a_vrf_comes": (
        lambda t: t["vrf"].append({"name": "third", "vni": 7000}),
        [("add", "vrf", "third")],
    ),
    "a_segment_is_replaced": (
        lambda t: t["segment"][2].update(name="different", vni=301),
        [("remove", "segment", "same"), ("add", "segment", "different")],
    ),
    "a_segments_option_changes": (
        lambda t: t["segment"][0].update({"hop-neutral": True}),
        [("change", "segment", "red")],
    ),
    "a_segment_is_relayed": (relay(), [("change", "segment", "red")]),
    "the_relay_address_changes": (
        lambda t: t["leaf"].update(relay="10.0.0.1"),
        [("change", "relay", "10.0.0.1")],
    ),
    "a_pool_changes": (dhcp(), [("change", "segment", "red")]),
    "a_route_comes": (route(via="1.1.1.9"), [("add", "route", "tenant 10.99.0.0/16")]),
    "a_route_turns": (
        lambda t: t["route"][0].update(via="1.1.1.8"),
        [("change", "route", "tenant 10.10.0.0/16")],
    ),
    "a_binding_comes": (binding(), [("add", "binding", "red 1.1.1.7")]),
    "a_binding_goes": (lambda t: t["binding"].pop(), [("remove", "binding", "red 1.1.1.1")]),
    "a_binding_changes": (
        lambda t: t["binding"][0].update(vswitch="b"),
        [("change", "binding", "red 1.1.1.1")],
    ),
    "the_log_level": (
        lambda t: t.update(log={"level": "debug"}),
        [("change", "log level", "debug")],
    ),
    "the_router_mac": (
        lambda t: t["leaf"].update({"router-mac": "02:00:00:00:00:99"}),
        [("change", "router-mac", "02:00:00:00:00:99")],
    ),
    "the_order_only": (lambda t: t["vswitch"].reverse(), []),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan(name: str) -> None:
    change, expected = PLANS[name]
    assert planned(change) == (expected, [])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        pytest.param(lambda t: t["leaf"].update(name="other"), "leaf.name", id="name"),
        pytest.param(lambda t: t["leaf"].update({"udp-port": 4790}), "leaf.udp-port", id="port"),
        pytest.param(
            lambda t: t["leaf"].update({"source-ports": 4}), "leaf.source-ports", id="source_ports"
        ),
        pytest.param(
            lambda t: t["leaf"].update({"too-big": "fragment"}), "leaf.too-big", id="too_big"
        ),
        pytest.param(lambda t: t["leaf"].update(state="/run/x"), "leaf.state", id="state"),
        pytest.param(lambda t: t.update(api={"socket": "/run/x"}), "api", id="api"),
        pytest.param(lambda t: t.update(limits={"bindings": 7}), "limits", id="limits"),
        pytest.param(lambda t: t.update(timers={"probes": 7}), "timers", id="timers"),
    ],
)
def test_what_a_reload_cannot_change_is_said(change: Callable[[Table], object], key: str) -> None:
    assert planned(change) == ([], [key])


def test_a_new_vtep_needs_a_restart() -> None:
    changes, needs_restart = planned(
        lambda t: t["leaf"].update({"vtep": "192.0.2.99", "router-mac": "02:00:c0:00:02:01"})
    )
    assert (changes, needs_restart) == ([], ["leaf.vtep"])


def test_a_plan_can_be_undone() -> None:
    """The way back removes what was added and adds what was removed."""
    old = read(good())
    for change, _ in PLANS.values():
        new = changed(change)
        opposite = {"add": "remove", "remove": "add", "change": "change"}
        there = {(opposite[c.verb], c.kind) for c in plan(old, new).changes}
        assert {(c.verb, c.kind) for c in plan(new, old).changes} == there
        assert all(isinstance(c, Change) for c in plan(old, new).changes)
