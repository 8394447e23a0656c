"""The vswitch's configuration file: its model, and the difference between two of them.

`plan` computes what a reload changes as data, which can be printed and tested; the engine's owner
applies it change by change. Guests that were attached through the API are not in any file, and a
reload leaves them alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from .attachment import MAX_ADDRESSES, MAX_MACS
from .phy.tap import MAX_NAME_LEN
from .service.settings import (
    AddressField,
    Flag,
    LogSettings,
    MacField,
    Name,
    Settings,
    VniField,
    VtepField,
    reject_twice,
)
from .wire import vxlan
from .wire.ethernet import Mac


class Identity(Settings):
    """`[vswitch]`"""

    name: Name = "vswitch"
    vtep: VtepField
    """Our address on the underlay."""
    udp_port: int = Field(vxlan.PORT, ge=1, le=65535, strict=True)
    leaves: tuple[VtepField, ...] = Field(min_length=1, max_length=16)
    """VTEPs that frames go to and are taken from."""
    shared_mac: MacField
    source_ports: Literal[1, 2, 4, 8, 16, 32, 64] = 16
    """Size of the pool of outer source ports."""
    offload: Literal["auto", "sockets", "off"] = "auto"
    """auto: super-frames at the ports and, whole or as trains, in the tunnel, where the kernel has
    them. sockets: in the tunnel as trains only."""
    too_big: Literal["drop", "fragment"] = "drop"
    """What becomes of IPv4 that does not fit into the tunnel and may be fragmented. (The sender of
    all else is told by ICMP.)"""


class Api(Settings):
    """`[api]`"""

    socket: Path = Path("/run/tapestry/vswitch.sock")


class SegmentSettings(Settings):
    """`[[segment]]`"""

    name: Name
    vni: VniField
    miss: Literal["rewrite", "flood", "drop"] = "rewrite"
    spoof_guard: Flag = True
    gateway: tuple[AddressField, ...] = Field((), max_length=32)
    """The gateway's addresses. The spoof guard keeps them from guests: only what is listed here can
    it know, but for the link-local one. And guests are told from them of packets that do not fit
    into the tunnel; without them, that comes from the address that the packet was for."""


class GuestSettings(Settings):
    """`[[guest]]`, and the body of the API's `attach` and `stage`."""

    name: Name
    segment: Name
    device: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=MAX_NAME_LEN)
    """The TAP's name."""
    kind: Literal["tap", "packet"] = "tap"
    """tap: we hold the TAP's descriptor. packet: QEMU does, and we use a packet socket."""
    netns: Name | None = None
    """The network namespace that the TAP is in, where not ours (needs CAP_SYS_ADMIN)."""
    multi_queue: Flag = False
    """Whether the TAP has IFF_MULTI_QUEUE."""
    macs: tuple[MacField, ...] = Field(min_length=1, max_length=MAX_MACS)
    addresses: tuple[AddressField, ...] = Field((), max_length=MAX_ADDRESSES)
    """Where any are listed, the spoof guard holds the guest to them."""


