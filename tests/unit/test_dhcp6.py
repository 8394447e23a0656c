"""DHCPv6 at the leaf: the rules of RFC 8415. Messages are built and read by scapy."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers import dhcp6 as s
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from leaf.dhcp import Reason
from leaf.leases import Pool, State
from leaf.router import Reason as Routed
from tests.frames import SHARED_MAC, mac, na, v6, vxlan
from tests.unit.leaf_world import ONE, A, World, gateway, rebuilt
from vswitch.wire import dhcp6 as wire
from vswitch.wire import ipv6
from vswitch.wire.ethernet import Mac

POOL = [f"2001:db8::10{n}" for n in range(3)]
RESERVED = "2001:db8::50"
SERVERS = "ff02::1:2"
LEASE_TIME = 600


@pytest.fixture
def world() -> World:
    """ONE has 2001:db8::/64 beside its subnets, and gives out three addresses of it."""
    made = World()
    segment = made.segment(ONE)
    assert segment.dhcp is not None
    segment.gateways = (*segment.gateways, gateway("2001:db8::fe", "2001:db8::/64"))
    first, last = (int.from_bytes(v6(one), "big") for one in (POOL[0], POOL[-1]))
    segment.dhcp = segment.dhcp._replace(
        pool6=Pool(16, ((first, last),), {mac(50): v6(RESERVED)}), dns6=(v6("2001:db8::53"),)
    )
    made.slowpath.replace_topology(rebuilt(made.topology))
    return made


def counted(world: World, reason: Reason) -> int:
    return world.slowpath.responder.counts[reason]


def bound(world: World, address: str) -> bytes | None:
    binding = world.bindings.get(ONE, v6(address))
    return None if binding is None else binding.mac


class Client:
    """A client of segment ONE."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.mac = world, mac(number)
        self.duid = s.DUID_LLT(timeval=number, lladdr=self.mac.hex(":"))
        self.server: Any = None

    def frame(self, kind: type[Packet], *parts: Packet, server: Any = None) -> bytes:
        message = kind(trid=0xABCDEF) / s.DHCP6OptClientId(duid=self.duid)
        if server is not None:
            message /= s.DHCP6OptServerId(duid=server)
        for part in parts:
            message /= part
        source = str(ip_address(ipv6.link_local(Mac(self.mac))))
        return bytes(
            Ether(src=self.mac.hex(":"), dst="33:33:00:01:00:02")
            / IPv6(src=source, dst=SERVERS)
            / UDP(sport=546, dport=547)
            / message
        )

    def say(
        self, kind: type[Packet], *parts: Packet, server: Any = None, now: float = 0.0
    ) -> Packet | None:
        sends = self.world.punt(A, vxlan(ONE, self.frame(kind, *parts, server=server)), now)
        found = [Ether(send.packet[8:]) for send in sends]
        answers = [one for one in found if UDP in one and one[UDP].dport == 546]
        if not answers:
            return None
        answer = answers[0]
        assert (answer.dst, answer.src) == (self.mac.hex(":"), SHARED_MAC.hex(":"))
        assert v6(answer[IPv6].src) == ipv6.link_local(Mac(SHARED_MAC))
        raw, again = bytes(answer), Ether(bytes(answer))
        del again[UDP].chksum
        assert bytes(again) == raw
        said = answer[UDP].payload
        assert said.trid == 0xABCDEF and said[s.DHCP6OptClientId].duid == self.duid
        self.server = said[s.DHCP6OptServerId].duid
        assert bytes(self.server) == b"\0\3\0\1" + SHARED_MAC
        return said  # type: ignore[no-any-return]

    def solicit(self, *wanted: str, now: float = 0.0) -> Packet | None:
        return self.say(s.DHCP6_Solicit, ia(*wanted), now=now)

    def get(self, now: float = 0.0) -> str:
        offer = self.solicit(now=now)
        assert isinstance(offer, s.DHCP6_Advertise)
        (address,) = addresses(offer)
        given = self.say(s.DHCP6_Request, ia(address), server=self.server, now=now)
        assert isinstance(given, s.DHCP6_Reply) and list(addresses(given)) == [address]
        return address


def ia(*wanted: str, number: int = 7) -> Packet:
    return s.DHCP6OptIA_NA(iaid=number, ianaopts=[s.DHCP6OptIAAddress(addr=one) for one in wanted])


def addresses(said: Packet) -> dict[str, int]:
    """The addresses of the first IA_NA, and for how long they are valid."""
    assert said[s.DHCP6OptIA_NA].iaid == 7
    inside = said[s.DHCP6OptIA_NA].ianaopts
    return {one.addr: one.validlft for one in inside if isinstance(one, s.DHCP6OptIAAddress)}


