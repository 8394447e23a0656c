"""What came out: medians, ratios, the table and the JSON document."""

from __future__ import annotations

import os
import platform
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from .rounds import Outcome


class Measure(NamedTuple):
    """A column of the report."""

    key: str
    title: str
    unit: str
    digits: int


MEASURES = (
    Measure("tcp1_gbps", "TCP, 1 stream", "Gb/s", 2),
    Measure("tcp4_gbps", "TCP, 4 streams", "Gb/s", 2),
    Measure("bidir_gbps", "TCP, both ways", "Gb/s", 2),
    Measure("udp18_kpps", "UDP, 18 bytes", "kpps", 1),
    Measure("udp18_arrived_kpps", "  arrived in the guest", "kpps", 1),
    Measure("udp1400_kpps", "UDP, 1,400 bytes", "kpps", 1),
    Measure("udp1400_arrived_kpps", "  arrived in the guest", "kpps", 1),
    Measure("rtt_p50_us", "ping, p50", "us", 0),
    Measure("rtt_p99_us", "ping, p99", "us", 0),
    Measure("rtt_loaded_p99_us", "ping under load, p99", "us", 0),
    Measure("cpu_s_per_gb", "processor per gigabyte", "s", 2),
    Measure("peak_memory_mb", "peak memory", "MB", 0),
)
OURS, PEERS = "tapestry", ("ovs", "kernel")
Row = dict[str, Any]


def rows(outcome: Outcome) -> list[Row]:
    """Return a row for each system and topology: the median of its rounds, None where no round
    has the figure."""
    made = []
    for (system, shape), rounds in outcome.rounds.items():
        row: Row = {"system": system, "topology": str(shape)}
        for measure in MEASURES:
            values = [figures[measure.key] for figures in rounds if measure.key in figures]
            row[measure.key] = round(median(values), 4) if values else None
        row["rounds"] = len(rounds)
        made.append(row)
    return made


def ratios(table: list[Row]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return ours divided by each peer's, by topology, peer and measure."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    by_key = {(row["topology"], row["system"]): row for row in table}
    for topology in dict.fromkeys(row["topology"] for row in table):
        ours = by_key.get((topology, OURS))
        for peer in PEERS:
            theirs = by_key.get((topology, peer))
            if ours is None or theirs is None:
                continue
            found.setdefault(topology, {})[peer] = {
                measure.key: ratio(ours[measure.key], theirs[measure.key]) for measure in MEASURES
            }
    return found


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return a ratio, or None where one side is missing or there is nothing to divide by."""
    return round(ours / theirs, 3) if ours is not None and theirs else None


def document(table: list[Row], skipped: dict[str, str], outcome: Outcome) -> dict[str, Any]:
    """Return what `--json` writes."""
    return {
        "rows": table,
        "ratios": ratios(table),
        "skipped": skipped,
        "failures": outcome.failures,
        "machine": {
            "processors": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "busy_with_others": [round(busy, 2) for busy in outcome.others],
        },
    }


def conditions(outcome: Outcome) -> str:
    """Say under which conditions the figures were taken."""
    rounds = "1 round" if outcome.complete == 1 else f"{outcome.complete} rounds"
    said = f"medians of {rounds}; {os.cpu_count()} processors, Linux {platform.release()}"
    if not outcome.others:
        return said
    usual, worst = median(outcome.others), max(outcome.others)
    return f"{said}; busy with other work: {usual:.1f} of them, at most {worst:.1f}"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def show(console: Console, table: list[Row], skipped: dict[str, str]) -> None:
    """Print a table for each topology: measures down, systems and ratios across."""
    by_ratio = ratios(table)
    for topology in dict.fromkeys(row["topology"] for row in table):
        here = {row["system"]: row for row in table if row["topology"] == topology}
        peers = [peer for peer in PEERS if peer in by_ratio.get(topology, {})]
        grid = Table(title=topology, title_justify="left", title_style="bold")
        grid.add_column("median")
        grid.add_column("unit")
        for system in here:
            grid.add_column(system, justify="right")
        for peer in peers:
            grid.add_column(f"{OURS}/{peer}", justify="right", style="cyan")
        for measure in MEASURES:
            values = [_cell(row[measure.key], measure.digits) for row in here.values()]
            against = [_cell(by_ratio[topology][peer][measure.key], 2) for peer in peers]
            grid.add_row(measure.title, measure.unit, *values, *against)
        console.print(grid)
    for system, reason in skipped.items():
        console.print(f"{system}: skipped: {reason}")
