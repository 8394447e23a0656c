"""The command line: `leaf run|check|show|trace|reload`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vswitch.service import cli
from vswitch.service.cli import Json

app = cli.make("leaf", "The userspace top-of-rack router.")

ConfigFile = Annotated[Path, typer.Argument(help="The configuration file (TOML).")]
Socket = Annotated[
    Path, typer.Option("--socket", envvar="LEAF_SOCKET", help="The daemon's API socket.")
]
DEFAULT_SOCKET = Path("/run/tapestry/leaf.sock")


@app.command()
def run(config: ConfigFile = Path("/etc/tapestry/leaf.toml")) -> None:
    """Run the daemon in the foreground."""
    from vswitch.phy.sockets import TunnelError
    from vswitch.phy.udp import UdpTunnel, open_tunnel
    from vswitch.service import daemon as shell
    from vswitch.service import log

    from . import api
    from .config import Config
    from .daemon import Daemon

    def tunnel(loaded: Config) -> UdpTunnel:
        return open_tunnel(loaded.leaf, log.get().warning)

    cli.run_daemon(lambda: shell.operate(config, Config, tunnel, Daemon, api.make), TunnelError)


@app.command()
def check(config: ConfigFile, as_json: Json = False) -> None:
    """Check a configuration file without running anything."""
    from .config import Config

    def said(loaded: Config) -> str:
        return (
            f"{len(loaded.vrf)} VRFs, {len(loaded.segment)} segments,"
            f" {len(loaded.vswitch)} vswitches"
        )

    cli.check(config, Config, said, as_json)


class Table(StrEnum):
    """What `show` can print."""

    STATUS = "status"
    BINDINGS = "bindings"
    LEASES = "leases"
    SEGMENTS = "segments"
    ROUTES = "routes"
    COUNTERS = "counters"


@app.command()
def show(
    table: Annotated[Table, typer.Argument(help="What to show.")] = Table.STATUS,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Show the state of the running daemon."""
    cli.show("leaf", table, socket, as_json)


@app.command()
def trace(
    vtep: Annotated[str, typer.Option(help="The VTEP that the packet comes from.")],
    vni: Annotated[int, typer.Option(help="Its VNI.")],
    frame: Annotated[str | None, typer.Option("--hex", help="The whole frame in hex.")] = None,
    src: Annotated[str | None, typer.Option(help="Source MAC.")] = None,
    dst: Annotated[str | None, typer.Option(help="Destination MAC.")] = None,
    src_ip: Annotated[str | None, typer.Option(help="Source IP address.")] = None,
    dst_ip: Annotated[str | None, typer.Option(help="Destination IP address.")] = None,
    ttl: Annotated[int, typer.Option(help="TTL.")] = 64,
    arp: Annotated[bool, typer.Option("--arp", help="An ARP request for --dst-ip.")] = False,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Ask the running daemon what it would do with a packet, and why. Nothing is sent."""
    question = {
        "vtep": vtep,
        "vni": vni,
        "hex": frame,
        "src": src,
        "dst": dst,
        "src-ip": src_ip,
        "dst-ip": dst_ip,
        "ttl": ttl,
        "arp": arp,
    }
    cli.trace(socket, question, as_json)


@app.command()
def reload(socket: Socket = DEFAULT_SOCKET, as_json: Json = False) -> None:
    """Read the configuration again and apply the difference (as SIGHUP does)."""
    cli.reload(socket, as_json)


def main() -> None:
    """Entry point of the `leaf` command."""
    app()


if __name__ == "__main__":
    main()
