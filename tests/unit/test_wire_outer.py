"""The headers in front of a VXLAN packet, against what scapy makes and reads of them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from vswitch.wire import outer
from vswitch.wire.outer import Envelope
from vswitch.wire.vxlan import Vtep

MAC, OWN = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
ENDS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
PORT, SOURCE_PORT = 4789, 61441
both = pytest.mark.parametrize("version", [4, 6])


def made(version: int, length: int) -> bytes | None:
    local, remote = map(Vtep, ENDS[version])
    return Envelope(MAC, OWN, local, remote, PORT).around(SOURCE_PORT, length)


def datagram(version: int, payload: bytes) -> Packet:
    """The same as scapy makes it, checksums and all."""
    there, here = ENDS[version]
    network = IP(src=here, dst=there) if version == 4 else IPv6(src=here, dst=there)
    return Ether(src=MAC, dst=OWN) / network / UDP(sport=SOURCE_PORT, dport=PORT) / payload


@both
@pytest.mark.parametrize("length", [8, 1450, 61_000])
def test_the_headers_say_who_where_and_how_long(version: int, length: int) -> None:
    headers = made(version, length)
    assert headers is not None and len(headers) == outer.LAYOUTS[version].length
    packet = Ether(headers + bytes(length))
    network = packet[IP if version == 4 else IPv6]
    assert (packet.src, packet.dst) == (OWN.hex(":"), MAC.hex(":"))
    assert (network.src, network.dst) == ENDS[version]
    assert (packet[UDP].sport, packet[UDP].dport) == (SOURCE_PORT, PORT)
    assert packet[UDP].len == length + 8
    if version == 4:
        assert network.len == length + 28 and network.flags == "DF" and not packet[UDP].chksum
        stored = network.chksum
        del network.chksum
        assert IP(bytes(network)).chksum == stored
    else:
        assert network.plen == length + 8


def test_over_ipv6_the_checksum_is_left_open_for_the_kernel() -> None:
    payload = b"payload"
    headers = made(6, len(payload))
    assert headers is not None
    packet = Ether(headers + payload)
    # The kernel sums what is there, the open field included.
    udp = bytes(packet[UDP])
    total = sum(int.from_bytes((udp + b"\0")[at : at + 2], "big") for at in range(0, len(udp), 2))
    completed = 0xFFFF - (total % 0xFFFF)
    del packet[UDP].chksum
    assert Ether(bytes(packet))[UDP].chksum == completed


@pytest.mark.parametrize(("version", "longest"), [(4, 65_507), (6, 65_527)])
def test_what_ip_cannot_carry_is_refused(version: int, longest: int) -> None:
    assert made(version, longest) is not None
    assert made(version, longest + 1) is None


@both
@pytest.mark.parametrize("length", [0, 8, 63, 64, 1001])
@pytest.mark.parametrize("padding", [0, 5])
def test_a_sound_datagram_has_its_length_and_one_with_any_wrong_bit_has_none(
    version: int, length: int, padding: int
) -> None:
    layout = outer.LAYOUTS[version]
    whole = bytes(datagram(version, bytes(n & 0xFF for n in range(length))))
    frame = memoryview(bytearray(whole + b"\xaa" * padding))
    payload = frame[layout.length :]
    assert outer.sound_length(frame, layout, payload) == length
    # A source address, a port, the length and the first and the last byte of what is inside.
    inside = [layout.length, len(whole) - 1] if length else []
    for at in (layout.source.start, layout.udp_at, layout.udp_at + 4, *inside):
        frame[at] ^= 0x10
        assert outer.sound_length(frame, layout, payload) == -1
        frame[at] ^= 0x10
    if length:
        assert outer.sound_length(frame, layout, payload[: length - 1]) == -1, "cut off"
        frame[layout.udp_at + 6 : layout.udp_at + 8] = b"\0\0"
        frame[len(whole) - 1] ^= 1
        assert outer.sound_length(frame, layout, payload) == length, "zero: there is none"


def test_a_damaged_ipv4_header_is_noticed() -> None:
    frame = bytearray(bytes(datagram(4, b"payload")))
    assert outer.has_sound_header(memoryview(frame), outer.LAYOUTS[4])
    for at in range(14, 34):
        frame[at] ^= 0x04
        assert not outer.has_sound_header(memoryview(frame), outer.LAYOUTS[4])
        frame[at] ^= 0x04


def test_an_ipv6_header_has_to_be_one() -> None:
    frame = bytearray(bytes(datagram(6, b"payload")))
    assert outer.has_sound_header(memoryview(frame), outer.LAYOUTS[6])
    frame[14] = 0x45
    assert not outer.has_sound_header(memoryview(frame), outer.LAYOUTS[6])
