"""DHCP at the leaf: the rules of RFC 2131, leases and their bindings. Messages are scapy's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.dhcp import DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from leaf.bindings import Outcome
from leaf.bindings import State as BindingState
from leaf.dhcp import Reason
from leaf.leases import Client as LeaseClient
from leaf.leases import Lease, Leases, Pool, State
from leaf.limits import Limits
from leaf.topology import Service
from tests.frames import BROADCAST, SHARED_MAC, arp, mac, v4, vxlan
from tests.unit.dhcp_client import ACK, GATEWAY, NAK, OFFER, XID, Client, message
from tests.unit.leaf_world import LEASE_TIME, ONE, RESERVED, SAME, TWO, A, B, World, rebuilt
from vswitch.wire import dhcp as wire
from vswitch.wire.ethernet import Mac

POOL = [f"1.1.1.{n}" for n in range(100, 104)]
FIRST = int.from_bytes(v4(POOL[0]), "big")


class Disk:
    """A store that remembers what was committed, or fails."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Lease] = {}
        self.commits = 0
        self.full = False

    def write(self, leases: Iterable[Lease], now: float) -> None:
        if self.full:
            raise OSError("disk full")
        self.commits += 1
        self.rows |= {lease.address: lease for lease in leases}


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def world(disk: Disk) -> World:
    return World(leases=Leases(disk))


def counted(world: World, reason: Reason) -> int:
    return world.slowpath.responder.counts[reason]


def bound(world: World, address: str) -> bytes | None:
    binding = world.bindings.get(ONE, v4(address))
    return None if binding is None else binding.mac


# What an answer holds.


