"""What the benchmark reads off iperf3, ping, /proc and perf."""

from __future__ import annotations

import pytest

from tools.measure import load, micro, usage
from tools.measure.rig import RigError

PING = """PING 1.1.1.4 (1.1.1.4) 56(84) bytes of data.
64 bytes from 1.1.1.4: icmp_seq=1 ttl=63 time=1.23 ms
64 bytes from 1.1.1.4: icmp_seq=2 ttl=63 time=0.087 ms
From 1.1.1.1 icmp_seq=3 Destination Host Unreachable
64 bytes from 1.1.1.4: icmp_seq=4 ttl=63 time=12 ms

--- 1.1.1.4 ping statistics ---
4 packets transmitted, 3 received, 25% packet loss, time 3004ms
rtt min/avg/max/mdev = 0.087/4.439/12.000/5.3 ms
"""


def test_every_round_trip_is_read_and_nothing_else() -> None:
    assert load.round_trips_us(PING) == pytest.approx([1230, 87, 12000])


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        pytest.param(50, 50, id="median"),
        pytest.param(99, 99, id="p99"),
        pytest.param(100, 100, id="largest"),
        pytest.param(0, 1, id="smallest"),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert load.percentile(list(range(100, 0, -1)), percent) == expected


def test_a_percentile_of_few_values_is_the_largest() -> None:
    assert load.percentile([3.0, 1.0], 99) == 3.0
    with pytest.raises(ValueError, match="no values"):
        load.percentile([], 50)


def test_what_tcp_delivered() -> None:
    report = {"end": {"sum_received": {"bits_per_second": 2.5e9, "bytes": 3_000_000_000}}}
    assert load.gbps(report) == 2.5
    assert load.delivered_gigabytes(report) == 3.0


def test_what_udp_delivered_leaves_out_what_was_lost() -> None:
    total = {"packets": 50_000, "lost_packets": 10_000, "seconds": 2.0}
    sender = {"packets": 90_000, "lost_packets": 0, "seconds": 2.0}
    report = {"end": {"sum": sender, "sum_received": total}}
    assert load.delivered(report).kpps == 20.0


def test_what_arrived_counts_what_found_no_room() -> None:
    snmp = (
        "Ip: Forwarding InReceives\nIp: 1 9\n"
        "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 100 1 7 3 5\n"
        "UdpLite: InDatagrams\nUdpLite: 0\n"
    )
    assert load.arrived(snmp) == 105


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"error": "unable to connect"}', "unable to connect", id="refused"),
        pytest.param("iperf3: interrupt", "no report", id="not_json"),
        pytest.param("", "no report", id="nothing"),
    ],
)
def test_a_report_that_is_none_is_an_error(text: str, message: str) -> None:
    with pytest.raises(RigError, match=message):
        load.parse_report(text)


def test_busy_is_all_but_idle_waiting_stolen_and_what_is_counted_twice() -> None:
    #                  user nice system idle iowait irq softirq steal guest guest_nice
    stat = "cpu  100 20 30 4000 500 6 7 800 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert usage.busy_ticks(stat) == 100 + 20 + 30 + 6 + 7


def test_peak_memory_is_the_high_water_mark() -> None:
    assert usage.high_water_kb("VmPeak:\t  900 kB\nVmHWM:\t  1234 kB\nVmRSS:\t 5 kB\n") == 1234
    assert usage.high_water_kb("Name:\tkthreadd\n") == 0, "a kernel thread has none"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("3110215,,instructions:u,1500231,100.00,,\n", 3110215, id="counted"),
        pytest.param("<not supported>,,instructions:u,0,100.00,,\n", None, id="not_supported"),
        pytest.param("<not counted>,,instructions:u,0,0.00,,\n", None, id="not_counted"),
        pytest.param("Error:\nAccess to performance monitoring is limited.\n", None, id="denied"),
    ],
)
def test_instructions_are_read_where_perf_counts(text: str, expected: int | None) -> None:
    assert micro.instructions(text) == expected
