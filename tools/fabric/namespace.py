"""A network namespace and what is set up in it, by pyroute2.

Nothing of pyroute2 leaves this module. A verb that finds its work done does nothing, so that
bringing a fabric up twice is no error.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import Ethtool, IPRoute
from pyroute2 import config as pyroute2
from pyroute2 import netns as namespaces
from pyroute2.netlink.exceptions import NetlinkError

from vswitch.phy import tap
from vswitch.phy.tap import inside

_NEIGHBOUR_STATES = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}
CREATE_TIMEOUT = 30
"""Seconds. A new namespace waits in the kernel until those that have just gone are cleared away,
which on a busy machine has taken longer than the two that pyroute2 gives it."""
pyroute2.default_communicate_timeout = CREATE_TIMEOUT
GSO_MAX_SIZE = 61_000
_SYSCTLS = Path("/proc/sys/net")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_TENTATIVE, _DUPLICATE = 0x40, 0x08
"""IFA_F_TENTATIVE and IFA_F_DADFAILED."""


class Neighbour(NamedTuple):
    """One entry of a guest's neighbour table."""

    address: str
    mac: str | None
    state: str


class Address(NamedTuple):
    """One address of a link."""

    address: str
    prefix_len: int
    tentative: bool
    """IPv6: still being looked for at others (RFC 4862 section 5.4), so not in use yet."""
    duplicate: bool
    """IPv6: somebody else has it, so it stays unused."""


class Link(NamedTuple):
    """One link, as the kernel reports it."""

    name: str
    mac: str
    up: bool
    carrier_changes: int


def names() -> list[str]:
    """Return the names of all network namespaces that have one."""
    return sorted(namespaces.listnetns())


