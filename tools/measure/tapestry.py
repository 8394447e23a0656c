"""Tapestry itself: the lab with real daemons and a TAP for each guest.

Without a leaf, each of two vswitches is the other's uplink and has `miss = "flood"`: it learns, as
a plain bridge does. No leaf is needed for that, so the lab's is stopped once the lab is up, and the
vswitches read a configuration that names each other.
"""

from __future__ import annotations

from tools.fabric import daemons
from tools.fabric.lab import Lab
from tools.fabric.namespace import Namespace
from tools.fabric.topology import Topology

from .rig import ADDRESSES, GATEWAY, GUESTS, LEAF_VTEP, MACS, PREFIX_LEN, VNI, VTEPS, Shape, System


def _topology(shape: Shape) -> Topology:
    segment = {
        "name": "red",
        "vni": VNI,
        "gateway": f"{GATEWAY}/{PREFIX_LEN}",
        "miss": "rewrite" if shape is Shape.ONE_LEAF else "flood",
    }
    return Topology.model_validate(
        {
            "lab": {"name": "bench"},
            "underlay": {"leaf": LEAF_VTEP},
            "segment": [segment],
            "host": [{"name": name, "address": vtep} for name, vtep in VTEPS.items()],
            "guest": [
                {
                    "name": guest,
                    "host": host,
                    "segment": "red",
                    "address": ADDRESSES[guest],
                    "mac": MACS[guest],
                }
                for host, guest in GUESTS.items()
            ],
        }
    )


class Tapestry(System):
    """The lab."""

    name = "tapestry"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._lab = Lab(_topology(shape))

    def node(self, name: str) -> Namespace:
        return self._lab.node(name)

    def up(self) -> None:
        self._lab.up()
        if self.shape is Shape.NO_LEAF:
            self._join_vswitches()

    def _join_vswitches(self) -> None:
        self._lab.leaf.down()
        for host in self._lab.topology.host:
            config = daemons.vswitch_config(self._lab.topology, host, self._lab.directory)
            others = [vtep for name, vtep in VTEPS.items() if name != host.name]
            config["vswitch"]["leaves"] = others
            self._lab.vswitches[host.name].up(config)

    def down(self) -> None:
        self._lab.down()

    def pids(self) -> list[int]:
        everyone = [self._lab.leaf, *self._lab.vswitches.values()]
        return [process.pid for daemon in everyone if (process := daemon.process())]
