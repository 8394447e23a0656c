"""Fake guests: a MAC, and for each family an address, a neighbour cache, and a UDP service that
answers every ping.

They behave like a guest's kernel where that matters to a move: what one once knows of a neighbour
it keeps using without asking; it believes what RFC 826 and RFC 4861 section 7.2 have it believe;
and it answers questions for its own address only. What it sees that is not for it, it remembers:
that is how a test finds frames gone astray. All frames are built and read by hand (`families.py`).

A `Guest` is a machine as one family sees it: with the address and the cache of that family. Its
other half is the same machine, at the same port.
"""

from __future__ import annotations

import errno
from collections import deque
from struct import pack

from tests.frames import ALL_NODES_MAC, BROADCAST, datagram, group_of, open_datagram
from tests.netsim.families import FAMILIES, UDP, Error, Family, Message, Packet
from vswitch.phy.delivery import Delivery
from vswitch.phy.memory import MemoryPort
from vswitch.phy.tunnel import Train
from vswitch.wire import vnet
from vswitch.wire.ethernet import Buffer

PING, PONG = b"ping ", b"pong "


class Device(MemoryPort):
    """A port whose guest takes no super-frames and no open checksums. The one are cut by the
    product, the other completed, which is the work of a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self._delivery = Delivery(self._put, offload=False)

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        return self._delivery.write(frame, header)

    def write_train(self, train: Train) -> int:
        return self._delivery.write_train(train)

    def _put(self, frame: Buffer, header: Buffer) -> int:
        whole = bytearray(frame)
        if any(header):
            assert vnet.complete(memoryview(whole), bytearray(header))
        return 0 if super().write(whole) else errno.ENOBUFS


class Machine:
    """One guest; `port` is where it runs now."""

    def __init__(self, name: str, address: str, mac: bytes, gateway: str) -> None:
        """`address` and `gateway` are those of IPv4, and name those of IPv6."""
        self.name = name
        self.mac = mac
        self.port: MemoryPort = Device()
        self.silent = False
        """A silent guest answers nothing: it has crashed, or its network has."""
        self.astray: list[bytes] = []
        """Unicast frames or packets to somebody else."""
        self.halves = {family: Guest(self, family, address, gateway) for family in FAMILIES}
        self._hears = {BROADCAST, ALL_NODES_MAC, mac} | {
            b"\x33\x33" + group_of(half.address)[12:]
            for half in self.halves.values()
            if len(half.address) == 16
        }

    def poll(self) -> bool:
        """Take in what its port has received; False where there was nothing."""
        if not self.port.received:
            return False
        while self.port.received:
            frame = self.port.received.popleft()
            if not frame[0] & 1 and frame[:6] != self.mac:
                self.astray.append(frame)
            elif not self.silent and frame[:6] in self._hears:
                self._receive(frame)
        return True

    def _receive(self, frame: bytes) -> None:
        taken = [half.receive(frame) for half in self.halves.values()]
        if not any(taken) and frame[:6] == self.mac:
            self.astray.append(frame)


class Guest:
    """A machine as one family sees it."""

    def __init__(self, machine: Machine, family: Family, address: str, gateway: str) -> None:
        self.machine = machine
        self.family = family
        self.address = family.of(address)
        self.gateway = family.of(gateway)
        self.cache: dict[bytes, bytes] = {}
        self.pongs: list[bytes] = []
        self.ttls: list[int] = []
        """TTLs or hop limits of the pings that have come."""
        self.errors: list[tuple[Error, bytes]] = []
        """ICMP errors, and the destination of the packet that each is about."""
        self.conflicts: list[bytes] = []
        """The MACs that say to have its own address."""
        self._waiting: dict[bytes, deque[bytes]] = {}
        self._count = 0

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def mac(self) -> bytes:
        return self.machine.mac

    @property
    def port(self) -> MemoryPort:
        return self.machine.port

    @property
    def other(self) -> Guest:
        """Its other half."""
        return next(one for one in self.machine.halves.values() if one is not self)

    # -- what a test makes it do ---------------------------------------------------------------

    def ping(self, peer: Guest, ttl: int = 64) -> bytes:
        """Send a ping to `peer`, after a question where the cache does not know the way; return
        what the answer will be."""
        self._count += 1
        payload = PING + self.name.encode() + b"%d" % self._count
        self._send(peer.address, payload, ttl)
        return PONG + payload[len(PING) :]

    def burst(self, peer: Guest, payloads: list[bytes]) -> None:
        """Send datagrams to `peer`, of which the cache knows the way, one right behind the other
        and with open checksums."""
        way = self.cache[self._hop(peer.address)]
        header = pack("<BBHHHH", 1, 0, 0, 0, 34 if len(self.address) == 4 else 54, 6)
        for number, payload in enumerate(payloads):
            packet = open_datagram(self.address, peer.address, 4000, 5000, payload, number)
            self.port.emit(way + self.mac + self.family.ethertype + packet, header)

    def ask(self, address: bytes, mac: bytes | None = None) -> None:
        """Ask for an address; where one MAC is asked, it confirms an entry of the cache."""
        self.port.emit(self.family.question(self.mac, self.address, address, mac))

    def confirm(self, peer: Guest) -> None:
        """Ask `peer` whether what the cache says is still so (RFC 1122 section 2.3.2.1, RFC 4861
        section 7.3.3)."""
        self.ask(peer.address, self.cache[peer.address])

    def retry(self) -> None:
        """Ask again for whoever packets wait, as a kernel does once a second."""
        for address in self._waiting:
            self.ask(address)

    def announce(self) -> None:
        """Say unasked where it is: a gratuitous ARP, an unsolicited advertisement."""
        self.port.emit(self.family.announcement(self.mac, self.address))

    def probe(self) -> None:
        """Ask whether somebody else has its address (RFC 5227, RFC 4862 section 5.4)."""
        unspecified = self.family.unspecified
        self.port.emit(self.family.question(self.mac, unspecified, self.address, None))

    # -- what it does by itself ----------------------------------------------------------------

    def receive(self, frame: bytes) -> bool:
        """Take in a frame; False where it is not for this half."""
        message = self.family.message(frame)
        if message is not None:
            self._on_message(message)
            return True
        packet = self.family.packet(frame)
        if packet is None or packet.destination != self.address:
            return False
        error = self.family.error(packet)
        if error is not None:
            self.errors.append(error)
        elif packet.protocol == UDP:
            self._on_udp(packet)
        return True

    def _on_message(self, message: Message) -> None:
        if message.sender_mac == self.mac:
            return
        if message.sender == self.address:
            self.conflicts.append(message.sender_mac)
            return
        if self._believes(message):
            self.cache[message.sender] = message.sender_mac
            for packet in self._waiting.pop(message.sender, ()):
                self._emit(message.sender_mac, packet)
        if message.is_question and message.target == self.address:
            frame = self.family.answer(self.mac, self.address, message.sender_mac, message.sender)
            self.port.emit(frame)

    def _believes(self, message: Message) -> bool:
        """Say whether the sender's MAC goes into the cache."""
        if not any(message.sender):
            return False
        known = self.cache.get(message.sender)
        if len(self.address) == 4:
            # RFC 826: any word of a neighbour that it knows, and whatever is for itself.
            return known is not None or message.target == self.address
        if message.is_question:
            return message.target == self.address
        if known is None:
            return message.sender in self._waiting
        return message.is_override or message.sender_mac == known

    def _on_udp(self, packet: Packet) -> None:
        payload = packet.body[8:]
        if payload.startswith(PING):
            self.ttls.append(packet.hops)
            self._send(packet.source, PONG + payload[len(PING) :], 64)
        else:
            self.pongs.append(payload)

    def _send(self, address: bytes, payload: bytes, ttl: int) -> None:
        packet = datagram(self.address, address, 4000, 5000, payload, ttl)
        hop = self._hop(address)
        if hop in self.cache:
            self._emit(self.cache[hop], packet)
            return
        if hop not in self._waiting:
            self.ask(hop)
        self._waiting.setdefault(hop, deque(maxlen=3)).append(packet)

    def _hop(self, address: bytes) -> bytes:
        return address if self.family.is_local(address, self.address) else self.gateway

    def _emit(self, destination: bytes, packet: bytes) -> None:
        frame = destination + self.mac + self.family.ethertype + packet
        self.port.emit(frame.ljust(60, b"\0"))