def test_a_new_client_gets_an_address_and_all_that_is_configured(world: World) -> None:
    client = Client(world, mac(7), B)
    offer = client.discover(("client_id", b"\x01me"))
    assert offer is not None and (offer.kind, offer.address) == (OFFER, POOL[0])
    assert bound(world, POOL[0]) is None
    ack = client.select(POOL[0])
    assert ack is not None and (ack.kind, ack.address) == (ACK, POOL[0])
    for answer in (offer, ack):
        assert answer.vtep == B
        assert (answer.frame.dst, answer.frame.src) == (mac(7).hex(":"), SHARED_MAC.hex(":"))
        assert (answer.frame[IP].src, answer.frame[IP].dst) == (GATEWAY, POOL[0])
        assert (answer.frame[UDP].sport, answer.frame[UDP].dport) == (67, 68)
        assert (answer.bootp.op, answer.bootp.xid) == (2, XID)
        assert answer.bootp.chaddr[:6] == mac(7)
        assert answer.options["server_id"] == (GATEWAY,)
        assert answer.options["lease_time"] == (LEASE_TIME,)
        assert answer.options["renewal_time"] == (LEASE_TIME // 2,)
        assert answer.options["rebinding_time"] == (LEASE_TIME * 7 // 8,)
        assert answer.options["subnet_mask"] == ("255.255.255.0",)
        assert answer.options["broadcast_address"] == ("1.1.1.255",)
        assert answer.options["router"] == (GATEWAY,)
        assert answer.options["name_server"] == ("9.9.9.9", "8.8.8.8")
        assert answer.options["domain"] == (b"example.org",)
        assert answer.options["interface-mtu"] == (1450,)
        assert answer.options["classless_static_routes"] == (
            ["0.0.0.0/0:1.1.1.254", "10.0.0.0/8:1.1.1.9", "10.1.2.0/25:1.1.1.254"],
        )
        # The checksums are right, as scapy counts them.
        raw = bytes(answer.frame)
        again = Ether(raw)
        del again[IP].chksum, again[UDP].chksum
        assert bytes(again) == raw
    assert offer.options["client_id"] == (b"\x01me",)
    assert bound(world, POOL[0]) == mac(7)


def test_who_asks_for_a_broadcast_gets_one_in_a_frame_of_its_own(world: World) -> None:
    answer = Client(world, mac(7)).say("discover", flags=0x8000)
    assert answer is not None
    assert (answer.frame.dst, answer.frame[IP].dst) == (mac(7).hex(":"), "255.255.255.255")


def test_a_reserved_address_is_its_guests_and_nobody_elses(world: World) -> None:
    assert Client(world, RESERVED).get() == "1.1.1.50"
    other = Client(world, mac(7))
    refused = other.select("1.1.1.50")
    assert refused is not None and refused.kind == NAK
    offered = other.discover(("requested_addr", "1.1.1.50"))
    assert offered is not None and offered.address == POOL[0]


# Who gets which address.


def test_each_client_gets_another_address_until_there_are_none(world: World) -> None:
    given = [Client(world, mac(n)).get() for n in range(1, 5)]
    assert given == POOL
    assert Client(world, mac(9)).discover() is None
    assert counted(world, Reason.EXHAUSTED) == 1
    # One that is over is given to somebody else, the bound ones are not.
    Client(world, mac(2)).release(given[1])
    assert Client(world, mac(9)).get() == given[1]


def test_an_offer_is_kept_for_its_client_for_a_moment(world: World) -> None:
    first, second = Client(world, mac(1)), Client(world, mac(2))
    one, two = first.discover(), second.discover()
    assert one is not None and two is not None and one.address != two.address
    stolen = second.select(one.address)
    assert stolen is not None and stolen.kind == NAK
    world.slowpath.tick(31.0)
    late = second.select(one.address, 31.0)
    assert late is not None and late.kind == ACK


def test_a_client_gets_what_it_had_and_then_what_it_wishes(world: World) -> None:
    client = Client(world, mac(1))
    assert client.get() == POOL[0]
    client.release(POOL[0])
    other = Client(world, mac(2))
    wished = other.discover(("requested_addr", POOL[2]))
    assert wished is not None and wished.address == POOL[2]
    assert client.get(1.0) == POOL[0]


def test_an_address_that_somebody_uses_is_passed_over(world: World) -> None:
    """Whoever gave it to himself is bound to it, by ARP."""
    world.slowpath.discovery.learn(world.segment(ONE), v4(POOL[0]), mac(66), A, 0.0)
    assert Client(world, mac(1)).get() == POOL[1]
    refused = Client(world, mac(2)).select(POOL[0])
    assert refused is not None and refused.kind == NAK


def test_what_was_passed_over_is_not_lost(world: World) -> None:
    world.slowpath.discovery.learn(world.segment(ONE), v4(POOL[0]), mac(66), A, 0.0)
    given = [Client(world, mac(n)).get() for n in range(1, 4)]
    assert given == POOL[1:]
    late = Client(world, mac(9))
    assert late.discover() is None
    world.slowpath.routes.forget(world.bindings.of_mac(ONE, mac(66)))
    assert late.get(10.0) == POOL[0]


def test_a_pool_that_has_none_is_not_walked_through_at_every_request() -> None:
    """Whatever is asked of the addresses is asked through `taken`, and so is seen here."""
    leases, pool = Leases(), Pool(4, ((FIRST, FIRST + 299),))
    asked: list[bytes] = []

    def taken(address: bytes) -> bool:
        asked.append(address)
        return True

    def discover(now: float) -> None:
        assert leases.offer(ONE, pool, LeaseClient(Mac(mac(1))), None, now, taken) is None

    for n in range(99):
        discover(n / 10)
    assert len(asked) == 300
    for n in range(99):
        discover(10.0 + n / 10)
    assert len(asked) == 600


def test_a_search_is_bounded_and_the_next_goes_on() -> None:
    leases, pool = Leases(), Pool(4, ((FIRST, FIRST + 9_999),))
    last = pool.at(9_999)
    asked: list[bytes] = []

    def taken(address: bytes) -> bool:
        asked.append(address)
        return address != last

    client = LeaseClient(Mac(mac(1)))
    for _ in range(9):
        before = len(asked)
        assert leases.offer(ONE, pool, client, None, 0.0, taken) is None
        assert len(asked) - before == 1024
    found = leases.offer(ONE, pool, client, None, 0.0, taken)
    assert found is not None and found.address == last


def test_taken_addresses_do_not_hide_the_free_ones_behind_them() -> None:
    leases, pool = Leases(), Pool(4, ((FIRST, FIRST + 299),))
    for n, address in enumerate(addresses := [pool.at(n) for n in range(300)]):
        client = LeaseClient(Mac((n + 1).to_bytes(6, "big")))
        leases.release(Lease(ONE, address, client, State.BOUND, 600.0), float(n))
    squatted = set(addresses[:280]).__contains__
    new = LeaseClient(Mac(mac(1)))
    offers = [leases.offer(ONE, pool, new, None, 400.0, squatted) for _ in range(2)]
    assert any(offer is not None and offer.address == addresses[280] for offer in offers)


def test_a_full_table_forgets_those_who_left_and_nothing_else(disk: Disk) -> None:
    world = World(leases=Leases(disk, capacity=2))
    assert [Client(world, mac(n)).get() for n in (1, 2)] == POOL[:2]
    assert Client(world, mac(3)).discover() is None
    refused = Client(world, mac(3)).renew(POOL[3])
    assert refused is not None and refused.kind == NAK
    Client(world, mac(1)).release(POOL[0])
    assert Client(world, mac(3)).get(10.0) == POOL[2]
    assert world.slowpath.responder.leases.get(ONE, v4(POOL[0])) is None
    Client(world, mac(3)).decline(POOL[2], 11.0)
    assert Client(world, mac(1)).discover(now=12.0) is None
    Client(world, mac(2)).release(POOL[1], 13.0)
    assert Client(world, mac(1)).get(20.0) == POOL[3]
    # Now the pool was walked through, and what was forgotten on the way is found again.
    Client(world, mac(1)).release(POOL[3], 21.0)
    world.slowpath.tick(700.0)
    assert len({Client(world, mac(n)).get(700.0) for n in (4, 5)}) == 2
    assert len(world.slowpath.responder.leases) == 2


def test_a_full_table_has_no_place_for_a_wish_either(disk: Disk) -> None:
    world = World(leases=Leases(disk, capacity=2))
    assert [Client(world, mac(n)).get() for n in (1, 2)] == POOL[:2]
    assert Client(world, mac(3)).discover(("requested_addr", POOL[3])) is None
    assert Client(world, RESERVED).discover() is None
    assert len(world.slowpath.responder.leases) == 2


def test_the_segment_that_keeps_most_forgets_first() -> None:
    leases, pool = Leases(capacity=10), Pool(4, ((FIRST, FIRST + 99),))
    for n in range(10):
        segment = ONE if n < 7 else SAME
        client = LeaseClient(Mac(mac(n + 1)))
        leases.release(Lease(segment, pool.at(n), client, State.BOUND, 600.0), float(n))
    new = Lease(TWO, pool.at(50), LeaseClient(Mac(mac(77))), State.BOUND, 600.0)
    assert leases.grant(TWO, pool, new.client, new.address, 600.0, 20.0, lambda _: False)
    assert len(leases) == 10
    assert [one.address for one in leases.all() if one.segment == ONE] == [
        pool.at(n) for n in range(1, 7)
    ]


def test_what_the_file_holds_beyond_the_capacity_is_forgotten_but_for_what_was_promised() -> None:
    client = [LeaseClient(Mac(mac(n))) for n in range(1, 6)]
    rows = [Lease(ONE, v4(f"1.1.1.{n}"), client[n], State.BOUND, 900.0 - n) for n in range(3)]
    rows += [Lease(ONE, v4(f"1.1.1.{n}"), client[n], State.FREE, float(-n)) for n in (3, 4)]
    leases = Leases(capacity=2)
    leases.restore(Disk(), rows)
    assert {one.address for one in leases.all()} == {v4(f"1.1.1.{n}") for n in range(3)}


# What is given is not to be had by saying so.


def announce(world: World, sender: bytes, address: str, now: float = 0.0) -> None:
    world.punt(B, vxlan(ONE, arp(BROADCAST, sender, address, address)), now)


def test_a_leased_address_is_not_learnt_for_another_guest(world: World) -> None:
    client, address = Client(world, mac(1)), POOL[0]
    client.get()
    announce(world, mac(66), address)
    assert bound(world, address) == mac(1)
    assert world.slowpath.routes.counts[Outcome.PINNED] == 1
    announce(world, mac(1), address, 1.0)  # It may have moved.
    binding = world.bindings.get(ONE, v4(address))
    assert binding is not None and (binding.mac, binding.vtep) == (mac(1), B)
    # Nor while its owner is silent, and nothing but the lease tells whose it is.
    world.slowpath.routes.forget([binding])
    announce(world, mac(66), address, 2.0)
    assert bound(world, address) is None
    again = client.renew(address, 3.0)
    assert again is not None and again.kind == ACK


def test_a_reserved_address_is_not_learnt_for_another_guest(world: World) -> None:
    announce(world, mac(66), "1.1.1.50")
    assert bound(world, "1.1.1.50") is None
    assert Client(world, RESERVED).get(1.0) == "1.1.1.50"
    announce(world, RESERVED, "1.1.1.50", 2.0)
    assert bound(world, "1.1.1.50") == RESERVED


@pytest.mark.parametrize("end", ["expired", "released", "declined", "off"])
def test_an_address_whose_lease_is_over_is_learnt_for_whoever_has_it(
    world: World, end: str
) -> None:
    client, address, now = Client(world, mac(1)), POOL[0], 1.0
    client.get()
    match end:
        case "expired":
            now = LEASE_TIME + 1.0  # And not yet seen to be over.
        case "released":
            client.release(address)
        case "declined":
            client.decline(address)
        case "off":
            world.segment(ONE).dhcp = None
    announce(world, mac(66), address, now)
    assert bound(world, address) == mac(66)


# Requests (RFC 2131 section 4.3.2).


def test_a_request_for_another_servers_offer_is_not_ours(world: World) -> None:
    client = Client(world, mac(1))
    client.discover()
    assert client.select(POOL[0], server="1.1.1.77") is None
    assert counted(world, Reason.OTHER_SERVER) == 1
    assert bound(world, POOL[0]) is None


def test_a_renewal_goes_on_for_a_whole_lease_time(world: World) -> None:
    client = Client(world, mac(1))
    client.get()
    answer = client.say("request", ciaddr=POOL[0], destination=SHARED_MAC, now=300.0)
    assert answer is not None and answer.kind == ACK
    assert answer.options["lease_time"] == (LEASE_TIME,)
    assert (answer.frame[IP].dst, answer.bootp.ciaddr) == (POOL[0], POOL[0])
    world.slowpath.tick(LEASE_TIME + 1.0)
    assert bound(world, POOL[0]) == mac(1)


@pytest.mark.parametrize("is_known", [True, False])
def test_init_reboot(world: World, is_known: bool) -> None:
    client = Client(world, mac(1))
    if is_known:
        client.get()
    same, wrong = client.reboot(POOL[0]), client.reboot(POOL[1])
    foreign = client.reboot("10.9.9.9")
    assert foreign is not None and foreign.kind == NAK  # From another network, whoever it is.
    assert foreign.frame[IP].dst == "255.255.255.255" and foreign.address == "0.0.0.0"
    if is_known:
        assert same is not None and same.kind == ACK
        assert wrong is not None and wrong.kind == NAK
    else:
        assert same is None and wrong is None
        assert counted(world, Reason.STRANGER) == 2


def test_a_renewal_of_somebody_elses_address_is_refused(world: World) -> None:
    Client(world, mac(1)).get()
    answer = Client(world, mac(2)).renew(POOL[0])
    assert answer is not None and answer.kind == NAK
    assert bound(world, POOL[0]) == mac(1)


def test_a_renewal_that_nobody_remembers_is_granted_where_the_address_is_free(
    world: World,
) -> None:
    answer = Client(world, mac(1)).renew(POOL[3])
    assert answer is not None and answer.kind == ACK
    outside = Client(world, mac(2)).renew("1.1.1.200")
    assert outside is not None and outside.kind == NAK


def test_what_the_pool_has_no_more_is_refused_at_the_next_renewal(world: World) -> None:
    client = Client(world, mac(1))
    client.get()
    segment = world.segment(ONE)
    assert segment.dhcp is not None
    pool = replace(segment.dhcp.pool, reservations={mac(1): v4("1.1.1.60")})
    segment.dhcp = segment.dhcp._replace(pool=pool)
    answer = client.renew(POOL[0], 1.0)
    assert answer is not None and answer.kind == NAK
    assert client.get(2.0) == "1.1.1.60"
    # The old one ends with the new one's grant.
    assert bound(world, POOL[0]) is None and bound(world, "1.1.1.60") == mac(1)
    lease = world.slowpath.responder.leases.get(ONE, v4(POOL[0]))
    assert lease is not None and lease.state is State.FREE


def test_a_client_that_has_an_address_gets_the_rest(world: World) -> None:
    answer = Client(world, mac(1)).say("inform", ciaddr="1.1.1.7")
    assert answer is not None and (answer.kind, answer.address) == (ACK, "0.0.0.0")
    assert "lease_time" not in answer.options and answer.options["router"] == (GATEWAY,)
    assert Client(world, mac(1)).say("inform", ciaddr="9.1.1.7") is None


# The end of a lease.


def test_a_release_ends_the_binding(world: World) -> None:
    client = Client(world, mac(1))
    address = client.get()
    Client(world, mac(2)).release(address)
    assert counted(world, Reason.NOT_ITS_OWN) == 1 and bound(world, address) == mac(1)
    assert client.release(address) is None
    assert bound(world, address) is None
    client.release(address)
    assert counted(world, Reason.RELEASED) == 1 and counted(world, Reason.NOT_ITS_OWN) == 2


def test_an_expiry_ends_the_binding(world: World) -> None:
    address = Client(world, mac(1)).get()
    world.slowpath.tick(LEASE_TIME - 1.0)
    assert bound(world, address) == mac(1)
    assert world.slowpath.deadline() is not None
    world.slowpath.tick(LEASE_TIME + 1.0)
    assert bound(world, address) is None


def test_a_configured_binding_and_that_of_another_mac_stay(world: World) -> None:
    client = Client(world, mac(1))
    address = client.get()
    world.slowpath.discovery.learn(world.segment(ONE), v4(address), mac(1), A, 0.0, configured=True)
    client.release(address)
    binding = world.bindings.get(ONE, v4(address))
    assert binding is not None and binding.state is BindingState.CONFIGURED


def test_a_declined_address_is_given_to_nobody_for_a_while(world: World) -> None:
    client = Client(world, mac(1))
    address = client.get()
    client.decline(address)
    assert bound(world, address) is None
    assert client.get() == POOL[1]
    wished = Client(world, mac(2)).discover(("requested_addr", address))
    assert wished is not None and wished.address == POOL[2]
    world.slowpath.tick(601.0)
    later = Client(world, mac(3)).discover(("requested_addr", address), now=601.0)
    assert later is not None and later.address == address


def test_one_that_declines_everything_does_not_exhaust_the_pool(world: World) -> None:
    client = Client(world, mac(1))
    segment = world.segment(ONE)
    assert segment.dhcp is not None
    first = int.from_bytes(v4("1.1.1.100"), "big")
    segment.dhcp = segment.dhcp._replace(
        pool=replace(segment.dhcp.pool, ranges=((first, first + 15),))
    )
    for n in range(40):
        client.decline(client.get(float(n)), float(n))
    states = [lease.state for lease in world.slowpath.responder.leases.all()]
    assert states.count(State.DECLINED) == 8


def test_a_decline_that_is_repeated_changes_nothing(world: World) -> None:
    client = Client(world, mac(1))
    address = client.get()
    for n in range(10):
        client.decline(address, float(n))
    lease = world.slowpath.responder.leases.get(ONE, v4(address))
    assert lease is not None and (lease.state, lease.expires) == (State.DECLINED, 600.0)
    assert counted(world, Reason.DECLINED) == 1 and counted(world, Reason.NOT_ITS_OWN) == 9


# The store.


def test_what_is_acknowledged_has_been_committed(world: World, disk: Disk) -> None:
    client = Client(world, mac(1))
    client.discover()
    assert disk.commits == 0
    disk.full = True
    assert client.select(POOL[0]) is None
    assert counted(world, Reason.FAILED) == 1 and bound(world, POOL[0]) is None
    disk.full = False
    assert client.select(POOL[0], 1.0) is not None
    assert disk.rows[v4(POOL[0])].state is State.BOUND
    # Asked once more, it costs nothing; when some time has passed it does.
    before = disk.commits
    assert client.select(POOL[0], 2.0) is not None and disk.commits == before
    assert client.renew(POOL[0], 100.0) is not None and disk.commits == before + 1


def test_leases_go_on_after_a_restart(world: World, disk: Disk) -> None:
    given = {n: Client(world, mac(n)).get() for n in (1, 2)}
    Client(world, mac(2)).release(given[2])
    leases = Leases()
    leases.restore(disk, disk.rows.values())
    again = World(leases=leases)
    assert Client(again, mac(9)).get(5.0) not in given.values()
    answer = Client(again, mac(1)).renew(given[1], 5.0)
    assert answer is not None and answer.kind == ACK
    assert Client(again, mac(2)).get(5.0) == given[2]


# What is not answered.


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        pytest.param(Reason.FORGED, message(mac(1), "discover", source=mac(2)), id="chaddr"),
        pytest.param(Reason.FORGED, message(mac(1), "discover", giaddr="1.1.1.9"), id="relayed"),
        pytest.param(Reason.ROGUE, message(mac(1), "offer", op=2), id="reply"),
        pytest.param(Reason.ROGUE, message(mac(1), "ack"), id="ack"),
        pytest.param(Reason.MALFORMED, message(mac(1), "request"), id="nothing_asked"),
        pytest.param(Reason.MALFORMED, message(mac(1), "lease_query"), id="kind"),
        pytest.param(
            Reason.MALFORMED, message(mac(1), "request", ("server_id", GATEWAY)), id="no_address"
        ),
        pytest.param(
            Reason.MALFORMED,
            message(mac(1), "request", ("requested_addr", POOL[0]), ciaddr=POOL[0]),
            id="both",
        ),
        pytest.param(Reason.MALFORMED, message(mac(1), "discover")[:270], id="cut"),
    ],
)
def test_silence(world: World, reason: Reason, frame: bytes) -> None:
    assert world.punt(A, vxlan(ONE, frame)) == []
    assert counted(world, reason) == 1
    assert len(world.slowpath.responder.leases) == 0