def status(said: Packet) -> int:
    inside = said[s.DHCP6OptIA_NA].ianaopts if s.DHCP6OptIA_NA in said else [said]
    return next(int(one[s.DHCP6OptStatusCode].statuscode) for one in inside)


def test_a_new_client_gets_an_address_and_the_rest(world: World) -> None:
    client = Client(world, 1)
    assert client.get() == POOL[0]
    assert bound(world, POOL[0]) == mac(1)
    said = client.say(s.DHCP6_Renew, ia(POOL[0]), server=client.server, now=300.0)
    assert said is not None and addresses(said) == {POOL[0]: LEASE_TIME}
    assert (said[s.DHCP6OptIA_NA].T1, said[s.DHCP6OptIA_NA].T2) == (300, 480)
    assert said[s.DHCP6OptDNSServers].dnsservers == ["2001:db8::53"]
    assert said[s.DHCP6OptDNSDomains].dnsdomains == ["example.org."]
    assert counted(world, Reason.OFFERED) == 1 and counted(world, Reason.ACKED) == 2


def test_everybody_gets_an_address_of_their_own(world: World) -> None:
    assert [Client(world, n).get() for n in range(1, 4)] == POOL
    assert Client(world, 50).get() == RESERVED
    last = Client(world, 9)
    offer = last.solicit()
    assert isinstance(offer, s.DHCP6_Advertise) and status(offer) == wire.NO_ADDRESSES
    given = last.say(s.DHCP6_Request, ia(POOL[0]), server=last.server)
    assert given is not None and status(given) == wire.NO_ADDRESSES
    assert bound(world, POOL[0]) == mac(1)


def test_that_there_is_no_address_is_said_of_each_association(world: World) -> None:
    for n in range(1, 4):
        Client(world, n).get()
    offer = Client(world, 9).say(s.DHCP6_Solicit, ia(), ia(number=8))
    assert isinstance(offer, s.DHCP6_Advertise)
    first = offer[s.DHCP6OptIA_NA]
    second = first.payload
    assert (first.iaid, second.iaid) == (7, 8)
    for one in (first, second):
        assert [inside.statuscode for inside in one.ianaopts] == [wire.NO_ADDRESSES]
    assert offer[s.DHCP6OptDNSServers].dnsservers == ["2001:db8::53"]


def test_a_second_association_gets_none(world: World) -> None:
    client = Client(world, 1)
    offer = client.say(s.DHCP6_Solicit, ia(), ia(number=8))
    assert offer is not None and list(addresses(offer)) == [POOL[0]]
    second = offer[s.DHCP6OptIA_NA].payload
    assert second.iaid == 8 and second.ianaopts[0].statuscode == wire.NO_ADDRESSES


def test_a_rebind_needs_no_server_and_takes_away_what_is_wrong(world: World) -> None:
    client = Client(world, 1)
    client.get()
    said = client.say(s.DHCP6_Rebind, ia(POOL[0]), now=400.0)
    assert said is not None and addresses(said) == {POOL[0]: LEASE_TIME}
    said = Client(world, 2).say(s.DHCP6_Rebind, ia(POOL[0]), now=400.0)
    assert said is not None and addresses(said) == {POOL[0]: 0}
    said = Client(world, 2).say(s.DHCP6_Rebind, ia(), now=400.0)
    assert said is not None and status(said) == wire.NO_BINDING


@pytest.mark.parametrize(("address", "code"), [(POOL[0], 0), ("2001:db8:9::1", 4)])
def test_confirm(world: World, address: str, code: int) -> None:
    said = Client(world, 1).say(s.DHCP6_Confirm, ia(address))
    assert said is not None and said[s.DHCP6OptStatusCode].statuscode == code
    assert Client(world, 1).say(s.DHCP6_Confirm, ia()) is None


def test_who_needs_no_address_gets_the_rest(world: World) -> None:
    said = Client(world, 1).say(s.DHCP6_InfoRequest)
    assert said is not None and said[s.DHCP6OptDNSServers].dnsservers == ["2001:db8::53"]
    assert s.DHCP6OptIA_NA not in said


def test_release_decline_and_expiry_end_the_binding(world: World) -> None:
    client, other = Client(world, 1), Client(world, 2)
    address = client.get()
    other.get()
    said = other.say(s.DHCP6_Release, ia(address), server=other.server)
    assert said is not None and counted(world, Reason.NOT_ITS_OWN) == 1
    assert bound(world, address) == mac(1)
    client.say(s.DHCP6_Release, ia(address), server=client.server)
    assert bound(world, address) is None
    client.get()
    client.say(s.DHCP6_Decline, ia(address), server=client.server)
    lease = world.slowpath.responder.leases.get(ONE, v6(address))
    assert bound(world, address) is None and lease is not None and lease.state is State.DECLINED
    assert bound(world, POOL[1]) == mac(2)
    world.slowpath.tick(LEASE_TIME + 1.0)
    assert bound(world, POOL[1]) is None


