"""The kernel's own path: a bridge with a VXLAN port on each host, and a routing namespace as leaf.

Both guests stand behind veth pairs. The leaf has a VXLAN device towards each host, a host route for
each guest, and `proxy_arp`, so it answers each guest for the other with its own MAC, as Tapestry's
does. The devices carry different VNIs because the kernel has no two of one VNI on one port, and a
bridge between them would make the leaf a switch. Nothing is copied to user space here: this is the
upper end of the scale, not a peer.
"""

from __future__ import annotations

from tools.fabric import namespace
from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK

from .rig import (
    ADDRESSES,
    GATEWAY,
    GUEST_MTU,
    GUESTS,
    LEAF_VTEP,
    MACS,
    PREFIX_LEN,
    SHARED_MAC,
    UNDERLAY_MTU,
    VNI,
    VTEPS,
    VXLAN_PORT,
    Racked,
    Shape,
    run,
)

BRIDGE = "br-int"
TUNNEL = "vx0"
GUEST_PORT = "tap0"


class Kernel(Racked):
    """Bridge, VXLAN and routing by the kernel."""

    name = "kernel"

    def up(self) -> None:
        self.build_underlay()
        for name, vtep in self.vteps.items():
            self.node(name).add_address(UNDERLAY_LINK, vtep, PREFIX_LEN)
        for number, host in enumerate(VTEPS):
            if self.shape is Shape.ONE_LEAF:
                self._build_host(host, LEAF_VTEP, VNI + number)
            else:
                self._build_host(host, next(VTEPS[o] for o in VTEPS if o != host), VNI)
        if self.shape is Shape.ONE_LEAF:
            self._build_leaf()

    def _add_vxlan(self, node: str, link: str, remote: str, vni: int) -> None:
        self.node(node).add_link(
            link, "vxlan", vxlan_id=vni, vxlan_group=remote, vxlan_port=VXLAN_PORT
        )

    def _build_host(self, host: str, remote: str, vni: int) -> None:
        node, guest = self.node(host), GUESTS[host]
        node.add_link(BRIDGE, "bridge")
        node.link_up(BRIDGE, mtu=UNDERLAY_MTU)
        self._add_vxlan(host, TUNNEL, remote, vni)
        node.enslave(TUNNEL, BRIDGE)
        namespace.join(self.node(guest), GUEST_LINK, node, GUEST_PORT, GUEST_MTU)
        node.enslave(GUEST_PORT, BRIDGE)
        self.node(guest).link_up(GUEST_LINK, address=MACS[guest])
        self.node(guest).add_address(GUEST_LINK, ADDRESSES[guest], PREFIX_LEN)

    def _build_leaf(self) -> None:
        leaf = self.node("leaf")
        leaf.sysctl("ipv4/ip_forward", 1)
        for number, (host, guest) in enumerate(GUESTS.items()):
            link = f"vx{host}"
            self._add_vxlan("leaf", link, VTEPS[host], VNI + number)
            leaf.link_up(link, address=SHARED_MAC, mtu=GUEST_MTU)
            leaf.add_address(link, GATEWAY, 32)
            leaf.sysctl(f"ipv4/conf/{link}/proxy_arp", 1)
            leaf.sysctl(f"ipv4/conf/{link}/send_redirects", 0)
            # The kernel's proxy waits up to 0.8 s before it answers, which is not what is measured.
            leaf.sysctl(f"ipv4/neigh/{link}/proxy_delay", 0)
            run(leaf, "ip", "route", "add", f"{ADDRESSES[guest]}/32", "dev", link)
