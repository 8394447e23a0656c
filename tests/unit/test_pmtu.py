"""Packets that do not fit into the tunnel: who is told what, and what is cut instead."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.all import ICMP, IP, TCP, UDP, Ether, Raw  # type: ignore[attr-defined]
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6

from tests.frames import SHARED_MAC, mac, vxlan
from tests.netsim.scenario import Rack
from tests.netsim.test_scale import BIG, guest_mac, vswitch_with
from tests.netsim.world import LEAF
from tests.unit.engine_world import World
from tests.unit.topology import BLUE, RED
from tests.unit.topology import LEAF as LEAF_OF_ONE
from vswitch.phy.port import PortId
from vswitch.service.policer import Policer
from vswitch.wire import pmtu, vnet
from vswitch.wire.ethernet import Mac
from vswitch.wire.segmenter import Segmenter
from vswitch.wire.vxlan import VXLAN_LEN, Vtep

GATEWAYS = (bytes((10, 255, 255, 254)), bytes.fromhex("20010db80001000000000000000000fe"))
SHARED = Mac(SHARED_MAC)
HEAD = Ether(dst=SHARED_MAC.hex(":"), src=mac(1).hex(":"))


def ipv4(payload: int, flags: str = "DF", **fields: Any) -> bytes:
    return bytes(
        HEAD
        / IP(src="10.0.0.1", dst="10.0.0.2", flags=flags, id=77, **fields)
        / UDP(sport=1, dport=2)
        / Raw(bytes(n % 251 for n in range(payload)))
    )


def ipv6(payload: int) -> bytes:
    addresses = IPv6(src="2001:db8:1::1", dst="2001:db8:2::2")
    return bytes(HEAD / addresses / UDP(sport=1, dport=2) / Raw(bytes(payload)))


def test_ipv4_that_must_not_be_fragmented_is_answered_with_what_fits() -> None:
    frame = ipv4(1400)
    said = pmtu.answer(frame, SHARED, 1350, GATEWAYS)
    assert said is not None
    read = Ether(said)
    assert (read.dst, read.src) == (mac(1).hex(":"), SHARED_MAC.hex(":"))
    assert (read[IP].src, read[IP].dst) == ("10.255.255.254", "10.0.0.1")
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, 1350)
    assert bytes(read[ICMP].payload).startswith(frame[14:42])
    checked = Ether(said)
    del checked[IP].chksum, checked[ICMP].chksum
    assert bytes(checked) == said


@pytest.mark.parametrize("frame", [ipv4(1400), ipv6(1400)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "group", [b"\xff" * 6, b"\x33\x33\0\0\0\x01"], ids=["broadcast", "multicast"]
)
def test_nothing_is_said_of_what_went_to_a_group_of_stations(frame: bytes, group: bytes) -> None:
    assert pmtu.answer(frame, SHARED, 1350, GATEWAYS) is not None
    assert pmtu.answer(group + frame[6:], SHARED, 1350, GATEWAYS) is None


def test_without_a_gateway_it_comes_from_where_the_packet_was_going() -> None:
    said = pmtu.answer(ipv4(1400), SHARED, 1350, ())
    assert said is not None and Ether(said)[IP].src == "10.0.0.2"


@pytest.mark.parametrize(("mtu", "said_mtu"), [(1350, 1350), (1000, 1280)])
def test_ipv6_is_answered_with_what_fits_but_never_less_than_every_link_carries(
    mtu: int, said_mtu: int
) -> None:
    said = pmtu.answer(ipv6(1400), SHARED, mtu, GATEWAYS)
    assert said is not None
    read = Ether(said)
    assert read[ICMPv6PacketTooBig].mtu == said_mtu
    assert read[IPv6].dst == "2001:db8:1::1"
    assert len(said) <= 14 + 1280
    sum_said = read[ICMPv6PacketTooBig].cksum
    del read[ICMPv6PacketTooBig].cksum
    assert Ether(bytes(read))[ICMPv6PacketTooBig].cksum == sum_said


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ipv4(1400, flags=""), id="may_be_fragmented"),
        pytest.param(ipv4(1400, frag=100), id="a_later_fragment"),
        pytest.param(bytes(HEAD / IP(src="10.0.0.1", flags="DF") / ICMP(type=3)), id="icmp_error"),
        pytest.param(
            bytes(HEAD / IPv6(src="2001:db8::1") / ICMPv6DestUnreach()), id="icmpv6_error"
        ),
        pytest.param(bytes(HEAD / Raw(bytes(1500))), id="not_ip"),
        pytest.param(bytes(HEAD)[:14], id="runt"),
    ],
)
def test_about_this_nothing_may_be_said(frame: bytes) -> None:
    assert pmtu.answer(frame, SHARED, 1350, GATEWAYS) is None


@pytest.mark.parametrize("mtu", [68, 575, 1350, 1427])
@pytest.mark.parametrize("already", [0, 200])
def test_fragments_fit_and_together_are_the_packet(mtu: int, already: int) -> None:
    frame = ipv4(1400, flags="MF" if already else "", frag=already)
    parts = pmtu.fragments(frame, mtu)
    assert parts is not None and len(parts) > 1
    whole, end = b"", already
    for number, part in enumerate(parts):
        read = Ether(part)[IP]
        assert len(bytes(read)) <= mtu and part[:14] == frame[:14]
        assert (read.id, read.frag) == (77, end)
        assert bool(read.flags.MF) == (number < len(parts) - 1 or already > 0)
        assert IP(bytes(read)).chksum == read.chksum
        whole += bytes(read.payload)
        end = already + len(whole) // 8
    assert whole == frame[34:]


def test_what_must_not_be_cut_is_not() -> None:
    assert pmtu.fragments(ipv4(1400), 1350) is None
    assert pmtu.fragments(ipv6(1400), 1350) is None
    assert pmtu.fragments(bytes(HEAD / IP(options=b"\x01\x01\x01\x00") / Raw(b"x")), 1350) is None


@pytest.mark.parametrize("flags", ["", "MF"])
def test_a_fragment_that_ends_beyond_the_longest_packet_is_not_cut(flags: str) -> None:
    """Its parts would be said to lie at the packet's beginning."""
    last = (0xFFFF - 20 - 1408) // 8
    parts = pmtu.fragments(ipv4(1400, flags=flags, frag=last), 600)
    assert parts is not None and Ether(parts[-1])[IP].frag == last + 144
    for offset in (last + 1, 0x1FFF):
        assert pmtu.fragments(ipv4(1400, flags=flags, frag=offset), 600) is None


