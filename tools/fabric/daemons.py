"""The daemons of a lab: their configuration files, starting, reloading, asking them."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import tomli_w

from vswitch.service.client import Client

from .namespace import Namespace
from .process import LabError, LabProcess
from .topology import HostEntry, Topology

START_TIMEOUT = 20.0
PRIORITY = 1
"""The lowest of real-time priorities, as in the systemd units: a switch that waits for a processor
is a slow network for everybody."""


def vswitch_config(topology: Topology, host: HostEntry, directory: Path) -> dict[str, Any]:
    """Return the configuration of a host's vswitch. Guests are attached through its API."""
    return {
        "vswitch": {
            "name": host.name,
            "vtep": host.address,
            "leaves": [topology.underlay.leaf],
            "shared-mac": topology.lab.shared_mac.hex(":"),
            "offload": topology.lab.offload,
        },
        "api": {"socket": str(directory / f"{host.name}.sock")},
        "segment": [
            {
                "name": segment.name,
                "vni": segment.vni,
                "miss": segment.miss,
                "gateway": [gateway.partition("/")[0] for gateway in segment.gateways],
            }
            for segment in topology.segment
        ],
    }


def leaf_config(topology: Topology, directory: Path) -> dict[str, Any]:
    """Return the configuration of the leaf. Bindings are learnt."""
    return {
        "leaf": {
            "name": "leaf",
            "vtep": topology.underlay.leaf,
            "offload": topology.lab.offload,
            "state": str(directory / "leaf.db"),
        },
        "api": {"socket": str(directory / "leaf.sock")},
        "group": [{"name": "rack", "shared-mac": topology.lab.shared_mac.hex(":")}],
        "vswitch": [
            {"name": host.name, "vtep": host.address, "group": "rack"} for host in topology.host
        ],
        "vrf": [{"name": "tenant", "vni": topology.lab.vrf_vni}],
        "segment": [
            {
                "name": segment.name,
                "vni": segment.vni,
                "vrf": "tenant",
                "gateway": segment.gateways,
                "hop-neutral": segment.hop_neutral,
                **({"dhcp": segment.dhcp} if segment.dhcp else {}),
            }
            for segment in topology.segment
        ],
    }


class DaemonProcess(LabProcess):
    """One daemon of a lab."""

    def __init__(
        self,
        kind: Literal["vswitch", "leaf"],
        name: str,
        namespace: Namespace,
        directory: Path,
    ) -> None:
        super().__init__(name, namespace, directory)
        self.kind = kind
        self.name = name
        self.socket = directory / f"{name}.sock"
        self._config = directory / f"{name}.toml"
        self._notify = directory / f"{name}.notify"
        self._ready: socket.socket | None = None

    def client(self) -> Client:
        return Client(self.socket)

    def up(self, config: dict[str, Any]) -> str:
        """Start it, or have it read a changed configuration; return what was done."""
        text = tomli_w.dumps(config)
        running = self.process()
        changed = not self._config.exists() or self._config.read_text() != text
        self._config.write_text(text)
        if running is None:
            self._start()
            return "started"
        if not changed:
            return "running"
        with_client = self.client()
        try:
            with_client.post("/v1/reload")
        finally:
            with_client.close()
        return "reloaded"

    def _start(self) -> None:
        self._notify.unlink(missing_ok=True)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(self._notify))
        command = [sys.executable, "-m", self.kind, "run", str(self._config)]
        pid = self._spawn(command, NOTIFY_SOCKET=str(self._notify))
        with suppress(PermissionError):  # Without root they share the processor as others do.
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(PRIORITY))

    def down(self) -> None:
        """Stop it, whether or not it was waited for."""
        if self._ready is not None:
            self._ready.close()
            self._ready = None
        super().down()

    def wait_ready(self) -> None:
        """Wait until it says that it is ready, as systemd would. Raises LabError with the end of
        its log."""
        if self._ready is None:
            return  # It was running before.
        until = time.monotonic() + START_TIMEOUT
        with self._ready as ready:
            self._ready = None
            ready.settimeout(0.1)
            while time.monotonic() < until and self.process() is not None:
                try:
                    if b"READY=1" in ready.recv(4096):
                        return
                except TimeoutError:
                    continue
        raise LabError(
            f"{self.kind} {self.name} did not start; its log ends with:\n{self.log_tail()}"
        )
