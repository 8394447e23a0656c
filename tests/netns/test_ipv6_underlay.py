"""A fabric whose underlay is of IPv6: all that guests do, over tunnels of the other family."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import tomli_w
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests import frames
from tools.fabric.daemons import DaemonProcess, leaf_config
from tools.fabric.lab import UNDERLAY_LINK, Lab
from tools.fabric.topology import Family
from tools.scenario.watch import Watch

from .commands import check_tcp, check_tcp_over_less, counters, ping, underlay_mtu, wait_until
from .conftest import UNDERLAY6, MakeLab, seed, up

LEAF, A, B = "2001:db8:99::1", "2001:db8:99::a", "2001:db8:99::b"
ETH_P_ALL = 0x0003
UDP_NO_CHECK6_TX = 101
both_families = pytest.mark.parametrize("family", list(Family))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The seed on such an underlay."""
    yield from up(Lab(seed("under6", **UNDERLAY6)))


@both_families
def test_everybody_reaches_everybody(lab: Lab, family: Family) -> None:
    addresses = lab.topology.addresses(family)
    for one, other in itertools.permutations(addresses, 2):
        answer = ping(lab, one, addresses[other], count=1)
        assert answer.received == 1, f"{one} to {other}:\n{answer.text}"


@both_families
def test_the_largest_packet_goes_through_whole(lab: Lab, family: Family) -> None:
    """70 bytes less than the underlay takes; one more is what the guest's own link refuses."""
    headers = 28 if family is Family.IPV4 else 48
    to = lab.topology.addresses(family)["H4"]
    assert ping(lab, "H1", to, "-s", str(1430 - headers), "-M", "do").received == 3
    assert ping(lab, "H1", to, "-s", str(1431 - headers), "-M", "do", count=1).received == 0


def test_a_frame_takes_the_way_that_it_takes_over_ipv4(lab: Lab) -> None:
    watch = Watch(lab)
    try:
        path = watch.follow(Family.IPV4, "H1", "H4")
    finally:
        watch.close()
    assert path.places("A") == ["H1", "A", "leaf", "B", "H4"]
    on_wire = [(one.vni, one.outer) for one in path.sightings if one.outer is not None]
    assert on_wire == [(100, (A, LEAF))] * 2 + [(100, (LEAF, B))] * 2


def test_flows_spread_over_source_ports_and_have_a_checksum(lab: Lab) -> None:
    """RFC 7348 section 5; without a checksum an IPv6 node that is no tunnel's end drops it."""
    lab.node("A").complete_checksums(UNDERLAY_LINK)
    with (
        lab.node("leaf").socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
        lab.node("H1").socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        # As tcpdump does: who asks for one protocol only does not see what is redirected.
        wire.bind((UNDERLAY_LINK, ETH_P_ALL))
        wire.settimeout(20)
        for port in range(5000, 5040):
            sender.sendto(b"x", ("1.1.1.4", port))
        came = (Ether(wire.recv(65536)) for _ in itertools.count())
        from_a = (packet for packet in came if UDP in packet and packet[IPv6].src == A)
        seen = list(itertools.islice(from_a, 40))
    ports = {packet[UDP].sport for packet in seen if packet[UDP].dport == 4789}
    assert len(ports) > 4 and min(ports) >= 49152
    for packet in seen:
        stored = packet[UDP].chksum
        del packet[UDP].chksum
        assert stored and Ether(bytes(packet))[UDP].chksum == stored


def test_a_packet_without_a_checksum_is_taken(lab: Lab) -> None:
    before = counters(lab, "leaf")["packets"]["unknown_vni"]
    with lab.node("A").socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        sock.bind((A, 0))
        sock.sendto(frames.vxlan(999, frames.udp(bytes(6), b"\x02" + bytes(5))), (LEAF, 4789))
    wait_until(lambda: counters(lab, "leaf")["packets"]["unknown_vni"] == before + 1, "its arrival")


def _sum_errors(lab: Lab, node: str) -> int:
    said = lab.node(node).run(["cat", "/proc/net/snmp6"]).stdout
    found = re.search(r"^Udp6InCsumErrors\s+(\d+)", said, re.M)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("offload", ["auto", "off"])
def test_tcp_flows_both_ways(make_lab: MakeLab, offload: str) -> None:
    name = f"u6{offload}"
    lab = make_lab(seed(name, **UNDERLAY6, lab={"name": name, "offload": offload}))
    for family in Family:
        addresses = lab.topology.addresses(family)
        for client, server in (("H1", "H4"), ("H4", "H5")):
            for direction in ((), ("-R",)):
                check_tcp(lab, client, server, addresses[server], *direction)
    for name in ("A", "B", "leaf"):
        faults = counters(lab, name)["tunnel_faults"]
        assert (faults["too_big"], faults["uncuttable"], faults["other"]) == (0, 0, 0)
        assert _sum_errors(lab, name) == 0
        daemon = lab.leaf if name == "leaf" else lab.vswitches[name]
        # The kernel takes trains over IPv6, too; where it does not, this is said once.
        assert "one by one" not in daemon.log.read_text()


def test_a_guest_moves_to_and_fro_with_stale_caches(lab: Lab) -> None:
    to = [*("1.1.1.2", "1.1.1.3", "2.2.2.6"), *("2001:db8:1::2", "2001:db8:1::3", "2001:db8:2::6")]
    before = counters(lab, "leaf")["bindings"]["moved"]
    for host in ("B", "A"):
        lab.move("H1", host)
        for address in to:
            answer = ping(lab, "H1", address, count=1)
            assert answer.received == 1, f"on {host}: {answer.text}"
    assert counters(lab, "leaf")["bindings"]["moved"] == before + 2


@both_families
@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["to_b", "to_a"])
def test_a_stream_goes_on_when_the_underlay_carries_less(
    lab: Lab, family: Family, direction: tuple[str, ...]
) -> None:
    check_tcp_over_less(lab, lab.topology.addresses(family)["H4"], *direction)