def test_a_segment_without_a_pool_is_silent(world: World) -> None:
    segment = world.segment(ONE)
    assert segment.dhcp is not None
    segment.dhcp = segment.dhcp._replace(
        pool=replace(segment.dhcp.pool, ranges=(), reservations={})
    )
    assert Client(world, mac(1)).discover() is None
    assert counted(world, Reason.NO_POOL) == 1
    assert world.punt(A, vxlan(SAME, message(mac(1), "discover"))) == []


# How much, and how often the file is written.


def test_a_flood_of_one_guest_is_policed() -> None:
    world = World(limits=Limits(guest_dhcp=4.0))
    for _ in range(10):
        Client(world, mac(1)).discover()
    assert counted(world, Reason.POLICED) == 6


def test_writes_of_all_guests_are_policed(disk: Disk) -> None:
    """Half of the rate is kept for segments that seldom have the file written."""
    world = World(leases=Leases(disk), limits=Limits(dhcp_commits=4.0))
    asked = [Client(world, mac(n)).select(POOL[n]) for n in range(4)]
    assert [one is not None for one in asked] == [True, True, False, False]
    assert counted(world, Reason.POLICED) == 2 and disk.commits == 2
    # A quarter of a second is as long as one write takes by this rate.
    assert Client(world, mac(2)).select(POOL[2], 0.25) is not None
    assert Client(world, mac(3)).select(POOL[3], 0.25) is None


