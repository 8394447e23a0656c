"""The command line of the demo: brings the seed fabric up, tells the story, takes it down."""

from __future__ import annotations

import json
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path as FilePath
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tools.fabric import topology
from tools.fabric.lab import Lab
from tools.fabric.process import LabError
from tools.fabric.topology import Family
from vswitch.service.client import ClientError

from .story import Story
from .watch import Path


class Miss(StrEnum):
    """What a vswitch does with a unicast frame whose destination it does not know."""

    REWRITE = "rewrite"
    DROP = "drop"
    FLOOD = "flood"


class Families(StrEnum):
    """Which address families the guests talk in."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    BOTH = "both"

    def all(self) -> list[Family]:
        return list(Family) if self is Families.BOTH else [Family(self.value)]


class Teller:
    """Prints the story."""

    def __init__(self, lab: Lab, console: Console) -> None:
        self._console = console
        self._shared = lab.topology.lab.shared_mac.hex(":")

    def chapter(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        self._console.print(f"  {text}")

    def claim(self, text: str, holds: bool) -> None:
        mark = Text("  ok    ", "green") if holds else Text("  WRONG ", "bold red")
        self._console.print(mark + Text(text))

    def path(self, path: Path, switch: str, arrived: bool) -> None:
        """Draw the way of one marked frame, a line for each place that saw it."""
        before = None
        ttl = {Family.IPV4: "TTL", Family.IPV6: "hop limit"}[path.family]
        for sighting in path.sightings:
            way = "out" if sighting.outgoing else "in "
            mac = sighting.destination_mac
            name = "the shared MAC" if mac == self._shared else mac
            changed = "" if before in (None, mac) else "  <- changed"
            over = ""
            if sighting.outer is not None:
                over = f"  in VXLAN {sighting.vni} {sighting.outer[0]} > {sighting.outer[1]}"
            self._console.print(
                f"        {sighting.place:>4} {way} to {name}, {ttl} {sighting.ttl}{over}{changed}",
                style="dim",
            )
            before = mac
        nodes = path.places(switch)
        drawing = " ---> ".join(nodes) + ("" if arrived else " ---> lost")
        self._console.print(f"        [bold]{drawing}[/bold]", highlight=False)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def tell(
    lab: Lab, miss: Miss, families: Families, json_file: FilePath | None, console: Console
) -> bool:
    """Run the whole demo; return whether every claim held."""
    began = time.monotonic()
    teller = Teller(lab, console)
    teller.chapter("The fabric")
    lab.down()
    try:
        for line in lab.up():
            teller.say(line)
        report = Story(lab, miss, families.all(), teller).run()
    finally:
        lab.down()
    took = time.monotonic() - began
    verdict = "Every claim held." if report["ok"] else "A claim did not hold."
    console.print(f"\n[bold]{verdict}[/bold] miss = {miss}, {took:.0f} s")
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    return bool(report["ok"])


def main(
    miss: Annotated[Miss, typer.Option(help="The miss policy of every segment.")] = Miss.REWRITE,
    family: Annotated[Families, typer.Option(help="What the guests talk.")] = Families.BOTH,
    json_file: Annotated[
        FilePath | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
) -> None:
    """Bring up the seed fabric, move a guest in the middle of its traffic, and say what happened.

    Exit status 0 only if every claim held.
    """
    signal.signal(signal.SIGTERM, _stop)
    console = Console(highlight=False, soft_wrap=True)
    lab = Lab(topology.read(topology.SEED).with_miss(miss))
    try:
        held = tell(lab, miss, family, json_file, console)
    except (LabError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        print("interrupted; everything has been taken down", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    typer.run(main)
