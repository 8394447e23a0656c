"""Guests that get online by a DHCP server elsewhere: dnsmasq, on the underlay.

It has no interface in the guests' subnets, so each address that it gives is one that it was asked
for by link selection (IPv4) or link address (IPv6), and it knows nothing of VXLAN or of moves.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.fabric import daemons, namespace
from tools.fabric.lab import BRIDGE, UNDERLAY_LINK, Lab
from tools.fabric.namespace import Namespace
from tools.fabric.topology import Topology
from vswitch.service.client import ClientError

from .commands import counters, ping, wait_until
from .conftest import seed, up
from .dhcp_guest import Client, addresses6, rows

SERVER, SERVER6, RELAY6 = "10.99.0.53", "fd99::53", "fd99::1"
T1 = 6
"""Seconds until a client renews; dnsmasq leases for two minutes at least."""
NODE = Namespace("dnsmasq")
"""Not one of the lab's, which would take it down as a stranger."""


def topology() -> Topology:
    """The seed, whose H1, H3 and H4 have no addresses of either family."""
    made = seed("relay").model_dump(mode="json")
    made["segment"][0]["dhcp"] = {"mode": "relay", "servers": [SERVER]}
    for guest in made["guest"]:
        if guest["name"] in ("H1", "H3", "H4"):
            guest["address"] = guest["address6"] = None
    return Topology.model_validate(made)


class Dnsmasq:
    """The server, and what it says."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "dnsmasq.log"
        command = [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0"),
            *("--user=root", "--pid-file=", "--no-ping", "--interface=eth0", "--log-dhcp"),
            f"--log-facility={self.log}",
            f"--dhcp-leasefile={directory / 'dnsmasq.leases'}",
            "--dhcp-range=1.1.1.100,1.1.1.109,255.255.255.0,2m",
            "--dhcp-range=2001:db8:1::100,2001:db8:1::1ff,64,2m",
            "--dhcp-option=option:router,1.1.1.254",
            "--dhcp-option-force=option:mtu,1450",
            f"--dhcp-option=option:T1,{T1}",
        ]
        self._process = NODE.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: "started" in self.said(), "dnsmasq's start")

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from up(Lab(topology()))


def wait_for_dad(node: Namespace) -> None:
    """Wait until a node may use its addresses on the underlay."""
    wait_until(
        lambda: not any(one.tentative for one in node.addresses(UNDERLAY_LINK)),
        "duplicate address detection",
    )


@pytest.fixture(scope="module")
def server(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dnsmasq]:
    spine = lab.node("spine")
    NODE.create(ipv6=True)
    namespace.join(NODE, UNDERLAY_LINK, spine, "dnsmasq", lab.topology.underlay.mtu)
    spine.enslave("dnsmasq", BRIDGE)
    NODE.link_up(UNDERLAY_LINK)
    NODE.add_address(UNDERLAY_LINK, SERVER, 24)
    NODE.add_address(UNDERLAY_LINK, SERVER6, 64)
    wait_for_dad(NODE)
    one = Dnsmasq(tmp_path_factory.mktemp("dnsmasq"))
    try:
        yield one
    finally:
        one.stop()
        NODE.remove()


def test_udhcpc_gets_a_guest_online_and_off_again(
    lab: Lab, server: Dnsmasq, tmp_path: Path
) -> None:
    client = Client(lab, "H1", tmp_path / "H1")
    client.udhcpc("-R")
    try:
        (address,) = client.addresses()
        told = client.told("bound")
        assert (told["router"], told["mask"], told["mtu"]) == ("1.1.1.254", "24", "1450")
        assert told["serverid"] == "1.1.1.254"
        assert rows(lab, "bindings")[address]["mac"] == "00:00:01:01:01:01"
        assert rows(lab, "leases")[address]["given_by"] == "server"
        assert ping(lab, "H1", "1.1.1.2").received == 3
        assert ping(lab, "H1", "2.2.2.6").received == 3
        assert ping(lab, "H6", address).received == 3
    finally:
        client.kill(signal.SIGTERM)  # With -R it gives the address back.
    wait_until(lambda: address not in rows(lab, "bindings"), "the binding's end")
    assert address not in rows(lab, "leases")
    wait_until(lambda: f"DHCPRELEASE(eth0) {address}" in server.said(), "the server's hearing")


def renewed(client: Client) -> dict[str, str]:
    """Wait for the client's next renewal; return what it was told."""
    path = client.directory / "env.RENEW"
    path.unlink(missing_ok=True)
    wait_until(path.exists, "a renewal")
    return client.told("RENEW")


