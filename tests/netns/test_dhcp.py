"""The leaf as a DHCP server to real clients: udhcpc and dhclient, as Debian packages them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.fabric import daemons
from tools.fabric.lab import Lab
from tools.fabric.topology import Topology

from .commands import counters, ping, wait_until
from .conftest import seed, up
from .dhcp_guest import Client, rows

POOL = "1.1.1.100-1.1.1.109"
LEASE_TIME = 20


def topology() -> Topology:
    """The seed, whose H1, H3 and H4 have no addresses of either family; that of H3 is reserved."""
    made = seed("dhcp").model_dump(mode="json")
    made["segment"][0]["dhcp"] = {
        "mode": "respond",
        "pool": [POOL],
        "lease-time": LEASE_TIME,
        "domain": "example.org",
        "route": [{"prefix": "10.7.0.0/16", "via": "1.1.1.2"}],
        "reservation": [{"mac": "00:00:01:01:01:03", "address": "1.1.1.3"}],
    }
    for guest in made["guest"]:
        if guest["name"] in ("H1", "H3", "H4"):
            guest["address"] = guest["address6"] = None
    return Topology.model_validate(made)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from up(Lab(topology()))


def test_udhcpc_gets_a_guest_online_and_off_again(lab: Lab, tmp_path: Path) -> None:
    client = Client(lab, "H1", tmp_path / "H1")
    client.udhcpc("-R")
    try:
        assert client.addresses() == ["1.1.1.100"]
        told = client.told("bound")
        assert (told["router"], told["mask"], told["mtu"]) == ("1.1.1.254", "24", "1450")
        assert (told["domain"], told["lease"]) == ("example.org", str(LEASE_TIME))
        assert told["serverid"] == "1.1.1.254"
        assert rows(lab, "leases")["1.1.1.100"]["mac"] == "00:00:01:01:01:01"
        assert rows(lab, "bindings")["1.1.1.100"]["mac"] == "00:00:01:01:01:01"
        assert ping(lab, "H1", "1.1.1.2").received == 3
        assert ping(lab, "H1", "2.2.2.6").received == 3
        assert ping(lab, "H6", "1.1.1.100").received == 3
    finally:
        client.kill(signal.SIGTERM)  # With -R it gives the address back.
    wait_until(lambda: "1.1.1.100" not in rows(lab, "bindings"), "the binding's end")
    assert rows(lab, "leases")["1.1.1.100"]["state"] == "free"
    assert counters(lab, "leaf")["dhcp"]["released"] == 1


def test_dhclient_gets_what_is_reserved_and_renews(lab: Lab, tmp_path: Path) -> None:
    client = Client(lab, "H3", tmp_path / "H3")
    client.dhclient()
    try:
        assert client.addresses() == ["1.1.1.3"]
        told = client.told("BOUND")
        assert told["new_rfc3442_classless_static_routes"].split() == [
            *["0", "1", "1", "1", "254"],
            *["16", "10", "7", "1", "1", "1", "2"],
        ]
        assert ping(lab, "H3", "2.2.2.5").received == 3
        wait_until((client.directory / "env.RENEW").exists, "a renewal", LEASE_TIME)
        assert rows(lab, "leases")["1.1.1.3"]["for_s"] > LEASE_TIME / 2
    finally:
        client.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_address_outlives_the_leaf(lab: Lab, tmp_path: Path, number: int) -> None:
    client = Client(lab, "H4", tmp_path / "H4")
    client.dhclient()
    before = client.addresses()
    assert len(before) == 1
    try:
        process = lab.leaf.process()
        assert process is not None
        os.kill(process.pid, number)
        wait_until(lambda: lab.leaf.process() is None, "the leaf's end")
        if lab.leaf._child is not None:
            lab.leaf._child.wait()
        lab.up()
        assert rows(lab, "leases")[before[0]]["mac"] == "00:00:01:01:01:04"
        # Another guest does not get it, and the first one keeps it, at a renewal and at a restart.
        other = Client(lab, "H1", tmp_path / "H1")
        other.udhcpc("-q")
        assert other.addresses() != before
        wait_until((client.directory / "env.RENEW").exists, "a renewal", LEASE_TIME)
        client.kill()
        client.dhclient()
        assert client.addresses() == before
        assert ping(lab, "H4", "2.2.2.5").received == 3
    finally:
        client.kill()


def test_a_lease_that_ends_takes_the_binding_along(lab: Lab, tmp_path: Path) -> None:
    client = Client(lab, "H1", tmp_path / "H1")
    client.udhcpc("-q", "-x", "hostname:me")
    (address,) = client.addresses()
    lab.node("H1").run(["ip", "-4", "address", "flush", "dev", "eth0"])
    wait_until(lambda: rows(lab, "leases")[address]["state"] == "free", "the end", LEASE_TIME + 5)
    assert address not in rows(lab, "bindings")


def test_a_reload_changes_what_is_given_out(lab: Lab, tmp_path: Path) -> None:
    made = topology().model_dump(mode="json")
    made["segment"][0]["dhcp"]["pool"] = ["1.1.1.200-1.1.1.201"]
    changed = Topology.model_validate(made)
    lab.leaf.up(daemons.leaf_config(changed, lab.directory))
    try:
        client = Client(lab, "H1", tmp_path / "H1")
        client.udhcpc("-q")
        assert client.addresses()[0] in ("1.1.1.200", "1.1.1.201")
    finally:
        lab.up()
