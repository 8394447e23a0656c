"""A reload of a running leaf: configured bindings are those of the file, whatever else changes.

The daemon runs on a real event loop, with a tunnel in memory whose descriptor is never readable.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from leaf.bindings import State
from leaf.config import Config
from leaf.daemon import Daemon
from tests.frames import mac, v4
from vswitch.phy.memory import MemoryNetwork, MemoryTunnel
from vswitch.service.settings import SettingsError, load
from vswitch.wire.vxlan import Vni, Vtep

FILE = """
[leaf]
vtep = "192.0.2.1"
[[group]]
name = "one"
shared-mac = "00:00:de:ad:be:ef"
[[vswitch]]
name = "a"
vtep = "192.0.2.11"
group = "one"
[[vswitch]]
name = "b"
vtep = "192.0.2.12"
group = "one"
[[vrf]]
name = "tenant"
vni = 5000
[[segment]]
name = "red"
vni = 100
vrf = "tenant"
gateway = ["1.1.1.254/24"]
[[binding]]
segment = "red"
address = "1.1.1.1"
mac = "02:00:00:00:00:01"
vswitch = "a"
"""


class QuietTunnel(MemoryTunnel):
    """A tunnel in memory with a descriptor that the loop can watch."""

    def __init__(self) -> None:
        super().__init__(MemoryNetwork(), Vtep("192.0.2.1"))
        self._pair = socket.socketpair()

    def filenos(self) -> list[int]:
        return [self._pair[0].fileno()]

    def close(self) -> None:
        for end in self._pair:
            end.close()


def bound(daemon: Daemon) -> set[tuple[Any, ...]]:
    """The configured bindings, each with where the FIB sends its packets."""
    hosts = daemon.engine.router.fib("tenant").hosts
    return {
        (b.segment, b.address, b.mac, b.vtep, hosts[b.address].verdict.vtep)
        for b in daemon.engine.slowpath.bindings.all()
        if b.state is State.CONFIGURED
    }


def reloaded(path: Path, *changes: tuple[str, str]) -> set[tuple[Any, ...]]:
    """Start with `FILE`, change it, reload; return the configured bindings."""
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(FILE)

    async def run() -> set[tuple[Any, ...]]:
        tunnel = QuietTunnel()
        daemon = Daemon(path, load(path, Config), cast(Any, tunnel))
        await daemon.start()
        try:
            rewrite(path, text)
            await daemon.reload()
            return bound(daemon)
        finally:
            daemon.shell.unwatch(*tunnel.filenos())
            daemon.close()

    return asyncio.run(run())


def rewrite(path: Path, text: str) -> None:
    """Change the file, as an editor beside the daemon does."""
    path.write_text(text)


def expected(vtep: str = "192.0.2.11", vni: int = 100) -> set[tuple[Any, ...]]:
    return {(Vni(vni), v4("1.1.1.1"), mac(1), vtep, vtep)}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param((), expected(), id="nothing"),
        pytest.param((('vswitch = "a"', 'vswitch = "b"'),), expected("192.0.2.12"), id="binding"),
        pytest.param((("192.0.2.11", "192.0.2.99"),), expected("192.0.2.99"), id="vswitchs_vtep"),
        pytest.param((("vni = 100", "vni = 101"),), expected(vni=101), id="segments_vni"),
        pytest.param((("be:ef", "be:00"),), expected(), id="groups_shared_mac"),
    ],
)
def test_after_a_reload_the_files_bindings_are_there(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], wanted: set[tuple[Any, ...]]
) -> None:
    """As after a start with the new file: the way there makes no difference."""
    assert reloaded(tmp_path / "leaf.toml", *changes) == wanted


def test_a_configured_binding_that_finds_no_room_is_told(tmp_path: Path) -> None:
    path = tmp_path / "leaf.toml"
    other = FILE[FILE.index("[[binding]]") :].replace("1.1.1.1", "1.1.1.2")
    path.write_text(FILE + other + "[limits]\nbindings = 1\n")

    async def run() -> None:
        tunnel = QuietTunnel()
        daemon = Daemon(path, load(path, Config), cast(Any, tunnel))
        await daemon.start()
        daemon.shell.unwatch(*tunnel.filenos())
        daemon.close()

    with capture_logs() as logs:
        asyncio.run(run())
    (said,) = (one for one in logs if one["log_level"] == "warning")
    assert (said["count"], said["first"]) == (1, "1.1.1.2")
    assert "raise limits.bindings" in said["event"]


def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "leaf.toml"
    path.write_text(FILE)

    async def run() -> None:
        tunnel = QuietTunnel()
        daemon = Daemon(path, load(path, Config), cast(Any, tunnel))
        await daemon.start()
        try:
            before = daemon.config
            rewrite(path, FILE.replace('vswitch = "a"', 'vswitch = "z"'))
            with pytest.raises(SettingsError, match="no vswitch 'z'"):
                await daemon.reload()
            assert daemon.config is before
            assert bound(daemon) == expected()
        finally:
            daemon.shell.unwatch(*tunnel.filenos())
            daemon.close()

    asyncio.run(run())
