"""The command line of the benchmark: `tools/bench`."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from . import chart, micro, openvswitch, report, rounds
from .kernel import Kernel
from .openvswitch import OpenVSwitch
from .report import Row
from .rig import Shape
from .rounds import Build
from .tapestry import Tapestry

BUILDS: dict[str, Build] = {
    Tapestry.name: Tapestry,
    OpenVSwitch.name: OpenVSwitch,
    Kernel.name: Kernel,
}
WIDTH = 100
"""Columns of the tables where the terminal does not say: a pipe has no width."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _chosen(names: list[str], known: list[str], what: str) -> list[str]:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"no {what} {name!r}; there are: {', '.join(known)}")
    return names or known


def _check_writable(path: Path | None) -> None:
    """Find out before the run, not after some minutes of it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"{path}: there is no such folder")


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        path.write_text(text)


def _compare(
    quick: bool,
    systems: list[str],
    shapes: list[Shape],
    json_file: Path | None,
    chart_file: Path | None,
) -> bool:
    """Run the rounds and report; return whether every system came up and gave every figure."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    began = time.monotonic()
    skipped: dict[str, str] = {}
    missing = openvswitch.missing()
    if OpenVSwitch.name in systems and missing:
        skipped[OpenVSwitch.name] = missing
    builds = [BUILDS[name] for name in systems if name not in skipped]
    plan = rounds.QUICK if quick else rounds.FULL
    outcome = rounds.run(plan, builds, shapes, lambda line: print(line, file=sys.stderr))
    table: list[Row] = report.rows(outcome)
    report.show(console, table, skipped)
    for failure in dict.fromkeys(outcome.failures):
        console.print(f"failed: {failure}", markup=False)
    console.print(f"{report.conditions(outcome)}; took {time.monotonic() - began:.0f} s")
    document = report.document(table, skipped, outcome)
    _write(json_file, json.dumps(document, indent=2) + "\n")
    _write(chart_file, chart.draw(table))
    return not outcome.failures


def main(
    quick: Annotated[bool, typer.Option(help="One short round instead of three.")] = False,
    micro_costs: Annotated[
        bool, typer.Option("--micro", help="The cost of single decisions, instead.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    chart_file: Annotated[
        Path | None, typer.Option("--chart", help="Draw a bar chart (SVG) into this file.")
    ] = None,
    system: Annotated[
        list[str] | None, typer.Option(help="Only this system; may be repeated.")
    ] = None,
    topology: Annotated[
        list[Shape] | None, typer.Option(help="Only this topology; may be repeated.")
    ] = None,
) -> None:
    """Measure Tapestry beside the kernel and Open vSwitch, round by round, and compare.

    Exit status 0 only if every system came up and gave every figure.
    """
    signal.signal(signal.SIGTERM, _stop)
    _check_writable(json_file)
    _check_writable(chart_file)
    systems = _chosen(system or [], list(BUILDS), "system")
    shapes = list(topology or Shape)
    try:
        if micro_costs:
            good = micro.show(json_file)
        else:
            good = _compare(quick, systems, shapes, json_file, chart_file)
    except KeyboardInterrupt:
        print("interrupted; everything has been taken down", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
