"""The topology file: what a fabric consists of."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vswitch.service.settings import (
    MacField,
    Settings,
    VniField,
    load,
    reject_twice,
)
from vswitch.wire import vxlan
from vswitch.wire.ethernet import Mac

SEED = Path(__file__).with_name("seed.toml")
"""The fabric of the README's picture."""

NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,10}$")]
"""Part of a namespace's and a link's name, which has 15 characters."""


class Lab(Settings):
    """`[lab]`"""

    name: NodeName = "seed"
    vrf_vni: VniField = 5000  # type: ignore[assignment]
    shared_mac: MacField = Mac(bytes.fromhex("0000deadbeef"))
    offload: Literal["auto", "off"] = "auto"


class Underlay(Settings):
    """`[underlay]`: one plain IP network."""

    subnet: ipaddress.IPv4Network = ipaddress.IPv4Network("10.99.0.0/24")
    leaf: ipaddress.IPv4Address = ipaddress.IPv4Address("10.99.0.1")
    mtu: int = Field(1500, ge=576, le=9000)

    @property
    def guest_mtu(self) -> int:
        return self.mtu - vxlan.OVERHEAD_IPV4


class SegmentEntry(Settings):
    """`[[segment]]`"""

    name: NodeName
    vni: VniField
    gateway: ipaddress.IPv4Interface
    miss: Literal["rewrite", "flood", "drop"] = "rewrite"
    hop_neutral: bool = False
    dhcp: dict[str, Any] | None = None
    """`[segment.dhcp]` of the leaf, as it is."""


class HostEntry(Settings):
    """`[[host]]`"""

    name: NodeName
    address: ipaddress.IPv4Address


class GuestEntry(Settings):
    """`[[guest]]`"""

    name: NodeName
    host: NodeName
    segment: NodeName
    address: ipaddress.IPv4Address
    mac: MacField
    dhcp: bool = False
    """Leave the address to a DHCP client in the guest; `up` sets none and holds it to none."""


class Topology(Settings):
    """The whole file."""

    lab: Lab = Lab()
    underlay: Underlay = Underlay()
    segment: tuple[SegmentEntry, ...] = Field(min_length=1)
    host: tuple[HostEntry, ...] = Field(min_length=1)
    guest: tuple[GuestEntry, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Topology:
        nodes = [host.name for host in self.host] + [guest.name for guest in self.guest]
        reject_twice("name", [*nodes, "leaf", "spine"])
        reject_twice("segment", [segment.name for segment in self.segment])
        reject_twice("host address", [host.address for host in self.host])
        reject_twice("guest address", [guest.address for guest in self.guest])
        reject_twice("guest MAC", [guest.mac.hex(":") for guest in self.guest])
        hosts = {host.name for host in self.host}
        segments = {segment.name: segment for segment in self.segment}
        for guest in self.guest:
            if guest.host not in hosts:
                raise ValueError(f"guest {guest.name!r}: no host {guest.host!r}")
            if guest.segment not in segments:
                raise ValueError(f"guest {guest.name!r}: no segment {guest.segment!r}")
            network = segments[guest.segment].gateway.network
            if guest.address not in network:
                raise ValueError(f"guest {guest.name!r}: {guest.address} is not in {network}")
        return self

    def segment_of(self, guest: GuestEntry) -> SegmentEntry:
        return next(segment for segment in self.segment if segment.name == guest.segment)

    def with_miss(self, miss: str | None) -> Topology:
        """Return this topology with another miss policy in every segment."""
        if miss is None:
            return self
        segments = [{**s.model_dump(mode="json"), "miss": miss} for s in self.segment]
        return Topology.model_validate({**self.model_dump(mode="json"), "segment": segments})


def read(path: Path) -> Topology:
    """Read a topology file. Raises SettingsError."""
    return load(path, Topology)
