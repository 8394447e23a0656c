"""A train leaves as its packets would one by one, whichever its family and however long it is."""

from __future__ import annotations

import numpy as np
import pytest
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from leaf.rewrite import FEW, MAX_SHAPES, Rewriter, rewrite
from leaf.router import Reason, Verdict
from tests.frames import SHARED_MAC, ip, ip6, mac, vxlan
from tests.unit.leaf_world import GUESTS, GUESTS6, H1, H3, ONE, A, B, World, forwarded
from vswitch.phy.tunnel import Train

HEADER = b"\x08\0\0\0\x12\x34\x56\0" + mac(3) + SHARED_MAC
VERDICTS = (Verdict(Reason.ROUTED, B, HEADER), Verdict(Reason.BRIDGED, B, HEADER))
ROOM = 3000


def packets(family: int, count: int, last: int = 100) -> list[bytes]:
    """Packets of one flow, of which the last may be shorter; the IPv4 ids are counted up."""
    made = []
    for at in range(count):
        load = bytes([at]) * (last if at == count - 1 else 100)
        if family == 6:
            frame = ip6(SHARED_MAC, H1.mac, H1.six.ip, H3.six.ip, payload=load, hlim=17)
        else:
            frame = ip(
                SHARED_MAC, H1.mac, H1.ip, H3.ip, payload=load, ttl=17, id=65530 + at & 0xFFFF
            )
        made.append(vxlan(ONE, frame))
    return made


def train(rows: list[bytes], start: int = 0) -> Train:
    """The same packets as the tunnel hands them over, behind `start` bytes of another train."""
    joined = b"".join(rows)
    slot = np.frombuffer(bytearray(bytes(start) + joined + bytes(ROOM)), np.uint8)
    return Train(slot, start, len(joined), len(rows[0]), A)


@pytest.mark.parametrize("verdict", VERDICTS, ids=["routed", "bridged"])
@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 40])
@pytest.mark.parametrize("last", [100, 1])
def test_a_train_is_its_packets_one_by_one(
    verdict: Verdict, family: int, count: int, last: int
) -> None:
    rows = packets(family, count, last)
    made = train(rows, 500)
    Rewriter().rewrite(made, verdict)
    assert bytes(made.data[: made.length]) == b"".join(forwarded(row, verdict) for row in rows)
    assert not any(made.slot[:500])


def test_scapy_reads_an_ipv6_train() -> None:
    rows = packets(6, 9)
    made = train(rows)
    Rewriter().rewrite(made, VERDICTS[0])
    for packet, row in zip(made.packets(), rows, strict=True):
        frame = Ether(bytes(packet[8:]))
        assert (frame.dst, frame.src) == (mac(3).hex(":"), SHARED_MAC.hex(":"))
        assert frame[IPv6].hlim == 16
        assert bytes(packet[30:]) == row[30:]
        assert bytes(packet[20:29]) == row[20:29]


def test_a_place_that_has_held_one_family_may_hold_the_other() -> None:
    """Views are kept by a train's shape; the family is not a part of it."""
    rewriter = Rewriter()
    slot = np.zeros(20_000, np.uint8)
    for family in (6, 4, 6):
        # As long as each other: an IPv4 header is 20 bytes shorter, so there is padding.
        rows = [row + bytes(20 if family == 4 else 0) for row in packets(family, 8)]
        size = len(rows[0])
        joined = b"".join(rows)
        slot[: len(joined)] = np.frombuffer(joined, np.uint8)
        rewriter.rewrite(Train(slot, 0, len(joined), size, A), VERDICTS[0])
        assert slot[: len(joined)].tobytes() == b"".join(forwarded(r, VERDICTS[0]) for r in rows)


def test_more_shapes_than_are_kept_do_no_harm() -> None:
    rewriter = Rewriter()
    for start in range(MAX_SHAPES + 2):
        made = train(packets(6, 5), start)
        before = [bytes(packet) for packet in made.packets()]
        rewriter.rewrite(made, VERDICTS[0])
        after = [bytes(packet) for packet in made.packets()]
        assert after == [forwarded(packet, VERDICTS[0]) for packet in before]


def test_an_ipv6_packet_differs_in_its_hop_limit_alone() -> None:
    world = World(*GUESTS, *GUESTS6, ipv6=True)
    packet = packets(6, 1)[0]
    verdict = world.router.decide(A, packet)
    edited = bytearray(packet)
    rewrite(edited, verdict)
    assert edited[20:] == packet[20:29] + b"\x10" + packet[30:]
