"""DHCP clients in guests: udhcpc and dhclient, as Debian packages them.

The script that a client calls is one of our own: Debian's write to /etc, which a namespace shares
with the machine. It sets address, MTU and route with what the client hands over, and keeps that, in
a file that is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tools.fabric.lab import Lab

from .commands import wait_until

DHCLIENT_SCRIPT = """#!/bin/sh
env > {directory}/told && mv {directory}/told {directory}/env.$reason
case $reason in
BOUND|RENEW|REBIND|REBOOT)
    ip address replace $new_ip_address/$new_subnet_mask dev $interface
    ip link set $interface mtu $new_interface_mtu
    ip route replace default via $new_routers ;;
BOUND6|RENEW6|REBIND6)
    ip -6 address replace $new_ip6_address/$new_ip6_prefixlen dev $interface ;;
EXPIRE|FAIL|RELEASE|STOP) ip -4 address flush dev $interface ;;
esac
exit 0
"""
DHCLIENT_CONF = """
timeout 20;
initial-interval 1;
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, routers, interface-mtu, rfc3442-classless-static-routes;
"""
UDHCPC_SCRIPT = """#!/bin/sh
env > {directory}/told && mv {directory}/told {directory}/env.$1
case $1 in
bound|renew)
    ip address replace $ip/$mask dev $interface
    ip link set $interface mtu $mtu
    ip route replace default via $router ;;
deconfig) ip -4 address flush dev $interface ;;
esac
exit 0
"""


class Client:
    """A DHCP client in a guest."""

    def __init__(self, lab: Lab, guest: str, directory: Path) -> None:
        self.lab, self.guest, self.directory = lab, guest, directory
        directory.mkdir(exist_ok=True)

    def _script(self, text: str) -> str:
        path = self.directory / "script"
        path.write_text(text.format(directory=self.directory))
        path.chmod(0o755)
        return str(path)

    def udhcpc(self, *more: str) -> None:
        script = self._script(UDHCPC_SCRIPT)
        command = ["udhcpc", "-i", "eth0", "-s", script, "-p", str(self.directory / "pid")]
        done = self.lab.node(self.guest).run([*command, "-t", "10", "-T", "1", "-n", *more])
        assert done.returncode == 0, done.stdout + done.stderr

    def dhclient(self, *more: str) -> None:
        script = self._script(DHCLIENT_SCRIPT)
        (self.directory / "conf").write_text(DHCLIENT_CONF)
        done = self.lab.node(self.guest).run(
            [
                *("dhclient", "-1", "-v", "-sf", script, "-cf", str(self.directory / "conf")),
                *("-lf", str(self.directory / "leases"), "-pf", str(self.directory / "pid")),
                *more,
                "eth0",
            ]
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def told(self, reason: str) -> dict[str, str]:
        """What the client handed to its script."""
        lines = (self.directory / f"env.{reason}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def addresses(self) -> list[str]:
        done = self.lab.node(self.guest).run(["ip", "-4", "-j", "address", "show", "dev", "eth0"])
        return [one["local"] for one in json.loads(done.stdout)[0]["addr_info"]]

    def kill(self, number: int = signal.SIGKILL) -> None:
        path = self.directory / "pid"
        if path.exists():
            pid = int(path.read_text())
            path.unlink()
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            wait_until(lambda: not Path(f"/proc/{pid}").exists() or _is_dead(pid), "its end")


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def rows(lab: Lab, what: str) -> dict[str, dict[str, Any]]:
    client = lab.leaf.client()
    try:
        return {row["address"]: row for row in client.get(f"/v1/{what}")}
    finally:
        client.close()


def addresses6(lab: Lab, guest: str) -> str:
    return lab.node(guest).run(["ip", "-6", "address", "show", "dev", "eth0"]).stdout
