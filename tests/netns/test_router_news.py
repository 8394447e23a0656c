"""What guests do about the leaf's news: what fits into the tunnels, and gateways that go."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tools.fabric import daemons
from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK, Lab
from tools.fabric.topology import Topology

from .commands import counters, ping, wait_until
from .conftest import seed, up
from .dhcp_guest import Client


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The seed, in which H1 and H4 make themselves addresses and H3 may get one by DHCP."""
    made = seed("news").model_dump(mode="json")
    for guest in made["guest"]:
        if guest["name"] in ("H1", "H4"):
            guest["address6"] = "auto"
        if guest["name"] == "H3":
            guest |= {"address": None, "address6": None}
    made["segment"][0]["dhcp"] = {"mode": "respond", "pool": ["1.1.1.100-1.1.1.109"]}
    yield from up(Lab(Topology.model_validate(made)))


def _mtu6(lab: Lab, guest: str) -> int:
    """What a guest's IPv6 takes for the MTU of its link."""
    said = lab.node(guest).run(["cat", f"/proc/sys/net/ipv6/conf/{GUEST_LINK}/mtu"])
    return int(said.stdout)


def _gateways(lab: Lab, guest: str) -> list[str]:
    """The default routes that a guest has by router advertisements."""
    command = ["ip", "-6", "-j", "route", "show", "default", "proto", "ra"]
    return [one["gateway"] for one in json.loads(lab.node(guest).run(command).stdout)]


def _preferred(lab: Lab, guest: str) -> list[int]:
    """For how long the addresses that a guest has made are used for what begins, in seconds."""
    command = ["ip", "-6", "-j", "address", "show", "dev", GUEST_LINK, "scope", "global"]
    (link,) = json.loads(lab.node(guest).run(command).stdout)
    # What the filter leaves out stands there empty.
    return [one["preferred_life_time"] for one in link["addr_info"] if one]


@contextmanager
def _less_to(lab: Lab, vtep: str, mtu: int) -> Iterator[None]:
    """Have a path from the leaf carry less, as the leaf's kernel knows it."""
    route = [f"{vtep}/32", "dev", UNDERLAY_LINK]
    lab.node("leaf").run(["ip", "route", "add", *route, "mtu", str(mtu)])
    try:
        yield
    finally:
        lab.node("leaf").run(["ip", "route", "del", *route])


@contextmanager
def _reloaded(lab: Lab, **changes: Any) -> Iterator[None]:
    """Have the leaf serve red with other values; with none at all where `gone`."""
    table = daemons.leaf_config(lab.topology, lab.directory)
    if changes.pop("gone", False):
        del table["segment"][0]
    else:
        table["segment"][0].update(changes)
    assert lab.leaf.up(table) == "reloaded"
    try:
        yield
    finally:
        lab.up()


def test_guests_are_told_what_fits(lab: Lab) -> None:
    for guest in ("H1", "H4"):
        assert _mtu6(lab, guest) == 1450


def test_a_path_that_carries_less_is_advertised_to_all_and_so_is_its_end(lab: Lab) -> None:
    """To B only; but H1, on A, may move there."""
    with _less_to(lab, "10.99.0.12", 1400):
        wait_until(lambda: _mtu6(lab, "H1") == _mtu6(lab, "H4") == 1350, "a smaller MTU")
        lab.move("H1", "B")
        assert _mtu6(lab, "H1") == 1350
        lab.move("H1", "A")
    wait_until(lambda: _mtu6(lab, "H1") == _mtu6(lab, "H4") == 1450, "the former")


def test_an_underlay_that_carries_less_is_told_by_dhcp(lab: Lab, tmp_path: Path) -> None:
    client = Client(lab, "H3", tmp_path / "H3")
    client.udhcpc("-q")
    assert client.told("bound")["mtu"] == "1450"
    lab.node("leaf").link_set(UNDERLAY_LINK, mtu=1300)
    try:
        wait_until(lambda: _mtu6(lab, "H1") == 1280, "a smaller MTU")
        client.udhcpc("-q")
        assert client.told("bound")["mtu"] == "1250"
        link = lab.node("H3").run(["ip", "link", "show", "dev", GUEST_LINK]).stdout
        assert " mtu 1250 " in link
    finally:
        lab.node("leaf").link_set(UNDERLAY_LINK, mtu=1500)
        lab.node("H3").link_set(GUEST_LINK, mtu=1450)
    wait_until(lambda: _mtu6(lab, "H1") == 1450, "the former MTU")


