"""Guests that talk: everybody to everybody, through real TAPs, daemons and kernels."""

from __future__ import annotations

import itertools
import socket
from contextlib import suppress
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr
from scapy.layers.l2 import Ether

from tools.fabric.lab import GUEST_LINK, Lab
from tools.scenario.watch import Watch

from .commands import arping, check_tcp, counters, first_good, iperf, ping

GUESTS = {
    "H1": ("A", "1.1.1.1"),
    "H2": ("A", "1.1.1.2"),
    "H3": ("B", "1.1.1.3"),
    "H4": ("B", "1.1.1.4"),
    "H5": ("A", "2.2.2.5"),
    "H6": ("B", "2.2.2.6"),
}
GUESTS6 = {
    "H1": ("A", "2001:db8:1::1"),
    "H2": ("A", "2001:db8:1::2"),
    "H3": ("B", "2001:db8:1::3"),
    "H4": ("B", "2001:db8:1::4"),
    "H5": ("A", "2001:db8:2::5"),
    "H6": ("B", "2001:db8:2::6"),
}
SHARED = "00:00:de:ad:be:ef"
ETH_P_IPV6 = 0x86DD
Guests = dict[str, tuple[str, str]]

both_families = pytest.mark.parametrize(
    "guests", [pytest.param(GUESTS, id="ipv4"), pytest.param(GUESTS6, id="ipv6")]
)


@both_families
def test_everybody_reaches_everybody_and_nobody_else_sees_it(lab: Lab, guests: Guests) -> None:
    watch = Watch(lab)
    try:
        for one, other in itertools.permutations(guests, 2):
            answer = ping(lab, one, guests[other][1], count=1)
            assert answer.received == 1, f"{one} to {other}:\n{answer.text}"
            is_local = guests[one][0] == guests[other][0]
            same_subnet = guests[one][1][:-1] == guests[other][1][:-1]
            assert answer.ttl == (64 if is_local and same_subnet else 63)
        assert watch.bystanders() == dict.fromkeys(GUESTS, 0)
    finally:
        watch.close()


@both_families
@pytest.mark.parametrize(
    ("one", "other", "ttl"),
    [
        pytest.param("H1", "H2", 64, id="switched_on_one_host"),
        pytest.param("H1", "H4", 63, id="routed_between_hosts"),
        pytest.param("H1", "H5", 63, id="routed_back_to_the_same_host"),
        pytest.param("H1", "H6", 63, id="routed_to_another_subnet"),
    ],
)
def test_the_ttl_tells_whether_a_leaf_was_on_the_way(
    lab: Lab, guests: Guests, one: str, other: str, ttl: int
) -> None:
    assert ping(lab, one, guests[other][1], count=1).ttl == ttl


@pytest.mark.parametrize(
    ("gateway", "near", "far", "said"),
    [
        pytest.param("1.1.1.254", "1.1.1.2", "1.1.1.4", "Time to live exceeded", id="ipv4"),
        pytest.param("2001:db8:1::fe", "2001:db8:1::2", "2001:db8:1::4", "Hop limit", id="ipv6"),
    ],
)
def test_a_ttl_of_one_is_answered_by_the_gateway(
    lab: Lab, gateway: str, near: str, far: str, said: str
) -> None:
    text = ping(lab, "H1", far, "-t", "1", count=1).text
    assert f"From {gateway}" in text and said in text
    assert said not in ping(lab, "H1", near, "-t", "1", count=1).text


@pytest.mark.parametrize(
    ("gateway", "nowhere", "said"),
    [
        pytest.param("1.1.1.254", "9.9.9.9", "Destination Net Unreachable", id="ipv4"),
        pytest.param("2001:db8:1::fe", "2001:db8:9::9", "No route", id="ipv6"),
    ],
)
def test_what_has_no_route_is_unreachable(lab: Lab, gateway: str, nowhere: str, said: str) -> None:
    text = ping(lab, "H1", nowhere, count=1).text
    assert f"From {gateway}" in text and said in text


@pytest.mark.parametrize(
    ("gateway", "nobody", "said"),
    [
        pytest.param("2.2.2.254", "1.1.1.77", "Destination Host Unreachable", id="ipv4"),
        pytest.param("2001:db8:2::fe", "2001:db8:1::77", "Address unreachable", id="ipv6"),
    ],
)
def test_an_address_that_nobody_has_is_unreachable_from_another_subnet(
    lab: Lab, gateway: str, nobody: str, said: str
) -> None:
    """The leaf asks three times, a second apart, before it says so."""
    text = ping(lab, "H5", nobody, "-W", "5", count=1).text
    assert f"From {gateway}" in text and said in text


@pytest.mark.parametrize(
    ("gateway", "other", "largest"),
    [
        pytest.param("1.1.1.254", "2.2.2.254", "1422", id="ipv4"),
        pytest.param("2001:db8:1::fe", "2001:db8:2::fe", "1402", id="ipv6"),
        pytest.param(f"fe80::200:deff:fead:beef%{GUEST_LINK}", None, "1402", id="link_local"),
    ],
)
def test_the_gateway_answers_pings_of_any_size(
    lab: Lab, gateway: str, other: str | None, largest: str
) -> None:
    assert ping(lab, "H1", gateway, "-s", "0").received == 3
    assert ping(lab, "H1", gateway, "-s", largest, "-M", "do").received == 3
    assert other is None or ping(lab, "H1", other, count=1).received == 1