def test_a_leased_or_reserved_address_is_not_learnt_for_another_guest(world: World) -> None:
    Client(world, 1).get()
    for sender, address, owner in [
        (66, POOL[0], mac(1)),
        (66, RESERVED, None),
        (50, RESERVED, mac(50)),
        (66, POOL[1], mac(66)),
    ]:
        world.punt(A, vxlan(ONE, na(None, mac(sender), address)))
        assert bound(world, address) == owner


def test_requests_for_another_server_do_not_delay_others(world: World) -> None:
    """Thirty are more than the leaf writes at once, for all guests together."""
    other = s.DUID_LL(lladdr="02:00:00:00:00:99")
    for n in range(30):
        Client(world, 1 + n % 3).say(s.DHCP6_Request, ia(POOL[0]), server=other)
    assert counted(world, Reason.OTHER_SERVER) == 30
    assert Client(world, 9).get() == POOL[0]
    assert counted(world, Reason.POLICED) == 0


@pytest.mark.parametrize(
    "kind", [s.DHCP6_Request, s.DHCP6_Rebind, s.DHCP6_Release, s.DHCP6_Decline]
)
def test_a_write_that_is_policed_changes_nothing(world: World, kind: type[Packet]) -> None:
    client, leases = Client(world, 1), world.slowpath.responder.leases
    server = s.DUID_LL(lladdr=SHARED_MAC.hex(":"))
    for address in (*POOL, POOL[0]):
        assert client.say(s.DHCP6_Request, ia(address), server=server) is not None
    records = sorted(leases.all())
    gives = kind in (s.DHCP6_Request, s.DHCP6_Rebind)
    named = None if kind is s.DHCP6_Rebind else server
    assert client.say(kind, ia(POOL[1] if gives else POOL[0]), server=named) is None
    assert counted(world, Reason.POLICED) == 1 and sorted(leases.all()) == records
    assert bound(world, POOL[0]) == mac(1) and bound(world, POOL[1]) is None
    # A second later there is room for one.
    said = client.say(kind, ia(POOL[1] if gives else POOL[0]), server=named, now=1.0)
    assert said is not None and counted(world, Reason.POLICED) == 1
    assert bound(world, POOL[0]) is None


@pytest.mark.parametrize(
    ("reason", "kind", "server"),
    [
        pytest.param(Reason.MALFORMED, s.DHCP6_Request, None, id="names_no_server"),
        pytest.param(
            Reason.MALFORMED, s.DHCP6_Solicit, s.DUID_LL(lladdr="00:00:de:ad:be:ef"), id="names_one"
        ),
        pytest.param(
            Reason.OTHER_SERVER, s.DHCP6_Request, s.DUID_LL(lladdr="02:00:00:00:00:99"), id="other"
        ),
        pytest.param(Reason.ROGUE, s.DHCP6_Advertise, None, id="advertise"),
        pytest.param(Reason.ROGUE, s.DHCP6_Reply, None, id="reply"),
    ],
)
def test_silence(world: World, reason: Reason, kind: type[Packet], server: Any) -> None:
    assert Client(world, 1).say(kind, ia(), server=server) is None
    assert counted(world, reason) == 1


def test_without_a_pool_only_the_rest_is_told(world: World) -> None:
    segment = world.segment(ONE)
    assert segment.dhcp is not None
    segment.dhcp = segment.dhcp._replace(
        pool6=replace(segment.dhcp.pool6, ranges=(), reservations={})
    )
    assert Client(world, 1).solicit() is None
    assert counted(world, Reason.NO_POOL) == 1
    assert Client(world, 1).say(s.DHCP6_InfoRequest) is not None


def test_a_message_that_is_cut_anywhere_is_no_message(world: World) -> None:
    frame = Client(world, 1).frame(s.DHCP6_Solicit, ia(POOL[0]))
    payload = frame[62:]
    whole = wire.parse(frame)
    assert whole is not None and whole.ias == (wire.Ia(b"\0\0\0\7", (v6(POOL[0]),)),)
    assert world.router.decide(A, vxlan(ONE, frame)).reason is Routed.DHCP
    for length in range(len(payload)):
        packet = IPv6(src="fe80::1", dst=SERVERS) / UDP(sport=546, dport=547)
        cut = Ether(dst="33:33:00:01:00:02") / packet / payload[:length]
        read = wire.parse(bytes(cut))
        # Cut between two options it is a shorter message.
        assert read is None or read.ias == ()
    assert wire.parse(frame[:-1]) is None