class Namespace:
    """A named network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def exists(self) -> bool:
        return self.name in namespaces.listnetns()

    def create(self, ipv6: bool = False) -> None:
        """Create it, with loopback up, and without IPv6 where nobody asks for it: a kernel that has
        it speaks on every link unasked."""
        if not self.exists():
            namespaces.create(self.name)
        self.sysctl("ipv6/conf/all/disable_ipv6", int(not ipv6))
        self.sysctl("ipv6/conf/default/disable_ipv6", int(not ipv6))
        self.link_up("lo")

    def remove(self) -> None:
        if self.exists():
            namespaces.remove(self.name)

    # -- links ---------------------------------------------------------------------------------

    def _netlink(self) -> IPRoute:
        with inside(self.name):
            return IPRoute()

    def link(self, name: str) -> Link | None:
        """Return a link, or None where there is none of that name."""
        return next((link for link in self.links() if link.name == name), None)

    def links(self) -> list[Link]:
        with self._netlink() as netlink:
            return [
                Link(
                    message.get_attr("IFLA_IFNAME"),
                    message.get_attr("IFLA_ADDRESS") or "",
                    message["state"] == "up",
                    message.get_attr("IFLA_CARRIER_CHANGES") or 0,
                )
                for message in netlink.get_links()
            ]

    def _index(self, netlink: IPRoute, name: str) -> int:
        found = netlink.link_lookup(ifname=name)
        if not found:
            raise LookupError(f"namespace {self.name}: no link {name!r}")
        return int(found[0])

    def link_up(self, name: str, **properties: Any) -> None:
        """Set a link's properties (`address`, `mtu`, ...) and take it up."""
        with self._netlink() as netlink:
            netlink.link("set", index=self._index(netlink, name), state="up", **properties)

    def link_set(self, name: str, **properties: Any) -> None:
        with self._netlink() as netlink:
            netlink.link("set", index=self._index(netlink, name), **properties)

    def add_link(self, name: str, kind: str, **properties: Any) -> None:
        with self._netlink() as netlink:
            if not netlink.link_lookup(ifname=name):
                netlink.link("add", ifname=name, kind=kind, **properties)

    def remove_link(self, name: str) -> None:
        with self._netlink() as netlink:
            for index in netlink.link_lookup(ifname=name):
                netlink.link("del", index=index)

    def enslave(self, name: str, bridge: str) -> None:
        """Make a link a port of a bridge, and take it up."""
        with self._netlink() as netlink:
            master = self._index(netlink, bridge)
            netlink.link("set", index=self._index(netlink, name), master=master, state="up")

    def complete_checksums(self, name: str) -> None:
        """Have checksums filled in before a packet leaves by this link, as on a wire.

        A veth hands a packet over with its checksum still to be computed. The kernel at the other
        end knows; a program that reads the payload of a tunnel does not.
        """
        with inside(self.name), Ethtool() as ethtool:
            features = ethtool.get_features(name)
            features.features["tx-checksum-ip-generic"].enable = False
            ethtool.set_features(name, features)

    def add_tap(self, name: str, mac: str, mtu: int) -> None:
        """Create a persistent multi-queue TAP, still down."""
        if self.link(name) is None:
            tap.create_persistent(name, self.name)
        # One train, and so one send, takes 65,507 bytes with all headers; a little more would make
        # every super-frame two sends, the second of them nearly empty.
        self.link_set(name, address=mac, mtu=mtu, gso_max_size=GSO_MAX_SIZE)

    def add_address(self, link: str, address: str, prefix_len: int) -> None:
        with self._netlink() as netlink:
            index = self._index(netlink, link)
            _unless_there(
                lambda: netlink.addr("add", index=index, address=address, prefixlen=prefix_len)
            )

    def addresses(self, link: str) -> list[Address]:
        """Return the addresses of a link, of both families."""
        with self._netlink() as netlink:
            index = self._index(netlink, link)
            return [
                Address(
                    message.get_attr("IFA_ADDRESS"),
                    message["prefixlen"],
                    bool(message["flags"] & _TENTATIVE),
                    bool(message["flags"] & _DUPLICATE),
                )
                for message in netlink.get_addr(index=index)
            ]

    def add_default_route(self, gateway: str) -> None:
        """Route what is not on a link over `gateway`, whose family tells for which one."""
        family = _FAMILIES[ipaddress.ip_address(gateway).version]
        with self._netlink() as netlink:
            _unless_there(
                lambda: netlink.route("add", family=family, dst="default", gateway=gateway)
            )

    def neighbours(self, link: str) -> list[Neighbour]:
        """Return the neighbour table of a link, of both families; without what the kernel has
        computed and never asks for, the MACs of groups."""
        with self._netlink() as netlink:
            index = self._index(netlink, link)
            return [
                Neighbour(message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR"), state)
                for family in _FAMILIES.values()
                for message in netlink.get_neighbours(family, ifindex=index)
                if (state := _NEIGHBOUR_STATES.get(message["state"], str(message["state"])))
                != "noarp"
            ]

    def sysctl(self, key: str, value: int) -> None:
        """Set /proc/sys/net/KEY as this namespace sees it."""
        with inside(self.name):
            path = _SYSCTLS / key
            if path.exists():
                path.write_text(str(value))

    # -- what runs inside ----------------------------------------------------------------------

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket that belongs to this namespace, whoever uses it."""
        with inside(self.name):
            return socket.socket(family, kind, protocol)

    def popen(self, command: Sequence[str], **more: Any) -> subprocess.Popen[bytes]:
        """Start a process in the namespace."""
        return subprocess.Popen(command, preexec_fn=self._enter, **more)

    def _enter(self) -> None:
        """Move this process; run in a new child, so that the parent stays where it is. It makes a
        system call and takes no lock that a thread of the parent could hold."""
        namespaces.setns(self.name, flags=0)

    def run(
        self, command: Sequence[str], timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it printed."""
        return subprocess.run(
            command,
            preexec_fn=self._enter,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def execute(self, command: Sequence[str]) -> None:
        """Become a command in the namespace. Raises OSError where it cannot be started."""
        self._enter()
        os.execvp(command[0], list(command))


def _unless_there(add: Callable[[], object]) -> None:
    try:
        add()
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def join(left: Namespace, left_link: str, right: Namespace, right_link: str, mtu: int) -> None:
    """Join two namespaces by a veth pair; where the left end is there already, do nothing."""
    if left.link(left_link) is not None:
        return
    with left._netlink() as netlink, inside(left.name):
        netlink.link(
            "add",
            kind="veth",
            ifname=left_link,
            peer={"ifname": right_link, "net_ns_fd": f"/run/netns/{right.name}"},
        )
    left.link_set(left_link, mtu=mtu)
    right.link_set(right_link, mtu=mtu)
