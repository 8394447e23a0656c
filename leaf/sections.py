"""The tables of the leaf's configuration file, each by itself: keys, types, bounds, defaults.

What must agree between them is in `config.py`; `[segment.dhcp]` has a file of its own
(`dhcpconfig.py`). What a table leaves to be worked out from its own keys is worked out here.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vswitch.service.settings import (
    AddressField,
    Flag,
    MacField,
    Name,
    Settings,
    VniField,
    VtepField,
)
from vswitch.wire import vxlan
from vswitch.wire.ethernet import Mac

from .bindings import MAX_BINDINGS
from .dhcpconfig import DhcpSettings, Relays
from .subnets import Interface, Network


class Identity(Settings):
    """`[leaf]`"""

    name: Name = "leaf"
    vtep: VtepField
    """Our address on the underlay."""
    udp_port: int = Field(vxlan.PORT, ge=1, le=65535, strict=True)
    router_mac: MacField | None = None
    """Our own MAC, towards other leaves; by default 02:00 and the last four bytes of the VTEP."""
    source_ports: Literal[1, 2, 4, 8, 16, 32, 64] = 16
    offload: Literal["auto", "sockets", "off"] = "auto"
    """auto: trains, and super-frames whole, where the kernel has them. sockets: trains only."""
    too_big: Literal["drop", "fragment"] = "drop"
    """What becomes of IPv4 that does not fit into the tunnel and may be fragmented. (The sender of
    all else is told by ICMP.)"""
    state: Path = Path("/var/lib/tapestry/leaf.db")
    """Where leases are kept; opened only where a segment gives out addresses."""
    relay: AddressField | None = None
    """Our own address of IPv4 towards DHCP servers, where a segment relays; by default the VTEP."""
    relay6: AddressField | None = None
    """The same of IPv6."""

    @model_validator(mode="after")
    def _has_relay_addresses_of_hosts(self) -> Identity:
        for key, size, family in (("relay", 4, "IPv4"), ("relay6", 16, "IPv6")):
            packed = getattr(self, key)
            if packed is None:
                continue
            address = ipaddress.ip_address(packed)
            if len(packed) != size:
                raise ValueError(f"{key}: {address} is not an address of {family}")
            if address.is_multicast or address.is_unspecified or address.is_link_local:
                raise ValueError(f"{key}: {address} is not an address that servers can answer to")
        return self


def router_mac(own: Identity) -> Mac:
    """Return the leaf's own MAC, as configured or made from its VTEP (locally administered)."""
    made = b"\x02\x00" + ipaddress.ip_address(own.vtep).packed[-4:]
    return own.router_mac or Mac(made)


def relays(own: Identity) -> Relays:
    """Return the leaf's own address towards DHCP servers of each family."""
    vtep = ipaddress.ip_address(own.vtep)
    return {
        version: configured or (vtep.packed if vtep.version == version else None)
        for version, configured in ((4, own.relay), (6, own.relay6))
    }


class Api(Settings):
    """`[api]`"""

    socket: Path = Path("/run/tapestry/leaf.sock")


class LimitSettings(Settings):
    """`[limits]`"""

    bindings: int = Field(MAX_BINDINGS, ge=1, le=1_000_000, strict=True)
    punts_per_second: float = Field(2000.0, gt=0)
    icmp_per_second: float = Field(500.0, gt=0)
    gleans_per_second: float = Field(500.0, gt=0)
    multicast_per_second: float = Field(1000.0, gt=0)
    guest_punts_per_second: float = Field(200.0, gt=0)
    guest_gleans_per_second: float = Field(50.0, gt=0)
    questions_per_second: float = Field(10_000.0, gt=0)
    guest_dhcp_per_second: float = Field(10.0, gt=0)
    dhcp_commits_per_second: float = Field(25.0, gt=0)
    server_dhcp_per_second: float = Field(500.0, gt=0)


class TimerSettings(Settings):
    """`[timers]`, in seconds."""

    confirm_after: float = Field(60.0, ge=0.1)
    probe_interval: float = Field(1.0, ge=0.01)
    probes: int = Field(3, ge=1, le=10, strict=True)


class GroupSettings(Settings):
    """`[[group]]`: vswitches with one shared MAC."""

    name: Name
    shared_mac: MacField


class VswitchSettings(Settings):
    """`[[vswitch]]`"""

    name: Name
    vtep: VtepField
    group: Name


class RemoteLeafSettings(Settings):
    """`[[remote-leaf]]`"""

    name: Name
    vtep: VtepField
    router_mac: MacField


class VrfSettings(Settings):
    """`[[vrf]]`"""

    name: Name
    vni: VniField
    """The L3VNI, between leaves."""


class SegmentSettings(Settings):
    """`[[segment]]`"""

    name: Name
    vni: VniField
    vrf: Name
    gateway: tuple[Interface, ...] = Field(min_length=1, max_length=16)
    """Gateway addresses with their prefix length, such as 1.1.1.254/24 or 2001:db8:1::fe/64."""
    vswitches: tuple[Name, ...] | None = None
    """The vswitches that this segment is on; all by default."""
    hop_neutral: Flag = False
    multicast: Literal["drop", "replicate"] = "drop"
    mtu: int | None = Field(None, ge=1280, le=65535, strict=True)
    """The guests' MTU, for router advertisements and DHCP; by default what fits the underlay."""
    router_advertisements: Flag = True
    """Advertise the IPv6 gateway and its subnets; without a gateway of IPv6 there is nothing to."""
    autonomous: Flag = True
    """Guests make themselves addresses in a /64 (SLAAC, RFC 4862)."""
    on_link: Flag = True
    """Guests ask for each other; with false they send everything to the gateway."""
    dns: tuple[AddressField, ...] = Field((), max_length=8)
    """Name servers: those of IPv6 for router advertisements (RFC 8106), of IPv4 for DHCP."""
    dhcp: DhcpSettings = DhcpSettings()


class RouteSettings(Settings):
    """`[[route]]`"""

    vrf: Name
    prefix: Network
    via: AddressField | None = None
    """The address of a guest that routes."""
    remote_leaf: Name | None = None

    @model_validator(mode="after")
    def _has_one_next_hop(self) -> RouteSettings:
        if (self.via is None) == (self.remote_leaf is None):
            raise ValueError("give either `via` or `remote-leaf`")
        if self.via is not None and len(self.via) * 8 != self.prefix.max_prefixlen:
            raise ValueError("`via` and `prefix` are not of one address family")
        return self


class BindingSettings(Settings):
    """`[[binding]]`"""

    segment: Name
    address: AddressField
    mac: MacField
    vswitch: Name
