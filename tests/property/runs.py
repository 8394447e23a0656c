"""What a gathered run must be: hypothesis and the fuzzer hold it to the same."""

from __future__ import annotations

import numpy as np

from tests.frames import checksum
from vswitch.wire import vnet
from vswitch.wire.flows import Bytes
from vswitch.wire.gatherer import Gatherer, can_gather
from vswitch.wire.segmenter import Segmenter
from vswitch.wire.vxlan import VXLAN_LEN

IP_AT, IP_END = VXLAN_LEN + 14, VXLAN_LEN + 34
"""Where the IPv4 header stands in a packet."""
GATHERER, SEGMENTER = Gatherer(), Segmenter()
"""Shared by all examples, as by all runs."""


def gathered(table: Bytes, header: bytes) -> tuple[bytes, bytes] | None:
    """Gather a run; None where that cannot be."""
    layout = can_gather(table, header)
    if layout is None:
        return None
    packet, made = GATHERER.gather(table, layout)
    return bytes(packet), made


def is_ipv4(table: Bytes) -> bool:
    """Say whether a run is of IPv4."""
    return table[0, IP_AT - 2 : IP_AT].tobytes() == b"\x08\0"


def number(table: Bytes) -> None:
    """Number the packets of a run from the first on, with right header checksums, where it is of
    IPv4."""
    if not is_ipv4(table):
        return
    first = int.from_bytes(table[0, IP_AT + 4 : IP_AT + 6].tobytes(), "big")
    for row, packet in enumerate(table):
        header = bytearray(packet[IP_AT:IP_END])
        header[4:6] = (first + row & 0xFFFF).to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = checksum(bytes(header))
        packet[IP_AT:IP_END] = header


def is_gathered_right(table: Bytes, header: bytes) -> bool:
    """Say whether a run is gathered. If it is, what its super-frame is cut into must be its packets
    as they would have left one by one, but for numbers that mean nothing."""
    made = gathered(table, header)
    if made is None:
        return False
    packet, beside = made
    result = SEGMENTER.segment(memoryview(bytearray(packet)), beside)
    assert result is not None
    train, size = result
    assert size == table.shape[1]
    cut = np.frombuffer(bytearray(train), np.uint8).reshape(table.shape)
    whole = table.copy()
    assert vnet.complete_all(whole[:, VXLAN_LEN:], [bytearray(header) for _ in whole])
    if is_ipv4(whole):
        for packets in (cut, whole):
            assert all(checksum(one[IP_AT:IP_END].tobytes()) == b"\0\0" for one in packets)
            packets[:, IP_AT + 10 : IP_AT + 12] = 0  # Which follows; and zero is written two ways.
            if packets[0, IP_AT + 6] & 0x40:
                packets[:, IP_AT + 4 : IP_AT + 6] = 0
    assert np.array_equal(cut, whole)
    return True
