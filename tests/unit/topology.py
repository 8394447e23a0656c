"""The one small world of the switch's unit tests: three segments, one for each miss policy.

RED   (rewrite)  alice: one MAC, listed addresses    bob: two MACs, any address
                 carol: staged                       oscar: no spoof guard
BLUE  (flood)    dave, erin
GREEN (drop)     frank
"""

from __future__ import annotations

from typing import Final

from tests.frames import SHARED_MAC, mac, v4, v6
from vswitch.attachment import Attachment, State
from vswitch.phy.port import PortId
from vswitch.switch import Switch
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

RED, BLUE, GREEN = Vni(10), Vni(20), Vni(30)
LEAF, STRANGER = Vtep("192.0.2.1"), Vtep("198.51.100.9")

ALICE, BOB, CAROL, OSCAR, DAVE, ERIN, FRANK = (PortId(number) for number in range(1, 8))
ALICE_MAC, BOB_MAC, CAROL_MAC, OSCAR_MAC, DAVE_MAC, ERIN_MAC, FRANK_MAC = (
    Mac(mac(number)) for number in range(1, 8)
)
BOB_SECOND_MAC: Final = Mac(mac(0x22))
FAR_MAC: Final = Mac(mac(0x99))
"""A guest of another host, which this switch has never heard of."""
ALICE_IP, ALICE_IP6 = "10.0.0.1", "2001:db8::1"


def attachment(
    guest: str,
    port: PortId,
    segment: Vni,
    *macs: bytes,
    state: State = State.ACTIVE,
    addresses: tuple[bytes, ...] = (),
    guard: bool = True,
) -> Attachment:
    """An attachment in few words."""
    owned = frozenset(Mac(own) for own in macs)
    return Attachment(guest, port, segment, owned, frozenset(addresses), guard, state)


def guests() -> dict[str, Attachment]:
    """The attachments of the world, new ones at each call."""
    own_addresses = (v4(ALICE_IP), v6(ALICE_IP6))
    made = (
        attachment("alice", ALICE, RED, ALICE_MAC, addresses=own_addresses),
        attachment("bob", BOB, RED, BOB_MAC, BOB_SECOND_MAC),
        attachment("carol", CAROL, RED, CAROL_MAC, state=State.STAGED),
        attachment("oscar", OSCAR, RED, OSCAR_MAC, guard=False),
        attachment("dave", DAVE, BLUE, DAVE_MAC),
        attachment("erin", ERIN, BLUE, ERIN_MAC),
        attachment("frank", FRANK, GREEN, FRANK_MAC),
    )
    return {one.guest: one for one in made}


def empty_switch() -> Switch:
    """The three segments without guests."""
    switch = Switch(Mac(SHARED_MAC), [LEAF])
    switch.add_segment(RED, "rewrite")
    switch.add_segment(BLUE, "flood")
    switch.add_segment(GREEN, "drop")
    return switch


def build() -> Switch:
    """The whole world."""
    switch = empty_switch()
    for one in guests().values():
        switch.place(one)
    return switch
