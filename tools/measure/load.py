"""The load: iperf3 and ping between the two guests, and reading what they print.

Every figure is what *arrived*. For TCP that is the receiver's rate; for UDP the sender is let off
the leash (`-b 0`) and the receiver's packets are counted, without those that it found missing. What
has *arrived* in the receiving guest is told beside it: with a fast enough switch it is the receiver
that drops, because its socket's buffer is full, and then the figure says nothing about the switch.
Percentiles of round trips are by nearest rank, from every `time=` that ping printed: a lost echo is
not in them, so the share of answers is looked at, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, NamedTuple

from tools.fabric.namespace import Namespace

from .rig import ADDRESSES, CLIENT, SERVER, RigError, System
from .usage import busy_seconds, peak_memory_mb

SMALL, LARGE = 18, 1400
"""UDP payloads: the smallest Ethernet frame there is, and nearly a guest's MTU."""
GRACE = 8.0
"""Seconds beyond its duration after which a run is given up; iperf3 has a control connection of its
own through the same switches, which suffers from what it does to them."""
INTERVAL = 0.01
"""Seconds between two pings."""
MIN_ANSWERED = 0.5
"""Share of answers below which percentiles of round trips would say nothing."""
SAMPLES_IDLE = 3.0
"""Seconds of idle pings in a full round: 300 of them, so that the 99th percentile has three
beyond it."""


# -- reading -------------------------------------------------------------------------------------


class Udp(NamedTuple):
    """What the receiver of a UDP run says."""

    received: int
    seconds: float

    @property
    def kpps(self) -> float:
        return self.received / self.seconds / 1000


def gbps(report: dict[str, Any], direction: str = "sum_received") -> float:
    """Return what a TCP run delivered, from iperf3's report."""
    return float(report["end"][direction]["bits_per_second"]) / 1e9


def delivered_gigabytes(report: dict[str, Any]) -> float:
    """Return how much a TCP run delivered."""
    return float(report["end"]["sum_received"]["bytes"]) / 1e9


def delivered(report: dict[str, Any]) -> Udp:
    """Return what a UDP run delivered, from iperf3's report: the receiver's count of packets goes
    by the highest number it saw, so what it missed has to be taken off."""
    total = report["end"]["sum_received" if "sum_received" in report["end"] else "sum"]
    return Udp(int(total["packets"]) - int(total["lost_packets"]), float(total["seconds"]))


def arrived(snmp: str) -> int:
    """Return how many UDP datagrams have reached the sockets of a namespace, whether there was room
    for them or not, from its /proc/net/snmp."""
    names, values = (line.split()[1:] for line in snmp.splitlines() if line.startswith("Udp:"))
    counts = dict(zip(names, map(int, values), strict=True))
    return counts["InDatagrams"] + counts["RcvbufErrors"]


def round_trips_us(text: str) -> list[float]:
    """Return every round trip that ping printed, in microseconds."""
    return [float(found) * 1000 for found in re.findall(r"time=([\d.]+) ms", text)]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, ceil(percent / 100 * len(values)) - 1)]


# -- running -------------------------------------------------------------------------------------


@contextmanager
def _server(node: Namespace) -> Iterator[None]:
    """Run an iperf3 server for one client. One for all would stay stuck in a run that broke."""
    command = ["iperf3", "-s", "-1", "--forceflush"]
    server = node.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert server.stdout is not None
    try:
        # It prints a rule, a line, and a rule before it listens.
        if not any(b"listening" in line for line in iter(server.stdout.readline, b"")):
            raise RigError("the iperf3 server did not start")
        yield
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def _command(seconds: float, *options: str) -> list[str]:
    timed = ["-J", "-t", f"{seconds:g}", "--connect-timeout", "3000"]
    return ["iperf3", "-c", ADDRESSES[SERVER], *timed, *options]


