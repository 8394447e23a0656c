"""What must not end a daemon: bad frames on TAP and tunnel, devices and peers that vanish.

Each fault leaves a counter or a log line, and everybody else goes on talking.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests import frames
from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK, Lab

from .commands import counters, ping, wait_until

H1, H4 = bytes.fromhex("000001010101"), bytes.fromhex("000001010104")
SHARED = bytes.fromhex("0000deadbeef")
BROADCAST = b"\xff" * 6
ETH_P_ALL = 0x0003
LEAF = ("10.99.0.1", 4789)
VSWITCH_A = ("10.99.0.11", 4789)


def _wire_tap(lab: Lab, guest: str) -> socket.socket:
    """Open a socket that puts whole frames on a guest's link."""
    sock = lab.node(guest).socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((GUEST_LINK, ETH_P_ALL))
    return sock


def _send_udp(lab: Lab, node: str, to: tuple[str, int], payloads: list[bytes]) -> None:
    with lab.node(node).socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for payload in payloads:
            sock.sendto(payload, to)


@contextmanager
def _counted(lab: Lab, daemon: str, table: str, *names: str) -> Iterator[None]:
    """Demand that each of these counters has risen at the end."""
    before = counters(lab, daemon)[table]

    def risen() -> bool:
        now = counters(lab, daemon)[table]
        return all(now[name] > before[name] for name in names)

    yield
    wait_until(risen, f"a rise of {names} at {daemon}")


def _all_is_well(lab: Lab) -> None:
    assert ping(lab, "H2", "1.1.1.3").received == 3
    for daemon in (lab.leaf, *lab.vswitches.values()):
        assert daemon.process() is not None, f"{daemon.name} has died"
        log = daemon.log.read_text()
        assert "unexpected error" not in log and "Traceback" not in log, log[-2000:]


def _damaged(seed: int) -> list[bytes]:
    """Return frames of every kind, whole, cut at every length up to 64, and with random damage."""
    rng = random.Random(seed)
    whole = [
        frames.udp(SHARED, H1, "1.1.1.1", "1.1.1.4"),
        frames.tcp(SHARED, H1),
        frames.echo(SHARED, H1, "1.1.1.1", "1.1.1.254"),
        frames.arp(BROADCAST, H1, "1.1.1.1", "1.1.1.4"),
        frames.rarp(H1),
        frames.udp6(SHARED, H1),
        frames.tagged(frames.udp(SHARED, H1), 7),
        frames.plain(SHARED, H1),
    ]
    made = list(whole)
    for frame in whole:
        made += [frame[:length] for length in range(14, min(64, len(frame)))]
        for _ in range(40):
            bad = bytearray(frame)
            for _ in range(rng.randrange(1, 6)):
                bad[rng.randrange(12, len(bad))] = rng.randrange(256)
            made.append(bytes(bad))
    made += [H4 + H1 + rng.randbytes(rng.randrange(2, 1400)) for _ in range(200)]
    return made


def test_damaged_frames_of_a_guest_harm_nobody(lab: Lab) -> None:
    names = ("runt", "tagged", "spoofed_address", "spoofed_arp", "miss_unroutable")
    with _counted(lab, "A", "frames", *names), _wire_tap(lab, "H1") as wire:
        for frame in _damaged(seed=1):
            wire.send(frame)
        for forged in (
            frames.udp(SHARED, H1, "9.9.9.9", "1.1.1.4"),
            frames.arp(BROADCAST, H1, "1.1.1.254", "1.1.1.4"),
            frames.plain(H4, H1, 0x88B5),
        ):
            wire.send(forged)
    with _counted(lab, "A", "frames", "spoofed_mac", "group_source"), _wire_tap(lab, "H1") as wire:
        wire.send(frames.udp(SHARED, H4, "1.1.1.4", "1.1.1.2"))
        wire.send(frames.udp(SHARED, b"\x01" + H4[1:], "1.1.1.4", "1.1.1.2"))
    _all_is_well(lab)


def test_damaged_packets_of_a_vswitch_harm_nobody(lab: Lab) -> None:
    """Sent from host A's address, so that they get as far as a peer's packets get."""
    names = ("bad_vxlan", "runt", "unknown_vni", "foreign_mac", "bad_ip_header", "not_ip")
    packets = [frames.vxlan(100, frame) for frame in _damaged(seed=2)]
    packets += [packet[:length] for packet in packets[:8] for length in range(23)]
    packets += [
        frames.vxlan(999, frames.udp(SHARED, H1)),
        frames.vxlan(100, frames.udp(H4, H1)),
        frames.vxlan(100, frames.plain(SHARED, H1)),
        b"",
        b"\x08" * 60_000,
    ]
    with _counted(lab, "leaf", "packets", *names):
        _send_udp(lab, "A", LEAF, packets)
    _all_is_well(lab)


