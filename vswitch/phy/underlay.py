"""The underlay's device, past the sockets: a TAP that leads out by it, and packet sockets on it.

    vxtapN  ingress: all  -> (redirected) ->  egress of the underlay's device

That device is the one that has our VTEP's address. What we write into the TAP leaves by it as it
is; the redirection is a filter of the TAP, and gone with it. Packet sockets take what comes in for
our VTEP before the kernel's own sockets do; those are told by `skip` to leave it to them, so that
nothing is received twice, and what comes by any other device is still theirs. All of it ends with
the process, however that ends.

Packet sockets are lanes, as those of UDP are: the kernel spreads over them by flow (fanout), and
each has a buffer that is bounded in bytes.

pyroute2 runs an event loop of its own, which a thread that has one cannot: it is called in another.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ..wire import ethernet, vnet
from ..wire.outer import LAYOUTS
from ..wire.vxlan import Vtep
from . import tap

LANES = 8
RECEIVE_BUFFER = 1 << 20
"""Of a lane, which the kernel doubles: some thirty super-frames, or a thousand small packets."""
_ARPHRD_ETHER = 1
_INGRESS = 0xFFFF_FFF2
"""The parent of filters for what a device receives (TC_H_CLSACT, TC_H_MIN_INGRESS)."""
_EVERYTHING = 0x0003
"""ETH_P_ALL."""
_FLOW_ID = 0x1_0000
"""Unused, but a u32 filter has to have one."""
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80 | 0x100
"""TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6, UDP_TUNNEL_GSO and UDP_TUNNEL_GSO_CSUM: Linux 6.17
has all of them."""
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_VNET_HDR, _PACKET_FANOUT = 263, 6, 15, 18
_FANOUT_HASH, _FANOUT_UNIQUE_ID = 0, 0x2000
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33

# Classic BPF (Linux Documentation/networking/filter.rst): opcodes, and what a filter can ask for
# that is not in the packet.
_LD_B, _LD_H, _LD_W, _LD_H_X, _LDX_IHL = 0x30, 0x28, 0x20, 0x48, 0xB1
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_PACKET_TYPE, _IFINDEX, _VLAN_PRESENT = 0xFFFF_F000 + 4, 0xFFFF_F000 + 8, 0xFFFF_F000 + 48
_KEEP, _DROP = 0xFFFF_FFFF, 0

_T = TypeVar("_T")


class UnderlayError(Exception):
    """There is no way past the sockets; the text says why."""


class Link(NamedTuple):
    """A network device."""

    ifindex: int
    name: str


class Underlay:
    """A way in and out by the device of the underlay."""

    def __init__(self, local: Vtep, port: int) -> None:
        """Open it. Raises UnderlayError; then nothing of it is left."""
        self._out = -1
        self._lanes: list[socket.socket] = []
        try:
            self.link = _elsewhere(lambda ip: _link_of(ip, local))
            self._out, self.name = _open_tap()
            _elsewhere(lambda ip: _lead_out(ip, self.name, self.link))
            while len(self._lanes) < LANES:
                self._lanes.append(self._open_lane(local, port))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | NetlinkError):
                raise UnderlayError(_why(error)) from error
            raise

    def _open_lane(self, local: Vtep, port: int) -> socket.socket:
        lane = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            lane.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            lane.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
            _attach(lane, _to_vtep(local, port))
            lane.bind((self.link.name, ethernet.IPV6 if ":" in local else ethernet.IPV4))
            # The first one is given a number that nobody else has, and the others join it.
            group = _FANOUT_HASH << 16
            if self._lanes:
                group |= self._lanes[0].getsockopt(_SOL_PACKET, _PACKET_FANOUT) & 0xFFFF
            else:
                group |= _FANOUT_UNIQUE_ID << 16
            lane.setsockopt(_SOL_PACKET, _PACKET_FANOUT, group)
        except BaseException:
            lane.close()
            raise
        return lane

    def filenos(self) -> list[int]:
        """Return the descriptor of each lane."""
        return [lane.fileno() for lane in self._lanes]

    def is_bound(self) -> bool:
        """Say whether the lanes still have their device, which may have been removed."""
        return bool(self._lanes[0].getsockname()[0])

    def write(self, parts: Sequence[memoryview | bytes]) -> None:
        """Put a frame, behind the header of a tunnel, on the underlay. Raises OSError."""
        os.writev(self._out, parts)

    def skip(self, sock: socket.socket) -> None:
        """Have a socket of UDP leave alone what the lanes take: all that comes by their device."""
        _attach(
            sock,
            [
                (_LD_W, 0, 0, _IFINDEX),
                (_JEQ, 0, 1, self.link.ifindex),
                (_RET, 0, 0, _DROP),
                (_RET, 0, 0, _KEEP),
            ],
        )

    def overrun(self) -> int:
        """Return how many packets found their lane full since the last call."""
        lost = 0
        for lane in self._lanes:
            _, dropped = struct.unpack("II", lane.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            lost += dropped
        return lost

    def close(self) -> None:
        """Close all; the device goes with its descriptor."""
        if self._out >= 0:
            os.close(self._out)
            self._out = -1
        for lane in self._lanes:
            lane.close()
        self._lanes = []


def _elsewhere(work: Callable[[IPRoute], _T]) -> _T:
    def run() -> _T:
        with IPRoute() as ip:
            return work(ip)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _link_of(ip: IPRoute, local: Vtep) -> Link:
    """Return the link that has the address `local`. Raises UnderlayError where none of Ethernet
    has, or several."""
    ours = ipaddress.ip_address(local)
    found = {
        int(entry["index"])
        for entry in ip.get_addr(family=socket.AF_INET if ours.version == 4 else socket.AF_INET6)
        if (said := entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
        and ipaddress.ip_address(said) == ours
    }
    if len(found) != 1:
        raise UnderlayError(f"{len(found) or 'no'} links have the address {local}")
    (index,) = found
    for link in ip.get_links(index):
        name = str(link.get_attr("IFLA_IFNAME"))
        if link["ifi_type"] != _ARPHRD_ETHER:
            raise UnderlayError(f"{local} is the address of {name}, which is not of Ethernet")
        return Link(index, name)
    raise UnderlayError(f"the link with the address {local} has vanished")


def _open_tap() -> tuple[int, str]:
    try:
        return tap.open_device("vxtap%d", vnet.TUNNEL_LEN, (_OFFLOADS,), multi_queue=False)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise UnderlayError("the kernel is older than Linux 6.17") from error
        raise


def _lead_out(ip: IPRoute, name: str, link: Link) -> None:
    """Redirect what is written into the TAP `name` to `link`."""
    for own in ip.link_lookup(ifname=name):
        # What the kernel itself has to say on the new device nobody reads.
        ip.link("set", index=own, state="up", txqlen=1)
        ip.tc("add", "clsact", own)
        ip.tc(
            "add-filter",
            "u32",
            own,
            parent=_INGRESS,
            prio=1,
            protocol=_EVERYTHING,
            target=_FLOW_ID,
            keys=["0x0/0x0+0"],
            action={
                "kind": "mirred",
                "direction": "egress",
                "action": "redirect",
                "ifindex": link.ifindex,
            },
        )
        return
    raise UnderlayError(f"{name} has vanished")


_Step = tuple[int, int, int, int]
"""An instruction: opcode, how far to jump if true and if not, and its number."""


def _attach(sock: socket.socket, program: list[_Step]) -> None:
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)


def _to_vtep(local: Vtep, port: int) -> list[_Step]:
    """Return the filter for UDP to our VTEP: frames to this host, untagged, and no fragments, of
    which the first alone has ports (a VTEP may drop them, RFC 7348 section 4.3)."""
    packed = ipaddress.ip_address(local).packed
    layout = LAYOUTS[4 if len(packed) == 4 else 6]
    checks: list[tuple[list[_Step], int, bool]] = [
        ([(_LD_W, 0, 0, _PACKET_TYPE)], 0, True),
        ([(_LD_B, 0, 0, _VLAN_PRESENT)], 0, True),
    ]
    protocol_at, port_at = (23, 16) if len(packed) == 4 else (20, layout.udp_at + 2)
    checks.append(([(_LD_B, 0, 0, protocol_at)], 17, True))
    for at in range(0, len(packed), 4):
        word = int.from_bytes(packed[at : at + 4], "big")
        checks.append(([(_LD_W, 0, 0, layout.destination.start + at)], word, True))
    if len(packed) == 4:
        checks.append(([(_LD_H, 0, 0, 20)], 0x3FFF, False))
        checks.append(([(_LDX_IHL, 0, 0, 14), (_LD_H_X, 0, 0, port_at)], port, True))
    else:
        checks.append(([(_LD_H, 0, 0, port_at)], port, True))
    program: list[_Step] = []
    length = sum(len(loads) + 1 for loads, _, _ in checks)
    for loads, number, is_equal in checks:
        program += loads
        to_drop = length - len(program)
        if is_equal:
            program.append((_JEQ, 0, to_drop, number))
        else:
            program.append((_JSET, to_drop, 0, number))
    return [*program, (_RET, 0, 0, _KEEP), (_RET, 0, 0, _DROP)]


def _why(error: OSError | NetlinkError) -> str:
    number = error.code if isinstance(error, NetlinkError) else error.errno
    return {
        errno.EPERM: "the daemon needs CAP_NET_ADMIN and CAP_NET_RAW",
        errno.EACCES: "the daemon may not open /dev/net/tun",
        errno.ENOENT: "no /dev/net/tun, or the kernel lacks the u32 filter or mirred:"
        " `modprobe tun cls_u32 act_mirred`",
        errno.EAFNOSUPPORT: "the daemon may not use netlink or packet sockets",
    }.get(number or 0, str(error))