def test_one_tenants_writes_do_not_delay_anothers(disk: Disk) -> None:
    world = World(leases=Leases(disk))
    for vni in (ONE, SAME):
        service = world.segment(ONE).dhcp
        assert isinstance(service, Service)
        pool = Pool(4, ((FIRST, FIRST + 99),))
        world.segment(vni).dhcp = service._replace(pool=pool)
    world.slowpath.replace_topology(rebuilt(world.topology))
    for second in range(3):
        now = float(second)
        for n in range(40):
            # Each asks for another one every time.
            Client(world, mac(n)).select(str(ip_address(FIRST + (n + 50 * second) % 100)), now)
        wanted = ("server_id", GATEWAY), ("requested_addr", POOL[second])
        packet = vxlan(SAME, message(mac(200 + second), "request", *wanted))
        (answer,) = [send for send in world.punt(B, packet, now) if DHCP in Ether(send.packet[8:])]
        assert answer.vtep == B
    assert disk.commits == 3 * (12 + 1) and counted(world, Reason.POLICED) == 3 * 28


def test_requests_for_another_server_do_not_delay_others(disk: Disk) -> None:
    world = World(leases=Leases(disk), limits=Limits(dhcp_commits=4.0))
    for n in range(30):
        assert Client(world, mac(1 + n % 3)).select(POOL[0], server="1.1.1.77") is None
    assert counted(world, Reason.OTHER_SERVER) == 30
    assert Client(world, mac(9)).get() == POOL[0]
    assert counted(world, Reason.POLICED) == 0 and disk.commits == 1