def test_dhclient_renews_after_a_move(lab: Lab, server: Dnsmasq, tmp_path: Path) -> None:
    client = Client(lab, "H3", tmp_path / "H3")
    client.dhclient()
    try:
        (address,) = client.addresses()
        assert rows(lab, "bindings")[address]["vswitch"] == "B"
        lab.move("H3", "A")
        wait_until(lambda: rows(lab, "bindings")[address]["vswitch"] == "A", "the news of it")
        before = counters(lab, "leaf")["dhcp_seen"]["renewed"]
        told = renewed(client)
        assert told["new_dhcp_server_identifier"] == "1.1.1.254"
        assert told["new_ip_address"] == address
        assert counters(lab, "leaf")["dhcp_seen"]["renewed"] > before
        assert rows(lab, "bindings")[address]["vswitch"] == "A"
        assert rows(lab, "leases")[address]["for_s"] > 110
        assert ping(lab, "H3", "2.2.2.6").received == 3
    finally:
        client.kill()
        if lab.places()["H3"] != "B":
            lab.move("H3", "B")


def test_a_guest_renews_through_another_leaf(lab: Lab, server: Dnsmasq, tmp_path: Path) -> None:
    """Which knows nothing of the guest, of its lease, or of the first leaf."""
    node, address2, spine = Namespace("leaf2"), "10.99.0.2", lab.node("spine")
    node.create()
    namespace.join(node, UNDERLAY_LINK, spine, "leaf2", lab.topology.underlay.mtu)
    spine.enslave("leaf2", BRIDGE)
    node.link_up(UNDERLAY_LINK)
    node.add_address(UNDERLAY_LINK, address2, 24)
    leaf2 = daemons.DaemonProcess("leaf", "leaf2", node, lab.directory)
    table = daemons.leaf_config(lab.topology, lab.directory)
    table["leaf"] |= {"vtep": address2, "state": str(lab.directory / "leaf2.db")}
    table["api"]["socket"] = str(leaf2.socket)
    (host,) = (one for one in lab.topology.host if one.name == "B")
    vswitch = daemons.vswitch_config(lab.topology, host, lab.directory)
    client = Client(lab, "H4", tmp_path / "H4")
    asked = leaf2.client()
    try:
        leaf2.up(table)
        leaf2.wait_ready()
        client.dhclient()
        (address,) = client.addresses()
        assert asked.get("/v1/leases") == []
        vswitch["vswitch"]["leaves"] = [address2]
        lab.vswitches["B"].up(vswitch)
        wait_until(lambda: asked.get("/v1/leases"), "a renewal through the other leaf")
        assert renewed(client)["new_ip_address"] == address
        (lease,) = asked.get("/v1/leases")
        assert (lease["address"], lease["given_by"]) == (address, "server")
        bound = {row["address"]: row["vswitch"] for row in asked.get("/v1/bindings")}
        assert bound[address] == "B"
    finally:
        asked.close()
        client.kill()
        leaf2.down()
        vswitch["vswitch"]["leaves"] = [str(lab.topology.underlay.leaf)]
        lab.vswitches["B"].up(vswitch)
        node.remove()


@pytest.fixture
def lab6(lab: Lab) -> Iterator[Lab]:
    """The lab with IPv6 on the underlay, and a server of each family; the leaf was reloaded."""
    node = lab.node("leaf")
    node.sysctl(f"ipv6/conf/{UNDERLAY_LINK}/disable_ipv6", 0)
    node.add_address(UNDERLAY_LINK, RELAY6, 64)
    wait_for_dad(node)
    table = daemons.leaf_config(lab.topology, lab.directory)
    table["leaf"]["relay6"] = RELAY6
    both = {"mode": "relay", "servers": [SERVER, SERVER6]}
    table["segment"][0] |= {"autonomous": False, "dhcp": both}
    assert lab.leaf.up(table) == "reloaded"
    try:
        yield lab
    finally:
        lab.leaf.up(daemons.leaf_config(lab.topology, lab.directory))


def renew_soon(client: Client) -> None:
    """Have the lease in the client's file renewed after `T1`: dnsmasq says at half of two minutes
    at the earliest, and has no option that changes it."""
    path = client.directory / "leases"
    text, count = re.subn(r"renew \d+;", f"renew {T1};", path.read_text())
    assert count
    path.write_text(text)


