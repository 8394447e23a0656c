"""Open vSwitch with its userspace datapath (`datapath_type=netdev`): the peer to beat.

Each host, and the leaf, runs an ovsdb-server and an ovs-vswitchd of its own in its namespace, with
database, sockets and process ids in a directory of its own: one daemon could hold all bridges, but
would then not send from one to the other over the underlay.

    guest --TAP-- br-int --vxlan--(routed to)-- br-phy --veth-- spine

This is the arrangement of the project's "userspace tunnelling" how-to: the tunnel end's address
lies on br-phy's own interface, since a userspace datapath looks its tunnels' routes and neighbours
up by itself. Guests are TAPs that ovs-vswitchd made and whose other end has been moved into the
guest's namespace. A veth would carry packets whose checksums and segmentation the kernel still
owes, and this datapath does not do them.

The leaf is flow rules: answer ARP for the other guest, and between the tunnels write both MACs and
take one off the TTL. Without a leaf, both switches are plain learning ones (NORMAL).

Rejected: `userspace-tso-enable`, which is experimental in Debian 12's version and has no tunnels
(userspace-tso.rst, "Limitations"). Not tried: DPDK and AF_XDP, whose polling threads want a
processor each.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK

from .rig import (
    ADDRESSES,
    GUEST_MTU,
    GUESTS,
    LEAF_VTEP,
    MACS,
    PREFIX_LEN,
    SHARED_MAC,
    UNDERLAY_MTU,
    VNI,
    VTEPS,
    Racked,
    RigError,
    Shape,
    run,
)

RUN = Path("/run/tapestry-ovs")
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PROGRAMS: Final = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl")
INT, PHY = "br-int", "br-phy"
NICE: Final = -10
START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 3.0


def missing() -> str:
    """Say why Open vSwitch cannot be measured here; nothing if it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent or not SCHEMA.exists():
        what = ", ".join(absent) or str(SCHEMA)
        return f"no {what}; sudo apt-get install -y --no-install-recommends openvswitch-switch"
    return ""


def _hex(address: str, separator: str, base: int) -> str:
    return "0x" + "".join(f"{int(part, base):02x}" for part in address.split(separator))


def leaf_flows(far: str, near_port: str, far_port: str) -> list[str]:
    """Return the rules for what comes from one tunnel: guest `far` is behind the other one."""
    mac = _hex(SHARED_MAC, ":", 16)
    answer = ",".join(
        [
            "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
            f"mod_dl_src:{SHARED_MAC}",
            "load:2->NXM_OF_ARP_OP[]",
            "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]",
            "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
            f"load:{mac}->NXM_NX_ARP_SHA[]",
            f"load:{_hex(ADDRESSES[far], '.', 10)}->NXM_OF_ARP_SPA[]",
            "IN_PORT",
        ]
    )
    route = f"mod_dl_src:{SHARED_MAC},mod_dl_dst:{MACS[far]},dec_ttl,output:{far_port}"
    return [
        f"in_port={near_port},arp,arp_op=1,arp_tpa={ADDRESSES[far]},actions={answer}",
        f"in_port={near_port},ip,dl_dst={SHARED_MAC},nw_dst={ADDRESSES[far]},actions={route}",
    ]


