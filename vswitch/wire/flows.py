"""What belongs together: neighbours of one flow, for which one decision holds.

Frames that follow each other are compared by the columns of their headers that a decision and the
flow hash look at. A few numpy calls compare all neighbours at once; a loop would cost more for each
frame than deciding on it. Only neighbours are compared, so order is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from . import ethernet, ipv4, ipv6
from .ethernet import HEADER_LEN, Mac
from .vxlan import VXLAN_LEN

Bytes = npt.NDArray[np.uint8]

FLOW_LEN = HEADER_LEN + 44
"""How much of a frame is looked at: all headers up to the ports behind an IPv6 header."""
_IPV4_FLOW_LEN = HEADER_LEN + ipv4.MIN_HEADER_LEN + 4
_OF_FLOW = np.zeros(FLOW_LEN, dtype=np.bool_)
"""The MACs, the type, and of IPv4: version, TOS, fragment, protocol, addresses and ports."""
for _first, _end in ((0, 16), (20, 22), (23, 24), (26, _IPV4_FLOW_LEN)):
    _OF_FLOW[_first:_end] = True


_IPV6_FLOWS = (ipv6.TCP, ipv6.UDP)


def runs(heads: Bytes, notes: Bytes, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return which neighbours are of one flow and one length: first, and one after the last, each.

    `heads` are the first FLOW_LEN bytes of each frame; `notes` is what stands beside each
    frame and must be the same too. What is not IP is a run by itself.
    """
    differs = ((heads[1:] != heads[:-1]) & _OF_FLOW).any(axis=1)
    differs |= (notes[1:] != notes[:-1]).any(axis=1)
    sizes = np.array(lengths)
    differs |= sizes[1:] != sizes[:-1]
    found: list[tuple[int, int]] = []
    for first, end in pairwise((0, *(np.flatnonzero(differs) + 1).tolist(), len(lengths))):
        if end - first == 1 or _is_flow(heads[first:end], lengths[first]):
            found.append((first, end))
        else:
            found += ((index, index + 1) for index in range(first, end))
    return found


def _is_flow(heads: Bytes, length: int) -> bool:
    """Say whether frames that agree in the columns above, and in length, are of one flow."""
    ethertype = int(heads[0, 12]) << 8 | int(heads[0, 13])
    if ethertype == ethernet.IPV4:
        return length >= _IPV4_FLOW_LEN
    # What ICMPv6 says differs from message to message, and extension headers may hide some.
    if ethertype == ethernet.IPV6 and length >= FLOW_LEN and int(heads[0, 20]) in _IPV6_FLOWS:
        rest = heads[:, HEADER_LEN:]
        return not np.count_nonzero(rest != rest[0])
    return False


_IPV4_HEAD_LEN = VXLAN_LEN + HEADER_LEN + ipv4.MIN_HEADER_LEN
_IPV6_HEAD_LEN = VXLAN_LEN + HEADER_LEN + ipv6.MIN_HEADER_LEN
_IP_AT = VXLAN_LEN + HEADER_LEN
_ID_AT = _IP_AT + 4
_SUM_AT = VXLAN_LEN + ipv4.CHECKSUM_AT
_NO_OPTIONS = 0x45
_OF_IPV4 = np.ones(_IPV4_HEAD_LEN, dtype=np.bool_)
"""Columns of a VXLAN packet in which those of a train agree: all of its headers up to the IP
addresses, but for what is different in each: id and checksum. The last may have another length."""
_OF_IPV4[_ID_AT : _ID_AT + 2] = False
_OF_IPV4[_SUM_AT : _SUM_AT + 2] = False
_OF_IPV6 = np.ones(_IPV6_HEAD_LEN, dtype=np.bool_)
_TYPE_AT = VXLAN_LEN + 12
_IPV4_TYPE, _IPV6_TYPE = ethernet.IPV4.to_bytes(2, "big"), ethernet.IPV6.to_bytes(2, "big")


