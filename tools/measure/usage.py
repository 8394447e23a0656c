"""What a system costs: processor time and memory, as /proc has them.

Processor time is that of the whole machine, not of the daemons. Much of the work of every system,
and all of the kernel's, is done in soft interrupts that are charged to whoever happens to run, so
only the sum compares. The load generators are part of it; they are the same for all. So is other
work on the machine, which is one more reason for medians.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_IDLE = {3, 4, 7}
"""Columns of /proc/stat in which nothing of ours ran: idle, iowait, and steal."""
_COUNTED = 8
"""The columns behind these, guest times, are contained in the first two."""


def busy_ticks(stat: str) -> int:
    """Return the clock ticks for which all processors together were busy, from /proc/stat."""
    columns = stat.split("\n", 1)[0].split()[1:]
    return sum(int(ticks) for at, ticks in enumerate(columns[:_COUNTED]) if at not in _IDLE)


def busy_seconds() -> float:
    """Return for how long all processors together have been busy since the machine started."""
    return busy_ticks(Path("/proc/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def others(seconds: float = 0.5) -> float:
    """Return how many processors are busy while nothing of ours runs."""
    before, began = busy_seconds(), time.monotonic()
    time.sleep(seconds)
    return (busy_seconds() - before) / (time.monotonic() - began)


def high_water_kb(status: str) -> int:
    """Return the peak resident memory from /proc/PID/status."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


def peak_memory_mb(pids: list[int]) -> float:
    """Return the sum of the processes' peak resident memory. One that has died counts nothing."""
    total = 0
    for pid in pids:
        try:
            total += high_water_kb(Path(f"/proc/{pid}/status").read_text())
        except OSError:
            continue
    return total / 1024