class OpenVSwitch(Racked):
    """Open vSwitch, a daemon pair in each host's namespace and the leaf's."""

    name = "ovs"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._daemons: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        self.build_underlay()
        for name, vtep in self.vteps.items():
            self._start(name)
            self._build_phy(name, vtep)
        for host, guest in GUESTS.items():
            if self.shape is Shape.ONE_LEAF:
                remote = LEAF_VTEP
            else:
                remote = next(vtep for name, vtep in VTEPS.items() if name != host)
            self._vsctl(host, *self._bridge(INT), *self._tunnel("vx0", remote))
            self._build_guest(host, guest)
        if self.shape is Shape.ONE_LEAF:
            self._build_leaf()

    # -- processes -----------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        directory = RUN / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        database, socket = directory / "conf.db", f"unix:{directory}/db.sock"
        run(self.node(name), "ovsdb-tool", "create", str(database), str(SCHEMA))
        self._spawn(name, "ovsdb-server", str(database), f"--remote=p{socket}")
        self._wait_for(directory / "db.sock", f"ovsdb-server of {name}")
        self._vsctl(name, "--no-wait", "init")
        self._spawn(name, "ovs-vswitchd", socket)
        self._wait_for(directory / "ovs-vswitchd.ctl", f"ovs-vswitchd of {name}")

    def _spawn(self, name: str, program: str, *options: str) -> None:
        directory = RUN / name
        files = [f"--unixctl={directory}/{program}.ctl", f"--log-file={directory}/{program}.log"]
        process = self.node(name).popen(
            [program, *options, *files, "-vconsole:off"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                "OVS_RUNDIR": str(directory),
                "OVS_LOGDIR": str(directory),
                "OVS_DBDIR": str(directory),
            },
        )
        self._daemons.append(process)
        with suppress(PermissionError):  # As its package starts it (ovs-ctl).
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)

    def _wait_for(self, socket: Path, what: str) -> None:
        until = time.monotonic() + START_TIMEOUT
        while not socket.exists():
            if time.monotonic() > until or self._daemons[-1].poll() is not None:
                raise RigError(f"{what} did not start")
            time.sleep(0.02)

    def _vsctl(self, name: str, *command: str) -> None:
        database = f"--db=unix:{RUN / name}/db.sock"
        run(self.node(name), "ovs-vsctl", "--timeout=10", database, *command)

    def _ofctl(self, name: str, *command: str) -> None:
        verb, *rest = command
        run(self.node(name), "ovs-ofctl", verb, f"unix:{RUN / name}/{INT}.mgmt", *rest)

    def pids(self) -> list[int]:
        return [process.pid for process in self._daemons]

    def down(self) -> None:
        for process in self._daemons:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT
        for process in self._daemons:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._daemons = []
        super().down()
        shutil.rmtree(RUN, ignore_errors=True)

    # -- bridges -------------------------------------------------------------------------------

    def _bridge(self, bridge: str) -> list[str]:
        return ["--", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"]

    def _tunnel(self, port: str, remote: str) -> list[str]:
        kind = ["type=vxlan", f"options:remote_ip={remote}", f"options:key={VNI}"]
        return ["--", "add-port", INT, port, "--", "set", "interface", port, *kind]

    def _build_phy(self, name: str, vtep: str) -> None:
        """Put the underlay's link into br-phy, and the tunnel end's address onto it."""
        node = self.node(name)
        link = node.link(UNDERLAY_LINK)
        if link is None:
            raise RigError(f"{name} has no {UNDERLAY_LINK}")
        # The bridge takes the link's MAC, or the underlay's answers would go to neither.
        mac = f"other-config:hwaddr={link.mac}"
        bridge = [*self._bridge(PHY), "--", "set", "bridge", PHY, mac]
        self._vsctl(name, *bridge, "--", "add-port", PHY, UNDERLAY_LINK)
        node.link_up(PHY, mtu=UNDERLAY_MTU)
        node.add_address(PHY, vtep, PREFIX_LEN)

    def _build_guest(self, host: str, guest: str) -> None:
        """Have a TAP made, and move its link into the guest: the daemon keeps its descriptor."""
        port = f"tap{host}"
        self._vsctl(host, "add-port", INT, port, "--", "set", "interface", port, "type=tap")
        here, there = self.node(host), self.node(guest)
        run(here, "ip", "link", "set", port, "netns", there.name, "name", GUEST_LINK)
        there.link_up(GUEST_LINK, address=MACS[guest], mtu=GUEST_MTU)
        there.add_address(GUEST_LINK, ADDRESSES[guest], PREFIX_LEN)

    def _build_leaf(self) -> None:
        tunnels = [f"vx{host}" for host in VTEPS]
        first, second = GUESTS.values()
        ports = [self._tunnel(f"vx{host}", vtep) for host, vtep in VTEPS.items()]
        self._vsctl("leaf", *self._bridge(INT), *(word for port in ports for word in port))
        self._ofctl("leaf", "del-flows")
        for flow in [
            *leaf_flows(second, tunnels[0], tunnels[1]),
            *leaf_flows(first, tunnels[1], tunnels[0]),
        ]:
            self._ofctl("leaf", "add-flow", flow)