def parse_report(text: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        raise RigError(f"iperf3 printed no report: {text[:200]!r}") from None
    if "error" in report:
        raise RigError(f"iperf3: {report['error']}")
    return report


def iperf(system: System, seconds: float, *options: str) -> dict[str, Any]:
    """Run iperf3 from guest to guest; return its report. Raises RigError."""
    with _server(system.node(SERVER)):
        try:
            done = system.node(CLIENT).run(_command(seconds, *options), timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            raise RigError(f"iperf3 {' '.join(options)} did not end in time") from None
    return parse_report(done.stdout)


def ping(system: System, seconds: float) -> list[float]:
    """Ping from guest to guest; return the round trips in microseconds. Raises RigError."""
    count = round(seconds / INTERVAL)
    timing = ["-i", f"{INTERVAL}", "-c", f"{count}", "-w", f"{ceil(seconds) + 1}"]
    command = ["ping", "-n", *timing, ADDRESSES[SERVER]]
    done = system.node(CLIENT).run(command, timeout=seconds + GRACE)
    times = round_trips_us(done.stdout)
    if len(times) < count * MIN_ANSWERED:
        raise RigError(f"ping: {len(times)} of {count} answered")
    return times


# -- the measures --------------------------------------------------------------------------------


class Measured(NamedTuple):
    """One round of one system: its figures, and why the missing ones are missing."""

    figures: dict[str, float]
    failures: list[str]


def _tcp1(system: System, seconds: float) -> dict[str, float]:
    before = busy_seconds()
    report = iperf(system, seconds)
    busy = busy_seconds() - before
    return {"tcp1_gbps": gbps(report), "cpu_s_per_gb": busy / delivered_gigabytes(report)}


def _tcp4(system: System, seconds: float) -> dict[str, float]:
    return {"tcp4_gbps": gbps(iperf(system, seconds, "-P", "4"))}


def _bidir(system: System, seconds: float) -> dict[str, float]:
    report = iperf(system, seconds, "--bidir")
    return {"bidir_gbps": gbps(report) + gbps(report, "sum_received_bidir_reverse")}


def _udp(system: System, seconds: float) -> dict[str, float]:
    figures = {}
    for payload in (SMALL, LARGE):
        before = _arrived(system)
        got = delivered(iperf(system, seconds, "-u", "-b", "0", "-l", f"{payload}"))
        figures[f"udp{payload}_kpps"] = got.kpps
        figures[f"udp{payload}_arrived_kpps"] = (_arrived(system) - before) / got.seconds / 1000
    return figures


def _arrived(system: System) -> int:
    return arrived(system.node(SERVER).run(["cat", "/proc/net/snmp"]).stdout)


def _idle(system: System, seconds: float) -> dict[str, float]:
    times = ping(system, min(SAMPLES_IDLE, seconds * 1.5))
    return {"rtt_p50_us": percentile(times, 50), "rtt_p99_us": percentile(times, 99)}


def _loaded(system: System, seconds: float) -> dict[str, float]:
    """Ping in the middle of a TCP run that is a second longer."""
    with _server(system.node(SERVER)):
        stream = system.node(CLIENT).popen(
            _command(seconds + 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(0.5)  # Its handshake and slow start are over.
            times = ping(system, seconds)
            if stream.poll() not in (None, 0):
                raise RigError("the TCP stream beside the pings broke")
        finally:
            stream.kill()
            stream.wait()
    return {"rtt_loaded_p99_us": percentile(times, 99)}


# Round trips come first, since a queue that a UDP flood has filled takes a while to drain.
MEASURES = (_idle, _tcp1, _tcp4, _bidir, _loaded, _udp)


def measure(system: System, seconds: float) -> Measured:
    """Take every figure of a system that is up. What fails is noted, and the rest goes on."""
    figures: dict[str, float] = {}
    failures = []
    for take in MEASURES:
        try:
            figures |= take(system, seconds)
        except (
            RigError,
            subprocess.TimeoutExpired,
            LookupError,
            ValueError,
            ArithmeticError,
        ) as error:
            failures.append(f"{take.__name__.strip('_')}: {error}")
    figures["peak_memory_mb"] = peak_memory_mb(system.pids())
    return Measured(figures, failures)
