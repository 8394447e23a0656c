"""What the fuzzer starts from: sound messages of each kind, which it would take long to find.

An input of the target `leaf` begins with a byte of three fields: how the rest is to be taken (two
bits), how much time has passed (three bits), and from whom it is (three bits).

One of the target `gather` begins with a byte of two fields: whether the datagrams are numbered in
order (one bit), and how many they are (seven bits). Three more bytes say what is changed in one of
them: which, where, and by what; and ten are the header beside each.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import pack
from typing import NamedTuple

import numpy as np

from tests import frames
from tests.property.dhcp_world import (
    CLIENTS,
    GATEWAY,
    SERVER6,
    frame4,
    frame6,
    message4,
    message6,
)
from tests.property.runs import number
from tests.unit.leaf_world import ONE
from vswitch.wire import vxlan
from vswitch.wire.flows import Bytes
from vswitch.wire.train import MAX_SUPER_LEN

WAITS = (0.1, 0.1, 1.0, 1.0, 31.0, 299.0, 601.0, 4000.0)
"""Seconds; among them more than an offer, half a lease and a lease of the leaf's last."""


class Form(IntEnum):
    """How an input is to be taken; two of the four values mean a frame."""

    FRAME = 0
    DHCP = 1
    DHCP6 = 2


class How(NamedTuple):
    """What the first byte of an input says."""

    form: Form
    seconds: float
    client: int
    """An index into `CLIENTS`."""


def how(data: bytes) -> tuple[How, bytes]:
    """Take the first byte of an input off, and say what it means."""
    first = data[0] if data else 0
    form = Form(first >> 6) if first >> 6 < len(Form) else Form.FRAME
    return How(form, WAITS[first >> 3 & 7], first & 7), data[1:]


def _input(form: Form, client: int, rest: bytes) -> bytes:
    return bytes((form << 6 | client,)) + rest


def run(data: bytes) -> tuple[Bytes, bytes]:
    """Make a run of an input: its packets, and what stands beside each."""
    how, row, at, change = data[:4].ljust(4, b"\0")
    header, packet = data[4:14].ljust(10, b"\0"), vxlan.header(ONE) + data[14:].ljust(60, b"\0")
    rows = min(2 + (how & 0x7F), MAX_SUPER_LEN // len(packet))
    table = np.tile(np.frombuffer(packet, np.uint8), (rows, 1))
    if how & 0x80:
        number(table)
    table[row % rows, at % len(packet)] ^= change
    return table, header


def _runs() -> Iterator[bytes]:
    """Runs that can be gathered, of both families."""
    ends = (
        (frames.v4("1.1.1.1"), frames.v4("1.1.1.2"), b"\x08\0", 34),
        (frames.v6("2001:db8:1::1"), frames.v6("2001:db8:1::2"), b"\x86\xdd", 54),
    )
    for source, destination, ethertype, start in ends:
        packet = frames.open_datagram(source, destination, 4000, 5000, bytes(40), 1)
        frame = frames.mac(2) + frames.mac(1) + ethertype + packet
        header = pack("<BBHHHH", 1, 0, 0, 0, start, 6)
        for how in (0x80, 0xFF):
            yield bytes((how, 0, 0, 0)) + header + frame


def _messages4() -> Iterator[tuple[int, bytes]]:
    """Messages of clients, by the client's index."""
    relayed = b"\x52\x06\x01\x04\0\0\0\x64\x3d\x07\x01abcdef\x37\x03\x01\x03\x06\xff"
    overloaded = b"\x34\x01\x03\xff"
    for client in range(len(CLIENTS)):
        address = frames.v4(f"1.1.1.{100 + client % 4}")
        yield client, message4(1, more=relayed)
        yield client, message4(3, server=GATEWAY, wanted=address, more=b"\xff")
        yield client, message4(3, wanted=address, more=overloaded)
        yield client, message4(3, ciaddr=address, flags=0x8000)
        yield client, message4(4, server=GATEWAY, wanted=address)
        yield client, message4(7, server=GATEWAY, ciaddr=address)
        yield client, message4(8, ciaddr=address)


def _messages6() -> Iterator[tuple[int, bytes]]:
    for client in range(len(CLIENTS)):
        wanted = [[frames.v6(f"2001:db8:1::{100 + client % 4}")], []]
        for kind in (1, 4, 6, 11):
            yield client, message6(kind, wanted=wanted)
        for kind in (3, 5, 8, 9):
            yield client, message6(kind, server=SERVER6, wanted=wanted)


def _frames() -> Iterator[bytes]:
    """What a guest says that is not DHCP; the leaf has to do something about each."""
    here, there = frames.mac(1), frames.SHARED_MAC
    yield frames.arp(frames.BROADCAST, here, "1.1.1.1", "1.1.1.254")
    yield frames.rarp(here)
    yield frames.udp(there, here, "1.1.1.1", "1.1.1.2")
    yield frames.echo(there, here, "1.1.1.1", "1.1.1.254")
    yield frames.ns(None, here, "2001:db8:1::1", "2001:db8:1::fe")
    yield frames.na(None, here, "2001:db8:1::1")
    yield frames.rs(here)
    yield frames.echo6(there, here, "2001:db8:1::1", "2001:db8:1::fe")
    yield frames.ip6(there, here, "2001:db8:1::1", "2001:db8:2::6")


def of(target: str) -> list[bytes]:
    """The seeds of a target; none where it finds its way alone."""
    if target == "leaf":
        return [
            *(_input(Form.DHCP, client, one) for client, one in _messages4()),
            *(_input(Form.DHCP6, client, one) for client, one in _messages6()),
            *(_input(Form.FRAME, 0, one) for one in _frames()),
        ]
    if target in ("formats", "vswitch"):
        messages4 = [one for client, one in _messages4() if client == 0]
        messages6 = [one for client, one in _messages6() if client == 0]
        whole = [frame4(CLIENTS[0], one) for one in messages4]
        whole += [frame6(CLIENTS[0], one) for one in messages6]
        bare = [*messages4, *messages6] if target == "formats" else []
        return [*_frames(), *whole, *bare]
    return list(_runs()) if target == "gather" else []
