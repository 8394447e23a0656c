"""The command line of the lab: `tools/lab up|down|exec|move|status|graph`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.tree import Tree

from vswitch.service import cli
from vswitch.service.cli import Json
from vswitch.service.client import ClientError
from vswitch.service.settings import SettingsError

from . import topology
from .lab import Lab
from .process import LabError

app = cli.make("lab", "A whole fabric in network namespaces, from one topology file.")
File = Annotated[
    Path, typer.Option("--topology", "-t", envvar="LAB_TOPOLOGY", help="The topology file (TOML).")
]


def _lab(path: Path) -> Lab:
    try:
        return Lab(topology.read(path))
    except SettingsError as error:
        cli.fail(str(error))


@app.command()
def up(file: File = topology.SEED) -> None:
    """Bring up the namespaces, links, daemons and guests that are missing."""
    lab = _lab(file)
    for line in lab.up():
        print(line)
    print(f"lab {lab.name!r} is up; its files are in {lab.directory}")


@app.command()
def down(file: File = topology.SEED) -> None:
    """Stop the daemons and remove everything of the lab."""
    _lab(file).down()


@app.command(
    "exec",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,  # Options behind the node are the command's own.
    },
)
def execute(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="A guest, a host, `leaf` or `spine`.")],
    file: File = topology.SEED,
) -> None:
    """Run a command inside a node's namespace: `lab exec H1 ping 1.1.1.4`."""
    namespace = _lab(file).node(node)
    if not namespace.exists():
        cli.fail(f"no node {node!r}; is the lab up? `lab status` lists the nodes")
    if not context.args:
        cli.fail("name a command to run")
    try:
        namespace.execute(context.args)
    except OSError as error:
        cli.fail(f"{context.args[0]}: {error.strerror}")


@app.command()
def move(guest: str, host: str, file: File = topology.SEED, as_json: Json = False) -> None:
    """Move a guest to another host while it runs; its link, sockets and caches stay as they are."""
    moved = _lab(file).move(guest, host)
    if as_json:
        cli.print_json(moved._asdict())
        return
    overlap = (moved.detached_at - moved.activated_at) * 1000
    print(
        f"{guest}: {moved.source} -> {moved.target}, sequence {moved.sequence}; active on both for"
        f" {overlap:.1f} ms; the link kept its carrier"
    )


@app.command()
def status(file: File = topology.SEED, as_json: Json = False) -> None:
    """Show every node, and where the guests are."""
    rows = _lab(file).status()
    if as_json:
        cli.print_json(rows)
    else:
        cli.print_rows("lab", rows)


@app.command()
def graph(
    file: File = topology.SEED,
    dot: Annotated[bool, typer.Option("--dot", help="Print Graphviz.")] = False,
) -> None:
    """Draw the fabric with the guests where they are now."""
    lab = _lab(file)
    rows = lab.status()
    guests = [row for row in rows if row["kind"] == "guest"]
    hosts = [row for row in rows if row["kind"] == "vswitch"]
    if dot:
        print("graph lab {")
        for host in hosts:
            print(f'  "leaf" -- "{host["node"]}" [label="VXLAN"];')
        for guest in guests:
            print(f'  "{guest["at"] or "nowhere"}" -- "{guest["node"]}" [label="tap"];')
        print("}")
        return
    segments = {guest.name: guest.segment for guest in lab.topology.guest}
    tree = Tree(f"leaf {lab.topology.underlay.leaf}")
    for host in hosts:
        branch = tree.add(f"{host['node']} {host['address']} ({host['state']})")
        for guest in guests:
            if guest["at"] == host["node"]:
                name = guest["node"]
                addresses = " ".join(filter(None, (guest["address"], guest["address6"])))
                branch.add(f"{name} {addresses} on {segments[name]}")
    nowhere = [guest["node"] for guest in guests if guest["at"] is None]
    if nowhere:
        tree.add(f"attached nowhere: {', '.join(nowhere)}")
    Console(highlight=False).print(tree)


def main() -> None:
    try:
        app()
    except (LabError, ClientError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
