"""Never one address for two clients: random clients, clocks, restarts, failing disks, and writes
that are refused.

The model is what clients have been told: an ACK counts until its lease is over or the client gives
it back. A restart keeps what was committed and forgets the rest, offers above all.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from leaf.leases import Client, Lease, Leases, Pool, Refused, State
from tests.frames import mac, v4
from vswitch.wire import dhcp, dhcp6, udp
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni

ONE = Vni(100)
FIRST = int.from_bytes(v4("1.1.1.100"), "big")
LEASE_TIME = 100.0
CLIENTS = [Client(Mac(mac(n))) for n in range(1, 7)]
POOLS = [
    Pool(4, ((FIRST, FIRST + 3),)),
    Pool(4, ((FIRST + 2, FIRST + 4),), {CLIENTS[0].mac: v4("1.1.1.103")}),
    Pool(4, ((FIRST, FIRST), (FIRST + 2, FIRST + 2)), {}, frozenset({v4("1.1.1.102")})),
]


class Disk:
    """What was committed."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Lease] = {}
        self.fails = False
        self.is_allowed = True

    def write(self, leases: Iterable[Lease], now: float) -> None:
        assert self.is_allowed
        if self.fails:
            raise OSError("disk full")
        self.rows |= {lease.address: lease for lease in leases}


steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["get"] * 4,
                "ask",
                "renew",
                "release",
                "decline",
                "restart",
                "reload",
                "full",
                "policed",
                "taken",
            ]
        ),
        st.sampled_from(CLIENTS),
        st.integers(0, 5),
        st.sampled_from([0.0, 0.0, 1.0, 31.0, 60.0, 101.0, 700.0]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([2, 100]))
def test_no_address_is_given_twice(
    history: list[tuple[str, Client, int, float]], capacity: int
) -> None:
    disk, pool, now = Disk(), POOLS[0], 0.0
    leases = Leases(disk, capacity)
    leases.may_write = lambda segment, mac, now: disk.is_allowed
    told: dict[Client, Lease] = {}
    others: set[bytes] = set()

    def ask(client: Client, address: bytes) -> None:
        before = leases.all()
        try:
            grant = leases.grant(ONE, pool, client, address, LEASE_TIME, now, others.__contains__)
        except (OSError, Refused):
            assert leases.all() == before
            return
        if grant is None:
            return
        assert pool.has(address, client) and grant.lease.client == client
        assert now < grant.lease.expires <= now + LEASE_TIME
        for other, lease in told.items():
            assert other == client or lease.address != address or lease.expires <= now
        told[client] = grant.lease
        assert disk.rows[address] == grant.lease

    for verb, client, number, passed in history:
        now += passed
        for lease in leases.due(now):
            assert lease.expires <= now
        address = (FIRST + number).to_bytes(4, "big")
        disk.fails = verb == "full"
        if verb in ("get", "full"):
            offered = leases.offer(ONE, pool, client, address, now, others.__contains__)
            if offered is not None:
                assert offered.client == client and pool.has(offered.address, client)
                ask(client, offered.address)
        elif verb == "ask":
            ask(client, address)
        elif verb == "renew" and client in told:
            ask(client, told[client].address)
        elif verb in ("release", "decline") and client in told:
            held = leases.get(ONE, told[client].address)
            if held is not None and held.client == client and held.state is State.BOUND:
                before = leases.all()
                try:
                    leases.release(held, now) if verb == "release" else leases.decline(held, now)
                    del told[client]
                except Refused:
                    assert leases.all() == before
        elif verb == "restart":
            leases = Leases(capacity=capacity)
            leases.may_write = lambda segment, mac, now: disk.is_allowed
            leases.restore(
                disk,
                [
                    row._replace(state=State.FREE) if row.expires <= now else row
                    for row in disk.rows.values()
                ],
            )
        elif verb == "reload":
            pool = POOLS[number % len(POOLS)]
        elif verb == "policed":
            disk.is_allowed = not disk.is_allowed
        elif verb == "taken":
            others ^= {address}
        _check(leases, now)
        assert len(leases) <= capacity


def _check(leases: Leases, now: float) -> None:
    """The indices agree with the records."""
    records = leases.all()
    assert len({lease.address for lease in records}) == len(records)
    owners = [lease.client for lease in records if lease.state is State.BOUND]
    assert len(owners) == len(set(owners))
    for lease in records:
        if lease.state is State.BOUND:
            assert leases.of_client(ONE, 4, lease.client) == lease
    due = [lease.expires for lease in records if lease.state is not State.FREE]
    deadline = leases.deadline()
    assert not due or (deadline is not None and deadline <= min(due))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 2))
def test_hostile_bytes_are_never_an_error(data: bytes, layer: int) -> None:
    """As a frame, as what UDP carries, and as options."""
    if layer == 0:
        assert dhcp.parse(data) is None or len(data) > 240
        udp.destination_port(data)
        dhcp6.parse(data)
    elif layer == 1:
        dhcp.parse_payload(data)
        datagram = udp.Datagram(b"\xfe\x80" + bytes(14), bytes(16), 546, 547, data)
        dhcp6.parse(udp.build(mac(1), mac(2), datagram))
    else:
        head = bytes((1, 1, 6, 0)) + bytes(232) + dhcp.COOKIE + b"\x35\x01\x01\x34\x01\x03"
        dhcp.parse_payload(head + data)