def test_dhclient_gets_an_ipv6_address(lab6: Lab, server: Dnsmasq, tmp_path: Path) -> None:
    lab = lab6
    node = lab.node("H1")
    # DHCPv6 tells no routes: those are in the advertisements.
    node.run(["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1"])
    node.run(["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0"])
    client = Client(lab, "H1", tmp_path / "H1")
    try:
        wait_until(
            lambda: "link" in (said := addresses6(lab, "H1")) and "tentative" not in said,
            "duplicate address detection",
        )
        client.dhclient("-6")
        address = client.told("BOUND6")["new_ip6_address"]
        assert address.startswith("2001:db8:1::1")
        assert rows(lab, "bindings")[address]["mac"] == "00:00:01:01:01:01"
        assert rows(lab, "leases")[address]["given_by"] == "server"
        wait_until(lambda: "tentative" not in addresses6(lab, "H1"), "duplicate detection")
        assert ping(lab, "H1", "2001:db8:1::fe", "-I", address).received == 3
        # It restarts (and has its address confirmed), moves, and renews where it is.
        client.kill()
        renew_soon(client)
        client.dhclient("-6")
        lab.move("H1", "B")
        before = counters(lab, "leaf")["dhcp_seen"]["renewed"]
        wait_until((client.directory / "env.RENEW6").exists, "a renewal")
        assert counters(lab, "leaf")["dhcp_seen"]["renewed"] > before
        assert rows(lab, "bindings")[address]["vswitch"] == "B"
        assert ping(lab, "H1", "2001:db8:2::5", "-I", address).received == 3
        client.kill()
        client.dhclient("-6", "-r")
        wait_until(lambda: address not in rows(lab, "bindings"), "the binding's end")
        assert address not in rows(lab, "leases")
    finally:
        client.kill()
        node.run(["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1"])
        if lab.places()["H1"] != "A":
            lab.move("H1", "A")


def test_the_server_is_told_whose_message_it_is(lab6: Lab, server: Dnsmasq, tmp_path: Path) -> None:
    """As tcpdump reads it on the wire."""
    capture = NODE.popen(
        ["tcpdump", "-i", UNDERLAY_LINK, "-nn", "-vvv", "-l", "-c", "1", "udp dst port 67"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert capture.stderr is not None
    assert "listening" in capture.stderr.readline()
    client = Client(lab6, "H1", tmp_path / "H1")
    client.udhcpc("-q")
    said, _ = capture.communicate(timeout=10)
    # Older versions print what they know by name, newer ones more of it.
    gateway = r"\s+(1\.1\.1\.254|0x0000:\s+0101 01fe)"
    for pattern in (
        r"10\.99\.0\.1\.67 > 10\.99\.0\.53\.67",
        r"hops 1",
        r"Gateway-IP 10\.99\.0\.1",
        r"SubOption 1, length 14: 100/10\.99\.0\.11",
        r"SubOption 5, length 4:" + gateway,
        r"SubOption 11, length 4:" + gateway,
        r"SubOption 151, length 7:",
    ):
        assert re.search(pattern, said), (pattern, said)


def test_a_reload_opens_and_closes_the_sockets(lab6: Lab) -> None:
    asked = lab6.leaf.client()
    try:
        assert sorted(asked.get("/v1/status")["relays_from"]) == ["10.99.0.1", RELAY6]
        assert _udp_ports(lab6) == {67, 547}
        table = daemons.leaf_config(lab6.topology, lab6.directory)
        table["segment"][0]["dhcp"] = {"mode": "off"}
        assert lab6.leaf.up(table) == "reloaded"
        assert _udp_ports(lab6) == set()
        # Somebody else has the port: nothing changes, and the error says what to do.
        taken = lab6.node("leaf").socket(socket.AF_INET, socket.SOCK_DGRAM)
        with taken:
            taken.bind(("10.99.0.1", 67))
            with pytest.raises(ClientError, match=r"10\.99\.0\.1 port 67: Address already in use"):
                lab6.leaf.up(daemons.leaf_config(lab6.topology, lab6.directory))
            assert asked.get("/v1/segments")[0]["dhcp"] == "off"
    finally:
        asked.close()


def _udp_ports(lab: Lab) -> set[int]:
    """The ports below 1024 on which the leaf listens."""
    done = lab.node("leaf").run(["cat", "/proc/net/udp", "/proc/net/udp6"])
    ports = {int(found, 16) for found in re.findall(r"^ *\d+: [0-9A-F]+:(\w+)", done.stdout, re.M)}
    return {port for port in ports if port < 1024}
