"""What a person's own tools say on a good network, of both families: discovery, and path MTU."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from tests import frames
from tools.fabric.lab import UNDERLAY_LINK, Lab

from .commands import counters, flooded_p99_ms, iperf_server, p99_ms, wait_until
from .test_faults import _wire_tap

SHARED = "00:00:DE:AD:BE:EF"
GATEWAY = "fe80::200:deff:fead:beef"
FLOOD_RATE, FLOOD_SECONDS = 10_000, 3.0


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


@contextmanager
def _underlay_mtu(lab: Lab, mtu: int) -> Iterator[None]:
    """Lower the underlay's MTU at every tunnel end."""
    nodes = [lab.node(name) for name in ("A", "B", "leaf")]
    for node in nodes:
        node.link_set(UNDERLAY_LINK, mtu=mtu)
    try:
        yield
    finally:
        for node in nodes:
            node.link_set(UNDERLAY_LINK, mtu=1500)


@pytest.mark.parametrize("target", ["1.1.1.4", "2001:db8:1::4"])
@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["to_b", "to_a"])
def test_a_stream_goes_on_when_the_underlay_carries_less(
    lab: Lab, target: str, direction: tuple[str, ...]
) -> None:
    with iperf_server(lab, "H4"):
        client = lab.node("H1").popen(
            ["iperf3", "-c", target, "-t", "6", "-i", "1", "-f", "m", *direction],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(2.0)  # The outside world: the stream has to be running.
        with _underlay_mtu(lab, 1400):
            said, _ = client.communicate(timeout=30)
    rates = [float(rate) for rate in re.findall(r"sec .*?([\d.]+) Mbits/sec", said)]
    # The last intervals lie wholly behind the change; behind them stand the two sums.
    assert min(rates[3:6]) > 50, said


@pytest.mark.parametrize(
    ("family", "target", "gateway"),
    [("-4", "1.1.1.4", "1.1.1.254"), ("-6", "2001:db8:1::4", "2001:db8:1::fe")],
)
def test_a_guest_is_told_what_fits(lab: Lab, family: str, target: str, gateway: str) -> None:
    with _underlay_mtu(lab, 1400):
        told = lambda: say(
            lab, "H1", "ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", target
        )
        wait_until(lambda: re.search("mtu[=:]? ?1350", told()), "an ICMP message", 15, poll=0.5)
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


@pytest.mark.parametrize("protocol", ["arp", "nd"])
def test_a_flood_of_questions_is_policed_and_others_do_not_feel_it(lab: Lab, protocol: str) -> None:
    """10,000 a second for addresses that nobody has; two others talk through the same leaf."""
    own = bytes.fromhex("000001010101")
    if protocol == "arp":
        made = [frames.fast_arp(own, "1.1.1.1", f"1.1.1.{5 + n % 240}") for n in range(1000)]
    else:
        made = [
            frames.solicitation(own, "2001:db8:1::1", f"2001:db8:1::{n:x}")
            for n in range(256, 1256)
        ]
    before = _policed(lab)
    stop = Event()
    sent = [0]

    def flood() -> None:
        began = time.monotonic()
        with _wire_tap(lab, "H1") as wire:
            while not stop.is_set():
                due = int((time.monotonic() - began) * FLOOD_RATE)
                while sent[0] < due:
                    wire.send(made[sent[0] % len(made)])
                    sent[0] += 1
                time.sleep(0.001)

    flooder = Thread(target=flood)
    flooder.start()
    try:
        answer = lab.node("H5").run(
            ["ping", "-n", "-c", f"{FLOOD_SECONDS * 100:.0f}", "-i", "0.01", "2.2.2.6"]
        )
    finally:
        stop.set()
        flooder.join()
    p99 = p99_ms(answer.stdout, at_least=int(FLOOD_SECONDS * 98))
    print(f"{protocol}: {sent[0]} sent, p99 {p99} ms")
    assert p99 < flooded_p99_ms(lab)
    at_vswitch, at_leaf = (now - then for now, then in zip(_policed(lab), before, strict=True))
    # The vswitch lets a thousand a second through, the leaf two hundred of these.
    assert at_vswitch > sent[0] / 2
    assert at_leaf > FLOOD_SECONDS * 500
    client = lab.leaf.client()
    try:
        assert client.get("/v1/status")["gleaning"] <= 1024
    finally:
        client.close()
