"""Which addresses of a segment's subnets can be a guest's, for the checks of the configuration."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def check_guest_address(
    who: str, address: Address, gateways: Sequence[Interface], outside: str
) -> None:
    """Raise ValueError where `address` cannot be a guest's; `outside` says what is wrong where it
    is in no subnet."""
    gateway = next((one for one in gateways if address in one.network), None)
    if gateway is None:
        raise ValueError(f"{who} {outside}")
    if address == gateway.ip:
        raise ValueError(f"{who} this is the gateway's own address")
    if address in nobodys(gateway.network):
        raise ValueError(f"{who} this is no host address of {gateway.network}")


def check_range(who: str, first: Address, last: Address, gateways: Sequence[Interface]) -> None:
    """Raise ValueError where a range begins or ends with what cannot be a guest's, or is not in one
    subnet."""
    network = next((one.network for one in gateways if first in one.network), None)
    if network is None or last not in network:
        raise ValueError(f"{who} not in one subnet of the segment")
    for end in (first, last):
        if end in nobodys(network):
            raise ValueError(f"{who} {end} is no host address of {network}")


def nobodys(network: Network) -> tuple[object, ...]:
    """Return the addresses of a subnet that are no host's: of IPv4 the first and the last, of IPv6
    the first, which is the routers' (RFC 4291 section 2.6.1)."""
    if network.version == 4:
        return network.network_address, network.broadcast_address
    return (network.network_address,)
