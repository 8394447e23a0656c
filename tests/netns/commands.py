"""What a person would type in a guest, and what they would read off its output."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from tools.fabric.lab import UNDERLAY_LINK, Lab

T = TypeVar("T")
FLOWING_MBITS = 20.0
"""What a TCP stream moves at least, in Mb/s. A quiet machine does more than a thousand, and where
large packets do not get through it is next to none."""


class Ping(NamedTuple):
    """What `ping` said."""

    sent: int
    received: int
    ttl: int | None
    text: str


def ping(lab: Lab, guest: str, address: str, *options: str, count: int = 3) -> Ping:
    """Ping from a guest, five times a second."""
    done = lab.node(guest).run(
        ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", "2", *options, address]
    )
    numbers = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
    assert numbers is not None, done.stdout + done.stderr
    ttl = re.search(r"ttl=(\d+)", done.stdout)
    return Ping(
        int(numbers[1]), int(numbers[2]), int(ttl[1]) if ttl else None, done.stdout + done.stderr
    )


def p99_ms(lab: Lab, guest: str, address: str, count: int) -> float:
    """Ping a hundred times a second; return the 99th percentile of the round trips.

    One that was lost has taken for ever.
    """
    said = lab.node(guest).run(["ping", "-n", "-c", str(count), "-i", "0.01", address]).stdout
    times = sorted(float(found) for found in re.findall(r"time=([\d.]+)", said))
    times += [math.inf] * (count - len(times))
    return times[int(count * 0.99)]


def flooded_p99_ms(lab: Lab) -> float:
    """Return what the 99th percentile may be while another guest floods.

    The aim is 5 ms. With real-time priority that is what is measured, and the bound leaves room for
    a machine that stalls as a whole. Without it, a flood that keeps both processors busy has the
    daemons wait for one.
    """
    process = lab.leaf.process()
    assert process is not None
    return 20.0 if os.sched_getscheduler(process.pid) == os.SCHED_RR else 100.0


class ArpAnswers(NamedTuple):
    """What `arping` said: the MACs that answered, in order, and its exit status."""

    macs: list[str]
    status: int
    text: str


def arping(lab: Lab, guest: str, address: str, *options: str, count: int = 1) -> ArpAnswers:
    """Ask by ARP from a guest."""
    done = lab.node(guest).run(
        ["arping", "-c", str(count), "-w", "2", "-I", "eth0", *options, address]
    )
    macs = re.findall(r"\[([0-9A-F:]{17})\]", done.stdout)
    return ArpAnswers([mac.lower() for mac in macs], done.returncode, done.stdout + done.stderr)


@contextmanager
def iperf_server(lab: Lab, node: str) -> Iterator[None]:
    """Run an iperf3 server for one client."""
    server = lab.node(node).popen(
        ["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert server.stdout is not None
    try:
        # It prints a rule, a line, and a rule before it listens.
        assert any(b"listening" in line for line in iter(server.stdout.readline, b""))
        yield
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def iperf(lab: Lab, client: str, server: str, address: str, *options: str) -> dict[str, Any]:
    """Run iperf3 from one node to another for two seconds; return its report."""
    with iperf_server(lab, server):
        done = lab.node(client).run(
            ["iperf3", "-J", "-t", "2", "--connect-timeout", "3000", "-c", address, *options]
        )
    report: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in report, report["error"]
    return report["end"]  # type: ignore[no-any-return]


def check_tcp(lab: Lab, client: str, server: str, address: str, *options: str) -> None:
    """Demand that a TCP stream flows."""

    def mbits() -> float:
        end = iperf(lab, client, server, address, *options)
        return float(end["sum_received"]["bits_per_second"]) / 1e6

    assert first_good(mbits, lambda rate: rate > FLOWING_MBITS) > FLOWING_MBITS


@contextmanager
def underlay_mtu(lab: Lab, mtu: int) -> Iterator[None]:
    """Lower the underlay's MTU at every tunnel end."""
    nodes = [lab.node(name) for name in ("A", "B", "leaf")]
    for node in nodes:
        node.link_set(UNDERLAY_LINK, mtu=mtu)
    try:
        yield
    finally:
        for node in nodes:
            node.link_set(UNDERLAY_LINK, mtu=1500)


def check_tcp_over_less(lab: Lab, address: str, *options: str) -> None:
    """Demand that a stream from H1 to H4 goes on when the underlay carries less."""

    def mbits() -> float:
        return _slowest_second_over_less(lab, address, *options)

    assert first_good(mbits, lambda rate: rate > FLOWING_MBITS) > FLOWING_MBITS


def _slowest_second_over_less(lab: Lab, address: str, *options: str) -> float:
    with iperf_server(lab, "H4"):
        client = lab.node("H1").popen(
            ["iperf3", "-c", address, "-t", "6", "-i", "1", "-f", "m", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(2.0)  # The outside world: the stream has to be running.
        with underlay_mtu(lab, 1400):
            said, _ = client.communicate(timeout=30)
    rates = [float(rate) for rate in re.findall(r"sec .*?([\d.]+) Mbits/sec", said)]
    # The last intervals lie wholly behind the change; behind them stand the two sums.
    return min(rates[3:6])


def wait_until(
    condition: Callable[[], object], what: str, timeout: float = 20.0, poll: float = 0.02
) -> None:
    """Wait for the outside world, with a bound; a failure names what did not come.

    The bound is wide, since only a failure takes so long, and a busy machine may stall for seconds.
    """
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {timeout} s"
        time.sleep(poll)


def first_good(attempt: Callable[[], T], is_good: Callable[[T], bool], tries: int = 3) -> T:
    """Return the first good result of a few attempts; where none is good, the last.

    This is for measurements alone: a busy machine makes them worse than they are, and nothing makes
    them better. What is right or wrong is for `attempt` to assert, so that it is never tried again.
    """
    for _ in range(tries):
        result = attempt()
        if is_good(result):
            break
    return result


def counters(lab: Lab, daemon: str) -> dict[str, dict[str, int]]:
    """Return a daemon's counters."""
    process = lab.leaf if daemon == "leaf" else lab.vswitches[daemon]
    client = process.client()
    try:
        answer: dict[str, dict[str, int]] = client.get("/v1/counters")
    finally:
        client.close()
    return answer
