"""A leaf that gives out addresses of both families, and what must hold whatever it is sent.

The leaf is that of the unit tests, segment ONE of which has four addresses of each family to give
out and one more that is reserved. `Ledger` stands where the file of leases does, so it sees every
promise before the client does, and holds them against each other; every answer is read here once
more, by hand, and held against the ledger. This serves hypothesis and the fuzzer alike: neither
knows what a message means, and whatever breaks a promise is an AssertionError.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import unpack_from

from leaf.leases import Lease, Leases, Pool, State
from leaf.punt import Send
from tests.frames import BROADCAST, SHARED_MAC, checksum, datagram, mac, pseudo, v4, v6, vxlan
from tests.unit.leaf_world import LEASE_TIME, ONE, RESERVED, A, B, World, rebuilt
from vswitch.wire import ipv6
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

FIRST6, LAST6, RESERVED6 = "2001:db8:1::100", "2001:db8:1::103", "2001:db8:1::50"
CLIENTS = (*(Mac(mac(number)) for number in range(1, 8)), RESERVED)
"""More than there are addresses."""
PLACES = (A, B)
ADDRESSES = 2 * (4 + 1)
"""As many as there are to give out, of both families and with the reserved ones."""
MAX_FRAME = 14 + 1500
"""Nothing that the leaf says by DHCP may need a fragment, as long as nobody asked for that much."""
SERVERS6 = v6("ff02::1:2")
SERVERS6_MAC = bytes.fromhex("333300010002")
UDP = 17
REPLY6, ACK = 7, b"\5"
COOKIE = b"\x63\x82\x53\x63"
GATEWAY = v4("1.1.1.254")
SERVER6 = b"\0\3\0\1" + SHARED_MAC
"""The leaf's DUID."""


class Ledger:
    """Keeps what was promised, and asserts that no promise breaks another."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Vni, bytes], Lease] = {}
        self.speaker: bytes = b""
        """Whose message the leaf is at: nobody else's leases may change by it."""

    def write(self, leases: Iterable[Lease], now: float) -> None:
        """Take promises in; one transaction."""
        batch = sorted(leases, key=lambda lease: lease.state is State.BOUND)
        for lease in batch:
            assert lease.client.mac == self.speaker, "somebody else's lease changes"
            held = self.rows.get((lease.segment, lease.address))
            if held is not None and held.expires > now and held.state is not State.FREE:
                assert held.client == lease.client, "an address that is another's"
                declined = held.state is State.DECLINED and lease.state is State.BOUND
                assert not declined, "an address of which was said that it is in use"
            self.rows[lease.segment, lease.address] = lease

    def holder(self, segment: Vni, address: bytes, now: float) -> tuple[Mac, float] | None:
        """Say who has an address, and for how many seconds more."""
        lease = self.rows.get((segment, address))
        if lease is None or lease.state is not State.BOUND or lease.expires <= now:
            return None
        return lease.client.mac, lease.expires - now


