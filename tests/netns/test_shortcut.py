"""Super-frames that pass the tunnel in one piece: where they do, where they must not, and what is
left of it when a daemon ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from tests import frames
from tools.fabric import daemons
from tools.fabric.lab import UNDERLAY_LINK, Lab
from vswitch.phy.shortcut import FRESH

from .commands import counters, iperf, ping, wait_until
from .conftest import UNDERLAY6, MakeLab, seed, up

ETH_P_ALL = 0x0003
FULL = 1514
"""The longest frame of an underlay with an MTU of 1,500."""
RECEIVE_BUFFER, SO_RCVBUFFORCE = 1 << 25, 33


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def fabric(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The seed fabric, with the underlay of either family."""
    name = f"whole{request.param}"
    changes = UNDERLAY6 if request.param == "ipv6" else {}
    yield from up(Lab(seed(name, **changes)))


def streams(lab: Lab, client: str = "H1", server: str = "H4", address: str = "1.1.1.4") -> float:
    """Return the Gb/s of a TCP stream."""
    end = iperf(lab, client, server, address)
    return float(end["sum_received"]["bits_per_second"]) / 1e9


class Capture:
    """What arrives at a node by the underlay, from another."""

    def __init__(self, lab: Lab, node: str, sender: str) -> None:
        self._sender = sender
        self._wire = lab.node(node).socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._wire.bind((UNDERLAY_LINK, ETH_P_ALL))
        self._wire.setblocking(False)

    def taken(self, most: int = 2000) -> list[bytes]:
        """Return the first frames of tunnels that have arrived."""
        found = []
        with self._wire as wire:
            for _ in range(most):
                try:
                    frame = wire.recv(70_000)
                except BlockingIOError:
                    break
                outer = Ether(frame).payload
                if UDP in outer and outer.src == self._sender:
                    found.append(frame)
        return found


def _vtep(lab: Lab, host: str) -> str:
    return next(str(one.address) for one in lab.topology.host if one.name == host)


def _status(lab: Lab, daemon: str) -> dict[str, Any]:
    process = lab.leaf if daemon == "leaf" else lab.vswitches[daemon]
    client = process.client()
    try:
        said: dict[str, Any] = client.get("/v1/status")
    finally:
        client.close()
    return said


@pytest.mark.parametrize("target", ["1.1.1.4", "2.2.2.6"], ids=["bridged", "routed"])
def test_a_stream_passes_in_one_piece(fabric: Lab, target: str) -> None:
    server = "H4" if target == "1.1.1.4" else "H6"
    at_leaf = Capture(fabric, "leaf", _vtep(fabric, "A"))
    assert streams(fabric, "H1", server, target) > 0.1
    lengths = [len(frame) for frame in at_leaf.taken()]
    assert max(lengths) > 20 * FULL
    for daemon in ("A", "leaf", "B"):
        faults = counters(fabric, daemon)["tunnel_faults"]
        assert not faults["uncuttable"] and not faults["damaged"]
        assert "vxtap0 on eth0" in _status(fabric, daemon)["tunnel"]


@pytest.mark.parametrize("target", ["1.1.1.4", "2001:db8:1::4"], ids=["ipv4", "ipv6"])
def test_datagrams_that_go_one_way_pass_in_one_piece_and_arrive(fabric: Lab, target: str) -> None:
    """The receiver says nothing, so it is the VTEPs themselves that must keep in touch."""
    with Datagrams(fabric, target) as flow:
        flow.send(3 * FRESH)
        at_leaf = Capture(fabric, "leaf", _vtep(fabric, "A"))
        flow.send(0.5)
        taken = at_leaf.taken()
        flow.check_arrival()
    inner = [Ether(frame)[VXLAN].payload for frame in taken]
    # Of a train, each packet would say how long it is itself.
    assert max(one[UDP].len for one in inner if UDP in one) > 20 * 18


