"""`--micro`: what single decisions, look-ups and transformations cost.

Times are the least processor time of several batches, since only the least is free of other work on
the machine; cases take turns, so that what there is of it hits all alike. Instructions are counted
by perf in a process of its own, twice with different numbers of batches: the difference is free of
starting Python and building the tables. Many virtual machines do not let perf count; then there is
a dash.
"""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from .cases import CASES, Batch

REPEATS = 30
FEW, MANY = 2, 22
"""Batches of the two counted runs: twenty batches are what is counted."""
TIMEOUT = 60.0
EVENT = "instructions:u"


def instructions(text: str) -> int | None:
    """Return the count from `perf stat -x,`; None where it does not count."""
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith("instructions") and fields[0].isdigit():
            return int(fields[0])
    return None


def _perf(*command: str) -> int | None:
    done = subprocess.run(
        ["perf", "stat", "-x,", "-e", EVENT, *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return instructions(done.stderr) if done.returncode == 0 else None


def _counted(name: str, operations: int) -> int | None:
    """Return the instructions of one operation."""
    module = [sys.executable, "-m", "tools.measure.cases", name]
    few, many = (_perf(*module, str(count)) for count in (FEW, MANY))
    if few is None or many is None:
        return None
    return round((many - few) / (MANY - FEW) / operations)


def _times(batches: dict[str, Batch]) -> dict[str, float]:
    """Return the nanoseconds of one operation of each case."""
    least = dict.fromkeys(batches, float("inf"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(REPEATS + 1):
            for name, batch in batches.items():
                start = process_time()
                batch.run()
                # What the first batch builds at first use is in no later one.
                least[name] = min(least[name], process_time() - start)
    finally:
        gc.enable()
    return {name: least[name] / batch.operations * 1e9 for name, batch in batches.items()}


def measure() -> list[dict[str, Any]]:
    """Return a row for each case."""
    batches: dict[str, Batch] = {}
    notes: dict[str, str] = {}
    for name, case in CASES.items():
        try:
            batches[name] = case.prepare()
        except Exception as error:
            # One case that does not fit the code under test leaves the others standing.
            notes[name] = f"failed: {error}"
    times = _times(batches)
    counts = shutil.which("perf") is not None and _perf("true") is not None
    return [
        {
            "case": name,
            "title": case.title,
            "ns": round(times[name], 1) if name in times else None,
            "instructions": (
                _counted(name, batches[name].operations) if counts and name in batches else None
            ),
            "note": notes.get(name),
        }
        for name, case in CASES.items()
    ]


def show(json_file: Path | None) -> bool:
    """Print the table; return whether nothing failed."""
    rows = measure()
    table = Table(title="cost of one", title_justify="left", title_style="bold")
    table.add_column("what")
    for column in ("time", "instructions"):
        table.add_column(column, justify="right")
    for row in rows:
        time = f"{row['ns'] / 1000:,.3f} us" if row["ns"] is not None else row["note"]
        count = "-" if row["instructions"] is None else f"{row['instructions']:,}"
        table.add_row(row["title"], time, count)
    Console(highlight=False).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    return not any((row["note"] or "").startswith("failed") for row in rows)
