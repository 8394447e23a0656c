"""What a person's own tools say on a good network, of both families: discovery, and path MTU."""

from __future__ import annotations

import re
import time
from threading import Event, Thread

import pytest

from tests import frames
from tools.fabric.lab import Lab

from .commands import (
    check_tcp_over_less,
    counters,
    first_good,
    flooded_p99_ms,
    p99_ms,
    underlay_mtu,
    wait_until,
)
from .test_faults import _wire_tap

SHARED = "00:00:DE:AD:BE:EF"
GATEWAY = "fe80::200:deff:fead:beef"
FLOOD_RATE, FLOOD_SECONDS = 10_000, 3


def say(lab: Lab, guest: str, *command: str) -> str:
    done = lab.node(guest).run(command, timeout=30)
    return done.stdout + done.stderr


def test_rdisc6_shows_the_gateway_and_its_prefix(lab: Lab) -> None:
    said = say(lab, "H4", "rdisc6", "-1", "eth0")
    assert f"from {GATEWAY}" in said
    assert re.search(r"Source link-layer address: +" + SHARED, said)
    assert re.search(r"Prefix +: 2001:db8:1::/64", said)


@pytest.mark.parametrize(
    ("address", "mac"),
    [
        pytest.param("2001:db8:1::fe", SHARED, id="gateway"),
        pytest.param(GATEWAY, SHARED, id="gateway_link_local"),
        pytest.param("2001:db8:1::2", "00:00:01:01:01:02", id="same_host"),
        pytest.param("2001:db8:1::4", SHARED, id="other_host"),
    ],
)
def test_ndisc6_finds_who_has_an_address(lab: Lab, address: str, mac: str) -> None:
    said = say(lab, "H1", "ndisc6", address, "eth0")
    assert re.findall(r"link-layer address: (\S+)", said) == [mac]


def test_ndisc6_finds_nobody_where_there_is_nobody(lab: Lab) -> None:
    assert "No response" in say(lab, "H1", "ndisc6", "-r", "1", "2001:db8:1::99", "eth0")


@pytest.mark.parametrize(
    ("family", "gateway", "target"),
    [("-4", "1.1.1.254", "2.2.2.6"), ("-6", "2001:db8:1::fe", "2001:db8:2::6")],
)
def test_tracepath_and_traceroute_see_the_gateway_and_then_the_target(
    lab: Lab, family: str, gateway: str, target: str
) -> None:
    said = say(lab, "H1", "tracepath", family, "-n", target)
    assert re.search(rf"^ 1: +{gateway} ", said, re.M) and "hops 2 back 2" in said
    # Traceroute has sixteen probes on their way at once, each a flow of its own. Those that may go
    # further than the target reach it all the same, some of them first, and use up what a kernel
    # says by ICMP to one host: six errors, then one a second. H6 does without that limit here, so
    # that what is missing is our loss. And with -w, traceroute waits for each probe as long; else
    # it gives one up that takes three times as long as another of its hop.
    for limit in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
        lab.node("H6").sysctl(limit, 0)
    said = say(lab, "H1", "traceroute", family, "-n", "-w", "5", target)
    answered = r"(  [\d.]+ ms){3}$"
    assert re.search(rf"^ 1  {gateway}{answered}\n 2  {target}{answered}", said, re.M), said


# -- what fits into the tunnel -------------------------------------------------------------------


@pytest.mark.parametrize("target", ["1.1.1.4", "2001:db8:1::4"])
@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["to_b", "to_a"])
def test_a_stream_goes_on_when_the_underlay_carries_less(
    lab: Lab, target: str, direction: tuple[str, ...]
) -> None:
    check_tcp_over_less(lab, target, *direction)


@pytest.mark.parametrize(
    ("family", "target", "gateway"),
    [("-4", "1.1.1.4", "1.1.1.254"), ("-6", "2001:db8:1::4", "2001:db8:1::fe")],
)
def test_a_guest_is_told_what_fits(lab: Lab, family: str, target: str, gateway: str) -> None:
    with underlay_mtu(lab, 1400):
        told = lambda: say(
            lab, "H1", "ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", target
        )
        wait_until(lambda: re.search("mtu[=:]? ?1350", told()), "an ICMP message", poll=0.5)
        assert "pmtu 1350" in say(lab, "H1", "tracepath", family, "-n", target)
    lab.node("H1").run(["ip", family, "route", "flush", "cache"])
    assert counters(lab, "A")["events"]["too_big_told"] > 0


# -- floods --------------------------------------------------------------------------------------


def _policed(lab: Lab) -> tuple[int, int]:
    """What was policed at the vswitch and at the leaf."""
    return (
        counters(lab, "A")["events"]["neighbour_policed"],
        counters(lab, "leaf")["events"]["guests_policed"],
    )


def _flooded(lab: Lab, made: list[bytes]) -> float:
    """Have H1 send 10,000 frames a second, and demand that they are policed. Return the 99th
    percentile of a ping between two others, through the same leaf."""
    before = _policed(lab)
    stop = Event()
    sent = 0

    def flood() -> None:
        nonlocal sent
        began = time.monotonic()
        with _wire_tap(lab, "H1") as wire:
            while not stop.is_set():
                due = int((time.monotonic() - began) * FLOOD_RATE)
                while sent < due:
                    wire.send(made[sent % len(made)])
                    sent += 1
                time.sleep(0.001)

    flooder = Thread(target=flood)
    flooder.start()
    try:
        p99 = p99_ms(lab, "H5", "2.2.2.6", count=FLOOD_SECONDS * 100)
    finally:
        stop.set()
        flooder.join()
    at_vswitch, at_leaf = (now - then for now, then in zip(_policed(lab), before, strict=True))
    print(f"{sent} sent, {at_vswitch} and {at_leaf} policed, p99 {p99} ms")
    # The vswitch lets a thousand a second through, the leaf two hundred of these. On a busy machine
    # much of what was sent is lost on H1's link already, where neither of them counts it.
    assert at_vswitch > 3 * at_leaf
    assert at_leaf > FLOOD_SECONDS * 500
    client = lab.leaf.client()
    try:
        assert client.get("/v1/status")["gleaning"] <= 1024
    finally:
        client.close()
    return p99


@pytest.mark.parametrize("protocol", ["arp", "nd"])
def test_a_flood_of_questions_is_policed_and_others_do_not_feel_it(lab: Lab, protocol: str) -> None:
    """For addresses that nobody has."""
    own = bytes.fromhex("000001010101")
    if protocol == "arp":
        made = [frames.fast_arp(own, "1.1.1.1", f"1.1.1.{5 + n % 240}") for n in range(1000)]
    else:
        made = [
            frames.solicitation(own, "2001:db8:1::1", f"2001:db8:1::{n:x}")
            for n in range(256, 1256)
        ]
    bound = flooded_p99_ms(lab)
    assert first_good(lambda: _flooded(lab, made), lambda p99: p99 < bound) < bound
