"""The command line: `vswitch run|check|show|trace|attach|stage|activate|detach|reload`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .service import cli
from .service.cli import Json

app = cli.make("vswitch", "The software switch of a physical host.")

ConfigFile = Annotated[Path, typer.Argument(help="The configuration file (TOML).")]
Socket = Annotated[
    Path,
    typer.Option("--socket", envvar="VSWITCH_SOCKET", help="The daemon's API socket."),
]
DEFAULT_SOCKET = Path("/run/tapestry/vswitch.sock")
Guest = Annotated[str, typer.Argument(help="The guest's name.")]
Sequence = Annotated[
    int | None,
    typer.Option(help="Counted up by whoever orchestrates moves; older news changes nothing."),
]


@app.command()
def run(config: ConfigFile = Path("/etc/tapestry/vswitch.toml")) -> None:
    """Run the daemon in the foreground."""
    from . import api
    from .config import Config
    from .daemon import Daemon
    from .phy.sockets import TunnelError
    from .phy.udp import UdpTunnel, open_tunnel
    from .service import daemon as shell
    from .service import log

    def tunnel(loaded: Config) -> UdpTunnel:
        return open_tunnel(loaded.vswitch, log.get().warning)

    cli.run_daemon(lambda: shell.operate(config, Config, tunnel, Daemon, api.make), TunnelError)


@app.command()
def check(config: ConfigFile, as_json: Json = False) -> None:
    """Check a configuration file without running anything."""
    from .config import Config, doubts

    def said(loaded: Config) -> str:
        return f"{len(loaded.segment)} segments, {len(loaded.guest)} guests"

    cli.check(config, Config, said, as_json, doubts)


class Table(StrEnum):
    """What `show` can print."""

    STATUS = "status"
    GUESTS = "guests"
    SEGMENTS = "segments"
    MACS = "macs"
    COUNTERS = "counters"


@app.command()
def show(
    table: Annotated[Table, typer.Argument(help="What to show.")] = Table.STATUS,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Show the state of the running daemon."""
    cli.show("vswitch", table, socket, as_json)


@app.command()
def trace(
    guest: Annotated[
        str | None, typer.Argument(help="The guest that sends the frame; none: the uplink.")
    ] = None,
    frame: Annotated[str | None, typer.Option("--hex", help="The whole frame in hex.")] = None,
    src: Annotated[str | None, typer.Option(help="Source MAC; the guest's by default.")] = None,
    dst: Annotated[str | None, typer.Option(help="Destination MAC.")] = None,
    src_ip: Annotated[str | None, typer.Option(help="Source IP address.")] = None,
    dst_ip: Annotated[str | None, typer.Option(help="Destination IP address.")] = None,
    ttl: Annotated[int, typer.Option(help="TTL.")] = 64,
    arp: Annotated[bool, typer.Option("--arp", help="An ARP request for --dst-ip.")] = False,
    vtep: Annotated[str | None, typer.Option(help="From the uplink: the leaf's VTEP.")] = None,
    vni: Annotated[int | None, typer.Option(help="From the uplink: the VNI.")] = None,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Ask the running daemon what it would do with a frame, and why. Nothing is sent."""
    question = {
        "guest": guest,
        "hex": frame,
        "src": src,
        "dst": dst,
        "src-ip": src_ip,
        "dst-ip": dst_ip,
        "ttl": ttl,
        "arp": arp,
        "vtep": vtep,
        "vni": vni,
    }
    cli.trace(socket, question, as_json)


Segment = Annotated[str, typer.Option(help="The segment's name.")]
Device = Annotated[str, typer.Option(help="The TAP's name.")]
Macs = Annotated[list[str], typer.Option("--mac", help="A MAC address of the guest; repeatable.")]
Addresses = Annotated[
    list[str] | None, typer.Option("--address", help="An IP address it may use; repeatable.")
]


class PortKind(StrEnum):
    """Who holds the TAP's descriptor."""

    TAP = "tap"
    PACKET = "packet"


Kind = Annotated[
    PortKind,
    typer.Option(help="tap: we hold the TAP. packet: QEMU holds it, with vnet_hdr=off."),
]
Netns = Annotated[str | None, typer.Option(help="The namespace that the TAP is in.")]
MultiQueue = Annotated[bool, typer.Option(help="The TAP has IFF_MULTI_QUEUE.")]


def _add_attaching_verb(name: str, state: str, said: str) -> None:
    """`attach` and `stage` take the same options and differ in the state that they ask for."""

    @app.command(name, help=said)
    def verb(
        guest: Guest,
        segment: Segment,
        device: Device,
        macs: Macs,
        addresses: Addresses = None,
        kind: Kind = PortKind.TAP,
        netns: Netns = None,
        multi_queue: MultiQueue = False,
        sequence: Sequence = None,
        socket: Socket = DEFAULT_SOCKET,
        as_json: Json = False,
    ) -> None:
        body = {
            "name": guest,
            "segment": segment,
            "device": device,
            "macs": macs,
            "addresses": addresses or [],
            "kind": kind,
            "netns": netns,
            "multi-queue": multi_queue,
            "sequence": sequence,
            "state": state,
        }
        _guest_verb(socket, as_json, "POST", "/v1/guests", body)


_add_attaching_verb(
    "attach", "active", "Attach a guest that runs here (cold start): it is active at once."
)
_add_attaching_verb(
    "stage",
    "staged",
    "Prepare for a guest that is about to move here: nothing is delivered or announced yet.",
)


@app.command()
def activate(
    guest: Guest,
    sequence: Sequence = None,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Make a staged guest active; its first own frame does the same.

    For an active one, announce it once more: the last step of a move in which both hosts held the
    guest's TAP for a while.
    """
    _guest_verb(socket, as_json, "POST", f"/v1/guests/{guest}/activate", {"sequence": sequence})


@app.command()
def detach(
    guest: Guest,
    sequence: Sequence = None,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Let a guest go and close its device."""
    query = {} if sequence is None else {"sequence": sequence}
    _guest_verb(socket, as_json, "DELETE", f"/v1/guests/{guest}", query)


@app.command()
def reload(socket: Socket = DEFAULT_SOCKET, as_json: Json = False) -> None:
    """Read the configuration again and apply the difference (as SIGHUP does)."""
    cli.reload(socket, as_json)


def _guest_verb(socket: Path, as_json: bool, method: str, url: str, more: dict[str, Any]) -> None:
    with cli.asking(socket) as client:
        answer = client.delete(url, **more) if method == "DELETE" else client.post(url, more)
    if as_json:
        cli.print_json(answer)
    else:
        cli.print_rows("guest", [answer])


def main() -> None:
    """Entry point of the `vswitch` command."""
    app()


if __name__ == "__main__":
    main()
