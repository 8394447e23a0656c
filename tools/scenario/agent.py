"""Traffic of one guest in one address family: UDP probes to its peers, and TCP streams. Runs inside
the guest.

Each probe carries its number; the sender notes when it left, the receiver when the guest's kernel
took it in (its own timestamp, so that a receiver that gets no processor is not seen as a slow
network). All guests share the machine's clock, so both ends' notes can be compared. A TCP stream
sends a numbered message every five milliseconds and notes when its echo came back, in order.

    python -m tools.scenario.agent '{"out": FILE, "address": IP, "probes": {NAME: [IP, PORT]},
                                    "interval": SECONDS, "streams": {NAME: IP}, "serve": true}'

It says "ready" on stdout when its sockets are open, starts at a line on stdin, ends at the end of
stdin, and then writes what it saw to the file.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PROBE = struct.Struct("!Q56x")
"""Its number, and padding to the usual 64 bytes."""
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
MESSAGE = struct.Struct("!Q56x")
MESSAGE_INTERVAL = 0.005
STREAM_PORT = 8000


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class ProbeFlow:
    """Probes to one peer and from it, on one socket."""

    def __init__(self, local: str, peer: str, port: int) -> None:
        self.sock = socket.socket(_family(local), socket.SOCK_DGRAM)
        self.sock.bind((local, port))
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.sock.settimeout(0.2)
        self.peer = (peer, port)
        self.sent: list[int] = []
        """sent[n] is when probe n left."""
        self.received: list[tuple[int, int]] = []
        """(number, when it came), in the order of arrival."""

    def send(self) -> None:
        now = time.time_ns()
        with suppress(OSError):  # No neighbour any more: a lost probe, and noted as sent.
            self.sock.sendto(PROBE.pack(len(self.sent)), self.peer)
        self.sent.append(now)

    def receive_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                data, control, _, _ = self.sock.recvmsg(PROBE.size, 64)
            except OSError:
                continue
            if len(data) == PROBE.size and control:
                seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
                self.received.append((PROBE.unpack(data)[0], seconds * 10**9 + nanoseconds))


class Stream:
    """A TCP stream to one peer that echoes."""

    def __init__(self, local: str, peer: str) -> None:
        self.local, self.peer = local, peer
        self.echoed: list[int] = []
        """echoed[n] is when message n was back."""
        self.failure: str | None = None

    def run_until(self, stop: threading.Event) -> None:
        try:
            with socket.create_connection(
                (self.peer, STREAM_PORT), timeout=5, source_address=(self.local, 0)
            ) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(0.2)
                self._talk(sock, stop)
        except OSError as error:
            self.failure = str(error)

    def _talk(self, sock: socket.socket, stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            sock.sendall(MESSAGE.pack(number))
            echo = b""
            while len(echo) < MESSAGE.size and not stop.is_set():
                try:
                    part = sock.recv(MESSAGE.size - len(echo))
                except TimeoutError:
                    continue
                if not part:
                    raise OSError("closed by the peer")
                echo += part
            if len(echo) < MESSAGE.size:
                return
            if MESSAGE.unpack(echo)[0] != number:
                raise OSError(f"message {MESSAGE.unpack(echo)[0]} came instead of {number}")
            self.echoed.append(time.time_ns())
            number += 1
            stop.wait(MESSAGE_INTERVAL)


def _echo(sock: socket.socket) -> None:
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := sock.recv(4096):
                sock.sendall(data)
        except OSError:
            return


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(sock,), daemon=True).start()


def _send_probes(flows: list[ProbeFlow], interval: float, stop: threading.Event) -> None:
    due = time.monotonic()
    while not stop.is_set():
        for flow in flows:
            flow.send()
        due += interval
        delay = due - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        elif delay < -0.1:
            due = time.monotonic()  # We were held up; do not send a burst to catch up.


def main(job: dict[str, Any]) -> None:
    """Run one guest's traffic from the line on stdin to its end."""
    stop = threading.Event()
    flows = {
        name: ProbeFlow(job["address"], peer, port) for name, (peer, port) in job["probes"].items()
    }
    streams = {name: Stream(job["address"], peer) for name, peer in job["streams"].items()}
    if job["serve"]:
        local = job["address"]
        listener = socket.create_server((local, STREAM_PORT), family=_family(local))
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [
        threading.Thread(target=_send_probes, args=(list(flows.values()), job["interval"], stop)),
        *(threading.Thread(target=flow.receive_until, args=(stop,)) for flow in flows.values()),
        *(threading.Thread(target=stream.run_until, args=(stop,)) for stream in streams.values()),
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    Path(job["out"]).write_text(
        json.dumps(
            {
                "probes": {
                    name: {"sent": flow.sent, "received": flow.received}
                    for name, flow in flows.items()
                },
                "streams": {
                    name: {"echoed": stream.echoed, "failure": stream.failure}
                    for name, stream in streams.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