def test_damaged_packets_of_the_leaf_harm_nobody(lab: Lab) -> None:
    names = ("uplink_bad_vxlan", "uplink_runt", "uplink_unknown_vni", "uplink_miss")
    packets = [frames.vxlan(100, frame) for frame in _damaged(seed=3)]
    packets += [packets[0][:length] for length in range(23)]
    packets.append(frames.vxlan(999, frames.udp(H1, SHARED)))
    with _counted(lab, "A", "frames", *names):
        _send_udp(lab, "leaf", VSWITCH_A, packets)
    _all_is_well(lab)


def test_strangers_are_not_listened_to(lab: Lab) -> None:
    """The spine has no VTEP of ours: give it an address for this test."""
    lab.node("spine").add_address("br0", "10.99.0.99", 24)
    packet = frames.vxlan(100, frames.udp(H1, SHARED))
    with _counted(lab, "leaf", "packets", "not_a_peer"):
        _send_udp(lab, "spine", LEAF, [packet] * 5)
    with _counted(lab, "A", "frames", "uplink_not_a_leaf"):
        _send_udp(lab, "spine", VSWITCH_A, [packet] * 5)
    _all_is_well(lab)


def test_a_flood_of_arp_is_policed_and_others_do_not_feel_it(lab: Lab) -> None:
    """10,000 questions for addresses that nobody has."""
    with _counted(lab, "leaf", "events", "guests_policed"), _wire_tap(lab, "H1") as wire:
        for number in range(10_000):
            wire.send(frames.fast_arp(H1, "1.1.1.1", f"1.1.1.{5 + number % 240}"))
        assert ping(lab, "H4", "1.1.1.3", count=5).received == 5
    status = lab.leaf.client()
    try:
        assert status.get("/v1/status")["gleaning"] <= 1024
    finally:
        status.close()
    wait_until(lambda: ping(lab, "H2", "1.1.1.3", count=1).received == 1, "quiet")


def test_a_tap_that_vanishes_takes_only_its_guest_with_it(lab: Lab) -> None:
    with _counted(lab, "B", "events", "ports_gone"):
        lab.node("H6").remove_link(GUEST_LINK)
    assert "H6" not in lab.places()
    assert "port gone" in lab.vswitches["B"].log.read_text()
    _all_is_well(lab)
    assert "guest H6: attached at B" in lab.up()
    assert ping(lab, "H6", "2.2.2.5").received == 3


def test_a_tap_that_is_down_for_a_while_is_no_loss(lab: Lab) -> None:
    lab.node("H6").link_set(GUEST_LINK, state="down")
    _all_is_well(lab)
    lab.up()
    assert ping(lab, "H6", "2.2.2.5").received == 3


def test_a_leaf_that_is_not_there_is_counted_and_neighbours_still_talk(lab: Lab) -> None:
    lab.leaf.down()
    with _counted(lab, "A", "tunnel_faults", "refused"):
        assert ping(lab, "H1", "1.1.1.4", count=5).received == 0
    assert ping(lab, "H1", "1.1.1.2").received == 3
    assert lab.up() == ["leaf leaf: started"]
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received == 1, "recovery")


def test_an_underlay_that_goes_and_comes_back(lab: Lab) -> None:
    with _counted(lab, "A", "tunnel_faults", "unreachable"):
        lab.node("A").link_set(UNDERLAY_LINK, state="down")
        assert ping(lab, "H1", "1.1.1.4", count=2).received == 0
    assert ping(lab, "H1", "1.1.1.2").received == 3
    lab.node("A").link_up(UNDERLAY_LINK)
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received == 1, "recovery")


def test_what_does_not_fit_the_underlay_is_counted_and_its_sender_told(lab: Lab) -> None:
    """The outer packet is never fragmented (RFC 7348 section 4.3)."""
    lab.node("H1").link_set(GUEST_LINK, mtu=1500)
    try:
        with _counted(lab, "A", "events", "too_big", "too_big_told"):
            told = ping(lab, "H1", "1.1.1.4", "-s", "1472", "-M", "do", count=2)
        assert told.received == 0
        assert re.search(r"mtu ?= ?1450", told.text)
    finally:
        lab.node("H1").link_set(GUEST_LINK, mtu=1450)
    _all_is_well(lab)
