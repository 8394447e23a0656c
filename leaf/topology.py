"""What the configuration fixes: groups, vswitches, VRFs, segments, in the form decisions use.

It is built once from the configuration, and again at a reload; nothing here changes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vswitch.wire import ipv6
from vswitch.wire.ethernet import Mac
from vswitch.wire.nd import Advertisement
from vswitch.wire.vxlan import Vni, Vtep

from .fib import Prefix
from .leases import Pool

LINK_LOCAL = Prefix(0xFE80 << 112, 64)
"""RFC 4291 section 2.5.6."""


NO_POOL6 = Pool(16)


class Group(NamedTuple):
    """The vswitches that share one shared MAC."""

    name: str
    shared_mac: Mac


class Gateway(NamedTuple):
    """A gateway address and the subnet that it serves."""

    address: bytes
    prefix: Prefix

    def covers(self, address: bytes) -> bool:
        """Say whether `address` is in the subnet, as a host's address or not."""
        if len(address) != len(self.address):
            return False
        host_bits = len(self.address) * 8 - self.prefix.length
        return int.from_bytes(address, "big") >> host_bits == self.prefix.network >> host_bits

    def serves(self, address: bytes) -> bool:
        """Say whether a guest may have `address`: in the subnet, but not one of the addresses that
        are no host's."""
        host_bits = len(self.address) * 8 - self.prefix.length
        offset = int.from_bytes(address, "big") - self.prefix.network
        if host_bits <= 1:  # A /31 or /127 has two hosts (RFC 3021, RFC 6164).
            return 0 <= offset < 1 << host_bits
        # The first is the network or the routers (RFC 4291 section 2.6.1), the last of IPv4 all.
        return 0 < offset < (1 << host_bits) - (len(address) == 4)


class Service(NamedTuple):
    """What DHCP does on a segment."""

    pool: Pool
    """Of IPv4."""
    lease_time: int
    """Seconds."""
    dns: tuple[bytes, ...] = ()
    domain: str | None = None
    mtu: int | None = None
    """As configured; without it, what fits is said (`mtu.py`)."""
    routes: tuple[tuple[bytes, int, bytes | None], ...] = ()
    """Network, prefix length and next hop; without one that is the gateway."""
    pool6: Pool = NO_POOL6
    dns6: tuple[bytes, ...] = ()


class Relay(NamedTuple):
    """To whom DHCP is relayed on a segment."""

    servers: tuple[bytes, ...]
    """Of either family, up to a few; one that has none here is not relayed."""
    address: bytes | None
    """The leaf's own relay address of IPv4, where servers answer to; None without such servers."""
    address6: bytes | None


@dataclass(slots=True, eq=False)
class Segment:
    """One broadcast domain."""

    name: str
    vni: Vni
    vrf: str
    gateways: tuple[Gateway, ...]
    vteps: dict[Vtep, Group]
    """The vswitches that this segment is on, and the group of each."""
    hop_neutral: bool = False
    multicast: Literal["drop", "replicate"] = "drop"
    advertised: Advertisement | None = None
    """What router advertisements say; None sends none."""
    dhcp: Service | Relay | None = None
    """What the leaf gives out itself, or who does so elsewhere; None leaves the guests' DHCP to
    whoever is on the segment."""
    shared_macs: frozenset[Mac] = frozenset()
    """Of all its groups; worked out here."""
    link_locals: tuple[Gateway, ...] = ()
    """Where there is IPv6: the gateway's link-local address for each shared MAC; worked out here.
    It is the same on every leaf, so that a guest's default route survives its move."""

    def __post_init__(self) -> None:
        self.shared_macs = frozenset(group.shared_mac for group in self.vteps.values())
        if self.has_ipv6:
            self.link_locals = tuple(
                Gateway(ipv6.link_local(mac), LINK_LOCAL) for mac in sorted(self.shared_macs)
            )

    @property
    def has_ipv6(self) -> bool:
        """Say whether guests have IPv6 here."""
        return any(len(gateway.address) == 16 for gateway in self.gateways)

    def gateway_for(self, address: bytes) -> Gateway | None:
        """Return the gateway whose subnet holds `address`, or None."""
        for gateway in (*self.gateways, *self.link_locals):
            if len(gateway.address) == len(address) and gateway.serves(address):
                return gateway
        return None

    def is_gateway(self, address: bytes) -> bool:
        """Say whether `address` is one of our own here."""
        return any(one.address == address for one in (*self.gateways, *self.link_locals))


class Route(NamedTuple):
    """A static route: to a guest that routes (`via`) or to a remote leaf."""

    prefix: Prefix
    via: bytes | None = None
    vtep: Vtep | None = None
    bits: int = 32
    """Length of an address of its family."""


@dataclass(slots=True, eq=False)
class Vrf:
    """One tenant's routing domain."""

    name: str
    vni: Vni
    segments: list[Segment] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Topology:
    """Everything the leaf serves."""

    router_mac: Mac
    vrfs: list[Vrf]
    remote_leaves: dict[Vtep, Mac]
    """Remote leaves and their router MACs."""

    @property
    def segments(self) -> list[Segment]:
        return [segment for vrf in self.vrfs for segment in vrf.segments]

    @property
    def shared_macs(self) -> frozenset[Mac]:
        """Every shared MAC that a segment's vswitches use."""
        return frozenset(mac for segment in self.segments for mac in segment.shared_macs)
