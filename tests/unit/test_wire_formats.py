"""What we build is read back by scapy, and what scapy builds is read by us.

And what nobody should have built is answered with None or False, never with an exception.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet import IPOption_RR as RecordRoute
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.frames import BROADCAST, mac, rarp, v4
from tests.frames import arp as arp_frame
from tests.frames import vxlan as vxlan_packet
from vswitch.wire import arp, ethernet, icmp, ipv4, vxlan
from vswitch.wire.ethernet import Mac

A, B = Mac(mac(1)), Mac(mac(2))
A_TEXT, B_TEXT = A.hex(":"), B.hex(":")
A_IP, B_IP = v4("10.0.0.1"), v4("10.0.0.2")


# Ethernet.


def test_a_built_frame_is_padded_to_the_minimum() -> None:
    frame = ethernet.build(A, B, ethernet.IPV4, b"abc")
    read = Ether(frame)
    assert (read.dst, read.src, read.type) == (A_TEXT, B_TEXT, 0x0800)
    assert len(frame) == 60
    assert frame[14:17] == b"abc" and not any(frame[17:])


def test_a_long_frame_is_not_padded() -> None:
    assert len(ethernet.build(A, B, ethernet.IPV4, bytes(500))) == 514


@pytest.mark.parametrize("text", ["00:00:de:ad:be:ef", "00:00:DE:AD:BE:EF"])
def test_a_mac_is_read_and_written(text: str) -> None:
    read = ethernet.parse_mac(text)
    assert read == bytes.fromhex("0000deadbeef")
    assert ethernet.format_mac(read) == "00:00:de:ad:be:ef"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:00:de:ad:be",
        "00:00:de:ad:be:ef:00",
        "00-00-de-ad-be-ef",
        "0:0:de:ad:be:ef",
        "00:00:de:ad:be:eg",
        "0000deadbeef",
        " 00:00:de:ad:be:ef",
        "00:00:de:ad:be:ef\n",
    ],
)
def test_what_is_no_mac_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a MAC address; write six hex pairs"):
        ethernet.parse_mac(text)


def test_groups_are_told_from_stations() -> None:
    assert ethernet.is_group(BROADCAST)
    assert ethernet.is_group(bytes.fromhex("333300000001"))
    assert not ethernet.is_group(A)


# ARP and RARP.


@pytest.mark.parametrize(
    ("frame", "op", "target_mac"),
    [
        pytest.param(arp.request(A, A_IP, B_IP), 1, bytes(6), id="request"),
        pytest.param(arp.reply(A, A_IP, B, B_IP), 2, B, id="reply"),
    ],
)
def test_scapy_reads_our_arp(frame: bytes, op: int, target_mac: bytes) -> None:
    read = Ether(frame)
    assert read.type == 0x0806
    assert read.dst == (B_TEXT if op == 2 else "ff:ff:ff:ff:ff:ff")
    inside = read[ARP]
    assert (inside.hwtype, inside.ptype, inside.hwlen, inside.plen) == (1, 0x0800, 6, 4)
    assert (inside.op, inside.hwsrc, inside.psrc) == (op, A_TEXT, "10.0.0.1")
    assert (inside.hwdst, inside.pdst) == (target_mac.hex(":"), "10.0.0.2")


def test_a_request_may_be_a_unicast_poll() -> None:
    read = Ether(arp.request(A, A_IP, B_IP, B))
    assert (read.dst, read.src, read[ARP].op) == (B_TEXT, A_TEXT, 1)


def test_an_announcement_has_the_sender_as_its_target() -> None:
    read = Ether(arp.announcement(A, A_IP))
    assert (read.dst, read[ARP].op) == ("ff:ff:ff:ff:ff:ff", 1)
    assert (read[ARP].psrc, read[ARP].pdst) == ("10.0.0.1", "10.0.0.1")
    assert (read[ARP].hwsrc, read[ARP].hwdst) == (A_TEXT, "00:00:00:00:00:00")


def test_our_rarp_is_that_of_qemu_byte_for_byte() -> None:
    assert arp.reverse_announcement(A) == rarp(A)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_we_read_scapys_arp(kind: type) -> None:
    frame = arp_frame(BROADCAST, A, "10.0.0.1", "10.0.0.2")
    expected = arp.Message(1, A, A_IP, Mac(bytes(6)), B_IP)
    assert arp.parse(kind(frame)) == expected


def test_we_read_qemus_rarp() -> None:
    assert arp.parse(rarp(A)) == arp.Message(3, A, bytes(4), A, bytes(4))


@pytest.mark.parametrize(
    ("sender", "target", "op", "probe", "gratuitous"),
    [
        pytest.param("10.0.0.1", "10.0.0.2", 1, False, False, id="request"),
        pytest.param("0.0.0.0", "10.0.0.2", 1, True, False, id="probe"),
        pytest.param("10.0.0.1", "10.0.0.1", 1, False, True, id="announcement"),
        pytest.param("10.0.0.1", "10.0.0.1", 2, False, True, id="gratuitous_reply"),
        pytest.param("0.0.0.0", "10.0.0.2", 2, False, False, id="reply_of_nobody"),
        pytest.param("0.0.0.0", "0.0.0.0", 2, False, False, id="nothing_at_all"),
    ],
)
def test_the_kinds_of_arp(sender: str, target: str, op: int, probe: bool, gratuitous: bool) -> None:
    message = arp.parse(arp_frame(BROADCAST, A, sender, target, op=op))
    assert message is not None
    assert (message.is_probe, message.is_gratuitous) == (probe, gratuitous)


def test_what_is_not_ethernet_and_ipv4_arp_is_not_read() -> None:
    good = arp_frame(BROADCAST, A)
    assert arp.parse(good[:42]) is not None
    for length in range(42):
        assert arp.parse(good[:length]) is None
    for at in range(14, 20):  # Hardware and protocol type, and the two lengths.
        bad = bytearray(good)
        bad[at] ^= 1
        assert arp.parse(bad) is None


# VXLAN.


@pytest.mark.parametrize("vni", [1, 10, 0xABCDEF, (1 << 24) - 1])
def test_scapy_reads_our_vxlan_header(vni: int) -> None:
    read = VXLAN(vxlan.header(vni) + arp.announcement(A, A_IP))
    assert read.vni == vni
    assert vxlan.header(vni)[0] == 0x08  # The I flag and no other.
    assert read[Ether].src == A_TEXT
    assert len(vxlan.header(vni)) == 8


@pytest.mark.parametrize("vni", [1, 0xABCDEF, (1 << 24) - 1])
def test_we_read_scapys_vxlan_header(vni: int) -> None:
    packet = bytes(VXLAN(vni=vni, flags="Instance") / Ether(dst=A_TEXT, src=B_TEXT))
    assert vxlan.parse_vni(packet) == vni
    assert vxlan.parse_vni(memoryview(packet)) == vni


def test_other_flags_and_reserved_bits_are_ignored_on_receipt() -> None:
    packet = bytearray(vxlan_packet(10, bytes(20)))
    packet[0], packet[1:4], packet[7] = 0xFF, b"\xff" * 3, 0xFF
    assert vxlan.parse_vni(packet) == 10


def test_without_the_i_flag_or_whole_header_there_is_no_vni() -> None:
    packet = vxlan_packet(10, b"")
    assert vxlan.parse_vni(packet) == 10
    assert vxlan.parse_vni(b"\xf7" + packet[1:]) is None
    for length in range(8):
        assert vxlan.parse_vni(packet[:length]) is None


# IPv4.


def test_scapy_reads_our_packet_and_its_checksum() -> None:
    packet = ipv4.build(A_IP, B_IP, ipv4.UDP, b"hello", ttl=7, tos=0x10, identification=0x1234)
    read = IP(packet)
    assert (read.src, read.dst, read.proto, read.ttl) == ("10.0.0.1", "10.0.0.2", 17, 7)
    assert (read.tos, read.id, read.len, read.ihl, read.version) == (0x10, 0x1234, 25, 5, 4)
    assert bytes(read.payload) == b"hello"
    written = read.chksum
    del read.chksum
    assert IP(bytes(read)).chksum == written


def test_scapys_packets_are_sound() -> None:
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / Raw(b"x" * 10))
    options = bytes(IP(src="10.0.0.1", dst="10.0.0.2", options=[RecordRoute()]) / UDP())
    assert options[0] > 0x45
    for sound in (packet, options, bytearray(packet), memoryview(options)):
        assert ipv4.is_sound(sound)
    assert ipv4.is_sound(packet + bytes(18))  # Ethernet padding behind the packet.


def resummed(packet: bytes, **fields: int) -> bytes:
    """The packet with fields set and a right checksum, so that only they can be at fault."""
    read = IP(packet)
    for name, value in fields.items():
        setattr(read, name, value)
    del read.chksum
    return bytes(read)


def test_each_fault_of_a_header_makes_it_unsound() -> None:
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / Raw(b"x" * 10))
    assert ipv4.is_sound(resummed(packet))
    faults = {
        "version": resummed(packet, version=6),
        "header shorter than 20": resummed(packet, ihl=4),
        "header beyond the packet": resummed(packet, ihl=15),
        "length beyond the packet": resummed(packet, len=len(packet) + 1),
        "length inside the header": resummed(packet, len=19),
        "checksum": packet[:10] + bytes([packet[10] ^ 1]) + packet[11:],
    }
    assert [name for name, bad in faults.items() if ipv4.is_sound(bad)] == []


def test_a_cut_packet_is_unsound() -> None:
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP())
    assert [n for n in range(len(packet)) if ipv4.is_sound(packet[:n])] == []


# ICMP.

ECHO = bytes(ICMP(type=8, id=7, seq=9) / Raw(b"data!"))


def test_scapy_reads_our_echo_reply() -> None:
    answer = icmp.echo_reply(ECHO)
    assert answer is not None
    read = ICMP(answer)
    assert (read.type, read.code, read.id, read.seq) == (0, 0, 7, 9)
    assert bytes(read.payload) == b"data!"
    written = read.chksum
    del read.chksum
    assert ICMP(bytes(read)).chksum == written


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(bytes(ICMP(type=0, id=7, seq=9)), id="a_reply"),
        pytest.param(bytes(ICMP(type=8, code=1, id=7, seq=9)), id="another_code"),
        pytest.param(ECHO[:-1] + b"?", id="wrong_checksum"),
        pytest.param(ECHO[:7], id="cut"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_no_echo_request_is_not_answered(message: bytes) -> None:
    assert icmp.echo_reply(message) is None


@pytest.mark.parametrize(
    ("kind", "code"), [(icmp.TIME_EXCEEDED, 0), (icmp.UNREACHABLE, icmp.HOST_UNREACHABLE)]
)
def test_scapy_reads_our_errors_and_the_packet_in_them(kind: int, code: int) -> None:
    about = bytes(IP(src="10.0.0.1", dst="10.9.9.9") / UDP(sport=4000, dport=53) / Raw(b"q" * 9))
    read = ICMP(icmp.error(kind, code, about))
    assert (read.type, read.code, read.unused or 0) == (kind, code, 0)
    assert read[IPerror].dst == "10.9.9.9"
    written = read.chksum
    del read.chksum
    assert ICMP(bytes(read)).chksum == written


def test_an_error_fits_into_576_bytes() -> None:
    about = bytes(IP(src="10.0.0.1", dst="10.9.9.9") / UDP() / Raw(b"q" * 1400))
    assert 20 + len(icmp.error(icmp.TIME_EXCEEDED, 0, about)) == 576


@pytest.mark.parametrize(
    ("packet", "allowed"),
    [
        pytest.param(IP(src="10.0.0.1") / UDP(), True, id="udp"),
        pytest.param(IP(src="10.0.0.1") / TCP(), True, id="tcp"),
        pytest.param(IP(src="10.0.0.1") / ICMP(type=8), True, id="echo_request"),
        pytest.param(IP(src="10.0.0.1") / ICMP(type=0), True, id="echo_reply"),
        pytest.param(IP(src="10.0.0.1") / ICMP(type=3), False, id="about_an_unreachable"),
        pytest.param(IP(src="10.0.0.1") / ICMP(type=11), False, id="about_a_time_exceeded"),
        pytest.param(IP(src="10.0.0.1") / ICMP(type=5), False, id="about_a_redirect"),
        pytest.param(IP(src="10.0.0.1", proto=1), False, id="icmp_without_a_type"),
        pytest.param(IP(src="10.0.0.1", flags="MF") / UDP(), True, id="first_fragment"),
        pytest.param(IP(src="10.0.0.1", frag=8) / Raw(b"x"), False, id="later_fragment"),
        pytest.param(IP(src="0.0.0.0") / UDP(), False, id="from_nobody"),
        pytest.param(IP(src="127.0.0.1") / UDP(), False, id="from_loopback"),
        pytest.param(IP(src="224.0.0.5") / UDP(), False, id="from_a_group"),
        pytest.param(IP(src="255.255.255.255") / UDP(), False, id="from_everybody"),
        pytest.param(
            IP(src="10.0.0.1", options=[RecordRoute()]) / ICMP(type=3), False, id="behind_options"
        ),
    ],
)
def test_about_what_an_error_may_be_sent(packet: IP, allowed: bool) -> None:
    packet.dst = "10.9.9.9"
    assert icmp.may_be_answered(bytes(packet)) is allowed
