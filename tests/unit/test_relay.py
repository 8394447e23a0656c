"""DHCP relayed to servers elsewhere: what goes out, what comes back, what is bound by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from leaf.bindings import DEFAULT_TIMERS
from leaf.dhcp import Reason as Responded
from leaf.engine import Engine
from leaf.leases import Pool
from leaf.punt import Send
from leaf.relay import Circuit, Reason, read_circuit
from leaf.relayer import ToServer
from leaf.router import Reason as Routed
from leaf.snoop import Outcome
from leaf.topology import Relay, Service
from tests.frames import SHARED_MAC, arp, mac, v4, vxlan
from tests.unit.dhcp_client import XID, message
from tests.unit.leaf_world import DEFAULT_LIMITS, H1, H3, ONE, A, B, C, rebuilt
from tests.unit.relay_world import (
    GATEWAY,
    LEASE,
    OWN,
    OWN6,
    SECOND,
    SERVER,
    RelayWorld,
    lease,
    reply,
)
from vswitch.phy.memory import MemoryNetwork
from vswitch.wire import dhcp as wire
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

ONE_MAC = mac(7)
CIRCUIT = b"\x01\x0e100/192.0.2.11" + b"\x02\x06" + ONE_MAC


@pytest.fixture
def world() -> RelayWorld:
    return RelayWorld()


def said(send: Send) -> Any:
    return Ether(send.packet[8:])


# What goes to the servers.


def test_a_message_goes_to_every_server_with_all_that_they_need(world: RelayWorld) -> None:
    frame = message(ONE_MAC, "discover", ("hostname", b"me"))
    first, second = world.ask(A, frame)
    assert (first.server, second.server) == (SERVER, SECOND)
    assert first.relay == second.relay == OWN
    assert first.payload == second.payload
    before, after = Ether(frame)[BOOTP], BOOTP(first.payload)
    assert (after.giaddr, after.hops) == ("192.0.2.1", 1)
    options = {o[0]: o[1] for o in after[DHCP].options if isinstance(o, tuple)}
    assert options.pop("relay_agent_information") == (
        CIRCUIT
        + b"\x05\x04"
        + v4(GATEWAY)
        + b"\x0b\x04"
        + v4(GATEWAY)
        + b"\x97\x07\x00tenant"
        + b"\x98\x00"
    )
    # It comes last (RFC 3046 section 2.1), and all else is as it was.
    named = [o[0] for o in after[DHCP].options if isinstance(o, tuple)]
    assert named[-1] == "relay_agent_information"
    assert options == {"message-type": 1, "hostname": b"me"}
    for field in ("op", "xid", "secs", "flags", "ciaddr", "yiaddr", "siaddr", "chaddr"):
        assert getattr(after, field) == getattr(before, field)
    assert len(first.payload) >= 300
    assert world.counted(Reason.RELAYED) == 1
    assert sum(world.slowpath.responder.counts.values()) == 0


def test_a_renewal_to_the_gateway_goes_on_as_anything_else(world: RelayWorld) -> None:
    frame = message(ONE_MAC, "request", ciaddr="1.1.1.100", destination=SHARED_MAC)
    assert world.router.decide(B, vxlan(ONE, frame)).reason is Routed.DHCP
    asked = world.ask(B, frame)
    assert b"100/192.0.2.12" in asked[0].payload
    assert BOOTP(asked[0].payload).ciaddr == "1.1.1.100"


REFUSED: dict[str, tuple[bytes, Reason]] = {
    "anothers_chaddr": (message(mac(8), "discover", source=ONE_MAC), Reason.FORGED),
    "a_relay_of_its_own": (message(ONE_MAC, "discover", giaddr="1.1.1.7"), Reason.FORGED),
    "a_circuit_of_its_own": (
        message(ONE_MAC, "discover", ("relay_agent_information", b"\x01\x01x")),
        Reason.FORGED,
    ),
    "sixteen_relays": (message(ONE_MAC, "discover", hops=16), Reason.HOPS),
    "an_offer": (message(ONE_MAC, "offer"), Reason.ROGUE),
    "an_ack": (message(ONE_MAC, "ack"), Reason.ROGUE),
    "a_reply": (message(ONE_MAC, "discover", op=2), Reason.ROGUE),
    "a_lease_query": (message(ONE_MAC, "lease_query"), Reason.MALFORMED),
    "no_cookie": (message(ONE_MAC, "discover").replace(wire.COOKIE, b"abcd"), Reason.MALFORMED),
    "cut_off": (message(ONE_MAC, "discover")[:60], Reason.MALFORMED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_relayed(world: RelayWorld, name: str) -> None:
    frame, reason = REFUSED[name]
    assert world.ask(A, frame) == []
    assert world.counted(reason) == 1
    assert world.counted(Reason.RELAYED) == 0


def test_fifteen_relays_are_let_pass(world: RelayWorld) -> None:
    (first, _) = world.ask(A, message(ONE_MAC, "discover", hops=15))
    assert BOOTP(first.payload).hops == 16


def test_without_a_server_of_the_family_there_is_silence(world: RelayWorld) -> None:
    world.serve(Relay((SERVER,), None, OWN6))
    assert world.ask(A, message(ONE_MAC, "discover")) == []
    assert world.counted(Reason.NO_SERVER) == 1


def test_a_guest_is_held_to_its_rate(world: RelayWorld) -> None:
    for _ in range(12):
        world.ask(A, message(ONE_MAC, "discover"))
    assert (world.counted(Reason.RELAYED), world.counted(Reason.POLICED)) == (10, 2)
    assert world.ask(A, message(mac(8), "discover")) != []


def test_who_asks_is_where_it_asks_from(world: RelayWorld) -> None:
    world.learn(H1)
    world.ask(B, message(H1.mac, "discover"))
    assert world.bound(H1.ip) == (H1.mac, B)
    # But not by what was refused.
    world.ask(C, message(mac(8), "discover", source=H1.mac))
    assert world.bound(H1.ip) == (H1.mac, B)


# What comes back.


@pytest.mark.parametrize("vtep", [A, C])
def test_an_answer_goes_to_its_guest_without_our_option(world: RelayWorld, vtep: Vtep) -> None:
    asked = world.ask(vtep, message(ONE_MAC, "discover"))[0]
    (sent,) = world.tell(reply(asked, "offer", "1.1.1.100", options=[("router", GATEWAY)]))
    assert sent.vtep == vtep
    frame = said(sent)
    shared = world.segment(ONE).vteps[vtep].shared_mac
    assert (frame.dst, frame.src) == (ONE_MAC.hex(":"), shared.hex(":"))
    assert (frame[IP].src, frame[IP].dst) == (GATEWAY, "1.1.1.100")
    assert (frame[UDP].sport, frame[UDP].dport) == (67, 68)
    assert (frame[BOOTP].xid, frame[BOOTP].yiaddr) == (XID, "1.1.1.100")
    names = [o[0] for o in frame[DHCP].options if isinstance(o, tuple)]
    assert names == ["message-type", "server_id", "router"]
    raw, again = bytes(frame), Ether(bytes(frame))
    del again[IP].chksum, again[UDP].chksum
    assert bytes(again) == raw
    assert world.counted(Reason.DELIVERED) == 1
    assert world.bound("1.1.1.100") is None


@pytest.mark.parametrize(
    ("kind", "fields", "destination"),
    [
        pytest.param("offer", {"flags": 0x8000}, "255.255.255.255", id="asked_for_a_broadcast"),
        pytest.param("nak", {}, "255.255.255.255", id="nak"),
        pytest.param("ack", {"ciaddr": "1.1.1.9", "yiaddr": "0.0.0.0"}, "1.1.1.9", id="inform"),
        pytest.param("ack", {"yiaddr": "0.0.0.0"}, "255.255.255.255", id="to_nobody_known"),
    ],
)
def test_where_an_answer_goes(
    world: RelayWorld, kind: str, fields: dict[str, Any], destination: str
) -> None:
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    (sent,) = world.tell(reply(asked, kind, "1.1.1.100", seconds=None, **fields))
    frame = said(sent)
    assert (frame.dst, frame[IP].dst) == (ONE_MAC.hex(":"), destination)
    assert sum(world.slowpath.relayer.lease_counts.values()) == 0


def test_an_answer_follows_a_guest_that_has_moved(world: RelayWorld) -> None:
    world.learn(H1)
    asked = world.ask(A, message(H1.mac, "request", ciaddr=H1.ip))[0]
    world.learn(H1, at=B)
    (sent,) = world.tell(reply(asked, "ack", H1.ip))
    assert sent.vtep == B
    assert world.bound(H1.ip) == (H1.mac, B)


BAD: dict[str, tuple[dict[str, Any], Reason]] = {
    "a_request": ({"op": 1}, Reason.BAD_REPLY),
    "without_circuit": ({"relay": None}, Reason.NOT_OURS),
    "a_broken_circuit": ({"relay": b"\x01\x7fx"}, Reason.NOT_OURS),
    "a_circuit_twice": ({"relay": CIRCUIT + CIRCUIT}, Reason.NOT_OURS),
    "a_circuit_without_guest": ({"relay": CIRCUIT[:16]}, Reason.NOT_OURS),
    "a_circuit_of_no_number": ({"relay": CIRCUIT.replace(b"100", b"1x0")}, Reason.NOT_OURS),
    "a_circuit_in_other_words": ({"relay": CIRCUIT.replace(b"100", b"+99")}, Reason.NOT_OURS),
    "another_guests": ({"chaddr": mac(8) + bytes(10)}, Reason.NOT_OURS),
    "another_relays": ({"giaddr": "192.0.2.2"}, Reason.NOT_OURS),
    "of_no_segment": ({"relay": CIRCUIT.replace(b"100", b"999")}, Reason.NO_PLACE),
    "of_a_segment_that_is_not_relayed": (
        {"relay": CIRCUIT.replace(b"100", b"200")},
        Reason.NO_PLACE,
    ),
    "at_no_vtep": ({"relay": CIRCUIT.replace(b".11", b".99")}, Reason.NO_PLACE),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_delivered(world: RelayWorld, name: str) -> None:
    fields, reason = BAD[name]
    asked = world.ask(A, message(ONE_MAC, "request", ("requested_addr", "1.1.1.100")))[0]
    assert world.tell(reply(asked, "ack", "1.1.1.100", **fields)) == []
    assert world.counted(reason) == 1
    assert world.bound("1.1.1.100") is None


def test_a_circuit_in_the_name_of_the_server_is_no_circuit(world: RelayWorld) -> None:
    """Overloaded options are read from `sname` too, but option 82 has no place there."""
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    hidden = b"\x52" + bytes((len(CIRCUIT),)) + CIRCUIT + b"\xff"
    payload = reply(
        asked, "offer", "1.1.1.100", relay=None, sname=hidden, options=[("dhcp-option-overload", 2)]
    )
    read = wire.parse_payload(payload)
    assert read is not None and read.options[wire.RELAY] == CIRCUIT
    assert world.tell(payload) == []
    assert world.counted(Reason.NOT_OURS) == 1


@pytest.mark.parametrize("server", ["10.0.0.99", "192.0.2.1"])
def test_only_servers_are_listened_to(world: RelayWorld, server: str) -> None:
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    assert world.tell(reply(asked, "ack", "1.1.1.100"), server=v4(server)) == []
    assert world.counted(Reason.NOT_A_SERVER) == 1


def test_the_server_of_another_segment_has_nothing_to_say(world: RelayWorld) -> None:
    world.segment(Vni(200)).dhcp = Relay((v4("10.0.0.99"),), OWN, None)
    world.slowpath.replace_topology(rebuilt(world.topology))
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    assert world.tell(reply(asked, "ack", "1.1.1.100"), server=v4("10.0.0.99")) == []
    assert world.counted(Reason.NOT_A_SERVER) == 1


def test_a_server_is_held_to_its_rate_and_no_other_with_it() -> None:
    world = RelayWorld(limits=DEFAULT_LIMITS._replace(server_dhcp=3.0))
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    offer = reply(asked, "offer", "1.1.1.100")
    assert [len(world.tell(offer)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert world.counted(Reason.SERVER_POLICED) == 2
    assert len(world.tell(offer, server=SECOND)) == 1
    assert len(world.tell(offer, 1.0)) == 1


def test_what_does_not_fit_into_the_tunnel_is_cut(world: RelayWorld) -> None:
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    options = [("vendor_specific", b"x" * 250) for _ in range(6)]
    offer = reply(asked, "offer", "1.1.1.100", options=options)
    whole = said(world.tell(offer)[0])
    sent = world.tell(offer, room={A: 1472})
    assert len(sent) == 2
    assert all(len(one.packet) <= 1472 for one in sent)
    parts = [said(one)[IP] for one in sent]
    assert parts[0].flags == "MF" and not parts[1].flags
    assert b"".join(bytes(one.payload) for one in parts) == bytes(whole[IP].payload)
    assert len(world.tell(offer, room={B: 100})) == 1


# What is bound.


def test_an_acknowledged_lease_is_a_binding_until_it_is_over(world: RelayWorld) -> None:
    lease(world, ONE_MAC, "1.1.1.100")
    assert world.bound("1.1.1.100") == (ONE_MAC, A)
    assert world.counted(Outcome.BOUND) == 1
    (seen,) = world.slowpath.relayer.snooped.all()
    assert (seen.address, seen.client.mac, seen.expires) == (v4("1.1.1.100"), ONE_MAC, LEASE)
    # Renewed at half its time; alive by ARP all the while.
    lease(world, ONE_MAC, "1.1.1.100", LEASE / 2)
    assert world.counted(Outcome.RENEWED) == 1
    for now in range(0, 2 * LEASE, 30):
        if world.bound("1.1.1.100") is not None:
            world.punt(A, vxlan(ONE, arp(SHARED_MAC, ONE_MAC, "1.1.1.100", GATEWAY)), float(now))
        world.slowpath.tick(float(now))
        assert (world.bound("1.1.1.100") is not None) == (now < 1.5 * LEASE)
    assert world.counted(Outcome.EXPIRED) == 1
    assert world.slowpath.relayer.deadline() is None


def test_the_slow_path_wakes_for_the_end_of_a_lease(world: RelayWorld) -> None:
    lease(world, ONE_MAC, "1.1.1.100", seconds=5)
    assert world.slowpath.deadline() == 5.0


@pytest.mark.parametrize("kind", ["release", "decline"])
def test_what_is_given_back_is_unbound_and_the_server_hears_of_it(
    world: RelayWorld, kind: str
) -> None:
    lease(world, ONE_MAC, "1.1.1.100")
    lease(world, mac(8), "1.1.1.101")
    server = ("server_id", GATEWAY)

    def give_back(who: bytes, address: str) -> int:
        if kind == "release":
            return len(world.ask(A, message(who, kind, server, ciaddr=address)))
        return len(world.ask(A, message(who, kind, server, ("requested_addr", address))))

    assert give_back(ONE_MAC, "1.1.1.101") == 2
    assert world.bound("1.1.1.101") == (mac(8), A)  # It is not the one who has it.
    assert len(world.slowpath.relayer.snooped) == 2
    assert world.counted(Outcome.RETURNED) == 0
    assert give_back(ONE_MAC, "1.1.1.100") == 2
    assert world.counted(Outcome.RETURNED) == 1
    assert world.bound("1.1.1.100") is None
    assert len(world.slowpath.relayer.snooped) == 1


def test_a_release_ends_a_binding_whose_lease_was_not_seen(world: RelayWorld) -> None:
    """It came through another leaf, or before a restart of this one."""
    world.learn(H1)
    world.ask(A, message(H1.mac, "release", ("server_id", GATEWAY), ciaddr=H1.ip))
    assert world.bound(H1.ip) is None


def test_a_configured_binding_stays(world: RelayWorld) -> None:
    world.learn(H1, configured=True)
    lease(world, H1.mac, H1.ip)
    world.ask(A, message(H1.mac, "release", ("server_id", GATEWAY), ciaddr=H1.ip))
    assert world.bound(H1.ip) == (H1.mac, A)


@pytest.mark.parametrize("address", [GATEWAY, "1.1.1.255", "9.9.9.9", "2.2.2.7"])
def test_only_what_a_guest_can_have_is_bound(world: RelayWorld, address: str) -> None:
    assert len(lease(world, ONE_MAC, address)) == 1
    assert world.bound(address) is None
    assert world.counted(Outcome.OUTSIDE) == 1
    assert len(world.slowpath.relayer.snooped) == 0


def test_a_second_subnet_of_the_segment_will_do(world: RelayWorld) -> None:
    lease(world, ONE_MAC, "3.3.3.7")
    assert world.bound("3.3.3.7") == (ONE_MAC, A)


def test_a_segment_that_is_not_relayed_any_more_is_forgotten(world: RelayWorld) -> None:
    lease(world, ONE_MAC, "1.1.1.100")
    world.serve(None)
    assert len(world.slowpath.relayer.snooped) == 0
    assert world.bound("1.1.1.100") == (ONE_MAC, A)  # As by ARP, and kept by it.
    assert world.router.decide(A, vxlan(ONE, message(ONE_MAC, "discover"))).reason is not (
        Routed.DHCP
    )
    world.serve(Relay((SERVER,), OWN, None))
    assert len(world.ask(A, message(ONE_MAC, "discover"))) == 1


def test_one_segment_answers_and_another_relays(world: RelayWorld) -> None:
    first = int.from_bytes(v4("2.2.2.100"), "big")
    world.segment(Vni(200)).dhcp = Service(Pool(4, ((first, first),)), 60)
    world.slowpath.replace_topology(rebuilt(world.topology))
    assert len(world.punt(A, vxlan(200, message(mac(5), "discover")))) == 1
    assert world.slowpath.responder.counts[Responded.OFFERED] == 1
    assert len(world.ask(A, message(ONE_MAC, "discover"))) == 2


# Two leaves.


def test_two_leaves_share_nothing_and_a_guest_renews_through_either() -> None:
    """The server is told the same of the guest by both, but for where it is to answer."""
    left, right = RelayWorld(), RelayWorld(own=v4("192.0.2.2"))
    lease(left, H3.mac, H3.ip, vtep=A)
    renewal = message(H3.mac, "request", ciaddr=H3.ip, destination=SHARED_MAC)
    asked = right.ask(B, renewal)[0]
    assert BOOTP(asked.payload).giaddr == "192.0.2.2"
    ack = reply(asked, "ack", H3.ip)
    # It answers to the giaddr; the first leaf would not take it for its own.
    assert left.tell(ack) == []
    assert left.counted(Reason.NOT_OURS) == 1
    (sent,) = right.tell(ack)
    assert (sent.vtep, said(sent)[IP].src) == (B, GATEWAY)
    assert right.bound(H3.ip) == (H3.mac, B)


# In the engine.


def test_the_engine_asks_the_servers_and_carries_their_answers(world: RelayWorld) -> None:
    network = MemoryNetwork()
    vswitch = network.tunnel(A)
    engine = Engine(
        world.topology,
        network.tunnel(Vtep("192.0.2.1")),
        lambda: 0.0,
        timers=DEFAULT_TIMERS,
        limits=DEFAULT_LIMITS,
        max_bindings=10,
    )
    asked: list[ToServer] = []

    def ask_server(datagram: ToServer) -> bool:
        asked.append(datagram)
        return datagram.server == SERVER

    engine.ask_server = ask_server
    vswitch.send(Vtep("192.0.2.1"), 0, vxlan(ONE, message(ONE_MAC, "discover")))
    engine.pump_tunnel()
    assert [one.server for one in asked] == [SERVER, SECOND]
    counts = engine.slowpath.relayer.counts
    assert (counts[Reason.RELAYED], counts[Reason.SEND_FAILED]) == (1, 1)
    engine.pump_tunnel()
    assert len(asked) == 2  # Nothing is asked twice.

    engine.from_server(SERVER, reply(asked[0], "ack", "1.1.1.100"))
    source, packet, _, _ = vswitch.incoming.popleft()
    assert (source, Ether(packet[8:])[BOOTP].yiaddr) == ("192.0.2.1", "1.1.1.100")
    assert engine.router.fib("tenant").hosts[v4("1.1.1.100")].verdict.vtep == A
    assert engine.deadline() is not None


# The words of a circuit.


@pytest.mark.parametrize("vtep", ["192.0.2.11", "2001:db8::11"])
def test_a_circuit_is_read_as_it_was_written(vtep: str) -> None:
    circuit = Circuit(Vni(16777215), Vtep(vtep), Mac(ONE_MAC))
    assert read_circuit(circuit.interface) == circuit
    assert circuit.interface.startswith(f"16777215/{vtep}/".encode())


def test_a_datagram_that_makes_us_fail_is_counted_and_ends_there(world: RelayWorld) -> None:
    asked = world.ask(A, message(ONE_MAC, "discover"))[0]
    broken = replace(world.segment(ONE), vteps={})
    broken.vteps[A] = None  # type: ignore[assignment]
    world.slowpath.relayer._segments[ONE] = broken
    assert world.tell(reply(asked, "offer", "1.1.1.100")) == []
    assert world.slowpath.events["punts_failed"] == 1
    assert len(world.failures) == 1