def test_what_is_refused_or_not_new_does_not_delay_others(disk: Disk) -> None:
    world = World(leases=Leases(disk), limits=Limits(dhcp_commits=4.0))
    owner, other = Client(world, mac(1)), Client(world, mac(2))
    address = owner.get()
    for _ in range(3):
        refused = other.renew(address)
        assert refused is not None and refused.kind == NAK
        other.release(address)
        other.decline(address)
        assert owner.select(address) is not None
    assert Client(world, mac(9)).get() == POOL[1]
    assert counted(world, Reason.POLICED) == 0 and disk.commits == 2


def test_one_guest_does_not_use_up_the_writes_of_all(disk: Disk) -> None:
    world = World(leases=Leases(disk), limits=Limits(guest_dhcp=1000.0, dhcp_commits=14.0))
    for n in range(50):
        hog = Client(world, mac(1), (A, B)[n % 2])  # Another place is no other guest.
        hog.select(POOL[n % 4])
    # Of the others it had eleven of what it has already.
    assert (disk.commits, counted(world, Reason.POLICED)) == (4, 35)
    others = [Client(world, mac(n)).get() for n in range(2, 5)]
    assert len(set(others)) == 3 and disk.commits == 7
    # It goes on at one a second.
    assert hog.release(POOL[3], 0.5) is None and disk.commits == 7
    assert hog.release(POOL[3], 1.0) is None and disk.commits == 8
    assert counted(world, Reason.RELEASED) == 1 and counted(world, Reason.POLICED) == 36


