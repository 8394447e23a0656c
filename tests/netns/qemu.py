"""A guest that QEMU runs: a kernel of Debian's and busybox, with a shell on its serial line.

There is no disk. The initial file system is packed here, of what is on this machine: busybox, the
libraries that it needs, and the kernel's modules for a virtio network card. The processor is
emulated (TCG), since /dev/kvm is not everywhere, and may be there and not work. The guest then
takes four seconds from the start to its shell.

`tools/test` fetches the kernel and names its directory in TAPESTRY_GUEST_KERNEL.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.fabric.namespace import Namespace

KERNEL = Path(os.environ.get("TAPESTRY_GUEST_KERNEL", "/nonexistent"))
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
)
"""In the order in which they need each other."""

BOOT_TIMEOUT, RUN_TIMEOUT, MIGRATION_TIMEOUT = 60.0, 30.0, 60.0
"""Seconds; a guest that has the machine to itself boots in four."""

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in MODULES; do insmod /modules/$module.ko; done
ip link set lo up
stty -echo -onlcr </dev/ttyS0
export PS1=
exec setsid sh -c 'echo "<booted>"; exec sh' </dev/ttyS0 >/dev/ttyS0 2>&1
"""


class Guest:
    """One QEMU, on a TAP that exists."""

    def __init__(
        self,
        node: Namespace,
        device: str,
        mac: str,
        *,
        vnet_hdr: bool = True,
        card: str = "",
        incoming: Path | None = None,
    ) -> None:
        """Start QEMU in `node`. `card` is what else is said of the network card; `incoming` is the
        socket by which a migrated guest is to come."""
        self._directory = Path(tempfile.mkdtemp(prefix="qemu"))
        initial = self._directory / "initrd"
        initial.write_bytes(_file_system())
        self._monitor = self._directory / "monitor"
        header = "on" if vnet_hdr else "off"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", "128", "-no-reboot"]
        command += ["-serial", "stdio", "-qmp", f"unix:{self._monitor},server=on,wait=off"]
        command += ["-kernel", str(next(KERNEL.rglob("vmlinuz-*"))), "-initrd", str(initial)]
        command += ["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]
        command += [
            "-netdev",
            f"tap,id=n0,ifname={device},script=no,downscript=no,vnet_hdr={header}",
        ]
        command += ["-device", f"virtio-net-pci,netdev=n0,mac={mac}{card}"]
        if incoming:
            command += ["-incoming", f"unix:{incoming}"]
        self._process = node.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._said = b""
        self._commands = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()
        shutil.rmtree(self._directory)

    def boot(self) -> None:
        """Wait until the guest has a shell."""
        self._wait_for(rb"<booted>\n", "the guest's boot", BOOT_TIMEOUT)
        self.run("true")  # It has its greeting behind it then.

    def take_up(self, addresses: dict[str, str], mtu: int = 1450) -> None:
        """Give the guest's link its addresses (with prefix length), each with its gateway."""
        # Nobody else has these addresses, so that nobody has to be waited for.
        self.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        self.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
        self.run(f"ip link set eth0 mtu {mtu} up")
        for address, gateway in addresses.items():
            self.run(f"ip address add {address} dev eth0")
            family = "-6" if ":" in address else "-4"
            self.run(f"ip {family} route add default via {gateway}")

    def run(self, command: str, timeout: float = RUN_TIMEOUT) -> str:
        """Run a command in the guest's shell; return what it printed."""
        self._commands += 1
        end = f"<{self._commands}>"
        self._said = b""
        self._input.write(f'{command}\necho "$? {end}"\n'.encode())
        self._input.flush()
        found = self._wait_for(rb"(\d+) " + end.encode() + rb"\n", command, timeout)
        said = self._said[: found.start()].decode()
        assert found[1] == b"0", f"in the guest: {command}: status {found[1]!r}: {said}"
        return said

    def _wait_for(self, what: bytes, name: str, timeout: float) -> re.Match[bytes]:
        until = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while (found := re.search(what, self._said)) is None:
                ready = selector.select(max(until - time.monotonic(), 0))
                assert ready, f"{name} did not end within {timeout} s: {self._said!r}"
                said = self._output.read()
                assert said != b"", f"{name}: QEMU has ended: {self._said!r}"
                self._said += said or b""
        return found

    def migrate(self, path: Path) -> None:
        """Move the running guest to the QEMU that waits at the socket `path`."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(MIGRATION_TIMEOUT)
            monitor.connect(str(self._monitor))
            with monitor.makefile("rw") as lines:
                lines.readline()  # Its greeting.
                _ask(lines, "qmp_capabilities")
                _ask(lines, "migrate", uri=f"unix:{path}")
                until = time.monotonic() + MIGRATION_TIMEOUT
                while (status := _ask(lines, "query-migrate")["status"]) != "completed":
                    assert status != "failed", "the migration failed"
                    assert time.monotonic() < until, f"the migration is still {status}"
                    time.sleep(0.02)

    def continue_shell_of(self, source: Guest) -> None:
        """After a migration: the shell is the same, and counts on."""
        self._commands = source._commands


def _ask(lines: Any, command: str, **arguments: str) -> Any:
    """Say one command to a QEMU monitor; return its answer."""
    lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    lines.flush()
    while True:
        answer = json.loads(lines.readline())
        assert "error" not in answer, answer
        if "return" in answer:  # What is not an answer is news.
            return answer["return"]


def _file_system() -> bytes:
    """Pack the initial file system, as a `newc` archive (Linux
    Documentation/driver-api/early-userspace/buffer-format.rst)."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    files = {"init": _INIT.replace("MODULES", " ".join(MODULES)).encode()}
    files["bin/busybox"] = Path(busybox).read_bytes()
    libraries = subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False)
    for path in re.findall(r"/\S+", libraries.stdout):  # Of a static one there are none.
        files[path.lstrip("/")] = Path(path).read_bytes()
    for module in MODULES:
        files[f"modules/{module}.ko"] = next(KERNEL.rglob(f"{module}.ko")).read_bytes()
    folders = {str(folder) for name in files for folder in Path(name).parents} - {"."}
    folders |= {"proc", "sys", "dev", "tmp"}
    entries = [_entry(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries += [_entry(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    return b"".join((*entries, _entry("TRAILER!!!", 0, b"")))


def _entry(name: str, mode: int, data: bytes) -> bytes:
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
