"""A lab: brings up what the topology says, moves guests, takes everything down again.

`up` looks at what is there and adds what is missing, so it may be called again at any time; what
belongs to the lab but is not in the topology any more is removed. Where a guest is, only the
vswitches know: they are asked.

A guest's addresses come from the file, or the guest sees to them itself, and then the vswitch lets
it use any of that family, since none is listed. Where the file gives an IPv6 address, its kernel
speaks IPv6 as any Linux does: with duplicate address detection, and without listening to the
gateway's advertisements, since address and route are the file's. With "auto" it listens to them for
both; with "dhcp" for the route only, and a DHCP client of the lab's runs in it. `up` waits until
every guest may use its addresses: those of the file it insists on, of others it only says that they
are missing, since the network may be of one's own. Hosts and leaf have IPv6 where that is the
underlay's family; everything else in the lab has it off.

`move` keeps the guest's link: its TAP has several queues, the new host's vswitch opens one before
the old host's closes its own. So carrier never drops, and the guest's neighbour cache and sockets
stay as they were; `move` checks that from the kernel's count of carrier changes.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from vswitch.service.client import Client, ClientError

from . import daemons, dhclient, namespace
from .daemons import DaemonProcess
from .dhclient import Dhclient
from .namespace import Address, Namespace
from .process import LabError, LabProcess
from .topology import Family, GuestEntry, Topology

STATE = Path("/run/tapestry-lab")
GUEST_LINK = "eth0"
UNDERLAY_LINK = "eth0"
BRIDGE = "br0"
DAD_TIMEOUT = 5.0
"""Linux asks once and waits a second (RFC 4862 section 5.1); the rest is for a busy machine."""
ONLINE_TIMEOUT = 15.0
"""For guests that see to their addresses themselves: twice duplicate address detection, and between
them a question for a router or a server, which is repeated after four seconds."""
POLL = 0.02


class Move(NamedTuple):
    """What a move did."""

    guest: str
    source: str
    target: str
    sequence: int
    staged_at: float
    activated_at: float
    detached_at: float
    """Seconds of CLOCK_MONOTONIC at which each verb had been answered."""


class Lab:
    """One lab, up or not."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.name = topology.lab.name
        self.directory = STATE / self.name
        self.leaf = DaemonProcess("leaf", "leaf", self.node("leaf"), self.directory)
        self.vswitches = {
            host.name: DaemonProcess("vswitch", host.name, self.node(host.name), self.directory)
            for host in topology.host
        }
        self._clients: dict[tuple[str, Family], Dhclient] = {}
        self._clients = {
            (guest.name, family): self._client(guest.name, family)
            for guest in topology.guest
            for family in Family
            if guest.way(family) == "dhcp"
        }

    def _client(self, guest: str, family: Family) -> Dhclient:
        """Return the DHCP client of a guest, which need not be in the topology any more."""
        known = self._clients.get((guest, family))
        return known or Dhclient(guest, family, GUEST_LINK, self.node(guest), self.directory)

    def node(self, name: str) -> Namespace:
        """Return the namespace of a host, guest, the leaf or the spine."""
        return Namespace(f"{self.name}-{name}")

    def guest(self, name: str) -> GuestEntry:
        """Return a guest of the topology. Raises LabError."""
        for guest in self.topology.guest:
            if guest.name == name:
                return guest
        known = ", ".join(guest.name for guest in self.topology.guest)
        raise LabError(f"no guest {name!r}; there are: {known}")

    @property
    def _daemons(self) -> list[DaemonProcess]:
        return [self.leaf, *self.vswitches.values()]

    # -- up and down ---------------------------------------------------------------------------

    def up(self) -> list[str]:
        """Bring up what is missing; return what was done, a line each. Raises LabError."""
        if self._clients:
            dhclient.require()
        self.directory.mkdir(parents=True, exist_ok=True)
        done = self._remove_strangers()
        self._build_underlay()
        configs = {
            host.name: daemons.vswitch_config(self.topology, host, self.directory)
            for host in self.topology.host
        }
        configs["leaf"] = daemons.leaf_config(self.topology, self.directory)
        for daemon in self._daemons:
            outcome = daemon.up(configs[daemon.name])
            if outcome != "running":
                done.append(f"{daemon.kind} {daemon.name}: {outcome}")
        for guest in self.topology.guest:
            self._stop_clients(guest)
        made = [guest.name for guest in self.topology.guest if self._build_guest(guest)]
        for daemon in self._daemons:
            daemon.wait_ready()
        places = self.places()
        for name in made:
            if name in places:  # It holds the device of a namespace that somebody has deleted.
                self._detach(name, places.pop(name))
        staged = self._places("staged")
        for guest in self.topology.guest:
            if guest.name in places:
                pass
            elif guest.name in staged:  # A move was broken off between its two halves.
                self._verb(staged[guest.name], f"/v1/guests/{guest.name}/activate")
                done.append(f"guest {guest.name}: activated at {staged[guest.name]}")
            else:
                self._verb(guest.host, "/v1/guests", self._attachment(guest))
                done.append(f"guest {guest.name}: attached at {guest.host}")
            self._take_guest_up(guest)
        done += self._start_clients(Family.IPV4)
        self._wait_until_usable("dhcp")
        done += self._start_clients(Family.IPV6)
        self._wait_until_usable("file")
        return done + self._wait_until_online()

    def down(self) -> None:
        """Stop the daemons and remove every namespace and file of this lab."""
        prefix = f"{self.name}-"
        mine = [name for name in namespace.names() if name.startswith(prefix)]
        nodes = {name.removeprefix(prefix) for name in mine} | {name for name, _ in self._clients}
        clients = [self._client(node, family) for node in nodes for family in Family]
        with ThreadPoolExecutor() as pool:
            list(pool.map(LabProcess.down, [*self._daemons, *clients]))
        for name in mine:
            Namespace(name).remove()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _remove_strangers(self) -> list[str]:
        """Remove namespaces of this lab that are not in its topology."""
        wanted = {"leaf", "spine"}
        wanted |= {host.name for host in self.topology.host}
        wanted |= {guest.name for guest in self.topology.guest}
        done = []
        for name in namespace.names():
            node = name.removeprefix(f"{self.name}-")
            if node != name and node not in wanted:
                if (self.directory / f"{node}.pid").exists():
                    stranger = DaemonProcess("vswitch", node, Namespace(name), self.directory)
                    stranger.down()
                for family in Family:
                    self._client(node, family).down()
                Namespace(name).remove()
                done.append(f"{node}: removed")
        return done

    def _build_underlay(self) -> None:
        spine, underlay = self.node("spine"), self.topology.underlay
        spine.create()
        spine.add_link(BRIDGE, "bridge")
        spine.link_up(BRIDGE, mtu=underlay.mtu)
        is_ipv6 = underlay.subnet.version == 6
        ends = {host.name: host.address for host in self.topology.host} | {"leaf": underlay.leaf}
        for name, vtep in ends.items():
            node = self.node(name)
            node.create(ipv6=is_ipv6)
            namespace.join(node, UNDERLAY_LINK, spine, name, underlay.mtu)
            if is_ipv6:
                # As an address of IPv4: of use at once, and still there when the link comes back.
                node.sysctl(f"ipv6/conf/{UNDERLAY_LINK}/accept_dad", 0)
                node.sysctl(f"ipv6/conf/{UNDERLAY_LINK}/keep_addr_on_down", 1)
            spine.enslave(name, BRIDGE)
            node.link_up(UNDERLAY_LINK)
            node.add_address(UNDERLAY_LINK, vtep, underlay.subnet.prefixlen)

    def _build_guest(self, guest: GuestEntry) -> bool:
        """Make what is missing of a guest; say whether its link had to be made."""
        node = self.node(guest.name)
        node.create(ipv6=guest.address6 is not None)
        is_missing = node.link(GUEST_LINK) is None
        if is_missing:
            node.add_tap(GUEST_LINK, guest.mac.hex(":"), self.topology.underlay.guest_mtu)
        way = guest.way(Family.IPV6)
        # DHCPv6 tells no routes; whoever uses it takes those that are advertised, but makes itself
        # no second address of the prefix beside them.
        node.sysctl(f"ipv6/conf/{GUEST_LINK}/accept_ra", int(way in ("auto", "dhcp")))
        node.sysctl(f"ipv6/conf/{GUEST_LINK}/autoconf", int(way != "dhcp"))
        # The wait before the first question of DAD is for networks whose hosts all boot at once.
        node.sysctl(f"ipv6/conf/{GUEST_LINK}/router_solicitation_delay", 0)
        return is_missing

    def _take_guest_up(self, guest: GuestEntry) -> None:
        node = self.node(guest.name)
        link = node.link(GUEST_LINK)
        if link is not None and not link.up:
            node.link_up(GUEST_LINK)
        for address, gateway, prefix_len in self.topology.assigned(guest).values():
            node.add_address(GUEST_LINK, address, prefix_len)
            node.add_default_route(gateway)

    # -- addresses -----------------------------------------------------------------------------

    def _stop_clients(self, guest: GuestEntry) -> None:
        """Stop the clients that the file does not want any more, and those of a guest whose link is
        gone or down: it begins anew, and so must they."""
        node = self.node(guest.name)
        link = node.link(GUEST_LINK) if node.exists() else None
        for family in Family:
            if link is None or not link.up or guest.way(family) != "dhcp":
                self._client(guest.name, family).down()

    def _start_clients(self, family: Family) -> list[str]:
        """Start the DHCP clients of a family that do not run; return a line for each."""
        return [
            f"guest {guest}: asks for its {family.label} address by DHCP"
            for (guest, of), client in self._clients.items()
            if of is family and client.up()
        ]

    def _entries(self, guest: GuestEntry, family: Family) -> list[Address]:
        """Return what a guest has of a family."""
        is_ipv6 = family is Family.IPV6
        entries = self.node(guest.name).addresses(GUEST_LINK)
        return [entry for entry in entries if (":" in entry.address) == is_ipv6]

    def _wait_until_usable(self, way: str) -> None:
        """Wait until the guests that come by their IPv6 addresses in this way may use those that
        they have: with "file" all, with "dhcp" the link-local one. Raises LabError."""
        until = time.monotonic() + DAD_TIMEOUT
        for guest in self.topology.guest:
            while guest.way(Family.IPV6) == way and self._is_tentative(guest):
                if time.monotonic() > until:
                    raise LabError(f"guest {guest.name!r}: its IPv6 addresses stay tentative")
                time.sleep(POLL)

    def _is_tentative(self, guest: GuestEntry) -> bool:
        """Say whether a guest has none, or still asks whether others have them."""
        entries = self._entries(guest, Family.IPV6)
        for entry in entries:
            if entry.duplicate:
                raise LabError(f"guest {guest.name!r}: somebody else has {entry.address}")
        return not entries or any(entry.tentative for entry in entries)

    def _wait_until_online(self) -> list[str]:
        """Wait until the guests that see to their addresses themselves have them; return a line
        for each of them that has none in time."""
        until = time.monotonic() + ONLINE_TIMEOUT
        missing = []
        for guest in self.topology.guest:
            for family in Family:
                if guest.way(family) not in ("auto", "dhcp"):
                    continue
                while self._own_address(guest, family) is None and time.monotonic() < until:
                    time.sleep(POLL)
                if self._own_address(guest, family) is None:
                    missing.append(f"guest {guest.name}: {self._why_offline(guest, family)}")
        return missing

    def _why_offline(self, guest: GuestEntry, family: Family) -> str:
        client = self._clients.get((guest.name, family))
        if client is None:
            return f"has no {family.label} address yet; does the gateway advertise a prefix?"
        runs = "still asks" if client.process() else "has ended"
        return f"has no {family.label} address yet; its DHCP client {runs}, see {client.log}"

    def _own_address(self, guest: GuestEntry, family: Family) -> str | None:
        """Return the address of a family that a guest has made or been given, once it is in use."""
        node = self.node(guest.name)
        if not node.exists() or node.link(GUEST_LINK) is None:
            return None
        for entry in self._entries(guest, family):
            is_link_local = entry.address.startswith("fe80:")
            if not (entry.tentative or entry.duplicate or is_link_local):
                return entry.address
        return None

    # -- guests --------------------------------------------------------------------------------

    def places(self) -> dict[str, str]:
        """Return the host where each guest is active, as the vswitches say."""
        return self._places("active")

    def _places(self, state: str) -> dict[str, str]:
        found = {}
        for name, daemon in self.vswitches.items():
            for row in self._ask(daemon, "/v1/guests"):
                if row["state"] == state:
                    found[row["guest"]] = name
        return found

    def _ask(self, daemon: DaemonProcess, url: str) -> Any:
        client = daemon.client()
        try:
            return client.get(url)
        finally:
            client.close()

    def _attachment(self, guest: GuestEntry) -> dict[str, Any]:
        return {
            "name": guest.name,
            "segment": guest.segment,
            "device": GUEST_LINK,
            "netns": f"{self.name}-{guest.name}",
            "multi-queue": True,
            "macs": [guest.mac.hex(":")],
            "addresses": [one.address for one in self.topology.assigned(guest).values()],
        }

    def _verb(self, host: str, url: str, body: Any = None) -> None:
        client = self.vswitches[host].client()
        try:
            client.post(url, body)
        finally:
            client.close()

    def _detach(self, guest: str, host: str) -> None:
        client = self.vswitches[host].client()
        try:
            client.delete(f"/v1/guests/{guest}")
        finally:
            client.close()

    def move(self, guest_name: str, target: str) -> Move:
        """Move a guest to another host while it runs. Raises LabError."""
        guest = self.guest(guest_name)
        if target not in self.vswitches:
            known = ", ".join(self.vswitches)
            raise LabError(f"no host {target!r}; there are: {known}")
        source = self.places().get(guest_name)
        if source is None:
            raise LabError(f"guest {guest_name!r} is not attached anywhere; `lab up` attaches it")
        if source == target:
            raise LabError(f"guest {guest_name!r} is on {target} already")
        carrier = self._carrier_changes(guest)
        old, new = self.vswitches[source].client(), self.vswitches[target].client()
        try:
            moved = self._hand_over(guest, source, target, old, new)
        finally:
            old.close()
            new.close()
        if self._carrier_changes(guest) != carrier:
            raise LabError(f"guest {guest_name!r}: its link lost carrier during the move")
        return moved

    def _hand_over(
        self, guest: GuestEntry, source: str, target: str, old: Client, new: Client
    ) -> Move:
        rows = {row["guest"]: row for row in old.get("/v1/guests")}
        sequence = rows[guest.name]["sequence"] + 1
        body = {**self._attachment(guest), "state": "staged", "sequence": sequence}
        new.post("/v1/guests", body)
        staged_at = time.monotonic()
        try:
            new.post(f"/v1/guests/{guest.name}/activate", {"sequence": sequence})
        except ClientError:
            new.delete(f"/v1/guests/{guest.name}")  # The guest stays where it is.
            raise
        activated_at = time.monotonic()
        old.delete(f"/v1/guests/{guest.name}", sequence=sequence)
        detached_at = time.monotonic()
        # While both queues were in service, an ARP of the guest may have gone out by the old host
        # and told the leaf so. This is the last word.
        new.post(f"/v1/guests/{guest.name}/activate", {"sequence": sequence})
        return Move(guest.name, source, target, sequence, staged_at, activated_at, detached_at)

    def _carrier_changes(self, guest: GuestEntry) -> int:
        link = self.node(guest.name).link(GUEST_LINK)
        if link is None:
            raise LabError(f"guest {guest.name!r} has no link; `lab up` first")
        return link.carrier_changes

    # -- looking -------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """Return a row for every node."""
        rows: list[dict[str, Any]] = []
        for daemon in self._daemons:
            process = daemon.process()
            address = self._address(daemon.name)
            rows.append(
                {
                    "node": daemon.name,
                    "kind": daemon.kind,
                    "address": address,
                    "address6": None,
                    "at": f"pid {process.pid}" if process else None,
                    "state": "running" if process else "down",
                }
            )
        up = all(daemon.process() for daemon in self.vswitches.values())
        places = self.places() if up else {}
        for guest in self.topology.guest:
            at = places.get(guest.name)
            rows.append(
                {
                    "node": guest.name,
                    "kind": "guest",
                    "address": self._address_of(guest, Family.IPV4),
                    "address6": self._address_of(guest, Family.IPV6),
                    "at": at,
                    "state": "active" if at else "absent",
                }
            )
        return rows

    def _address(self, name: str) -> str:
        if name == "leaf":
            return self.topology.underlay.leaf
        return next(host for host in self.topology.host if host.name == name).address

    def _address_of(self, guest: GuestEntry, family: Family) -> str | None:
        """Return a guest's address; where that is its own affair, the one that it has by now, or
        else how it is to come by one."""
        assigned = self.topology.assigned(guest).get(family)
        if assigned is not None:
            return assigned.address
        if family is Family.IPV6 and guest.address6 is None:
            return None
        return self._own_address(guest, family) or guest.way(family)