@pytest.mark.parametrize("verb", ["select", "release", "decline"])
def test_a_write_that_is_policed_changes_nothing(world: World, disk: Disk, verb: str) -> None:
    client = Client(world, mac(1))
    for address in POOL:
        assert client.select(address) is not None
    leases = world.slowpath.responder.leases
    rows, records = dict(disk.rows), sorted(leases.all())
    assert getattr(client, verb)(POOL[0] if verb == "select" else POOL[3]) is None
    assert counted(world, Reason.POLICED) == 1 and counted(world, Reason.FAILED) == 0
    assert disk.rows == rows and sorted(leases.all()) == records
    assert bound(world, POOL[3]) == mac(1) and bound(world, POOL[0]) is None


def test_every_outcome_is_one_of_the_closed_set(world: World) -> None:
    assert set(world.slowpath.responder.counts) == set(Reason)


# The format.


def options(*parts: bytes) -> bytes:
    return b"".join(parts)


def raw(area: bytes, sname: bytes = b"", file: bytes = b"") -> bytes:
    head = bytes((1, 1, 6, 0)) + bytes(24) + mac(1) + bytes(10)
    return head + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + b"\x63\x82\x53\x63" + area


def test_options_may_be_overloaded_and_come_in_parts() -> None:
    kind, overload = b"\x35\x01\x01", b"\x34\x01\x03"
    read = wire.parse_payload(
        raw(
            kind + overload + b"\x00\x0c\x02ab\xff",
            sname=b"\x0c\x02ef\xff",
            file=b"\x0c\x02cd\x3d\x01x\xff",
        )
    )
    assert read is not None and read.kind == wire.DISCOVER
    assert read.options[wire.HOST_NAME] == b"abcdef" and read.options[wire.CLIENT_ID] == b"x"
    assert wire.OVERLOAD not in read.options