class Datagrams:
    """Many small ones from H1 to an address of H4, which says nothing."""

    def __init__(self, lab: Lab, target: str) -> None:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        self._receiver = lab.node("H4").socket(family, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._receiver.bind((target, 7000))
        self._receiver.setblocking(False)
        self._sender = lab.node("H1").socket(family, socket.SOCK_DGRAM)
        self._sender.connect((target, 7000))
        self._sent: list[bytes] = []
        self._got: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._sender.close()
        self._receiver.close()

    def send(self, seconds: float) -> None:
        """Send at a pace at which nobody has to drop anything."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(100):
                self._sent.append(len(self._sent).to_bytes(4, "big") + bytes(14))
                self._sender.send(self._sent[-1])
            time.sleep(0.005)

    def check_arrival(self) -> None:
        """Demand that all have arrived as they were, in their order."""
        wait_until(lambda: self._receive() >= len(self._sent), "the datagrams' arrival")
        assert self._got == self._sent

    def _receive(self) -> int:
        with suppress(BlockingIOError):
            while True:
                self._got.append(self._receiver.recv(2000))
        return len(self._got)


def test_on_a_wire_they_are_standard_packets(fabric: Lab) -> None:
    """A veth that completes checksums also cuts, as a network card or the kernel before it does."""
    for node in ("A", "leaf", "B"):
        fabric.node(node).complete_checksums(UNDERLAY_LINK)
    at_leaf = Capture(fabric, "leaf", _vtep(fabric, "A"))
    assert streams(fabric) > 0.05
    packets = [Ether(frame) for frame in at_leaf.taken(3000)]
    assert all(len(packet) <= FULL for packet in packets)
    full = [packet for packet in packets if len(packet) > FULL - 100]
    assert len(full) > 500
    for packet in full[:: len(full) // 50]:
        assert TCP in packet[VXLAN].payload
        _is_sound(packet)


@pytest.mark.parametrize("target", ["1.1.1.4", "2001:db8:1::4"], ids=["ipv4", "ipv6"])
def test_on_a_wire_datagrams_are_standard_packets(fabric: Lab, target: str) -> None:
    for node in ("A", "leaf", "B"):
        fabric.node(node).complete_checksums(UNDERLAY_LINK)
    at_leaf = Capture(fabric, "leaf", _vtep(fabric, "A"))
    with Datagrams(fabric, target) as flow:
        flow.send(0.5)
        packets = [Ether(frame) for frame in at_leaf.taken(3000)]
        flow.check_arrival()
    small = [one for one in packets if one[VXLAN].payload.haslayer(UDP)]
    assert len(small) > 200
    for packet in small[:: len(small) // 50]:
        assert packet[VXLAN].payload[UDP].len == 8 + 18
        _is_sound(packet)


def _is_sound(packet: Packet) -> None:
    """Demand what scapy would have put into the lengths and checksums of all headers."""
    inner = packet[VXLAN].payload
    assert packet.type == 0x0800 or packet[UDP].chksum, "over IPv6 there has to be one"
    for part in (packet, inner):
        for kind, field in ((IP, "len"), (IP, "chksum"), (UDP, "len"), (TCP, "chksum")):
            if kind in part and part[kind].underlayer is not None:
                _is_field_right(part, kind, field)
    if packet[UDP].chksum:
        _is_field_right(packet, UDP, "chksum")
    if UDP in inner:
        _is_field_right(inner, UDP, "chksum")


def _is_field_right(packet: Packet, kind: type[Packet], field: str) -> None:
    rebuilt = packet.copy()
    layer = rebuilt.getlayer(kind)
    stored = getattr(layer, field)
    delattr(layer, field)
    made = packet.__class__(bytes(rebuilt)).getlayer(kind)
    assert getattr(made, field) == stored, f"{kind.__name__}.{field}"


def test_who_has_sockets_only_is_sent_packets(make_lab: MakeLab) -> None:
    """The leaf starts again without the shortcut, and once more with it: both ways work."""
    lab = make_lab(seed("mixed"))
    assert streams(lab) > 0.1
    for offload in ("sockets", "off", "auto"):
        _restart_leaf(lab, offload)
        assert ("vxtap" in _status(lab, "leaf")["tunnel"]) == (offload == "auto")
        assert ping(lab, "H1", "1.1.1.4").received == 3
        assert streams(lab) > 0.05, offload
        assert streams(lab, "H4", "H1", "1.1.1.1") > 0.05, offload


def _restart_leaf(lab: Lab, offload: str, how: int = signal.SIGTERM) -> None:
    process = lab.leaf.process()
    assert process is not None
    os.kill(process.pid, how)
    wait_until(lambda: lab.leaf.process() is None, "the leaf's end")
    changed = seed(lab.topology.lab.name, lab={"name": lab.topology.lab.name, "offload": offload})
    lab.leaf.up(daemons.leaf_config(changed, lab.leaf.socket.parent))
    lab.leaf.wait_ready()
    # Its bindings are gone with it; guests say something.
    for guest, target in (("H1", "1.1.1.4"), ("H4", "1.1.1.1")):
        wait_until(lambda g=guest, t=target: ping(lab, g, t, count=1).received, "an answer", 20)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_has_ended_leaves_nothing(make_lab: MakeLab, how: int) -> None:
    """Whoever has the address next gets its packets: here a daemon with sockets only."""
    lab = make_lab(seed(f"ended{how:d}"))
    assert lab.node("leaf").link("vxtap0") is not None
    _restart_leaf(lab, "sockets", how)
    assert lab.node("leaf").link("vxtap0") is None
    assert streams(lab) > 0.05


def test_a_second_daemon_of_an_address_is_refused_and_does_no_harm(make_lab: MakeLab) -> None:
    lab = make_lab(seed("second"))
    config = lab.leaf.socket.parent / "second.toml"
    first = (lab.leaf.socket.parent / "leaf.toml").read_text()
    config.write_text(first.replace("leaf.sock", "second.sock"))
    done = lab.node("leaf").run([sys.executable, "-m", "leaf", "run", str(config)], timeout=30)
    assert done.returncode != 0 and "another process" in done.stdout + done.stderr
    assert streams(lab) > 0.1
    assert "vxtap0" in _status(lab, "leaf")["tunnel"]


def test_a_device_that_is_removed_is_done_without(make_lab: MakeLab) -> None:
    lab = make_lab(seed("gone"))
    assert streams(lab) > 0.1
    lab.node("A").remove_link("vxtap0")
    assert ping(lab, "H1", "1.1.1.4", count=5).received >= 4
    assert streams(lab) > 0.05
    assert streams(lab, "H4", "H1", "1.1.1.1") > 0.05
    assert lab.vswitches["A"].log.read_text().count("has vanished") == 1


def test_an_underlay_that_goes_down_and_comes_back_is_used_again(make_lab: MakeLab) -> None:
    lab = make_lab(seed("updown"))
    assert streams(lab) > 0.1
    lab.node("A").link_set(UNDERLAY_LINK, state="down")
    assert ping(lab, "H1", "1.1.1.4", count=1).received == 0
    lab.node("A").link_up(UNDERLAY_LINK)
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received, "an answer")
    assert streams(lab) > 0.1
    assert "vxtap0" in _status(lab, "A")["tunnel"]


@pytest.mark.parametrize("what", ["checksum", "length", "no_checksum", "whole"])
def test_the_checks_that_the_kernel_does_not_make(fabric: Lab, what: str) -> None:
    """Somebody in the underlay sends packets to the leaf, from A's address."""
    leaf, own = _underlay_mac(fabric, "leaf"), _underlay_mac(fabric, "A")
    underlay = fabric.topology.underlay
    ip = IPv6 if ":" in str(underlay.leaf) else IP
    inner = frames.vxlan(999, frames.udp(b"\x02" + bytes(5), b"\x02" + bytes(4) + b"\x01"))
    udp = UDP(sport=50000, dport=4789)
    if what == "no_checksum":
        udp.chksum = 0
    head = Ether(dst=leaf, src=own) / ip(src=_vtep(fabric, "A"), dst=str(underlay.leaf))
    frame = bytearray(bytes(head / udp / inner))
    at = 54 if ip is IPv6 else 34
    if what == "checksum":
        frame[-1] ^= 1
    elif what == "length":
        frame[at + 4 : at + 6] = (len(frame)).to_bytes(2, "big")
    before = counters(fabric, "leaf")
    with fabric.node("A").socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind((UNDERLAY_LINK, ETH_P_ALL))
        wire.send(frame)
    table, name = ("packets", "unknown_vni")
    if what in ("checksum", "length"):
        table, name = ("tunnel_faults", "damaged")

    def risen() -> bool:
        return counters(fabric, "leaf")[table][name] == before[table][name] + 1

    wait_until(risen, f"a rise of {name}")


def _underlay_mac(lab: Lab, node: str) -> str:
    link = lab.node(node).link(UNDERLAY_LINK)
    assert link is not None
    return link.mac