def tcp_super_frame(payload: int, mss: int) -> tuple[bytes, bytes]:
    segment = TCP(sport=1, dport=2, seq=5, flags="A") / Raw(bytes(n % 251 for n in range(payload)))
    frame = bytes(HEAD / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / segment)
    return frame, vnet.HEADER.pack(vnet.NEEDS_CHECKSUM, vnet.GSO_TCPV4, 54, mss, 34, 16)


def test_a_super_frame_of_tcp_is_cut_to_what_fits() -> None:
    frame, header = tcp_super_frame(10_000, 1400)
    packet = memoryview(bytearray(vxlan(BIG, frame)))
    cut = Segmenter().segment(packet, header, 1000)
    assert cut is not None
    train, size = cut
    rows = [bytes(train[at : at + size]) for at in range(0, len(train), size)]
    assert size == 1000 and max(map(len, rows)) <= 1000
    assert b"".join(row[VXLAN_LEN + 54 :] for row in rows) == frame[54:]


def test_a_guest_is_told_by_its_vswitch_and_its_stream_goes_on() -> None:
    engine, ports = vswitch_with(2)
    tunnel: Any = engine.tunnel
    tunnel.room[LEAF] = 1350 + 14 + 8
    engine.set_gateways(BIG, GATEWAYS)
    head = Ether(dst=SHARED_MAC.hex(":"), src=guest_mac(1).hex(":"))
    for payload in (1322, 1323):  # With its headers, the first just fits.
        frame = bytearray(ipv4(payload))
        frame[:14] = bytes(head)[:12] + b"\x08\x00"
        ports[0].emit(bytes(frame))
    engine.pump_port(PortId(1))
    (told,) = ports[0].received
    assert Ether(told)[ICMP].nexthopmtu == 1350
    assert Ether(told)[IP].src == "10.255.255.254"
    assert (engine.events["too_big"], engine.events["too_big_told"]) == (1, 1)

    # The twin of the tunnel takes a super-frame as it is.
    stream, header = tcp_super_frame(10_000, 1400)
    ports[0].emit(guest_mac(9) + guest_mac(1) + stream[12:], header)
    engine.pump_port(PortId(1))
    assert engine.events["too_big"] == 1


