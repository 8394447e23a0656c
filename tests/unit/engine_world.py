"""A vswitch engine between memory twins: guests and leaves are the test, time is a number.

`emit` lets a guest speak and gives the engine its turn, `send_down` does the same for a leaf,
`at_leaf` takes what has arrived there. Nothing happens by itself.
"""

from __future__ import annotations

from typing import Any

from tests.frames import SHARED_MAC, mac
from tests.unit.topology import BLUE, GREEN, LEAF, RED, attachment
from vswitch.attachment import State
from vswitch.engine import Engine
from vswitch.phy.memory import MemoryNetwork, MemoryPort, MemoryTunnel
from vswitch.phy.port import Port, PortId
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

OWN = Vtep("192.0.2.100")
SECOND_LEAF = Vtep("192.0.2.2")


class Clock:
    """The engine's clock, which stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Journal:
    """A log that is kept in memory."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def warnings(self) -> list[str]:
        return [event for level, event, _ in self.lines if level == "warning"]


class World:
    """One engine with its leaves, and guests as they are attached."""

    def __init__(self, leaves: tuple[Vtep, ...] = (LEAF,)) -> None:
        self.network = MemoryNetwork()
        self.leaves: dict[Vtep, MemoryTunnel] = {vtep: self.network.tunnel(vtep) for vtep in leaves}
        self.clock = Clock()
        self.log = Journal()
        self.gone: list[tuple[PortId, Port]] = []
        self.ports: dict[str, MemoryPort] = {}
        self.engine = Engine(
            Mac(SHARED_MAC),
            leaves,
            self.network.tunnel(OWN),
            clock=self.clock,
            log=self.log,
            on_gone=self.on_gone,
        )
        self.engine.switch.add_segment(RED, "rewrite")
        self.engine.switch.add_segment(BLUE, "flood")
        self.engine.switch.add_segment(GREEN, "drop")

    def on_gone(self, port_id: PortId, port: Port) -> None:
        """Called by the engine for a port that left by itself."""
        self.gone.append((port_id, port))

    def attach(
        self,
        guest: str,
        number: int,
        *,
        segment: Vni = RED,
        state: State = State.ACTIVE,
        addresses: tuple[bytes, ...] = (),
        sequence: int | None = None,
    ) -> MemoryPort:
        """Attach a guest with the MAC `mac(number)`. What the leaves were told is put aside."""
        port = MemoryPort()
        new = attachment(guest, PortId(-1), segment, mac(number), state=state, addresses=addresses)
        self.engine.add(new, port, sequence)
        self.ports[guest] = port
        self.forget()
        return port

    def port_id(self, guest: str) -> PortId:
        return self.engine.attachments.get(guest).port

    def emit(self, guest: str, *frames: bytes) -> None:
        """A guest sends a burst, and the engine takes it."""
        for frame in frames:
            self.ports[guest].emit(frame)
        self.engine.pump_port(self.port_id(guest))

    def send_down(self, *packets: bytes, vtep: Vtep = LEAF) -> None:
        """A leaf sends packets, and the engine takes them."""
        for packet in packets:
            self.leaves[vtep].send(OWN, 0, packet)
        self.engine.pump_tunnel()

    def heard(self, guest: str) -> list[bytes]:
        """Take what a guest has received."""
        received = self.ports[guest].received
        taken = list(received)
        received.clear()
        return taken

    def at_leaf(self, vtep: Vtep = LEAF) -> list[bytes]:
        """Take the packets that have arrived at a leaf."""
        incoming = self.leaves[vtep].incoming
        taken = [
            train[at : at + size]
            for _, train, size, _ in incoming
            for at in range(0, len(train), size)
        ]
        incoming.clear()
        return taken

    def forget(self) -> None:
        """Put aside all that has arrived anywhere so far."""
        for tunnel in self.leaves.values():
            tunnel.incoming.clear()
        for port in self.ports.values():
            port.received.clear()