@both_families
def test_a_guest_is_told_what_fits(lab: Lab, family: Family) -> None:
    to = lab.topology.addresses(family)["H4"]

    def told() -> str:
        return ping(lab, "H1", to, "-s", "1380", "-M", "do", count=1).text

    with underlay_mtu(lab, 1400):
        wait_until(lambda: re.search("mtu[=:]? ?1330", told()), "an ICMP message", poll=0.5)
    version = "-4" if family is Family.IPV4 else "-6"
    lab.node("H1").run(["ip", version, "route", "flush", "cache"])


def test_a_leaf_that_is_not_there_is_counted(lab: Lab) -> None:
    lab.leaf.down()
    ping(lab, "H1", "1.1.1.4", count=5)
    assert counters(lab, "A")["tunnel_faults"]["refused"] > 0
    assert ping(lab, "H1", "1.1.1.2").received == 3
    assert lab.up() == ["leaf leaf: started"]
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received == 1, "recovery")


def test_an_underlay_that_goes_and_comes_back(lab: Lab) -> None:
    lab.node("A").link_set(UNDERLAY_LINK, state="down")
    assert ping(lab, "H1", "1.1.1.4", count=2).received == 0
    assert counters(lab, "A")["tunnel_faults"]["unreachable"] > 0
    lab.node("A").link_up(UNDERLAY_LINK)
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received == 1, "recovery")


def test_a_vtep_may_be_written_in_any_way(lab: Lab) -> None:
    """What the kernel says of a packet's source is its own spelling."""
    table = leaf_config(lab.topology, lab.directory)
    table["vswitch"][0]["vtep"] = "2001:DB8:99:0000::000A"
    (lab.directory / "leaf.toml").write_text(tomli_w.dumps(table))
    client = lab.leaf.client()
    try:
        assert client.post("/v1/reload")["changes"] == []
    finally:
        client.close()
    lab.leaf.down()
    lab.leaf.up(table)
    lab.leaf.wait_ready()
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received == 1, "an answer")
    assert counters(lab, "leaf")["packets"]["not_a_peer"] == 0
    lab.up()


def _show(kind: str, table: str, daemon: DaemonProcess) -> str:
    command = [sys.executable, "-m", kind, "show", table, "--socket", str(daemon.socket)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def test_show_and_status_have_whole_addresses(lab: Lab) -> None:
    assert ping(lab, "H1", "2001:db8:1::4").received == 3
    said = _show("leaf", "bindings", lab.leaf)
    (row,) = [line for line in said.splitlines() if " 2001:db8:1::4 " in line]
    assert row.split()[:5] == ["red", "2001:db8:1::4", "00:00:01:01:01:04", B, "B"]
    said = _show("vswitch", "status", lab.vswitches["A"])
    assert A in said and LEAF in said
    rows = {row["node"]: row["address"] for row in lab.status()}
    assert (rows["leaf"], rows["A"], rows["B"]) == (LEAF, A, B)


def test_nothing_failed_behind_the_scenes(lab: Lab) -> None:
    for daemon in (lab.leaf, *lab.vswitches.values()):
        log = daemon.log.read_text()
        assert "unexpected error" not in log and "Traceback" not in log, log[-2000:]
