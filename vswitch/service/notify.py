"""sd_notify(3): tell systemd that the daemon is ready, reloading or stopping.

One datagram to the socket named in the environment; nothing where there is none.
"""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`, to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            return  # A manager that does not listen must not end the daemon.


def ready(status: str) -> None:
    notify(f"READY=1\nSTATUS={status}")


def reloading() -> None:
    """Since systemd 253 the time is needed for Type=notify-reload; others ignore it."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    notify("STOPPING=1")