@pytest.mark.parametrize(("vtep", "needs"), [("192.0.2.1", 1330), ("2001:db8::1", 1350)])
def test_a_tunnel_is_too_narrow_for_ipv6_from_a_byte_less_on(vtep: str, needs: int) -> None:
    """An underlay that takes `needs` bytes has room for what comes behind IP and UDP."""
    room = needs - (48 if ":" in vtep else 28)
    assert pmtu.complaint(Vtep(vtep), room) is None
    said = pmtu.complaint(Vtep(vtep), room - 1)
    assert said is not None and vtep in said and said.endswith(f"to {needs} or more")


def test_a_vswitch_says_once_of_a_leaf_that_its_tunnel_is_too_narrow_for_ipv6() -> None:
    world, other = World(), Vtep("192.0.2.99")
    world.engine.tunnel.room[LEAF_OF_ONE] = 1000
    world.engine.set_gateways(RED, GATEWAYS[:1])
    world.engine.measure()
    assert world.log.warnings() == []
    world.engine.set_gateways(BLUE, GATEWAYS)
    for _ in range(2):
        world.engine.measure()
    (said,) = world.log.warnings()
    assert said.startswith(f"the tunnel to {LEAF_OF_ONE} takes 978 bytes")
    world.engine.set_leaves((other,))
    world.engine.measure()  # What is not known of the new one is not held against it.
    world.engine.set_leaves((LEAF_OF_ONE,))
    world.engine.measure()
    assert len(world.log.warnings()) == 2


def test_a_vswitch_may_cut_what_may_be_cut() -> None:
    engine, ports = vswitch_with(1)
    tunnel: Any = engine.tunnel
    leaf = tunnel._network.tunnels[LEAF]
    engine.tick(2000.0)
    leaf.incoming.clear()
    tunnel.room[LEAF] = 600
    engine._fragments = True
    frame = ipv4(1400, flags="")
    ports[0].emit(SHARED_MAC + guest_mac(1) + frame[12:])
    engine.pump_port(PortId(1))
    packets = [packet for _, packet, _, _ in leaf.incoming]
    assert max(map(len, packets)) <= 600
    assert b"".join(packet[VXLAN_LEN + 34 :] for packet in packets) == frame[34:]
    assert engine.events["fragmented"] == 1


def test_the_leaf_tells_the_sender_of_what_does_not_fit_on_the_other_side() -> None:
    rack = Rack()
    rack.settle()
    world = rack.world
    tunnel: Any = world.leaf.tunnel
    tunnel.room[world.vteps["B"]] = 600
    packet = IP(src="1.1.1.1", dst="1.1.1.4", flags="DF") / UDP() / Raw(bytes(1000))
    since = len(world.wire)
    rack.h1.port.emit(SHARED_MAC + rack.h1.mac + b"\x08\x00" + bytes(packet))
    world.run()
    up, down = world.wire[since:]
    assert (up.source, down.vtep) == (world.vteps["A"], world.vteps["A"])
    read = Ether(down.packet[VXLAN_LEN:])
    assert (read[IP].src, read[IP].dst) == ("1.1.1.254", "1.1.1.1")
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, 600 - 8 - 14)
    assert world.leaf.slowpath.events["too_big"] == 1