def trains(slot: Bytes, length: int, size: int) -> list[tuple[int, int]]:
    """Split packets that the kernel has received as one into trains: (start, length) each.

    The kernel joins what has one *outer* flow; the inner flows may differ where a sender has put
    packets of one size into one send. A packet whose IP header is not sound (length, checksum) is a
    train by itself, so that it is refused and its neighbours are not.
    """
    data = slot.data
    kind = bytes(data[_TYPE_AT : _TYPE_AT + 2])
    if kind == _IPV4_TYPE:
        columns = _OF_IPV4
    elif kind == _IPV6_TYPE and data[VXLAN_LEN + ipv6.NEXT_HEADER_AT] in _IPV6_FLOWS:
        columns = _OF_IPV6
    else:  # What is not IP is not sent in trains, and ICMPv6 is looked at one by one.
        columns = None
    if columns is None or size < len(columns):
        return [(at, min(size, length - at)) for at in range(0, length, size)]
    rows = -(-length // size)
    if 0 < length % size < len(columns):  # Too short to have what it would be compared by.
        rows -= 1
        rest = [(rows * size, length - rows * size)]
        return [*trains(slot, rows * size, size), *rest] if rows else rest
    if rows == 1:
        return [(0, length)]
    # The last one may have another length, and is looked at by itself.
    of_last = _forwarded_by(data[:size])
    if (
        of_last is not None
        and of_last == _forwarded_by(data[(rows - 1) * size : length])
        and _are_alike(slot[: (rows - 1) * size].reshape(rows - 1, size), columns)
    ):
        return [(0, length)]
    # Several flows, which may be of both families, or bad headers: rare, and told apart one by one.
    starts = [0]
    for at in range(size, length, size):
        of_this = _forwarded_by(data[at : min(at + size, length)])
        if of_this is None or of_this != of_last:
            starts.append(at)
        of_last = of_this
    return [(start, end - start) for start, end in pairwise((*starts, length))]


def _are_alike(packets: Bytes, columns: npt.NDArray[np.bool_]) -> bool:
    """Say whether packets, of which the first is sound, agree in these columns and in length, and
    are all sound. False for IPv4 with options, which are summed one by one."""
    if np.count_nonzero((packets[:, : len(columns)] != packets[:1, : len(columns)]) & columns):
        return False
    if columns is _OF_IPV6:
        return True
    if packets[0, _IP_AT] != _NO_OPTIONS:
        return False
    return have_sound_ipv4_headers(packets)


def have_sound_ipv4_headers(packets: Bytes) -> bool:
    """Say whether the header checksums of VXLAN packets with IPv4, without options, are all right
    (RFC 791 section 3.1)."""
    # As in `checksum`, the order of the bytes in a word is nothing to whether they add up to zero.
    words = packets[:, _IP_AT:_IPV4_HEAD_LEN].view(np.uint16)
    return not np.count_nonzero(words.sum(axis=1, dtype=np.uint32) % 0xFFFF)


def _forwarded_by(packet: memoryview) -> bytes | None:
    """Return what a packet is forwarded by, which are the same columns but for its length; None for
    what is always by itself: a packet that a router may not forward, too, since who decides on a
    train looks at its first packet only."""
    kind = bytes(packet[_TYPE_AT : _TYPE_AT + 2])
    if kind == _IPV4_TYPE and ipv4.is_sound(packet[_IP_AT:]):
        before, between = packet[: _ID_AT - 2], packet[_ID_AT + 2 : _SUM_AT]
        return b"".join((before, between, packet[_SUM_AT + 2 : _IPV4_HEAD_LEN]))
    if (
        kind == _IPV6_TYPE
        and packet[VXLAN_LEN + ipv6.NEXT_HEADER_AT] in _IPV6_FLOWS
        and ipv6.is_sound(packet[_IP_AT:])
    ):
        return b"".join((packet[: VXLAN_LEN + 18], packet[VXLAN_LEN + 20 : _IPV6_HEAD_LEN]))
    return None


def address_to(packets: Bytes, header: bytes, mac: Mac | None) -> None:
    """Write a VXLAN header in front of each frame, and a destination where one is given."""
    packets[:, :VXLAN_LEN] = np.frombuffer(header, np.uint8)
    if mac is not None:
        packets[:, VXLAN_LEN : VXLAN_LEN + 6] = np.frombuffer(mac, np.uint8)
