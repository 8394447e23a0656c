"""What all systems have in common: the topologies, the underlay, and coming up and going down.

The one-leaf topology, and the no-leaf one, which is the same without the box in the middle:

    guest H1 -- switch A ==VXLAN== leaf ==VXLAN== switch B -- guest H4
                      \\            |            /
                       +---- spine: a bridge ----+

Every box is a network namespace. The underlay (veth pairs to a kernel bridge) is the same for all
systems, so that a difference between two rows is the difference between what carries the frames.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Final

from tools.fabric import namespace
from tools.fabric.lab import BRIDGE, UNDERLAY_LINK
from tools.fabric.namespace import Namespace


class Shape(StrEnum):
    """A topology."""

    ONE_LEAF = "one-leaf"
    NO_LEAF = "no-leaf"


class RigError(Exception):
    """A system that could not be brought up or measured; the text says why."""


UNDERLAY_MTU: Final = 1500
GUEST_MTU: Final = 1450
"""What VXLAN over IPv4 leaves of the underlay's."""
PREFIX_LEN: Final = 24
VNI: Final = 100
VXLAN_PORT: Final = 4789
SHARED_MAC: Final = "00:00:de:ad:be:ef"
GATEWAY: Final = "1.1.1.254"
LEAF_VTEP: Final = "10.99.0.1"
VTEPS: Final = {"A": "10.99.0.11", "B": "10.99.0.12"}
CLIENT, SERVER = "H1", "H4"
GUESTS: Final = {"A": CLIENT, "B": SERVER}
ADDRESSES: Final = {CLIENT: "1.1.1.1", SERVER: "1.1.1.4"}
MACS: Final = {CLIENT: "00:00:01:01:01:01", SERVER: "00:00:01:01:01:04"}
CHECK: Final = ("ping", "-n", "-c", "5", "-i", "0.2", "-W", "2", ADDRESSES[SERVER])
CHECK_TRIES: Final = 4
"""A learning bridge, a tunnel's neighbour table and a proxy's first answer take their time."""


class System(ABC):
    """Something that carries frames between two guests."""

    name: str

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def __str__(self) -> str:
        return f"{self.name}, {self.shape}"

    @abstractmethod
    def node(self, name: str) -> Namespace:
        """Return the namespace of a guest, a host or the leaf."""

    @abstractmethod
    def up(self) -> None:
        """Bring everything up. Raises an exception whose text says what failed."""

    @abstractmethod
    def down(self) -> None:
        """Take everything down, however far `up` came."""

    def pids(self) -> list[int]:
        """Return the processes of the system; none where the kernel does the work."""
        return []

    def check(self) -> None:
        """See to it that the guests reach each other. Raises RigError with what ping said."""
        said = ""
        for _ in range(CHECK_TRIES):
            done = self.node(CLIENT).run(CHECK, timeout=15)
            said = (done.stdout + done.stderr).strip()
            # The last one counts: the first may have been lost to ARP.
            if re.search(r"icmp_seq=5 .*time=", said):
                return
        raise RigError(f"the guests do not reach each other: {said}")


class Racked(System):
    """A system whose underlay is built here (the lab builds Tapestry's own, just like it)."""

    @property
    def prefix(self) -> str:
        return f"bench-{self.name}"

    @property
    def vteps(self) -> dict[str, str]:
        """Return every tunnel end of this topology, by node."""
        leaf = {"leaf": LEAF_VTEP} if self.shape is Shape.ONE_LEAF else {}
        return {**VTEPS, **leaf}

    def node(self, name: str) -> Namespace:
        return Namespace(f"{self.prefix}-{name}")

    def build_underlay(self) -> None:
        """Join the nodes by a bridge. What carries the addresses is the system's own affair."""
        spine = self.node("spine")
        spine.create()
        spine.add_link(BRIDGE, "bridge")
        spine.link_up(BRIDGE, mtu=UNDERLAY_MTU)
        for name in self.vteps:
            node = self.node(name)
            node.create()
            namespace.join(node, UNDERLAY_LINK, spine, name, UNDERLAY_MTU)
            spine.enslave(name, BRIDGE)
            node.link_up(UNDERLAY_LINK)
        for guest in GUESTS.values():
            self.node(guest).create()

    def down(self) -> None:
        for name in namespace.names():
            if name.startswith(f"{self.prefix}-"):
                Namespace(name).remove()


def run(node: Namespace, *command: str) -> None:
    """Run a command of a system's setting up. Raises RigError with what it said."""
    done = node.run(command, timeout=20)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise RigError(f"{' '.join(command)}: {said or f'exit status {done.returncode}'}")