def _leaf_with_less_room(room: int = 600) -> Rack:
    """A rack whose leaf fragments, with so much room on the way to B."""
    rack = Rack()
    rack.settle()
    tunnel: Any = rack.world.leaf.tunnel
    tunnel.room[rack.world.vteps["B"]] = room
    rack.world.leaf.slowpath.oversize._fragments = True
    return rack


def _through_the_leaf(rack: Rack, *packets: bytes) -> list[bytes]:
    """Have H1 send, and return what the leaf sends to B."""
    since = len(rack.world.wire)
    for packet in packets:
        rack.h1.port.emit(SHARED_MAC + rack.h1.mac + packet[12:])
    rack.world.run()
    crossings = rack.world.wire[since:]
    return [one.packet for one in crossings if one.vtep == rack.world.vteps["B"]]


def to_h4(payload: int, flags: str = "", ident: int = 77) -> bytes:
    packet = IP(src="1.1.1.1", dst="1.1.1.4", flags=flags, id=ident) / UDP(sport=1, dport=2)
    return bytes(HEAD / packet / Raw(bytes(n % 251 for n in range(payload))))


def test_the_leaf_may_cut_what_may_be_cut() -> None:
    rack = _leaf_with_less_room()
    packets = _through_the_leaf(rack, to_h4(1000))
    assert len(packets) == 2 and max(map(len, packets)) <= 600
    whole = b""
    for number, packet in enumerate(packets):
        frame = Ether(packet[VXLAN_LEN:])
        read = frame[IP]
        assert (frame.dst, frame.src) == (rack.h4.mac.hex(":"), SHARED_MAC.hex(":"))
        assert (read.ttl, read.id, read.frag * 8) == (63, 77, len(whole))
        assert bool(read.flags.MF) == (number == 0)
        stored = read.chksum
        del read.chksum
        assert IP(bytes(read)).chksum == stored
        whole += bytes(packet[VXLAN_LEN + 34 :])
    assert whole == to_h4(1000)[34:]
    events = rack.world.leaf.slowpath.events
    assert (events["too_big"], events["fragmented"], events["icmp_sent"]) == (1, 1, 0)


def test_a_train_is_cut_packet_by_packet_and_what_fits_goes_whole() -> None:
    rack = _leaf_with_less_room()
    burst = [*(to_h4(1000, ident=number) for number in range(1, 6)), to_h4(300, ident=6)]
    packets = _through_the_leaf(rack, *burst)
    idents = [Ether(packet[VXLAN_LEN:])[IP].id for packet in packets]
    assert idents == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    events = rack.world.leaf.slowpath.events
    assert (events["too_big"], events["fragmented"]) == (5, 5)


def test_the_leaf_cuts_nothing_that_must_not_be_cut() -> None:
    rack = _leaf_with_less_room()
    assert _through_the_leaf(rack, to_h4(1000, "DF")) == []
    events = rack.world.leaf.slowpath.events
    assert (events["too_big"], events["fragmented"], events["icmp_sent"]) == (1, 0, 1)


def test_the_leaf_cuts_nothing_where_it_is_not_configured() -> None:
    rack = _leaf_with_less_room()
    rack.world.leaf.slowpath.oversize._fragments = False
    assert _through_the_leaf(rack, to_h4(1000)) == []
    assert rack.world.leaf.slowpath.events["icmp_silent"] == 1


def test_cutting_is_limited_for_each_vswitch() -> None:
    rack = _leaf_with_less_room()
    slowpath = rack.world.leaf.slowpath
    slowpath.oversize._cuts = Policer(1.0, 3.0)
    packets = _through_the_leaf(rack, *(to_h4(1000 + number) for number in range(5)))
    assert len(packets) == 6
    assert (slowpath.events["fragmented"], slowpath.events["fragments_policed"]) == (3, 2)
