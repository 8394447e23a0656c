"""Guests that get online by themselves, as soon as a lab is up: by SLAAC, DHCP of both families, or
by what the file gives them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tools.fabric import lab as fabric
from tools.fabric import topology
from tools.fabric.lab import GUEST_LINK, Lab
from tools.fabric.topology import Family, Topology

from .commands import counters, ping, wait_until
from .conftest import MakeLab, up

EXAMPLE = Path(topology.__file__).with_name("online.toml")
GATEWAYS = {"address": "1.1.1.254", "address6": "2001:db8:1::fe"}
RESOLV_CONF = Path("/etc/resolv.conf")
LEASE_TIME = 20


def _resolv_conf() -> tuple[bytes, int] | None:
    if not RESOLV_CONF.exists():
        return None
    return RESOLV_CONF.read_bytes(), RESOLV_CONF.stat().st_mtime_ns


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The example in the repository, as it is."""
    before = _resolv_conf()
    yield from up(Lab(topology.read(EXAMPLE)))
    assert _resolv_conf() == before, "a client has written to the machine's /etc"


def changed(name: str, dhcp: dict[str, Any] | None = None, *guests: str) -> Topology:
    """The example with only these guests, and with other values for DHCP."""
    made = topology.read(EXAMPLE).model_dump(mode="json")
    made["lab"]["name"] = name
    made["segment"][0]["dhcp"] |= dhcp or {}
    made["guest"] = [guest for guest in made["guest"] if guest["name"] in guests]
    return Topology.model_validate(made)


def addresses(lab: Lab) -> dict[str, dict[str, str]]:
    """The addresses of each guest by the column of `lab status`."""
    return {
        row["node"]: {key: row[key] for key in GATEWAYS if row[key] is not None}
        for row in lab.status()
        if row["kind"] == "guest"
    }


def leases(lab: Lab) -> dict[str, dict[str, Any]]:
    client = lab.leaf.client()
    try:
        return {row["address"]: row for row in client.get("/v1/leases")}
    finally:
        client.close()


def client_pid(lab: Lab, guest: str, family: Family) -> int:
    process = lab._clients[guest, family].process()
    assert process is not None
    return process.pid


def check_all_reach_each_other(lab: Lab) -> None:
    has = addresses(lab)
    for guest, own in has.items():
        for key in own:
            assert ping(lab, guest, GATEWAYS[key], count=1).received == 1, (guest, key)
    for one, two in permutations(has, 2):
        for key in has[one].keys() & has[two].keys():
            assert ping(lab, one, has[two][key], count=1).received == 1, (one, two, key)


def test_every_kind_of_guest_is_online_when_the_lab_is_up(lab: Lab) -> None:
    has = addresses(lab)
    assert has["static"] == {"address": "1.1.1.1", "address6": "2001:db8:1::1"}
    assert has["slaac"] == {"address6": "2001:db8:1:0:200:1ff:fe01:102"}
    assert {one["address"] for one in (has["dhcp4"], has["dual"])} == {"1.1.1.100", "1.1.1.101"}
    assert {one["address6"] for one in (has["dhcp6"], has["dual"])} == {
        "2001:db8:1::100",
        "2001:db8:1::101",
    }
    assert (list(has["dhcp4"]), list(has["dhcp6"])) == (["address"], ["address6"])
    check_all_reach_each_other(lab)
    assert lab.up() == []


def test_a_dhcp_guest_has_one_address_and_the_routes_that_it_is_told(lab: Lab) -> None:
    """The segment advertises a prefix as well, and with it the way out of DHCPv6's network."""
    entries = lab.node("dual").addresses(GUEST_LINK)
    assert len([one for one in entries if not one.address.startswith("fe80:")]) == len(Family)
    said = lab.node("dual").run(["ip", "-6", "route", "show", "default"]).stdout
    assert said.startswith("default via fe80::200:deff:fead:beef ")
    said = lab.node("dual").run(["ip", "route"]).stdout
    assert "default via 1.1.1.254 " in said and "10.7.0.0/16 via 1.1.1.1 " in said


def test_a_dhcp_guest_moves_with_its_addresses_and_its_clients(lab: Lab) -> None:
    before = addresses(lab)["dual"]
    pids = [client_pid(lab, "dual", family) for family in Family]
    lab.move("dual", "A")
    try:
        assert addresses(lab)["dual"] == before
        assert [client_pid(lab, "dual", family) for family in Family] == pids
        check_all_reach_each_other(lab)
    finally:
        lab.move("dual", "B")


@pytest.mark.parametrize("how", ["its client is killed", "its link goes down"])
def test_a_guest_begins_anew_and_gets_what_it_had(lab: Lab, how: str) -> None:
    before = addresses(lab)["dual"]
    if how == "its link goes down":
        lab.node("dual").link_set(GUEST_LINK, state="down")
    else:
        os.kill(client_pid(lab, "dual", Family.IPV6), signal.SIGKILL)
        wait_until(lambda: lab._clients["dual", Family.IPV6].process() is None, "its end")
    done = lab.up()
    assert "guest dual: asks for its IPv6 address by DHCP" in done
    assert addresses(lab)["dual"] == before
    check_all_reach_each_other(lab)


def test_a_dhcpv6_lease_is_renewed_outlives_the_leaf_and_ends(make_lab: MakeLab) -> None:
    lab = make_lab(changed("renew", {"lease-time": LEASE_TIME}, "dhcp6"))
    (address,) = addresses(lab)["dhcp6"].values()
    renewed = lambda: leases(lab)[address]["for_s"] > LEASE_TIME * 0.9
    wait_until(lambda: not renewed(), "some time")
    wait_until(renewed, "a renewal", LEASE_TIME)
    lab.leaf.down()
    lab.up()
    assert leases(lab)[address]["state"] == "bound"
    wait_until(lambda: not renewed(), "some time")
    wait_until(renewed, "another renewal", LEASE_TIME)
    pid = client_pid(lab, "dhcp6", Family.IPV6)
    Lab(changed("renew", None, "slaac")).down()  # By then the file may be another one.
    lab.down()  # There is nothing left for it to do but to see that its children have ended.
    assert not Path(f"/proc/{pid}").exists(), "it ends with its guest"


def test_an_address_that_somebody_uses_unasked_is_declined(make_lab: MakeLab) -> None:
    """The leaf does not know of the squatter, which has not said a word; the guest finds it."""
    lab = make_lab(changed("decline", None, "slaac"))
    squat = ["ip", "address", "add", "2001:db8:1::100/128", "dev", GUEST_LINK, "nodad"]
    assert lab.node("slaac").run(squat).returncode == 0
    later = Lab(changed("decline", None, "slaac", "dhcp6"))
    later.up()
    try:
        got = lambda: addresses(later)["dhcp6"]["address6"]
        wait_until(lambda: got() == "2001:db8:1::101", "another address")
        assert leases(later)["2001:db8:1::100"]["state"] == "declined"
        assert counters(later, "leaf")["dhcp"]["declined"] == 1
        assert ping(later, "dhcp6", GATEWAYS["address6"]).received == 3
    finally:
        later.down()


def test_a_guest_that_nobody_answers_is_named(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fabric, "ONLINE_TIMEOUT", 1.0)
    made = changed("nobody", {"mode": "off"}, "dhcp4")
    lab = make_lab(made)
    (line,) = lab.up()
    log = lab.directory / "dhcp4.dhclient-ipv4.log"
    assert line == (f"guest dhcp4: has no IPv4 address yet; its DHCP client still asks, see {log}")
    assert addresses(lab)["dhcp4"] == {"address": "dhcp"}