class Config(Settings):
    """The whole file."""

    vswitch: Identity
    api: Api = Api()
    log: LogSettings = LogSettings()
    segment: tuple[SegmentSettings, ...] = Field(min_length=1, max_length=4096)
    guest: tuple[GuestSettings, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Config:
        self._check_leaves()
        reject_twice("segment name", [segment.name for segment in self.segment])
        reject_twice("vni", [segment.vni for segment in self.segment])
        reject_twice("guest name", [guest.name for guest in self.guest])
        reject_twice("device", [f"{guest.netns or ''}/{guest.device}" for guest in self.guest])
        names = {segment.name for segment in self.segment}
        seen: dict[tuple[str, Mac], str] = {}
        for guest in self.guest:
            if guest.segment not in names:
                known = ", ".join(sorted(names))
                raise ValueError(
                    f"guest {guest.name!r}: no segment {guest.segment!r}; there are: {known}"
                )
            for mac in guest.macs:
                check_mac(self.vswitch.shared_mac, guest.name, mac)
                other = seen.setdefault((guest.segment, mac), guest.name)
                if other != guest.name:
                    raise ValueError(
                        f"guests {other!r} and {guest.name!r} of segment {guest.segment!r} have"
                        f" the same MAC {mac.hex(':')}; each needs its own"
                    )
        return self

    def _check_leaves(self) -> None:
        own = ipaddress.ip_address(self.vswitch.vtep)
        reject_twice("leaf", self.vswitch.leaves)
        for leaf in self.vswitch.leaves:
            if leaf == self.vswitch.vtep:
                raise ValueError(f"leaf {leaf} is the vswitch's own vtep")
            if ipaddress.ip_address(leaf).version != own.version:
                raise ValueError(f"leaf {leaf} and vtep {own} are not of one address family")


def doubts(config: Config) -> list[str]:
    """Return what may be meant and is probably not, a line each."""
    return [
        f"segment {segment.name!r} has a spoof-guard and no `gateway`: a guest whose addresses are"
        " not listed may pose as its gateway; list the gateway's addresses"
        for segment in config.segment
        if segment.spoof_guard and not segment.gateway
    ]


def check_mac(shared_mac: Mac, guest: str, mac: Mac) -> None:
    """Raise ValueError where a guest's MAC is the gateway's."""
    if mac == shared_mac:
        raise ValueError(f"guest {guest!r}: {mac.hex(':')} is the shared MAC; choose another")


class Change(NamedTuple):
    """One step of a reload."""

    verb: Literal[
        "detach",
        "remove segment",
        "add segment",
        "set miss",
        "set guard",
        "set gateway",
        "set leaves",
        "attach",
        "log level",
    ]
    name: str
    detail: str = ""


class Plan(NamedTuple):
    """What a reload does, in this order, and what it cannot do."""

    changes: list[Change]
    needs_restart: list[str]


def plan(
    old: Config,
    new: Config,
    absent: Container[str] = frozenset(),
    left: Container[str] = frozenset(),
) -> Plan:
    """Compute how to get from `old` to `new`.

    Guests in `absent` are configured in `old` but not attached: they could not be, or have lost
    their device since. Those of them in `left` were let go by a verb and stay away, however `new`
    has them: they run elsewhere, and whoever attached them here would draw their traffic back.
    """
    fixed = ("name", "vtep", "udp_port", "shared_mac", "source_ports", "offload", "too_big")
    needs_restart = [
        f"vswitch.{key.replace('_', '-')}"
        for key in fixed
        if getattr(old.vswitch, key) != getattr(new.vswitch, key)
    ]
    if old.api != new.api:
        needs_restart.append("api.socket")

    before = {segment.name: segment for segment in old.segment}
    after = {segment.name: segment for segment in new.segment}
    # A segment with another VNI is another segment: its guests are attached anew.
    replaced = {
        name for name in before.keys() & after.keys() if before[name].vni != after[name].vni
    }
    guests_before = {guest.name: guest for guest in old.guest if guest.name not in absent}
    guests_after = {guest.name: guest for guest in new.guest}
    kept = {
        name
        for name in guests_before.keys() & guests_after.keys()
        if guests_before[name] == guests_after[name] and guests_before[name].segment not in replaced
    }
    changes = [Change("detach", name) for name in guests_before if name not in kept]
    changes += [
        Change("remove segment", name, "and detach its guests")
        for name in before
        if name not in after or name in replaced
    ]
    changes += [
        Change("add segment", name, f"vni {after[name].vni}")
        for name in after
        if name not in before or name in replaced
    ]
    changes += [
        Change("set miss", name, f"{before[name].miss} -> {after[name].miss}")
        for name in before
        if name in after and name not in replaced and before[name].miss != after[name].miss
    ]
    changes += [
        Change("set guard", name, "on" if after[name].spoof_guard else "off")
        for name in before
        if name in after
        and name not in replaced
        and before[name].spoof_guard != after[name].spoof_guard
    ]
    changes += [
        Change("set gateway", name)
        for name in before
        if name in after and name not in replaced and before[name].gateway != after[name].gateway
    ]
    if old.vswitch.leaves != new.vswitch.leaves:
        changes.append(Change("set leaves", ", ".join(new.vswitch.leaves)))
    changes += [
        Change("attach", name) for name in guests_after if name not in kept and name not in left
    ]
    if old.log != new.log:
        changes.append(Change("log level", new.log.level))
    return Plan(changes, needs_restart)
