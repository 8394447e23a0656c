"""A router on the way that carries less: what ICMP says of it, and what the tunnel makes of that.

The lab's underlay is one bridge, which says nothing; here two tunnel ends have a router between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests import frames
from tools.fabric import namespace
from tools.fabric.namespace import Namespace
from vswitch.phy.source import MAX_ROWS
from vswitch.phy.tap import inside
from vswitch.phy.tunnel import Inbox
from vswitch.phy.udp import UdpTunnel
from vswitch.wire.vxlan import Vtep

from .commands import wait_until

NEAR, NARROW = 1500, 1400


class Ends(NamedTuple):
    """Two tunnels, a router between them, and what the first one's kernel lacks."""

    here: UdpTunnel
    there: UdpTunnel
    vtep: Vtep
    headers: int
    """Outer IP and UDP."""
    notices: list[str]


@pytest.fixture(params=["ipv4", "ipv6"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The second link of the way takes less than the first."""
    is_ipv6 = request.param == "ipv6"
    prefix, length, headers = ("2001:db8:98", 64, 48) if is_ipv6 else ("10.98", 24, 28)

    def address(link: int, host: int) -> str:
        return f"{prefix}:{link}::{host}" if is_ipv6 else f"{prefix}.{link}.{host}"

    near, router, far = (Namespace(f"pmtu-{name}") for name in ("near", "router", "far"))
    notices: list[str] = []
    with ExitStack() as stack:
        for node in (near, router, far):
            node.remove()
            node.create(ipv6=is_ipv6)
            stack.callback(node.remove)
        for link, (node, mtu) in enumerate(((near, NEAR), (far, NARROW)), start=1):
            namespace.join(node, "eth0", router, node.name, mtu)
            for where, name, host in ((node, "eth0", 1), (router, node.name, 254)):
                where.sysctl(f"ipv6/conf/{name}/accept_dad", 0)
                where.link_up(name)
                where.add_address(name, address(link, host), length)
            node.add_default_route(address(link, 254))
        router.sysctl("ipv6/conf/all/forwarding", 1)
        router.sysctl("ipv4/ip_forward", 1)
        with inside(near.name):
            here = UdpTunnel(Vtep(address(1, 1)), source_ports=1, notice=notices.append)
        stack.callback(here.close)
        with inside(far.name):
            there = UdpTunnel(Vtep(address(2, 1)))
        stack.callback(there.close)
        with inside(near.name):
            yield Ends(here, there, Vtep(address(2, 1)), headers, notices)


def _arrived(ends: Ends) -> list[bytes]:
    found, inbox = [], Inbox()
    for lane in range(len(ends.there.filenos())):
        ends.there.read(inbox, lane)
        found += [bytes(packet) for train in inbox.trains for packet in train.packets()]
    return found


def _packets(count: int, size: int) -> list[bytes]:
    frame = frames.udp(b"\x02" * 6, b"\x04" * 6)
    return [
        frames.vxlan(100, frame + bytes([number]) * (size - 8 - len(frame)))
        for number in range(count)
    ]


def test_a_narrower_path_is_learnt_and_costs_only_what_did_not_fit(ends: Ends) -> None:
    here, vtep = ends.here, ends.vtep
    (first,) = _packets(1, 100)
    here.send(vtep, 1, first)
    here.flush()
    wait_until(lambda: _arrived(ends) == [first], "a small packet's arrival")
    here.measure((vtep,))
    assert here.room[vtep] == NEAR - ends.headers

    (long,) = _packets(1, here.room[vtep])
    here.send(vtep, 1, long)
    here.flush()

    def is_known() -> bool:
        here.measure((vtep,))
        return here.room[vtep] == NARROW - ends.headers

    wait_until(is_known, "the news of the narrow link")
    # Its news fails the next send, which is another packet's; that goes all the same, as a train.
    small = _packets(20, 200)
    for packet in small:
        here.send(vtep, 1, packet)
    here.flush()
    found: list[bytes] = []
    wait_until(lambda: found.extend(_arrived(ends)) or len(found) == 20, "the train's arrival")
    assert found == small
    assert ends.notices == [] and here._most_rows == MAX_ROWS

    fitting = _packets(3, here.room[vtep])
    for packet in fitting:
        here.send(vtep, 1, packet)
    here.flush()
    found.clear()
    wait_until(lambda: found.extend(_arrived(ends)) or len(found) == 3, "what just fits")
    assert found == fitting
    before = here.faults["too_big"]
    here.send(vtep, 1, _packets(1, here.room[vtep] + 1)[0])
    here.flush()
    assert here.faults["too_big"] == before + 1
