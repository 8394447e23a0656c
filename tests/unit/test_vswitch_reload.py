"""What a reload of a running vswitch does to guests that a verb has let go.

The tunnel and the leaf's end are sockets on loopback, the devices of guests are memory twins.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from vswitch import daemon as module
from vswitch.attachment import State
from vswitch.config import Config, Plan
from vswitch.daemon import Daemon
from vswitch.phy.memory import MemoryPort
from vswitch.phy.udp import UdpTunnel
from vswitch.service import settings
from vswitch.wire.vxlan import Vtep

HERE, LEAF = Vtep("127.0.0.1"), Vtep("127.0.0.2")
FILE = """
[vswitch]
vtep = "127.0.0.1"
leaves = ["127.0.0.2"]
shared-mac = "00:00:de:ad:be:ef"
[log]
level = "error"
[[segment]]
name = "red"
vni = 100
"""
GUEST = """
[[guest]]
name = "H1"
segment = "red"
device = "vm1"
macs = ["02:00:00:00:00:01"]
"""


class World:
    """A daemon with its file, and the leaf's socket."""

    def __init__(self, directory: Path, leaf: socket.socket) -> None:
        self.path = directory / "vswitch.toml"
        self.path.write_text(FILE + GUEST)
        self.leaf = leaf
        tunnel = UdpTunnel(HERE, leaf.getsockname()[1], 1)
        self.daemon = Daemon(self.path, settings.load(self.path, Config), tunnel)

    async def reload(self, text: str) -> Plan:
        self.path.write_text(text)
        return await self.daemon.reload()

    def guests(self) -> list[str]:
        return [one.guest for one in self.daemon.engine.attachments.all()]

    def announced(self) -> int:
        """Take what the leaf was told."""
        count = 0
        while True:
            try:
                self.leaf.recv(2048)
            except BlockingIOError:
                return count
            count += 1


Play = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Run a scenario in which H1, of the file, was attached at the start."""
    monkeypatch.setattr(module, "open_port", lambda *described: MemoryPort())
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]

    async def on_loop(scenario: Callable[[World], Awaitable[None]]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as leaf:
            leaf.bind((LEAF, 0))
            leaf.setblocking(False)
            world = World(tmp_path, leaf)
            try:
                await world.daemon.start()
                assert world.guests() == ["H1"] and world.announced()
                await scenario(world)
            finally:
                world.daemon.close()

    yield lambda scenario: asyncio.run(on_loop(scenario))
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


OTHER_DEVICE = GUEST.replace("vm1", "vm2")
OTHER_VNI = FILE.replace("vni = 100", "vni = 200")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FILE + GUEST, id="unchanged"),
        pytest.param(FILE + OTHER_DEVICE, id="guest_changed"),
        pytest.param(OTHER_VNI + GUEST, id="segment_replaced"),
    ],
)
def test_a_guest_that_was_moved_away_is_not_brought_back(play: Play, text: str) -> None:
    """It would be announced, and draw the traffic of the one that runs elsewhere."""

    async def scenario(world: World) -> None:
        await world.daemon.detach("H1", 5)
        for _ in range(2):
            plan = await world.reload(text)
            assert not [change for change in plan.changes if change.name == "H1"]
        assert (world.guests(), world.announced()) == ([], 0)

    play(scenario)


def test_a_guest_that_came_back_by_a_verb_is_the_files_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.daemon.detach("H1", 5)
        (listed,) = world.daemon.config.guest
        await world.daemon.attach(listed, State.ACTIVE, 6)
        await world.reload(FILE)
        assert world.guests() == []
        await world.reload(FILE + GUEST)
        assert world.guests() == ["H1"]

    play(scenario)


def test_a_guest_that_has_left_and_is_written_anew_is_attached(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.daemon.detach("H1", 5)
        plan = await world.reload(FILE)
        assert plan.changes == []
        await world.reload(FILE + GUEST)
        assert world.guests() == ["H1"]

    play(scenario)


def test_a_guest_that_was_never_in_the_file_is_not_kept_out_of_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.reload(FILE)
        (listed,) = settings.check(tomllib.loads(FILE + GUEST), Config, "test").guest
        await world.daemon.attach(listed, State.ACTIVE)
        await world.daemon.detach("H1")
        await world.reload(FILE + GUEST)
        assert world.guests() == ["H1"]

    play(scenario)


def test_a_guest_whose_device_has_vanished_is_brought_back(play: Play) -> None:
    async def scenario(world: World) -> None:
        (port_id,) = world.daemon.engine.ports()
        port = world.daemon.engine.ports()[port_id]
        assert isinstance(port, MemoryPort)
        port.gone = True
        world.daemon.engine.pump_port(port_id)
        assert world.guests() == []
        await world.reload(FILE + GUEST)
        assert world.guests() == ["H1"]

    play(scenario)
