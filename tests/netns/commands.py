"""What a person would type in a guest, and what they would read off its output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tools.fabric.lab import Lab


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


def p99_ms(text: str, at_least: int) -> float:
    """Return the 99th percentile of the round trips that `ping` printed, of `at_least` so many."""
    times = sorted(float(found) for found in re.findall(r"time=([\d.]+)", text))
    assert len(times) >= at_least, text[-300:]
    return times[int(len(times) * 0.99)]


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


def counters(lab: Lab, daemon: str) -> dict[str, dict[str, int]]:
    """Return a daemon's counters."""
    process = lab.leaf if daemon == "leaf" else lab.vswitches[daemon]
    client = process.client()
    try:
        answer: dict[str, dict[str, int]] = client.get("/v1/counters")
    finally:
        client.close()
    return answer
