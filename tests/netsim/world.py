"""A rack in memory: hosts with a vswitch each, one leaf, and guests that move between the hosts.

The guests speak IPv4 and IPv6. A test talks in one family and both are there: `guest` gives out the
half of a guest that has that family. At rest, what must hold in any scenario is checked by itself
(`check`).

The engines are the product's; the network, the clock and the guests are fakes. Nothing happens by
itself: `run` lets everybody act until nobody has anything to do, and `advance` lets time pass from
deadline to deadline. Whatever crosses the underlay is kept in `wire`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from leaf.bindings import DEFAULT_TIMERS, Timers
from leaf.engine import Engine as Leaf
from leaf.limits import Limits
from leaf.topology import Group, Segment, Topology, Vrf
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, mac
from tests.netsim.families import IPV4, Family
from tests.netsim.guest import Device, Guest, Machine
from tests.unit.leaf_world import gateway
from vswitch.attachment import Attachment, State
from vswitch.engine import Engine as Vswitch
from vswitch.phy.memory import MemoryNetwork, MemoryPort
from vswitch.phy.port import PortId
from vswitch.switch import Miss
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

RED, BLUE = Vni(100), Vni(200)
"""1.1.1.0/24 and 2001:db8:1::/64, 2.2.2.0/24 and 2001:db8:2::/64."""
LEAF = Vtep("192.0.2.1")
MAX_BINDINGS = 1000
MAX_TURNS = 2000
"""More than any scenario needs; what goes on for longer goes round in circles."""


class Crossing(NamedTuple):
    """A packet on the underlay."""

    source: Vtep
    vtep: Vtep
    packet: bytes

    def is_discovery(self, family: Family) -> bool:
        """Whether it is ARP or ND."""
        return family.message(self.packet[8:]) is not None

    def is_ip(self, family: Family) -> bool:
        """Whether it is an IP packet of a family, and not its neighbour discovery."""
        return self.packet[20:22] == family.ethertype and not self.is_discovery(family)


class Silence:
    """A log that nobody reads."""

    def info(self, *_: object, **__: object) -> None:
        """Say nothing."""

    warning = info


class World:
    """The rack. `groups` names the hosts whose vswitches have the other shared MAC."""

    def __init__(
        self,
        hosts: str = "AB",
        *,
        miss: Miss = "rewrite",
        hop_neutral: bool = False,
        multicast: Literal["drop", "replicate"] = "drop",
        second_group: str = "",
        timers: Timers = DEFAULT_TIMERS,
        family: Family = IPV4,
    ) -> None:
        self.family = family
        self.now = 1000.0
        self.wire: list[Crossing] = []
        self.network = MemoryNetwork(gathers=True)
        self.network.lost = self._crosses
        self.drop = lambda crossing: False
        """Decides which packets the underlay loses."""
        self.machines: dict[str, Machine] = {}
        self.place: dict[str, str] = {}
        self.vteps = {host: Vtep(f"192.0.2.{11 + n}") for n, host in enumerate(hosts)}
        self._timers = timers
        shared = {host: OTHER_SHARED_MAC if host in second_group else SHARED_MAC for host in hosts}
        self.shared = {host: Mac(of_host) for host, of_host in shared.items()}
        groups = {
            vtep: Group(self.shared[host].hex(), self.shared[host])
            for host, vtep in self.vteps.items()
        }
        segments = [
            Segment(
                name,
                vni,
                "tenant",
                (
                    gateway(f"{number}.{number}.{number}.254", f"{number}.{number}.{number}.0/24"),
                    gateway(f"2001:db8:{number}::254", f"2001:db8:{number}::/64"),
                ),
                groups,
                hop_neutral,
                multicast,
            )
            for name, vni, number in (("red", RED, 1), ("blue", BLUE, 2))
        ]
        vrf = Vrf("tenant", Vni(5000), segments)
        self.topology = Topology(Mac(mac(0xFF)), [vrf], {})
        self.leaf = self.restart_leaf()
        self.vswitches = {host: self._vswitch(host, miss) for host in hosts}

    def _vswitch(self, host: str, miss: Miss) -> Vswitch:
        made = Vswitch(
            self.shared[host],
            (LEAF,),
            self.network.tunnel(self.vteps[host]),
            clock=lambda: self.now,
            log=Silence(),
            on_gone=lambda port_id, port: None,
        )
        made.switch.add_segment(RED, miss)
        made.switch.add_segment(BLUE, miss)
        return made

    def restart_leaf(self) -> Leaf:
        """Replace the leaf by a new one, which knows nothing."""
        self.leaf = Leaf(
            self.topology,
            self.network.tunnel(LEAF),
            lambda: self.now,
            timers=self._timers,
            limits=Limits(),
            max_bindings=MAX_BINDINGS,
        )
        return self.leaf

    def _crosses(self, source: Vtep, vtep: Vtep, packet: bytes) -> bool:
        crossing = Crossing(source, vtep, packet)
        self.wire.append(crossing)
        return self.drop(crossing)

    # -- guests --------------------------------------------------------------------------------

    def guest(self, name: str, address: str, host: str, *, listed: bool = True) -> Guest:
        """Start a guest on `host`; `listed`: the vswitch is told its addresses. `address` is that
        of IPv4, and names the other."""
        way_out = address.rsplit(".", 1)[0] + ".254"
        made = Machine(name, address, mac(len(self.machines) + 1), way_out)
        self.machines[name] = made
        self.attach(made, host, State.ACTIVE, listed)
        self.place[name] = host
        self.run()
        return made.halves[self.family]

    def attach(self, machine: Machine, host: str, state: State, listed: bool) -> MemoryPort:
        """Attach a guest to a host's vswitch; return its port there."""
        port = machine.port if state is State.ACTIVE else Device()
        port.park(state is State.STAGED)
        addresses = {half.address for half in machine.halves.values()}
        attachment = Attachment(
            machine.name,
            PortId(0),
            RED if machine.halves[IPV4].address[0] == 1 else BLUE,
            frozenset({Mac(machine.mac)}),
            frozenset(addresses if listed else ()),
            True,
            state,
        )
        self.vswitches[host].add(attachment, port)
        return port

    def stage(self, guest: Guest, host: str, *, listed: bool = True) -> MemoryPort:
        """Prepare the target of a move."""
        return self.attach(guest.machine, host, State.STAGED, listed)

    def activate(self, guest: Guest, host: str, port: MemoryPort) -> None:
        """The guest runs at the target from now on, where its staged port is."""
        guest.machine.port = port
        self.vswitches[host].activate(guest.name)

    def detach(self, guest: Guest, host: str) -> None:
        self.vswitches[host].detach(guest.name)

    def move(self, guest: Guest, host: str) -> None:
        """Stage, activate there, detach here."""
        staged = self.stage(guest, host)
        self.run()
        self.activate(guest, host, staged)
        self.detach(guest, self.place[guest.name])
        self.place[guest.name] = host
        self.run()

    # -- time ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Let everybody act until nobody has anything to do. No time passes."""
        for _ in range(MAX_TURNS):
            if not self._turn():
                self.check()
                return
        raise AssertionError("the rack does not come to rest: frames go round in circles")

    def _turn(self) -> bool:
        busy = False
        for vswitch in self.vswitches.values():
            for port_id, port in vswitch.ports().items():
                if port.pending:
                    busy = True
                    vswitch.pump_port(port_id)
        for engine in (*self.vswitches.values(), self.leaf):
            if engine.tunnel.pending:
                busy = True
                engine.pump_tunnel()
            if (at := engine.deadline()) is not None and at <= self.now:
                busy = True
                engine.tick(self.now)
        for machine in self.machines.values():
            busy |= machine.poll()
        return busy

    def advance(self, seconds: float) -> None:
        """Let time pass, from deadline to deadline."""
        end = self.now + seconds
        self.run()
        while True:
            engines = (*self.vswitches.values(), self.leaf)
            times = [at for engine in engines if (at := engine.deadline()) is not None]
            if not times or min(times) > end:
                break
            self.now = min(times)
            self.run()
        self.now = end

    def check(self) -> None:
        """What holds at rest, whatever has happened: the families of a guest are never at two
        places, no cache names anything but an owner or a shared MAC, and tables are bounded."""
        bindings = self.leaf.slowpath.bindings.all()
        assert len(bindings) <= MAX_BINDINGS
        places: dict[tuple[Vni, Mac], Vtep] = {}
        for binding in bindings:
            place = places.setdefault((binding.segment, binding.mac), binding.vtep)
            assert place == binding.vtep, "one family has moved alone"
        halves = [half for one in self.machines.values() for half in one.halves.values()]
        owners = {(half.address, half.mac) for half in halves}
        shared = set(self.shared.values())
        for half in halves:
            for entry in half.cache.items():
                assert entry in owners or entry[1] in shared, f"{half.name} believes {entry}"

    # -- questions of the tests ----------------------------------------------------------------

    def reaches(self, one: Guest, two: Guest, ttl: int = 64) -> bool:
        """Ping from `one` to `two`, and say whether the answer comes before any time passes."""
        pong = one.ping(two, ttl)
        self.run()
        return pong in one.pongs

    def ip_packets(self, since: int = 0) -> list[Crossing]:
        """The IP packets of the test's family that have crossed the underlay."""
        return [crossing for crossing in self.wire[since:] if crossing.is_ip(self.family)]

    def bound(self) -> dict[bytes, Vtep]:
        """Where the leaf has each address, of both families."""
        return {one.address: one.vtep for one in self.leaf.slowpath.bindings.all()}

    def places(self) -> dict[bytes, Vtep]:
        """Where each address is."""
        return {
            half.address: self.vteps[self.place[name]]
            for name, machine in self.machines.items()
            for half in machine.halves.values()
        }

    def astray(self) -> list[bytes]:
        """Unicast frames and packets that somebody saw to whom they were not sent."""
        return [frame for machine in self.machines.values() for frame in machine.astray]