@pytest.mark.parametrize(
    "area",
    [
        pytest.param(b"", id="no_type"),
        pytest.param(b"\x35\x02\x01\x01\xff", id="long_type"),
        pytest.param(b"\x35\x01", id="type_cut"),
        pytest.param(b"\x35\x01\x01\x0c", id="length_cut"),
        pytest.param(b"\x35\x01\x01\x0c\x05ab", id="value_cut"),
        pytest.param(b"\x35\x01\x01\x34\x02\x01\x01\xff", id="overload"),
    ],
)
def test_what_is_not_sound_is_nothing(area: bytes) -> None:
    assert wire.parse_payload(raw(area)) is None


def test_an_overloaded_field_that_is_not_sound_is_nothing() -> None:
    assert wire.parse_payload(raw(b"\x35\x01\x01\x34\x01\x01\xff", file=b"\x0c" * 128)) is None
    assert wire.parse_payload(raw(b"\x35\x01\x01\x34\x01\x02\xff", sname=b"\x0c" * 64)) is None


def test_a_long_option_is_written_in_parts() -> None:
    assert wire.option(15, bytes(300)) == b"\x0f\xff" + bytes(255) + b"\x0f\x2d" + bytes(45)
    assert wire.option(80, b"") == b"\x50\x00"


def test_what_a_relay_says_is_given_back_to_it() -> None:
    asked = wire.parse_payload(raw(b"\x35\x01\x01\x52\x03\x01\x01a\x3d\x41" + bytes(65) + b"\xff"))
    assert asked is not None
    frame = wire.reply(asked, wire.OFFER, v4("1.1.1.7"), v4(GATEWAY), mac(9))  # type: ignore[arg-type]
    said = {o[0]: o[1] for o in Ether(frame)[DHCP].options if isinstance(o, tuple)}
    assert said["relay_agent_information"] is not None
    assert "client_id" not in said  # Too long to be echoed.


# The table.


def test_an_offer_is_taken_back_when_its_client_gets_another_address(world: World) -> None:
    client = Client(world, mac(1))
    client.discover()
    segment = world.segment(ONE)
    assert segment.dhcp is not None
    pool = replace(segment.dhcp.pool, reservations={mac(1): v4("1.1.1.60")})
    segment.dhcp = segment.dhcp._replace(pool=pool)
    offered = client.discover()
    assert offered is not None and offered.address == "1.1.1.60"
    lease = world.slowpath.responder.leases.get(ONE, v4(POOL[0]))
    assert lease is not None and lease.state is State.FREE


def test_renewals_do_not_grow_the_table_of_times(world: World) -> None:
    leases, key = world.slowpath.responder.leases, mac(1)
    segment = world.segment(ONE)
    assert segment.dhcp is not None
    who = LeaseClient(key)
    for n in range(3000):
        now = 31.0 * n
        leases.grant(ONE, segment.dhcp.pool, who, v4(POOL[0]), LEASE_TIME, now, lambda _: False)
    assert len(leases._due) < 1100
    assert leases.due(now + LEASE_TIME - 1.0) == []
    assert len(leases.due(now + LEASE_TIME)) == 1
    assert leases.deadline() is None
