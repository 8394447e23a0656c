"""A fake guest: a MAC, an address, an ARP cache, and a UDP service that answers every ping.

It behaves like a guest's kernel where that matters to a move: what it once knows of a neighbour it
keeps using without asking, it believes any ARP message about a neighbour that it knows already
(RFC 826), and it answers questions for its own address only. All frames are built and read here, by
hand. What it sees that is not for it, it remembers: that is how a test finds frames gone astray.
"""

from __future__ import annotations

from collections import deque
from struct import pack

from tests.frames import BROADCAST, v4
from vswitch.phy.memory import MemoryPort

ARP, IPV4 = b"\x08\x06", b"\x08\x00"
REQUEST, REPLY = 1, 2
PING, PONG = b"ping ", b"pong "


def checksum(header: bytes) -> bytes:
    """RFC 1071 section 4.1."""
    total = sum(header[at] << 8 | header[at + 1] for at in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return pack("!H", ~total & 0xFFFF)


def udp(src: bytes, dst: bytes, payload: bytes, ttl: int) -> bytes:
    """An IPv4 packet with UDP, its UDP checksum left out, as IPv4 permits."""
    body = pack("!HHHH", 4000, 5000, 8 + len(payload), 0) + payload
    start = pack("!BBHHHBB", 0x45, 0, 20 + len(body), 1, 0, ttl, 17)
    return start + checksum(start + b"\0\0" + src + dst) + src + dst + body


class Guest:
    """One guest; `port` is where it runs now."""

    def __init__(self, name: str, address: str, mac: bytes, gateway: str) -> None:
        self.name = name
        self.address = v4(address)
        self.mac = mac
        self.gateway = v4(gateway)
        self.port = MemoryPort()
        self.silent = False
        """A silent guest answers nothing: it has crashed, or its network has."""
        self.cache: dict[bytes, bytes] = {}
        self.pongs: list[bytes] = []
        self.ttls: list[int] = []
        """Of the pings that have come."""
        self.errors: list[tuple[int, int, bytes]] = []
        """ICMP type and code of errors, and the destination of the packet that they are about."""
        self.astray: list[bytes] = []
        """Unicast frames to somebody else."""
        self._waiting: dict[bytes, deque[bytes]] = {}
        self._count = 0

    # -- what a test makes it do ---------------------------------------------------------------

    def ping(self, peer: Guest, ttl: int = 64) -> bytes:
        """Send a ping to `peer`, after ARP where the cache does not know the way; return it."""
        self._count += 1
        payload = PING + self.name.encode() + b"%d" % self._count
        self._send(peer.address, udp(self.address, peer.address, payload, ttl))
        return PONG + payload[len(PING) :]

    def ask(self, address: bytes, mac: bytes = BROADCAST) -> None:
        """Send an ARP question; to one MAC, it confirms an entry of the cache."""
        self._arp(mac, REQUEST, bytes(6), address)

    def confirm(self, peer: Guest) -> None:
        """Ask `peer` whether what the cache says is still so (RFC 1122 section 2.3.2.1)."""
        self.ask(peer.address, self.cache[peer.address])

    def retry(self) -> None:
        """Ask again for whoever packets wait, as a kernel does once a second."""
        for address in self._waiting:
            self.ask(address)

    def announce(self) -> None:
        """Send a gratuitous ARP."""
        self.ask(self.address)

    # -- what it does by itself ----------------------------------------------------------------

    def poll(self) -> bool:
        """Take in what its port has received; False where there was nothing."""
        if not self.port.received:
            return False
        while self.port.received:
            frame = self.port.received.popleft()
            if not frame[0] & 1 and frame[:6] != self.mac:
                self.astray.append(frame)
            elif not self.silent:
                self._receive(frame)
        return True

    def _receive(self, frame: bytes) -> None:
        if frame[12:14] == ARP:
            self._on_arp(frame[14:42])
        elif frame[12:14] == IPV4 and frame[30:34] == self.address:
            packet = frame[14 : 14 + (frame[16] << 8 | frame[17])]
            assert checksum(packet[:20]) == b"\0\0", "a packet with a wrong header checksum"
            if packet[9] == 17:
                self._on_udp(packet)
            elif packet[9] == 1 and packet[20] in (3, 11):
                self.errors.append((packet[20], packet[21], packet[44:48]))

    def _on_arp(self, message: bytes) -> None:
        sender_mac, sender, target = message[8:14], message[14:18], message[24:28]
        for_me = target == self.address
        if sender in self.cache or (for_me and sender != bytes(4)):
            self.cache[sender] = sender_mac
            for packet in self._waiting.pop(sender, ()):
                self._emit(sender_mac, IPV4, packet)
        if for_me and message[7] == REQUEST and sender != self.address:
            self._arp(sender_mac, REPLY, sender_mac, sender)

    def _on_udp(self, packet: bytes) -> None:
        payload = packet[28:]
        if payload.startswith(PING):
            self.ttls.append(packet[8])
            pong = PONG + payload[len(PING) :]
            self._send(packet[12:16], udp(self.address, packet[12:16], pong, 64))
        else:
            self.pongs.append(payload)

    def _send(self, address: bytes, packet: bytes) -> None:
        hop = address if address[:3] == self.address[:3] else self.gateway  # All subnets are /24.
        if hop in self.cache:
            self._emit(self.cache[hop], IPV4, packet)
            return
        if hop not in self._waiting:
            self.ask(hop)
        self._waiting.setdefault(hop, deque(maxlen=3)).append(packet)

    def _arp(self, destination: bytes, op: int, target_mac: bytes, target: bytes) -> None:
        head = bytes.fromhex("0001 0800 06 04") + pack("!H", op)
        self._emit(destination, ARP, head + self.mac + self.address + target_mac + target)

    def _emit(self, destination: bytes, ethertype: bytes, payload: bytes) -> None:
        self.port.emit((destination + self.mac + ethertype + payload).ljust(60, b"\0"))
