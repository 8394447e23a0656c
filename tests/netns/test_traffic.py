"""Guests that talk: everybody to everybody, through real TAPs, daemons and kernels."""

from __future__ import annotations

import itertools

import pytest

from tools.fabric.lab import GUEST_LINK, Lab
from tools.scenario.watch import Watch

from .commands import arping, counters, iperf, ping

GUESTS = {
    "H1": ("A", "1.1.1.1"),
    "H2": ("A", "1.1.1.2"),
    "H3": ("B", "1.1.1.3"),
    "H4": ("B", "1.1.1.4"),
    "H5": ("A", "2.2.2.5"),
    "H6": ("B", "2.2.2.6"),
}
SHARED = "00:00:de:ad:be:ef"


def test_everybody_reaches_everybody_and_nobody_else_sees_it(lab: Lab) -> None:
    watch = Watch(lab)
    try:
        for one, other in itertools.permutations(GUESTS, 2):
            answer = ping(lab, one, GUESTS[other][1], count=1)
            assert answer.received == 1, f"{one} to {other}:\n{answer.text}"
            is_local = GUESTS[one][0] == GUESTS[other][0] and one[:2] != other[:2]
            same_subnet = GUESTS[one][1][0] == GUESTS[other][1][0]
            assert is_local or not same_subnet or answer.ttl in (63, 64)
        assert watch.bystanders() == dict.fromkeys(GUESTS, 0)
    finally:
        watch.close()


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
    lab: Lab, one: str, other: str, ttl: int
) -> None:
    assert ping(lab, one, GUESTS[other][1], count=1).ttl == ttl


def test_a_ttl_of_one_is_answered_by_the_gateway(lab: Lab) -> None:
    text = ping(lab, "H1", "1.1.1.4", "-t", "1", count=1).text
    assert "From 1.1.1.254" in text and "Time to live exceeded" in text
    assert "Time to live exceeded" not in ping(lab, "H1", "1.1.1.2", "-t", "1", count=1).text


def test_what_has_no_route_is_unreachable(lab: Lab) -> None:
    text = ping(lab, "H1", "9.9.9.9", count=1).text
    assert "From 1.1.1.254" in text and "Destination Net Unreachable" in text


def test_an_address_that_nobody_has_is_unreachable_from_another_subnet(lab: Lab) -> None:
    """The leaf asks three times, a second apart, before it says so."""
    text = ping(lab, "H5", "1.1.1.77", "-W", "5", count=1).text
    assert "From 2.2.2.254" in text and "Destination Host Unreachable" in text


def test_the_gateway_answers_pings_of_any_size(lab: Lab) -> None:
    assert ping(lab, "H1", "1.1.1.254", "-s", "0").received == 3
    assert ping(lab, "H1", "1.1.1.254", "-s", "1422", "-M", "do").received == 3
    assert ping(lab, "H1", "2.2.2.254", count=1).received == 1


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


def test_a_duplicate_address_on_another_host_is_found(lab: Lab) -> None:
    found = arping(lab, "H1", "1.1.1.4", "-D")
    assert (found.macs, found.status) == ([SHARED], 1), found.text


def test_a_guests_own_address_is_no_duplicate(lab: Lab) -> None:
    found = arping(lab, "H1", "1.1.1.1", "-D")
    assert (found.macs, found.status) == ([], 0), found.text


@pytest.mark.parametrize(
    ("client", "server"), [("H1", "H2"), ("H1", "H4"), ("H4", "H1"), ("H5", "H4")]
)
def test_tcp_flows(lab: Lab, client: str, server: str) -> None:
    end = iperf(lab, client, server, GUESTS[server][1])
    assert end["sum_received"]["bits_per_second"] > 50e6


def test_udp_flows_without_loss_at_a_modest_rate(lab: Lab) -> None:
    end = iperf(lab, "H1", "H4", "1.1.1.4", "-u", "-b", "20M", "-l", "1400")
    assert end["sum"]["packets"] > 3000
    assert end["sum"]["lost_percent"] < 1


def test_nothing_failed_behind_the_scenes(lab: Lab) -> None:
    """After all of the above: no packet that the slow path could not take, no port that was full
    in a way that the guests would have noticed as an error of ours."""
    assert counters(lab, "leaf")["events"]["punts_failed"] == 0
    for daemon in lab.vswitches.values():
        assert b"unexpected error" not in daemon.log.read_bytes()
    assert b"unexpected error" not in lab.leaf.log.read_bytes()