def test_what_is_configured_wins_and_is_complained_of_once(lab: Lab) -> None:
    with _reloaded(lab, mtu=1400):
        wait_until(lambda: _mtu6(lab, "H1") == 1400, "the configured MTU")
    wait_until(lambda: _mtu6(lab, "H1") == 1450, "what fits")
    assert "is more than" not in lab.leaf.log.read_text()
    with _reloaded(lab, mtu=1460):
        wait_until(lambda: "is more than" in lab.leaf.log.read_text(), "a warning")
        with _less_to(lab, "10.99.0.12", 1400):
            wait_until(lambda: _shown(lab) == 1460, "what is shown")
    said = re.findall(r"segment 'red': mtu 1460 is more than the \d+ bytes", _log(lab))
    assert said == ["segment 'red': mtu 1460 is more than the 1450 bytes"]


def _log(lab: Lab) -> str:
    return lab.leaf.log.read_text()


def _shown(lab: Lab) -> int:
    client = lab.leaf.client()
    try:
        rows = {row["segment"]: row for row in client.get("/v1/segments")}
    finally:
        client.close()
    mtu: int = rows["red"]["mtu"]
    return mtu


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"router-advertisements": False}, id="advertisements_off"),
        pytest.param({"gateway": ["1.1.1.254/24"]}, id="gateway_gone"),
        pytest.param({"gone": True}, id="segment_gone"),
    ],
)
def test_a_gateway_that_goes_is_given_up_at_once_and_taken_up_again(
    lab: Lab, change: dict[str, Any]
) -> None:
    """Else a guest would keep its default route for half an hour."""
    for guest in ("H1", "H4"):
        assert len(_gateways(lab, guest)) == 1 and _preferred(lab, guest)[0] > 1000
    with _reloaded(lab, **change):
        for guest in ("H1", "H4"):
            wait_until(lambda: not _gateways(lab, guest), f"the end of {guest}'s route")  # noqa: B023
            assert _preferred(lab, guest) == [0]
    for guest in ("H1", "H4"):
        wait_until(lambda: _gateways(lab, guest), f"{guest}'s route")  # noqa: B023
        wait_until(lambda: _preferred(lab, guest)[0] > 1000, "the address's use")  # noqa: B023
    assert ping(lab, "H1", "2001:db8:2::6", count=5).received > 0


def test_a_leaf_that_stops_says_nothing(lab: Lab) -> None:
    """Guests that another leaf serves would lose a gateway that is still there."""
    before = _gateways(lab, "H1")
    lab.leaf.down()
    assert (_gateways(lab, "H1"), _preferred(lab, "H1")[0] > 1000) == (before, True)
    assert "leaf leaf: started" in lab.up()


@pytest.mark.parametrize("policy", ["drop", "fragment"])
def test_what_may_be_cut_and_does_not_fit_behind_the_leaf(lab: Lab, policy: str) -> None:
    """To the leaf it fits, from there to B it does not."""
    table = daemons.leaf_config(lab.topology, lab.directory)
    table["leaf"]["too-big"] = policy
    lab.leaf.down()
    lab.leaf.up(table)
    lab.leaf.wait_ready()

    def arrives(*options: str) -> bool:
        return ping(lab, "H1", "1.1.1.4", *options, count=1).received == 1

    try:
        wait_until(arrives, "the bindings")
        with _less_to(lab, "10.99.0.12", 1400):
            wait_until(lambda: _shown(lab) == 1350, "a measurement")
            if policy == "drop":
                assert not arrives("-s", "1400", "-M", "dont")
            else:
                wait_until(lambda: arrives("-s", "1400", "-M", "dont"), "the fragments' arrival")
        events = counters(lab, "leaf")["events"]
        assert events["too_big"] > 0, events
        assert (events["fragmented"] > 0) == (policy == "fragment"), events
    finally:
        lab.up()