class DhcpWorld:
    """The leaf with its ledger; an exception that the slow path would catch is raised here."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.now = 0.0
        self.world = World(ipv6=True, leases=Leases(self.ledger))
        segment = self.world.segment(ONE)
        assert segment.dhcp is not None
        first, last = (int.from_bytes(v6(one), "big") for one in (FIRST6, LAST6))
        segment.dhcp = segment.dhcp._replace(
            pool6=Pool(16, ((first, last),), {RESERVED: v6(RESERVED6)}), dns6=(v6("2001:db8::53"),)
        )
        self.world.slowpath.replace_topology(rebuilt(self.world.topology))
        self.world.slowpath._on_failure = self._failed

    def _failed(self, error: Exception) -> None:
        raise error

    def punt(self, source: Vtep, packet: bytes) -> list[Send]:
        """Let the leaf handle a packet, and check what it answers and what it keeps."""
        self.ledger.speaker = packet[14:20]
        sends = self.world.punt(source, packet, self.now)
        for send in sends:
            self._check(source, packet, send)
        self._check_tables()
        return sends

    def wait(self, seconds: float) -> None:
        """Let time pass, and the leaf do what is due."""
        self.now += seconds
        self.world.slowpath.tick(self.now)
        self._check_tables()

    def _check(self, source: Vtep, asked: bytes, send: Send) -> None:
        frame = send.packet[8:]
        at = 34 if frame[12:14] == b"\x08\x00" else 54
        port = int.from_bytes(frame[at : at + 2], "big")
        if frame[23 if at == 34 else 20] != UDP or port not in (67, 547):
            return
        assert (send.vtep, frame[:6]) == (source, asked[14:20]), "it goes to whoever asked"
        assert len(frame) <= max(MAX_FRAME, len(asked)), "an answer that is longer than a question"
        source_ip, destination_ip = (
            (frame[26:30], frame[30:34]) if at == 34 else (frame[22:38], frame[38:54])
        )
        assert at == 54 or checksum(frame[14:34]) == b"\0\0"
        covered = pseudo(source_ip, destination_ip, UDP, len(frame) - at) + frame[at:]
        assert checksum(covered) == b"\0\0", "a checksum is wrong"
        client, payload = Mac(frame[:6]), frame[at + 8 :]
        if port == 67:
            self._check4(client, payload)
        else:
            assert source_ip == ipv6.link_local(Mac(frame[6:12]))
            self._check6(client, payload)

    def _check4(self, client: Mac, payload: bytes) -> None:
        assert (payload[0], payload[28:34], payload[236:240]) == (2, client, COOKIE)
        said: dict[int, bytes] = {}
        at = 240
        while payload[at] != 255:
            end = at + 2 + payload[at + 1]
            said[payload[at]] = said.get(payload[at], b"") + payload[at + 2 : end]
            at = end
        assert not any(payload[at + 1 :]), "something behind the end"
        address = payload[16:20]
        if said[53] == ACK and any(address):
            self._check_promise(client, address, int.from_bytes(said[51], "big"))

    def _check6(self, client: Mac, payload: bytes) -> None:
        said = _options(payload[4:])
        assert 2 in {code for code, _ in said}, "it does not say whose answer it is"
        inside = [_options(value[12:]) for code, value in said if code == 3]
        for code, value in (one for ia in inside for one in ia):
            seconds = int.from_bytes(value[20:24], "big")
            if payload[0] == REPLY6 and code == 5 and seconds:
                self._check_promise(client, value[:16], seconds)

    def _check_promise(self, client: Mac, address: bytes, seconds: int) -> None:
        held = self.ledger.holder(ONE, address, self.now)
        assert held is not None, "promised and not committed"
        assert held[0] == client, "promised to one and committed for another"
        assert 0 < seconds <= min(LEASE_TIME, held[1]), "promised for longer than committed"

    def _check_tables(self) -> None:
        slowpath = self.world.slowpath
        records = slowpath.responder.leases.all()
        assert len(records) <= ADDRESSES
        bound = [(len(one.address), one.client) for one in records if one.state is State.BOUND]
        assert len(bound) == len(set(bound)), "two addresses of a family for one client"
        assert len(slowpath.responder.leases._due) <= 2 * len(records) + 1024 + 1
        assert len(slowpath.bindings) <= 1000


def _options(area: bytes) -> list[tuple[int, bytes]]:
    """Walk over options of DHCPv6, which must fill their place."""
    found, at = [], 0
    while at < len(area):
        code, length = unpack_from("!HH", area, at)
        found.append((code, area[at + 4 : at + 4 + length]))
        at += 4 + length
    assert at == len(area), "an option is cut off"
    return found


def frame4(client: Mac, payload: bytes, sender: bytes = bytes(4)) -> bytes:
    """What carries a client's DHCP message; its hardware address is put right, as the vswitch sees
    to, or hardly any message would be read to its end."""
    if len(payload) >= 34:
        payload = payload[:28] + client + payload[34:]
    return BROADCAST + client + b"\x08\x00" + datagram(sender, b"\xff" * 4, 68, 67, payload)


def frame6(client: Mac, payload: bytes) -> bytes:
    """What carries a client's DHCPv6 message."""
    inside = datagram(ipv6.link_local(client), SERVERS6, 546, 547, payload)
    return SERVERS6_MAC + client + b"\x86\xdd" + inside


def packed(client: Mac, payload: bytes, is_ipv6: bool) -> bytes:
    """A client's message of either family as the leaf receives it."""
    return vxlan(ONE, frame6(client, payload) if is_ipv6 else frame4(client, payload))


def message4(
    kind: int,
    *,
    server: bytes | None = None,
    wanted: bytes | None = None,
    ciaddr: bytes = bytes(4),
    flags: int = 0,
    more: bytes = b"",
) -> bytes:
    """A client's message (RFC 2131 section 2), `more` behind the options that have names here."""
    said = [(53, bytes((kind,))), (54, server), (50, wanted)]
    options = b"".join(bytes((c, len(value))) + value for c, value in said if value is not None)
    head = b"\1\1\6\0" + b"xid4" + bytes(2) + flags.to_bytes(2, "big") + ciaddr
    return head + bytes(220) + COOKIE + options + more


def message6(
    kind: int,
    *,
    server: bytes | None = None,
    client: bytes | None = b"\0\3\0\1me",
    wanted: Iterable[Iterable[bytes]] = (),
    more: bytes = b"",
) -> bytes:
    """A client's message (RFC 8415 section 8); `wanted` is the addresses in each IA_NA."""
    said = [(1, client), (2, server)]
    for number, addresses in enumerate(wanted):
        inside = b"".join(_option6(5, one + bytes(8)) for one in addresses)
        said.append((3, number.to_bytes(4, "big") + bytes(8) + inside))
    options = b"".join(_option6(code, value) for code, value in said if value is not None)
    return bytes((kind,)) + b"xid" + options + more


def _option6(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