@pytest.mark.parametrize(
    ("asker", "target", "mac"),
    [
        pytest.param("H1", "1.1.1.254", SHARED, id="gateway"),
        pytest.param("H1", "1.1.1.4", SHARED, id="elsewhere"),
        pytest.param("H1", "1.1.1.2", "00:00:01:01:01:02", id="neighbour"),
        pytest.param("H5", "2.2.2.6", SHARED, id="other_segment"),
    ],
)
def test_one_question_has_one_answer(lab: Lab, asker: str, target: str, mac: str) -> None:
    """Two answers, one of them from the leaf, would draw neighbours through the leaf."""
    assert arping(lab, asker, target).macs == [mac]


@pytest.mark.parametrize(
    ("asker", "target", "mac"),
    [
        pytest.param("H1", "2001:db8:1::fe", SHARED, id="gateway"),
        pytest.param("H1", "2001:db8:1::4", SHARED, id="elsewhere"),
        pytest.param("H1", "2001:db8:1::2", "00:00:01:01:01:02", id="neighbour"),
        pytest.param("H5", "2001:db8:2::6", SHARED, id="other_segment"),
    ],
)
def test_so_has_one_of_ipv6(lab: Lab, asker: str, target: str, mac: str) -> None:
    """Of two answers Linux keeps the first, so the second is looked for in what comes in."""
    node = lab.node(asker)
    node.run(["ip", "neigh", "del", target, "dev", GUEST_LINK])
    with node.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind((GUEST_LINK, ETH_P_IPV6))
        wire.settimeout(0.5)
        assert ping(lab, asker, target, count=1).received == 1
        assert _advertised(wire, target) == [mac]
    entries = {entry.address: entry.mac for entry in node.neighbours(GUEST_LINK)}
    assert entries[target] == mac


def _advertised(wire: socket.socket, target: str) -> list[str]:
    """Return the MACs in all neighbour advertisements of an address, until it is quiet."""
    macs = []
    with suppress(TimeoutError):
        while True:
            frame = Ether(wire.recv(2048))
            if ICMPv6ND_NA in frame and frame[ICMPv6ND_NA].tgt == target:
                macs.append(frame[ICMPv6NDOptDstLLAddr].lladdr)
    return macs


def test_a_unicast_question_for_a_neighbour_to_the_shared_mac_is_met_with_silence(lab: Lab) -> None:
    before = counters(lab, "leaf")["arp"]["same_vtep"]
    lab.node("H1").run(["ip", "neigh", "replace", "1.1.1.2", "lladdr", SHARED, "dev", GUEST_LINK])
    try:
        # Linux asks the MAC of its entry by unicast before it asks everybody.
        lab.node("H1").sysctl(f"ipv4/neigh/{GUEST_LINK}/retrans_time_ms", 100)
        lab.node("H1").run(
            [
                "ip",
                "neigh",
                "change",
                "1.1.1.2",
                "dev",
                GUEST_LINK,
                "lladdr",
                SHARED,
                "nud",
                "probe",
            ]
        )
        assert ping(lab, "H1", "1.1.1.2", count=10).received > 0
        assert counters(lab, "leaf")["arp"]["same_vtep"] > before
        entries = {entry.address: entry.mac for entry in lab.node("H1").neighbours(GUEST_LINK)}
        assert entries["1.1.1.2"] == "00:00:01:01:01:02"
    finally:
        lab.node("H1").run(["ip", "neigh", "del", "1.1.1.2", "dev", GUEST_LINK])


@both_families
@pytest.mark.parametrize(
    ("client", "server"), [("H1", "H2"), ("H1", "H4"), ("H4", "H1"), ("H5", "H4")]
)
def test_tcp_flows(lab: Lab, guests: Guests, client: str, server: str) -> None:
    check_tcp(lab, client, server, guests[server][1])


@both_families
def test_udp_flows_without_loss_at_a_modest_rate(lab: Lab, guests: Guests) -> None:
    """A receiver that does not get to run for a twentieth of a second loses as much by itself."""

    def send() -> Any:
        end = iperf(lab, "H1", "H4", guests["H4"][1], "-u", "-b", "20M", "-l", "1400")
        return end["sum"]

    received = first_good(send, lambda found: found["lost_percent"] < 1)
    assert received["packets"] > 3000
    assert received["lost_percent"] < 1


def test_nothing_failed_behind_the_scenes(lab: Lab) -> None:
    """After all of the above: no packet that the slow path could not take, no port that was full
    in a way that the guests would have noticed as an error of ours."""
    assert counters(lab, "leaf")["events"]["punts_failed"] == 0
    for daemon in lab.vswitches.values():
        assert b"unexpected error" not in daemon.log.read_bytes()
    assert b"unexpected error" not in lab.leaf.log.read_bytes()
