"""The daemons of a lab: their configuration files, starting, stopping, asking them.

A running daemon is remembered by its process id together with its start time, so that a number that
the kernel has given to somebody else meanwhile is never taken for ours.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tomli_w

from vswitch.service.client import Client

from .namespace import Namespace
from .topology import HostEntry, Topology

START_TIMEOUT = 20.0
STOP_TIMEOUT = 3.0
PRIORITY = 1
"""The lowest of real-time priorities, as in the systemd units: a switch that waits for a processor
is a slow network for everybody."""


class LabError(Exception):
    """Something that the lab cannot do; the text says why."""


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


class Process(NamedTuple):
    """A process of ours."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat: clock ticks after boot."""


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


class DaemonProcess:
    """One daemon of a lab."""

    def __init__(
        self,
        kind: Literal["vswitch", "leaf"],
        name: str,
        namespace: Namespace,
        directory: Path,
    ) -> None:
        self.kind = kind
        self.name = name
        self.namespace = namespace
        self.socket = directory / f"{name}.sock"
        self.log = directory / f"{name}.log"
        self._config = directory / f"{name}.toml"
        self._record = directory / f"{name}.pid"
        self._notify = directory / f"{name}.notify"
        self._ready: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def process(self) -> Process | None:
        """Return the running process, or None."""
        try:
            process = Process(*json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return process if _start_time(process.pid) == process.started else None

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
        with self.log.open("ab") as log:
            process = self.namespace.popen(
                [sys.executable, "-m", self.kind, "run", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "NOTIFY_SOCKET": str(self._notify)},
            )
        with suppress(PermissionError):  # Without root they share the processor as others do.
            os.sched_setscheduler(process.pid, os.SCHED_RR, os.sched_param(PRIORITY))
        self._child = process
        started = _start_time(process.pid)
        self._record.write_text(json.dumps([process.pid, started]))

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
        tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
        raise LabError(f"{self.kind} {self.name} did not start; its log ends with:\n{tail}")

    def down(self) -> None:
        """Stop it: asked first, ended by force when it does not go."""
        process = self.process()
        if process is None:
            return
        os.kill(process.pid, signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT
        while self.process() is not None and time.monotonic() < until:
            time.sleep(0.01)
        if self.process() is not None:
            os.kill(process.pid, signal.SIGKILL)
        if self._child is not None:  # Else it was started by an earlier command, and init reaps it.
            self._child.wait()
